"""The manifest: what is in an artifact, and the hashes that prove it."""

import hashlib
import json
import pathlib
from collections.abc import Iterable
from typing import Any

FORMAT = "jax-compress"
FORMAT_VERSION = 1
MANIFEST = "manifest.json"
# A manifest is a few kilobytes per hundred sites; far more is not one of ours.
_LARGEST_MANIFEST = 64 * 2**20

_REQUIRED = {
    "format": str,
    "format_version": int,
    "inputs": list,
    "outputs": list,
    "programs": dict,
    "platforms": list,
    "sites": list,
    "sizes": dict,
    "files": dict,
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
    path = directory / MANIFEST
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
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise ArtifactError(
            f"{path}: format version {version}, but this jax-compress reads up to "
            f"{FORMAT_VERSION}. Update jax-compress."
        )
    for key, kind in _REQUIRED.items():
        if not isinstance(content.get(key), kind):
            raise ArtifactError(
                f"{path}: {key!r} is missing or not a {kind.__name__}. Export again."
            )
    if content.get("sha256") != _digest(content):
        raise ArtifactError(
            f"{path}: was changed after the export; copy the artifact again."
        )


def program_files(directory: pathlib.Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """The file of each program; `member` tells whether it is a file name.

    Raises:
      ArtifactError: If the manifest names none.
    """
    programs = manifest["programs"]
    for name in ("static", "symbolic"):
        entry = programs.get(name)
        if not isinstance(entry, dict) or not {"file", "batch"} <= entry.keys():
            raise ArtifactError(
                f"{directory / MANIFEST}: program {name!r} is missing. Export again."
            )
    return {name: programs[name]["file"] for name in ("static", "symbolic")}


def check_files(
    directory: pathlib.Path, manifest: dict[str, Any], needed: Iterable[Any]
) -> None:
    """Checks the presence, size and hash of every file.

    Args:
      directory: Of the artifact.
      manifest: Its manifest.
      needed: Files that must be among those of the manifest.

    Raises:
      ArtifactError: That names the file, what was expected and what was found.
    """
    for name in needed:
        if member(directory, name).name not in manifest["files"]:
            raise ArtifactError(
                f"{directory / MANIFEST}: gives no hash of {name!r}. Export again."
            )
    for name, entry in manifest["files"].items():
        path = member(directory, name)
        if not path.is_file():
            raise ArtifactError(f"{path}: missing. Copy the whole artifact again.")
        size = path.stat().st_size
        if not isinstance(entry, dict) or size != entry.get("bytes"):
            raise ArtifactError(
                f"{path}: {size} bytes, but the manifest says {entry}. The file is "
                "truncated or was changed; copy the artifact again."
            )
        found = sha256(path)
        if found != entry.get("sha256"):
            raise ArtifactError(
                f"{path}: SHA-256 {found[:12]}..., but the manifest says "
                f"{str(entry.get('sha256'))[:12]}... The file was changed; copy the "
                "artifact again."
            )


def member(directory: pathlib.Path, name: Any) -> pathlib.Path:
    """The path of a file of the artifact, which cannot be outside of it."""
    if not isinstance(name, str) or pathlib.PurePath(name).name != name or not name:
        raise ArtifactError(f"{directory / MANIFEST}: {name!r} is not a file name.")
    return directory / name
