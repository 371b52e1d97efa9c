"""What it costs to compress each parameter alone, with all the others in float32.

Weights only, at once and without further training: a network that is trained with a
technique suffers less. What is measured is where it is fragile.
"""

import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from compress.annotations import Array, PyTree, Shaped
from compress.compare.groups import cell_folder
from compress.config import Config, PostTraining, row_config
from compress.data import Batch, num_examples, rows
from compress.files import write_json
from compress.interpret import unbox
from compress.schedule import post_training
from compress.sites import Sites, find_sites, flatten_parameters
from compress.task import Task, example_inputs, load_task
from compress.train import Trained, finished, hash_of
from compress.transform import State
from compress.transform import parameters as seen_parameters

_Grid = Literal["int8", "int4"]
SENSITIVITY = "sensitivity.json"
FORMAT_VERSION = 1
_GRIDS: tuple[_Grid, ...] = ("int4", "int8")
_SPARSITIES = (0.8, 0.5)
_MACS = 3e11  # of all evaluations together: seconds to a minute of one core
_EXAMPLES = (16, 256)  # fewest and most
# (params, batch) -> (loss, score), means over the batch.
Judge = Callable[[PyTree, Batch], tuple[Array, Array]]


def measure_sensitivity(
    config: Config, directory: pathlib.Path, seeds: Mapping[str, int]
) -> pathlib.Path | None:
    """Writes `sensitivity.json` for the first row without techniques.

    Args:
      config: Of the comparison.
      directory: Of the comparison.
      seeds: By row, that of a finished cell.

    Returns:
      Where it is; None if no row is trained without a technique.
    """
    found = _plain_row(config, seeds)
    if found is None:
        return None
    name, row = found
    task = load_task(row.task, row.data)
    seed = seeds[name]
    trained = finished(row, task, directory / cell_folder(name, seed), seed=seed)
    if trained is None:
        return None
    content = {
        "format_version": FORMAT_VERSION,
        "row": name,
        "seed": seed,
        "checkpoint_hash": hash_of(trained.state),
        **_measured(task, trained),
    }
    return write_json(directory / SENSITIVITY, content)


def _plain_row(config: Config, seeds: Mapping[str, int]) -> tuple[str, Config] | None:
    """The first finished row that trains and ships in float, the reference before."""
    assert config.compare is not None
    reference = config.compare.reference
    ordered = sorted(config.compare.rows, key=lambda row: row.name != reference)
    for row in ordered:
        resolved = row_config(config, row)
        if row.name in seeds and not _techniques(resolved):
            return row.name, resolved
    return None


def _techniques(config: Config) -> bool:
    names = ("prune", "shrink", "quantize", "distill")
    used = any(getattr(stage, name) for stage in config.stages for name in names)
    return used or config.export.quantize is not None


def _measured(task: Task, trained: Trained) -> dict[str, Any]:
    params, predict = (
        trained.state.params,
        trained.model.predictor(trained.state.model_state),
    )
    sites = find_sites(predict, params, *example_inputs(task, 1))
    paths = list(dict.fromkeys(site.path for site in sites if site.path))
    part, batch = _sample(task, sites, len(paths))
    judge = jax.jit(_judge(task, predict))
    loss, score = judge(params, batch)
    entries: dict[str, dict[str, Any]] = {path: {} for path in paths}
    for path, how, changed in _changed(params, sites, paths):
        worse_loss, worse_score = judge(changed, batch)
        entries[path][how] = {
            "loss": float(worse_loss - loss),
            "score": float(worse_score - score),
        }
    return {
        "sample": part,
        "num_examples": num_examples(batch),
        "loss": float(loss),
        "score": float(score),
        "sites": [{"name": path, "costs": costs} for path, costs in entries.items()],
    }


def _sample(task: Task, sites: Sites, num_paths: int) -> tuple[str, Batch]:
    """Examples that decide nothing else: of the validation, else the last to train on.

    The test set stays untouched. How many depends on the network alone, so that it is
    the same everywhere.
    """
    part, data = "validation", task.validation
    if data is None:
        part, data = "train", task.train
    each = 2.0 * sum(int(site.macs) for site in sites) * max(num_paths, 1)
    wanted = int(_MACS / max(each * (len(_GRIDS) + len(_SPARSITIES)), 1.0))
    count = min(max(wanted, _EXAMPLES[0]), _EXAMPLES[1])
    last = range(num_examples(data))[-count:]
    return part, {name: jnp.asarray(x) for name, x in rows(data, last).items()}


def _judge(task: Task, predict: Callable[..., Any]) -> Judge:
    def judge(params: PyTree, batch: Batch) -> tuple[Array, Array]:
        outputs = predict(params, *task.inputs_of(batch))
        values = task.judge.of(outputs, batch).astype(jnp.float32)
        return task.loss(outputs, batch), values.mean()

    return judge


def _changed(
    params: PyTree, sites: Sites, paths: list[str]
) -> Iterator[tuple[str, str, PyTree]]:
    """`(path, how, params)` with one parameter compressed in each."""
    names, leaves, structure = flatten_parameters(params)

    def with_one(path: str, value: Array) -> PyTree:
        changed = [value if n == path else x for n, x in zip(names, leaves)]
        return jax.tree.unflatten(structure, changed)

    for sparsity in _SPARSITIES:
        for path in paths:
            pruned = _pruned(np.asarray(leaves[names.index(path)]), sparsity)
            yield path, f"{sparsity:.0%} zeros", with_one(path, jnp.asarray(pruned))

    for grid in _GRIDS:
        rounded = _rounded(params, sites, grid)
        for path in paths:
            yield path, grid, with_one(path, rounded[path])


def _rounded(params: PyTree, sites: Sites, grid: _Grid) -> dict[str, Array]:
    """Every weight on an integer grid, as post-training quantization has it."""
    transform = post_training(PostTraining(weights=grid, activations=None))
    state = State(jnp.zeros((), jnp.int32), transform.init(params, sites))
    names, boxes, _ = flatten_parameters(seen_parameters(transform, params, state))
    return {name: unbox(box) for name, box in zip(names, boxes)}


def _pruned(
    weights: Shaped[np.ndarray, "..."], sparsity: float
) -> Shaped[np.ndarray, "..."]:
    """Without its smallest weights; ties by position."""
    count = int(sparsity * weights.size)
    smallest = np.argsort(np.abs(weights), axis=None, kind="stable")[:count]
    pruned = weights.copy()
    pruned.flat[smallest] = 0
    return pruned
