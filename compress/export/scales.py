"""Inputs that come as integers, with the scale that makes them what a model reads."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from compress.export.manifest import ArtifactError

# By input; None where it is read as it comes.
Scales = Sequence[float | None]


def check_scales(scales: Scales, batches: Sequence[tuple[Any, ...]]) -> None:
    """Refuses scales that do not belong to the inputs.

    Raises:
      ArtifactError: That says which, and what to give.
    """
    inputs = batches[0]
    if len(scales) != len(inputs):
        raise ArtifactError(
            f"export: {len(scales)} input_scales for {len(inputs)} inputs. Give one "
            "for each, None where an input is read as it comes."
        )
    for index, (scale, x) in enumerate(zip(scales, inputs)):
        if scale is None:
            continue
        if not (math.isfinite(scale) and np.float32(scale) > 0):
            raise ArtifactError(
                f"export: input_scales[{index}]={scale} must be positive and finite in "
                "float32."
            )
        if not jnp.issubdtype(x.dtype, jnp.integer):
            raise ArtifactError(
                f"export: input {index} is {x.dtype}, and a scale is for integers. "
                "Give batches as the artifact will get them, such as uint8, or no "
                "scale."
            )


def scaled_inputs(forward: Callable[..., Any], scales: Scales) -> Callable[..., Any]:
    """The function of integers that gives `forward` the real values, in float32.

    Args:
      forward: Its last arguments are its inputs.
      scales: Of the inputs; real = integer * scale.
    """
    if all(scale is None for scale in scales):
        return forward

    def scaled(*arguments: Any) -> Any:
        first = len(arguments) - len(scales)
        inputs = map(_real, arguments[first:], scales)
        return forward(*arguments[:first], *inputs)

    return scaled


def _real(x: jax.Array, scale: float | None) -> jax.Array:
    return x if scale is None else x.astype(jnp.float32) * jnp.float32(scale)


def scales_of(inputs: Sequence[Mapping[str, Any]]) -> Scales:
    """What a manifest says of its inputs."""
    return [spec.get("scale") for spec in inputs]


def with_scales(
    inputs: Sequence[Mapping[str, Any]], scales: Scales
) -> list[dict[str, Any]]:
    """The inputs as a manifest tells them."""
    return [
        {**spec} if scale is None else {**spec, "scale": float(scale)}
        for spec, scale in zip(inputs, scales, strict=True)
    ]


def described(specs: Sequence[Mapping[str, Any]]) -> str:
    """Inputs or outputs as text, `uint8[batch, 28, 28] * 0.003922`."""
    return ", ".join(
        f"{spec['dtype']}[{', '.join(map(str, spec['shape']))}]"
        + (f" * {spec['scale']:.4g}" if "scale" in spec else "")
        for spec in specs
    )
