"""Proves an artifact again, wherever it was copied to: what `verify` tells."""

import pathlib
from collections.abc import Iterator

from compress.export.artifact import Artifact, load
from compress.export.golden import check_golden
from compress.export.lower import CARRIED_IN_FLOAT
from compress.export.manifest import ArtifactError, member
from compress.export.operations import check_integer_sites
from compress.export.scales import described


def verify_artifact(path: str | pathlib.Path) -> Iterator[str]:
    """Checks an artifact step by step; yields a line for each that holds.

    Raises:
      ArtifactError: At the first one that does not.
    """
    artifact = load(path)
    files = artifact.manifest["files"]
    total = sum(entry["bytes"] for entry in files.values())
    yield f"files: {len(files)}, {total:,} bytes, all hashes as in the manifest"
    yield f"signature: {_signature(artifact)}, the same in manifest and programs"
    yield from _check_operations(artifact)
    report = check_golden(artifact)
    yield (
        f"golden outputs: {report['items']} items reproduced, largest difference "
        f"{report['largest_difference']:.1e} of {report['tolerance']:.1e} allowed, "
        f"{report['decisions']} decisions the same"
    )


def _signature(artifact: Artifact) -> str:
    manifest = artifact.manifest
    return f"{described(manifest['inputs'])} -> {described(manifest['outputs'])}"


def _check_operations(artifact: Artifact) -> Iterator[str]:
    manifest, names = artifact.manifest, sorted(artifact.weights)
    for name, program in artifact.programs.items():
        entry = manifest["programs"][name]
        rules = [record["rule"] for record in entry["lowering"].values()]
        carried = sum(rule in CARRIED_IN_FLOAT for rule in rules)
        try:
            count = check_integer_sites(
                program.whole(), names, manifest["sites"], entry["lowering"]
            )
        except ArtifactError as error:
            file = member(artifact.path, entry["file"])
            raise ArtifactError(f"{file}: {error}") from None
        yield (
            f"{name} program: {count} of {len(manifest['sites'])} sites multiply "
            f"integers, {carried} carry them in float32, as the manifest says"
        )
