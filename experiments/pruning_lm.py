"""Does what a weight is multiplied by tell which weights to remove? A language model.

A character transformer is trained on Shakespeare, then pruned without training again:
by magnitude, Wanda, and SparseGPT (also with rounding in the same pass). Expected, from
Frantar and Alistarh 2023 and Sun et al. 2023: both beat magnitude at 50 % and at 2:4.

    python -m experiments.pruning_lm            # three seeds, about half an hour on CPU
    python -m experiments.pruning_lm --fast     # the same in seconds, for a test
"""

import argparse
import json
import pathlib
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import compress
from compress import prune, quantize
from compress.config import Config, parse_config
from compress.machine import describe_machine
from compress.schedule import build_chunk, build_transform, init_state
from compress.sites import flat_paths
from experiments.pruning_lm_table import write_table
from experiments.tasks import shakespeare
from experiments.tasks.language import LENGTH

RESULT = pathlib.Path(__file__).parent / "results/pruning_lm.json"
_PATTERNS: dict[str, dict[str, Any]] = {
    "50 %": {"sparsity": 0.5},
    "2:4": {"pattern": "2:4"},
    "70 %": {"sparsity": 0.7},
}
_SCORES: dict[str, dict[str, Any]] = {
    "magnitude": {"score": "magnitude"},
    "Wanda": {"score": "wanda"},
    "Wanda, ranked in each layer": {"score": "wanda", "rank": "layer"},
    "second-order": {"score": "second_order"},
    "second-order, blocks of 128": {"score": "second_order", "block": 128},
    "second-order, site after site": {"score": "second_order", "sequential": True},
}
# Those that N:M has no use for.
_UNSTRUCTURED = ("Wanda, ranked in each layer", "second-order, blocks of 128")
_THEN_ROUNDED = ("magnitude", "Wanda", "second-order")


class Study(NamedTuple):
    """How large the study is.

    Attributes:
      steps: Of training.
      model: Arguments of the task's `build`.
      calibration: Batches of 64 examples of the training text.
      tests: Examples of the last tenth that losses are measured on; None for all.
      patterns: Which of the patterns.
      scores: Which of the scores.
      rounded: To which integers.
      sites: What is pruned; the head stays dense, as in the papers.
    """

    steps: int = 1500
    model: dict[str, int] = {}  # noqa: RUF012 - never changed
    calibration: int = 8
    tests: int | None = None
    patterns: tuple[str, ...] = tuple(_PATTERNS)
    scores: tuple[str, ...] = tuple(_SCORES)
    rounded: tuple[str, ...] = ("int8", "int4")
    sites: str = "blocks/**"


FAST = Study(
    steps=20,
    model={"width": 16, "layers": 2, "heads": 2},
    calibration=1,
    tests=64,
    patterns=("50 %",),
    scores=("magnitude",),
    rounded=("int4",),
    sites="blocks/out/*",
)


def config_of(study: Study) -> Config:
    """The training run: AdamW with a cosine schedule."""
    peak, warmup = 3e-3, study.steps // 15
    return parse_config(
        {
            "task": "experiments.tasks.shakespeare:task",
            "batch_size": 32,
            "log_every": max(1, study.steps // 15),
            "optimizer": {"name": "adamw", "weight_decay": 0.01, "clip_norm": 1.0},
            "stages": [
                {
                    "name": "train",
                    "steps": study.steps,
                    "learning_rate": {
                        "schedule": "cosine",
                        "peak": peak,
                        "end": peak / 10,
                        "warmup": warmup,
                    },
                }
            ],
        }
    )


def train(study: Study, task: compress.Task, seed: int) -> compress.Model:
    """The task's model, trained."""
    config = config_of(study)
    build_key, run_key = jax.random.split(jax.random.key(seed))
    model = task.build(build_key, **study.model)
    transform = build_transform(config)
    state = init_state(config, task, model, transform, run_key)
    chunk = build_chunk(config, task, model, transform)
    data = jax.device_put(dict(task.train))
    for done in range(0, study.steps, config.log_every):
        count = min(config.log_every, study.steps - done)
        state, metrics = chunk.run(state, data, count)
        loss = float(metrics["loss"][count - 1])
        print(f"seed {seed}, step {done + count}: loss {loss:.3f}", flush=True)
    return model._replace(params=state.params)


def trained(
    study: Study, task: compress.Task, seed: int, folder: pathlib.Path | None
) -> compress.Model:
    """The trained model, from `folder` if it was kept there before."""
    if folder is None:
        return train(study, task, seed)
    file = folder / f"seed{seed}-{study.steps}steps.npz"
    template = task.build(jax.random.key(0), **study.model)
    paths = flat_paths(template.params)
    if not file.exists():
        leaves = jax.tree.leaves(train(study, task, seed).params)
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(file, **dict(zip(paths, map(np.asarray, leaves), strict=True)))
    with np.load(file) as kept:
        leaves = [jnp.asarray(kept[path]) for path in paths]
    structure = jax.tree.structure(template.params)
    return template._replace(params=jax.tree.unflatten(structure, leaves))


class Judge(NamedTuple):
    """Measures losses on the test text.

    Attributes:
      dense: `(params, batch) -> loss`.
      rounded: The same with weights rounded by the transform, by its name.
      batches: Of the test text.
    """

    dense: Callable[..., Any]
    rounded: dict[str, Callable[..., Any]]
    batches: list[Any]

    def loss(self, params: Any, rounding: str | None = None) -> float:
        """In nats, mean over all characters."""
        measure = self.rounded[rounding] if rounding else self.dense
        losses = [float(measure(params, batch)) for batch in self.batches]
        sizes = [len(batch["x"]) for batch in self.batches]
        return float(np.average(losses, weights=sizes))


def judge_of(study: Study, task: compress.Task, model: compress.Model) -> Judge:
    """Losses in float32, and with the weights in integers."""
    forward, rounded = model.predictor(), {}
    batches = [
        {n: x[: study.tests][i : i + 512] for n, x in task.test.items()}
        for i in range(0, len(task.test["x"][: study.tests]), 512)
    ]

    def loss(params: Any, batch: Any) -> Any:
        return task.loss(forward(params, batch["x"]), batch)

    for name in study.rounded:
        transform = rounding_of(study, name)
        inputs = batches[0]["x"]
        state = compress.init(forward, transform, model.params, inputs)
        applied = compress.apply(forward, transform)

        def rounded_loss(params: Any, batch: Any, apply=applied, state=state) -> Any:
            return task.loss(apply(params, state, batch["x"]), batch)

        rounded[name] = jax.jit(rounded_loss)
    return Judge(jax.jit(loss), rounded, batches)


def rounding_of(study: Study, name: str) -> compress.Transform:
    """Weights in integers, activations in float."""
    return quantize.fake_quant(weights=name, activations=None, sites=study.sites)


def calibration_of(study: Study, task: compress.Task) -> list[Any]:
    """Batches of 64 examples drawn from the training text."""
    draw = np.random.default_rng(0)
    chosen = draw.choice(len(task.train["x"]), (study.calibration, 64), replace=False)
    return [jnp.asarray(task.train["x"][rows]) for rows in chosen]


def losses_of(
    study: Study, task: compress.Task, model: compress.Model
) -> dict[str, dict[str, float]]:
    """The loss of every variant, by pattern and method."""
    judge, batches = judge_of(study, task, model), calibration_of(study, task)
    forward, params = model.predictor(), model.params
    pruned = partial(prune.one_shot, forward, params, batches, sites=study.sites)
    found = {"dense": {"float32": judge.loss(params)}}
    for name in study.rounded:
        grid = rounding_of(study, name)
        found["dense"][f"{name}, rounded"] = judge.loss(params, name)
        with_rounding = pruned(sparsity=0.0, quantize=grid).params
        found["dense"][f"{name}, second-order"] = judge.loss(with_rounding, name)
    for pattern in study.patterns:
        where = _PATTERNS[pattern]
        row = found.setdefault(pattern, {})
        for score in study.scores:
            if "pattern" in where and score in _UNSTRUCTURED:
                continue
            result = pruned(**where, **_SCORES[score]).params
            row[score] = judge.loss(result)
            for name in study.rounded if score in _THEN_ROUNDED else ():
                row[f"{score}, then {name}"] = judge.loss(result, name)
        for name in study.rounded:
            result = pruned(**where, quantize=rounding_of(study, name)).params
            row[f"second-order with {name}"] = judge.loss(result, name)
        print(pattern, {k: round(v, 3) for k, v in row.items()}, flush=True)
    return found


def run(
    study: Study,
    task: compress.Task,
    seeds: list[int],
    folder: pathlib.Path | None = None,
) -> dict[str, Any]:
    """Trains and prunes with each seed; trained models are kept in `folder`."""
    by_seed = {}
    for seed in seeds:
        model = trained(study, task, seed, folder)
        by_seed[str(seed)] = losses_of(study, task, model)
    parameters = sum(x.size for x in jax.tree.leaves(model.params))
    return {
        "machine": describe_machine(),
        "steps": study.steps,
        "parameters": parameters,
        "calibration_characters": study.calibration * 64 * LENGTH,
        "losses": by_seed,
    }


def merged(result: dict[str, Any]) -> dict[str, Any]:
    """With the seeds that an earlier run of the same study has saved."""
    same = ("steps", "parameters", "calibration_characters")
    known = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    if any(known.get(key) != result[key] for key in same):
        return result
    losses = {**known["losses"], **result["losses"]}
    return {**result, "losses": dict(sorted(losses.items()))}


def main() -> None:
    """Runs the study, saves its result and writes its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fast", action="store_true", help="seconds; saves nothing")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--models", type=pathlib.Path, help="where to keep models")
    arguments = parser.parse_args()
    study = FAST if arguments.fast else Study()
    result = run(study, shakespeare.task(), arguments.seeds, arguments.models)
    if not arguments.fast:
        RESULT.parent.mkdir(exist_ok=True)
        result = merged(result)
        RESULT.write_text(json.dumps(result, indent=1) + "\n")
        write_table(result)


if __name__ == "__main__":
    main()
