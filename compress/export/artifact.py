"""Loads an artifact: needs jax, flatbuffers and safetensors, and no model source."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.export
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from compress.export.manifest import (
    ArtifactError,
    check_files,
    member,
    program_files,
    read_manifest,
)

WEIGHTS = "weights.safetensors"


@dataclasses.dataclass(frozen=True, eq=False)
class Artifact:
    """A loaded artifact; call it with a batch of inputs.

    Attributes:
      path: Its directory.
      manifest: What it says of itself.
      weights: By name, as shipped; a model's state is `model_state/...`.
    """

    path: pathlib.Path
    manifest: Mapping[str, Any]
    weights: Mapping[str, np.ndarray]
    _programs: Mapping[str, jax.export.Exported] = dataclasses.field(repr=False)
    _functions: dict[str, Callable[..., Any]] = dataclasses.field(
        default_factory=dict, repr=False
    )

    def __call__(self, *inputs: Any) -> Any:
        """The outputs for a batch of any size.

        NaN is not preserved: a static int8 range turns it into 0, so an input with
        NaN gives finite outputs. For speed no call looks for it; check your data.

        Raises:
          ArtifactError: If an input has another dtype or shape than was exported.
        """
        arrays = [np.asarray(x) if isinstance(x, (list, float)) else x for x in inputs]
        self._check_inputs(arrays)
        return self._compiled(self._program_for(arrays))(*arrays)

    def function(self, batch: int) -> Callable[..., Any]:
        """The jitted function for one batch size, without the checks of a call."""
        return self._compiled(self._program_name(batch))

    def _compiled(self, name: str) -> Callable[..., Any]:
        if name not in self._functions:
            program, weights = self._programs[name], dict(self.weights)
            # Closed over, the weights are constants: XLA lays them out as it compiles.
            self._functions[name] = jax.jit(lambda *x: program.call(weights, *x))
        return self._functions[name]

    def _program_name(self, batch: int) -> str:
        static = self.manifest["programs"]["static"]
        return "static" if batch == static["batch"] else "symbolic"

    def _program_for(self, arrays: Any) -> str:
        return self._program_name(arrays[0].shape[0])

    def _check_inputs(self, arrays: Any) -> None:
        expected = self.manifest["inputs"]
        if len(arrays) != len(expected):
            raise ArtifactError(
                f"{self.path}: takes {len(expected)} inputs, got {len(arrays)}."
            )
        for index, (array, spec) in enumerate(zip(arrays, expected, strict=True)):
            shape = tuple(getattr(array, "shape", ()))
            dtype = str(getattr(array, "dtype", type(array).__name__))
            wanted = tuple(spec["shape"][1:])
            if len(shape) != len(wanted) + 1 or shape[1:] != wanted or shape[0] == 0:
                raise ArtifactError(
                    f"{self.path}: input {index} has shape {shape}; expected "
                    f"(batch, {', '.join(map(str, wanted))}) with batch at least 1."
                )
            if dtype != spec["dtype"]:
                raise ArtifactError(
                    f"{self.path}: input {index} is {dtype}; expected {spec['dtype']}. "
                    f"Convert it with .astype({spec['dtype']!r})."
                )
        sizes = {array.shape[0] for array in arrays}
        if len(sizes) > 1:
            raise ArtifactError(
                f"{self.path}: inputs of different batch sizes {sizes}."
            )


def load(path: str | pathlib.Path) -> Artifact:
    """Loads an artifact after checking every byte of it.

    Args:
      path: The directory `compress.export` wrote.

    Returns:
      A callable: inputs with a leading batch axis of any size to outputs.

    Raises:
      ArtifactError: If a file is missing, changed or cannot be read, the artifact is
        of a later version, or it was not exported for this platform.
    """
    directory = pathlib.Path(path)
    try:
        manifest = read_manifest(directory)
        check_platform(directory, manifest["platforms"])
        files = program_files(directory, manifest)
        check_files(directory, manifest, [WEIGHTS, *files.values()])
        weights = _read_weights(directory / WEIGHTS)
        programs = {
            name: _read_program(member(directory, file)) for name, file in files.items()
        }
    except OSError as error:
        raise ArtifactError(
            f"{error.filename or directory}: cannot be read ({error.strerror})."
        ) from error
    return Artifact(directory, manifest, weights, programs)


def check_platform(directory: pathlib.Path, platforms: Sequence[str]) -> None:
    """Refuses an artifact for `platforms` where JAX runs on none of them."""
    backend = jax.default_backend()
    here = "cuda" if backend == "gpu" else backend
    if here not in platforms:
        raise ArtifactError(
            f"{directory}: exported for {', '.join(map(str, platforms))}, but JAX runs "
            f"on {here} here. Export again with platforms=[..., {here!r}]."
        )


def _read_weights(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ArtifactError(f"{path}: {error}. Export again.") from None


def _read_program(path: pathlib.Path) -> jax.export.Exported:
    try:
        return jax.export.deserialize(bytearray(path.read_bytes()))
    except Exception as error:  # whatever the deserializer meets, one kind of error
        raise ArtifactError(
            f"{path}: jax {jax.__version__} cannot read this program "
            f"({type(error).__name__}: {str(error)[:200]}). Export it again from the "
            "checkpoint with this version of jax."
        ) from error
