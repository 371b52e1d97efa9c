"""Where numbers come from: versions, machine, code and data."""

import hashlib
import importlib.metadata
import pathlib
import platform
import subprocess
import sys

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


def git_commit(task: str) -> str | None:
    """The commit of this package, and that of a task which lies in another repository.

    Args:
      task: The config's `task:`, imported.

    Returns:
      Each with `+changes-` and a hash of them, if files differ from it; None if neither
      is in a repository.
    """
    module = sys.modules.get(task.partition(":")[0])
    files = [__file__, getattr(module, "__file__", None)]
    commits = [_commit_of(pathlib.Path(file)) for file in files if file]
    return ", ".join(dict.fromkeys(filter(None, commits))) or None


def _commit_of(file: pathlib.Path) -> str | None:
    """The commit of the repository that a file is in, unless it is ignored there."""
    listing = ("ls-files", "-z", "--others", "--exclude-standard")
    try:
        if not _git(file.parent, *listing, "--cached", "--", file.name):
            return None  # installed
        root = pathlib.Path(_git(file.parent, "rev-parse", "--show-toplevel").strip())
        commit = _git(root, "rev-parse", "HEAD").strip()
        changes = _git(root, "diff", "--no-ext-diff", "HEAD")
        for name in filter(None, _git(root, *listing, "--", "*.py").split("\0")):
            content = (root / name).read_bytes()
            changes += f"{name} {hashlib.sha256(content).hexdigest()}\n"
    except (OSError, subprocess.CalledProcessError):
        return None
    digest = hashlib.sha256(changes.encode(errors="surrogateescape")).hexdigest()[:8]
    return f"{commit}+changes-{digest}" if changes else commit


def _git(folder: pathlib.Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    done = subprocess.run(command, capture_output=True, check=True)
    return done.stdout.decode(errors="surrogateescape")


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
