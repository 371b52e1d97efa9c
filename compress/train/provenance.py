"""Where numbers come from: versions, machine, code and data."""

import hashlib
import importlib.metadata
import platform
import subprocess

import numpy as np

from compress.data import Source
from compress.task import Task

_PACKAGES = ("jax-compress", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint")


def versions() -> dict[str, str]:
    """The versions of Python and of the packages a result depends on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def git_commit() -> str | None:
    """The commit of the current directory, with `+changes` if files differ from it."""

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        return commit + ("+changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def data_hash(task: Task) -> str:
    """SHA-256 over every example of a task, with names, shapes and dtypes.

    What is read from files counts with its fingerprint.
    """
    digest = hashlib.sha256()
    for part in ("train", "validation", "test"):
        data = getattr(task, part) or {}
        if isinstance(data, Source):
            digest.update(f"{part}{data.fingerprint}".encode())
            continue
        for name, array in sorted(data.items()):
            x = np.ascontiguousarray(array)
            digest.update(f"{part}/{name}{x.shape}{x.dtype}".encode())
            digest.update(x.data)
    return digest.hexdigest()
