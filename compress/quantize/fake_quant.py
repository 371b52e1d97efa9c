"""Fake quantization: the forward pass computes with the integers that will be served.

Weights get one scale per output channel, activations one per tensor (static, from
observed ranges) or one per row (dynamic). Source: Jacob et al. 2018, section 3,
https://arxiv.org/abs/1712.05877. Unlike there, the integers themselves meet in the
contraction and the scales are multiplied after it, so that training sees exactly what
the exported integer program computes.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from compress.annotations import Array, Int, PyTree
from compress.interpret import Quantized, unbox
from compress.quantize.affine import (
    Bits,
    absmax_over,
    absmax_scale,
    largest_integer,
    quantize,
)
from compress.quantize.observers import (
    OBSERVERS,
    Range,
    empty_range,
    join_ranges,
    merge_ranges,
    observe_range,
)
from compress.sites import (
    Site,
    Sites,
    flat_paths,
    flatten_parameters,
    matching_sites,
)
from compress.transform import Transform, Update

WEIGHTS = {"int8": 8, "int4": 4}  # bits by name
ACTIVATIONS = ("int8", "int8_dynamic", None)
_ACTIVATION_BITS = 8
# Later than any step: what never happens.
_NEVER = 2**31 - 1


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Layout:
    """What was decided from the trace; fixed, part of the structure of the state.

    Attributes:
      shared_axes: By path of a quantized parameter, the axes that share one scale.
      sites: Names of the sites whose activations are quantized.
    """

    shared_axes: tuple[tuple[str, tuple[int, ...]], ...]
    sites: tuple[str, ...]


class FakeQuantState(NamedTuple):
    """What fake quantization remembers.

    Attributes:
      ranges: Of the activations, by site name; empty unless they are static.
      layout: Which parameters and sites are quantized.
    """

    ranges: dict[str, Range]
    layout: Layout


def fake_quant(
    *,
    weights: str | Int[Array, ""] = "int8",
    activations: str | None = "int8",
    sites: str | Sequence[str] = "**",
    exclude: str | Sequence[str] = (),
    steps: tuple[int, int | None] = (0, None),
    observer: str = "ema",
    decay: float = 0.99,
) -> Transform:
    """Quantizes weights and activations of the sites, with straight-through gradients.

    With the default steps and `calibrate`, this is PTQ; in a train step, QAT.
    Static ranges are observed from the first step on, also before quantization starts.

    Args:
      weights: `int8` or `int4`, symmetric, one scale per output channel (and scanned
        layer). int4 halves the file; the products are those of int8. Or a traced width
        in bits, 2 to 8, which cannot be checked: a grid over widths is one program
        under `jax.vmap`. It only trains; what is exported has a width by name.
      activations: `int8` per tensor, `int8_dynamic` per row (for a convolution, per
        image), or None: weights only.
      sites: Patterns; see `compress.sites.matching_sites`.
      exclude: Patterns of sites that stay in float, such as the first and last.
      steps: When quantization starts, and when the ranges are frozen (None: never).
      observer: `ema` or `absmax`.
      decay: Of the moving average, per step.

    Raises:
      ValueError: If a setting is not one of those named.
    """
    _check_settings(weights, activations, observer, decay, steps)
    freeze = _NEVER if steps[1] is None else steps[1]
    settings = _Settings(
        weights, activations, sites, exclude, steps[0], freeze, observer, decay
    )
    return Transform(
        name="quantize.fake_quant",
        init=partial(_init, settings),
        parameters=partial(_parameters, settings),
        given=_given,
        operands=partial(_operands, settings),
        join=join_ranges,
        update=partial(_update, settings),
        calibrate=partial(_calibrate, settings),
        check=partial(_check_grid, settings),
        plan=partial(_plan, settings),
        provides=frozenset({"grid"}),
        preserves=frozenset({"mask"}),
    )


class _Settings(NamedTuple):
    """The arguments of `fake_quant`, with its steps as `start` and `freeze`."""

    weights: str | Array
    activations: str | None
    sites: str | Sequence[str]
    exclude: str | Sequence[str]
    start: int
    freeze: int
    observer: str
    decay: float

    @property
    def bits(self) -> Bits:
        """Of the weights."""
        weights = self.weights
        return WEIGHTS[weights] if isinstance(weights, str) else weights

    def choose(self, sites: Sites) -> list[Site]:
        """The sites to quantize."""
        user = "quantize.fake_quant"
        return matching_sites(sites, self.sites, self.exclude, user=user)


def _init(settings: _Settings, params: PyTree, sites: Sites) -> FakeQuantState:
    found = settings.choose(sites)
    static = found if settings.activations == "int8" else []
    return FakeQuantState(
        {site.name: empty_range(site.stack) for site in static},
        _layout(sites, found, settings.activations is not None),
    )


def _parameters(
    settings: _Settings, memory: FakeQuantState, params: PyTree, step: Array
) -> PyTree:
    shared = dict(memory.layout.shared_axes)
    enabled, bits = step >= settings.start, settings.bits
    leaves = [
        quantize_weight(leaf, shared[path], enabled, bits=bits)
        if path in shared
        else leaf
        for path, leaf in zip(flat_paths(params), jax.tree.leaves(params), strict=True)
    ]
    return jax.tree.unflatten(jax.tree.structure(params), leaves)


def _given(memory: FakeQuantState) -> dict[str, PyTree]:
    return {name: memory.ranges.get(name, ()) for name in memory.layout.sites}


def _operands(
    settings: _Settings, site: Site, given: Any, step: Array, operands: Sequence[Any]
) -> Any:
    if given is None or site.weight_side is None:
        return operands, None
    side = 1 - site.weight_side
    x = unbox(operands[side])
    known = given if isinstance(given, Range) else None
    quantized = list(operands)
    quantized[side] = _quantize_activation(x, site, known, step >= settings.start)
    return quantized, None if known is None else observe_range(x)


def _merge(
    settings: _Settings, known: dict[str, Range], seen: Mapping[str, Range]
) -> dict[str, Range]:
    observer, decay = settings.observer, settings.decay
    merged = {
        name: merge_ranges(known[name], batch, observer=observer, decay=decay)
        for name, batch in seen.items()
    }
    return {**known, **merged}


def _update(settings: _Settings, memory: FakeQuantState, what: Update) -> Any:
    live = what.step <= settings.freeze
    merged = _merge(settings, memory.ranges, what.observed)
    ranges = jax.tree.map(
        lambda new, old: jnp.where(live, new, old), merged, memory.ranges
    )
    return memory._replace(ranges=ranges)


def _calibrate(settings: _Settings, memory: FakeQuantState, observed: Any) -> Any:
    return memory._replace(ranges=_merge(settings, memory.ranges, observed))


def _plan(settings: _Settings, sites: Sites) -> dict[str, str]:
    inputs = {"int8": "int8", "int8_dynamic": "int8 per row", None: "float"}
    weights = settings.weights if isinstance(settings.weights, str) else "traced"
    text = f"{weights} weights, {inputs[settings.activations]} activations"
    return {site.name: text for site in settings.choose(sites)}


def quantize_weight(
    weight: Array, shared_axes: Sequence[int], enabled: Array, *, bits: Bits = 8
) -> Quantized:
    """The box that stands for a weight; before quantization starts, with scale 1."""
    weight = unbox(weight)
    absmax = absmax_over(jax.lax.stop_gradient(weight), shared_axes)
    return _switched(weight, absmax_scale(absmax, bits=bits), enabled, bits)


def _quantize_activation(
    x: Array, site: Site, known: Range | None, enabled: Array
) -> Quantized:
    fixed = jax.lax.stop_gradient(x)
    if known is None:
        absmax = absmax_over(fixed, site.activation_contracting)
    else:
        # The first batch has no range yet: it is quantized with its own.
        own = observe_range(fixed).absmax
        absmax = jnp.where(known.count == 0, own, known.absmax)
        absmax = absmax.reshape((1,) * x.ndim)
    scale = absmax_scale(absmax, bits=_ACTIVATION_BITS)
    return _switched(x, scale, enabled, _ACTIVATION_BITS)


def _switched(x: Array, scale: Array, enabled: Array, bits: Bits) -> Quantized:
    """One contraction serves both before and after quantization starts."""
    qvalue = quantize(x, scale, bits=bits)
    qvalue = jnp.where(enabled, qvalue, x.astype(jnp.float32))
    scale = jnp.where(enabled, scale, jnp.ones_like(scale))
    widest = bits if isinstance(bits, int) else max(WEIGHTS.values())
    return Quantized(qvalue, scale, x.dtype, widest)


def _layout(all_sites: Sites, found: Sequence[Site], activations: bool) -> Layout:
    """Channels of a weight are the axes that none of its sites sums over."""
    readers = all_sites.by_path()
    shared_axes = {}
    for path in sorted({str(site.path) for site in found}):
        summed = {axis for site in readers[path] for axis in site.contracting}
        shared_axes[path] = tuple(sorted(summed))
    names = tuple(site.name for site in found) if activations else ()
    return Layout(tuple(shared_axes.items()), names)


def _check_grid(
    settings: _Settings, memory: FakeQuantState, params: PyTree, seen: PyTree, step: Any
) -> list[str]:
    """Every quantized parameter lies on its grid."""
    if step < settings.start:
        return []
    paths, leaves, _ = flatten_parameters(seen)
    quantized = {path for path, _ in memory.layout.shared_axes}
    problems = []
    for path, leaf in zip(paths, leaves, strict=True):
        if path in quantized:
            q = np.asarray(leaf.qvalue)
            limit = largest_integer(leaf.bits)
            if (q != np.round(q)).any() or np.abs(q).max() > limit:
                problems.append(
                    f'quantize.fake_quant "{path}": off the integer grid. A transform '
                    "after it changed the weight; put that one first."
                )
    return problems


def _check_settings(
    weights: str | Array,
    activations: str | None,
    observer: str,
    decay: float,
    steps: tuple[int, int | None],
) -> None:
    for name, value, allowed in (
        ("weights", weights, WEIGHTS),
        ("activations", activations, ACTIVATIONS),
        ("observer", observer, OBSERVERS),
    ):
        if not isinstance(value, jax.Array) and value not in allowed:
            names = tuple(allowed)
            raise ValueError(f"fake_quant: {name}={value!r} must be one of {names}.")
    if not 0.0 < decay < 1.0:
        raise ValueError(f"fake_quant: decay={decay} must be between 0 and 1.")
    if steps[0] < 0 or (steps[1] is not None and steps[1] < steps[0]):
        raise ValueError(
            f"fake_quant: steps={steps} must be (start, freeze) with 0 <= start <= "
            "freeze, or freeze=None to keep observing."
        )
