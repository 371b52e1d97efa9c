"""Measures how fast a model is without some of its units, as it would be shipped."""

import pathlib
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import jax

from compress.annotations import PyTree
from compress.export import export
from compress.export.program import PLATFORMS
from compress.prune import shrink
from compress.report import measure_latency
from compress.sites import Groups, find_groups
from compress.transform import Transform, calibrate, init

_REPETITIONS = 50


def latency_of(
    forward: Callable[..., Any],
    params: PyTree,
    *inputs: Any,
    groups: Groups | None = None,
    model_state: PyTree = None,
    transform: Transform | None = None,
    repetitions: int = _REPETITIONS,
) -> Callable[[Mapping[str, Any]], float]:
    """What measures a choice of units, for `prune.choose_units`.

    The whole model is exported once, now; each choice when it is asked for. Both run
    interleaved, and their times are compared within each round.

    Args:
      forward: What the groups were found in.
      params: Its parameters; their values do not matter.
      *inputs: A batch, of the size that is timed.
      groups: Of `find_groups`; found if None.
      model_state: Then `forward` takes it after the parameters, and returns it.
      transform: The grid it is shipped in, such as
        `quantize.fake_quant(activations="int8_dynamic")`; static ranges are those of
        `inputs`. None exports in float.
      repetitions: Rounds of each measurement.

    Returns:
      `(keep) -> latency` as a fraction of the whole model's.
    """
    if groups is None:
        groups = find_groups(forward, params, *inputs, model_state=model_state)
    whole = _exported(forward, params, inputs, model_state, transform)

    def measure(keep: Mapping[str, Any]) -> float:
        small = shrink(forward, params, keep, groups=groups, model_state=model_state)
        shrunk = _exported(
            small.forward, small.params, inputs, small.model_state, transform
        )
        calls = {"whole": whole, "shrunk": shrunk}
        found = measure_latency(calls, reference="whole", repetitions=repetitions)
        return float(found["entries"]["shrunk"]["paired_ratio"])

    return measure


def _exported(
    forward: Callable[..., Any],
    params: PyTree,
    inputs: tuple[Any, ...],
    model_state: PyTree,
    transform: Transform | None,
) -> Callable[[], Any]:
    """One call of the artifact on `inputs`, compiled."""
    stateful = model_state is not None
    first = (model_state,) if stateful else ()

    def predict(params: PyTree, *arguments: Any) -> Any:
        outputs = forward(params, *arguments)
        return outputs[0] if stateful else outputs

    state = None
    if transform is not None:
        state = init(predict, transform, params, *first, *inputs)
        if transform.calibrate is not None:
            batches = [(*first, *inputs)]
            state = calibrate(predict, transform, params, state, batches)
    batch = len(inputs[0])
    with tempfile.TemporaryDirectory() as folder:
        artifact = export(
            pathlib.Path(folder) / "artifact",
            predict,
            params,
            transform,
            state,
            batches=[inputs],
            model_state=model_state,
            platforms=[_platform()],
            static_batch=batch,
            classifies=False,
        )
        function = artifact.function(batch)
    on_device = [jax.device_put(x) for x in inputs]
    return lambda: function(*on_device)


def _platform() -> str:
    """What JAX runs on here, as exports name it."""
    backend = jax.default_backend()
    return next((p for p in PLATFORMS if p == backend), "cuda")
