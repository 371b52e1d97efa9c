"""The manifest: what is in an artifact, and the hashes that prove it."""

import hashlib
import json
import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from compress.export.schema import (
    Mismatch,
    batch,
    batch_or_none,
    dimension,
    number,
    positive,
    require,
    scale,
    size,
    text_or_none,
)
from compress.machine import memory_bytes

FORMAT = "jax-compress"
# 2 added golden outputs, the state, and arrays in dtypes NumPy lacks.
# 3 split programs into what is prepared once and what runs.
FORMAT_VERSION = 3
MANIFEST = "manifest.json"
_FILE_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")
# A manifest is a few kilobytes per hundred sites; far more is not one of ours.
_LARGEST_MANIFEST = 16 * 2**20

_ARRAY = {"shape": [dimension], "dtype": str}
_PROGRAM = {
    "file": str,
    "prepare": str,
    "batch": batch,
    "lowering": {str: {"rule": str, "reason": str}},
}
_SITE = {
    "name": str,
    "op": str,
    "path": text_or_none,
    "shape": [size],
    "macs": size,
    "weight_bits": size,
    "num_weights": size,
    "num_nonzero": size,
    "activation_bits": size,
    "activation": dict,
    "reason": text_or_none,
}
_CONTENT = {
    "inputs": [{**_ARRAY, "scale?": scale}],
    "outputs": [_ARRAY],
    "programs": {"static": _PROGRAM, "symbolic": _PROGRAM},
    "platforms": [str],
    "sites": [_SITE],
    "sizes": {"weights": size, "float32": size, "parameters": size},
    "files": {str: {"sha256": str, "bytes": size}},
    "jax_version?": str,
    "step?": int,
    "golden?": str,
    "state?": str,
    "config?": str,
    "classes?": [str],
    "sample_rate?": positive,
    "lowering": {"mode": str, "machine": dict, "chunk?": batch_or_none},
    "verification?": {"tolerance": number, "items": size, "largest_difference": number},
}


class ArtifactError(ValueError):
    """An artifact is damaged, incomplete, or used against its signature."""


def sha256(path: pathlib.Path) -> str:
    """The hash of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(directory: pathlib.Path, content: dict[str, Any]) -> None:
    """Writes the manifest of every other file in `directory`."""
    files = {
        path.name: {"sha256": sha256(path), "bytes": path.stat().st_size}
        for path in sorted(directory.iterdir())
        if path.name != MANIFEST
    }
    whole = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        **content,
        "files": files,
    }
    whole["sha256"] = _digest(whole)
    (directory / MANIFEST).write_text(json.dumps(whole, indent=2) + "\n")


def _digest(content: dict[str, Any]) -> str:
    """The hash of a manifest's own content, as JSON gives it back."""
    rest = {key: value for key, value in content.items() if key != "sha256"}
    canonical = json.dumps(json.loads(json.dumps(rest)), sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def read_manifest(directory: pathlib.Path) -> dict[str, Any]:
    """Reads and checks a manifest, without reading the files it names.

    Raises:
      ArtifactError: If it is missing, changed, not ours, or from a later version.
    """
    path = member(directory, MANIFEST)
    if not path.is_file():
        raise ArtifactError(
            f"{directory}: no {MANIFEST}. An artifact is a directory written by "
            "compress.export; give the directory itself."
        )
    if path.stat().st_size > _LARGEST_MANIFEST:
        raise ArtifactError(f"{path}: too large to be a manifest. Export again.")
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path}: not JSON ({error}). Export again.") from None
    _check(path, content)
    return content


def _check(path: pathlib.Path, content: Any) -> None:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ArtifactError(f"{path}: not the manifest of a jax-compress artifact.")
    version = content.get("format_version")
    if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
        raise ArtifactError(
            f"{path}: format version {version}, but this jax-compress reads up to "
            f"{FORMAT_VERSION}. Update jax-compress."
        )
    try:
        require(content, _CONTENT, "")
    except Mismatch as error:
        raise ArtifactError(f"{path}: {error}. Export again.") from None
    if not content["inputs"] or any(not spec["shape"] for spec in content["inputs"]):
        raise ArtifactError(f"{path}: names no input with a batch axis. Export again.")
    if problem := meaning_problem(content):
        raise ArtifactError(f"{path}: {problem}. Export again.")
    if content.get("sha256") != _digest(content):
        raise ArtifactError(
            f"{path}: was changed after the export; copy the artifact again."
        )


def meaning_problem(content: Mapping[str, Any]) -> str | None:
    """Why names of classes or a sample rate do not fit inputs and outputs, if so."""
    names, rate = content.get("classes"), content.get("sample_rate")
    sizes = [spec["shape"][-1] for spec in content["outputs"] if spec["shape"]]
    if names is not None and (len({*names}) < len(names) or sizes != [len(names)]):
        return (
            f"{len(names)} names of classes, {len({*names})} different, for outputs "
            f"whose last axes are {sizes}; name each class of one output once"
        )
    kinds = [(len(spec["shape"]), spec["dtype"]) for spec in content["inputs"]]
    sound = kinds in ([(2, "int16")], [(2, "float32")])
    if rate is not None and not (sound and rate > 0):
        return (
            f"sample_rate={rate} is for one input [batch, samples] of int16 or "
            f"float32, not {content['inputs']}; leave it out, or take the waveform"
        )
    return None


def program_files(manifest: Mapping[str, Any]) -> list[str]:
    """The files of all programs."""
    entries = manifest["programs"].values()
    return [entry[part] for entry in entries for part in ("prepare", "file")]


def check_files(
    directory: pathlib.Path,
    manifest: dict[str, Any],
    needed: Iterable[str],
    *,
    ignored: Iterable[str] = (),
) -> None:
    """Checks the presence, size and hash of every file.

    Args:
      directory: Of the artifact.
      manifest: Its manifest.
      needed: Files that must be among those of the manifest.
      ignored: Files of the manifest that are not looked at.

    Raises:
      ArtifactError: That names the file, what was expected and what was found.
    """
    names = [n for n in (*needed, *manifest["files"]) if n not in {*ignored}]
    names = list(dict.fromkeys(names))
    for name in names:
        if member(directory, name).name not in manifest["files"]:
            raise ArtifactError(
                f"{directory / MANIFEST}: gives no hash of {name!r}. Export again."
            )
    # All sizes first: hashing what is far too large would take hours.
    for name in names:
        _check_size(member(directory, name), manifest["files"][name]["bytes"])
    for name in names:
        _check_hash(member(directory, name), manifest["files"][name]["sha256"])


def _check_size(path: pathlib.Path, expected: int) -> None:
    if not path.is_file():
        raise ArtifactError(f"{path}: missing. Copy the whole artifact again.")
    found = path.stat().st_size
    if found != expected:
        raise ArtifactError(
            f"{path}: {found} bytes, but the manifest says {expected}. The file is "
            "truncated or was changed; copy the artifact again."
        )
    memory = memory_bytes()
    if memory is not None and found > memory:
        raise ArtifactError(
            f"{path}: {found:,} bytes, but this machine has {memory:,} bytes of "
            "memory. Load it on a larger one."
        )


def _check_hash(path: pathlib.Path, expected: str) -> None:
    found = sha256(path)
    if found != expected:
        raise ArtifactError(
            f"{path}: SHA-256 {found[:12]}..., but the manifest says "
            f"{expected[:12]}... The file was changed; copy the artifact again."
        )


def member(directory: pathlib.Path, name: str) -> pathlib.Path:
    """The path of a file of the artifact, which cannot be outside of it.

    Raises:
      ArtifactError: If it is not the name of a file, or a link that leads elsewhere.
    """
    if not _FILE_NAME.fullmatch(name) or name in (".", ".."):
        raise ArtifactError(f"{directory / MANIFEST}: {name!r} is not a file name.")
    path = directory / name
    if path.is_symlink() and path.resolve().parent != directory.resolve():
        raise ArtifactError(
            f"{path}: is a link to {path.resolve()}, outside of the artifact. Copy the "
            "artifact with its files, not links to them (cp -rL)."
        )
    return path
