"""What a run will cost, from shapes: nothing is trained, evaluated or written.

The task is loaded, since only it knows the shapes of its data; the data are not looked
at. Models are initialised, and the programs that will train are compiled.
"""

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from compress.annotations import PyTree
from compress.config import Config, combinations, row_config, with_rows
from compress.data import Source, num_examples, shapes_of
from compress.export.foresee import Sizes, foreseen_sizes
from compress.schedule import build_chunk, post_training, stage_starts
from compress.sites import Site, find_sites
from compress.task import Task, example_inputs, load_task
from compress.train import Entered, Job, foresee, state_shapes, untrained_teacher
from compress.transform import chain

# Eigen, with which XLA:CPU multiplies, copies both operands into blocks that it reads
# in order, as much at a time as fits into caches; buffer assignment does not see them.
# Fitted to what steps of the demo were seen to allocate on one machine: the larger of
# its convolutions held 648 KiB, and four arrays of 74,176 bytes, whose origin is not
# known, came in a row.
_LARGEST_PACKED = {"conv_general_dilated": 648 * 2**10, "dot_general": 4 * 2**20}
_WORKSPACES = 4 * 74_176


class Compiled(NamedTuple):
    """The program that trains one phase.

    Attributes:
      step_flops: Of one train step, as XLA counts them.
      held_bytes: What it is given and gives back: the state and the training data.
      temporary_bytes: What it needs on top while it runs.
      seconds: To trace, lower and compile it, here and now.
    """

    step_flops: float
    held_bytes: int
    temporary_bytes: int
    seconds: float


class Prediction(NamedTuple):
    """What one run will cost.

    Attributes:
      row: Its name.
      peak_bytes: Of the device's memory in training: the state (parameters, masks,
        moments, teacher), the training data, what the compiled step needs on top, the
        arrays of model and teacher as they were before the first step, and on a CPU
        what its largest product packs. The most of all phases; evaluation and export
        are not in it.
      temporary_bytes: Of that, what the compiled step needs on top.
      step_flops: Of one train step, as XLA counts them; the most of all phases.
      compile_seconds: To trace, lower and compile the train steps of all phases, as
        measured now.
      macs: Multiply-accumulates for one example, as shipped.
      weights_bytes: Of the weights file as shipped.
      dense_bytes: Of the arrays in it.
      program_bytes: Of the artifact's programs.
    """

    row: str
    peak_bytes: int
    temporary_bytes: int
    step_flops: float
    compile_seconds: float
    macs: int
    weights_bytes: int
    dense_bytes: int
    program_bytes: int


def runs_of(config: Config) -> list[Config]:
    """The configs of single runs: rows of a comparison, runs of a grid or list.

    Of a search, the config as it is: what it will try is not known.
    """
    if config.compare is not None:
        return [row_config(config, row) for row in config.compare.rows]
    runs = combinations(config.sweep) if config.sweep is not None else []
    return runs_of(with_rows(config, runs)) if runs else [config]


def dry_run(
    config: Config, say: Callable[[str], None] = lambda line: None
) -> list[Prediction]:
    """Predicts every run of a config.

    Args:
      config: Of one run, a comparison or a sweep.
      say: Shows a line of progress.
    """
    runs, found = runs_of(config), []
    compiled: dict[str, Compiled] = {}
    for index, run in enumerate(runs):
        say(f"[{index + 1}/{len(runs)}] {run.name}")
        found.append(_predict(run, load_task(run.task, run.data), compiled))
    return found


def _predict(config: Config, task: Task, compiled: dict[str, Compiled]) -> Prediction:
    distills = any(stage.distill for stage in config.stages)
    teacher = untrained_teacher(config, task) if distills else None
    job = Job(config, task, teacher, seed=0)
    phases = foresee(job)
    programs = [_compiled(job, entered, compiled) for entered in phases]
    before = _bytes(teacher[1]) if teacher else 0
    peaks = [
        program.held_bytes + program.temporary_bytes + before + _beside(job, entered)
        for program, entered in zip(programs, phases, strict=True)
    ]
    sizes, macs = _shipped(config, task, phases[-1])
    return Prediction(
        row=str(config.name),
        peak_bytes=max(peaks),
        temporary_bytes=max(program.temporary_bytes for program in programs),
        step_flops=max(program.step_flops for program in programs),
        compile_seconds=sum(program.seconds for program in programs),
        macs=macs,
        weights_bytes=sizes.file,
        dense_bytes=sizes.dense,
        program_bytes=sizes.programs,
    )


def _beside(job: Job, entered: Entered) -> int:
    """Bytes that no program's analysis shows."""
    arrays = _bytes(entered.model[1:])
    if jax.default_backend() != "cpu":
        return arrays
    model, packed = entered.model, [0]
    sites = find_sites(model.forward, model.params, model.model_state, *job.inputs)
    packed += [_packed(site, trained=True) for site in sites]
    if job.teacher is not None:
        sites = find_sites(*job.teacher, *job.inputs)
        packed += [_packed(site, trained=False) for site in sites]
    return arrays + max(packed) + _WORKSPACES


def _packed(site: Site, *, trained: bool) -> int:
    """Bytes of both operands of a site's largest product, backward ones included.

    A convolution is the product of its kernel with the patches that it reads.
    """
    sizes = [math.prod(shape) for shape in site.operand_shapes]
    if site.op == "conv_general_dilated" and site.weight_side is not None:
        features = math.prod(site.weight_shape[axis] for axis in site.output)
        sizes[1 - site.weight_side] = site.macs_once // features
    if trained:
        sizes.append(math.prod(site.out_shape))
    largest = _LARGEST_PACKED.get(site.op, max(_LARGEST_PACKED.values()))
    return min(4 * sum(sorted(sizes)[-2:]), largest)


def _compiled(job: Job, entered: Entered, known: dict[str, Compiled]) -> Compiled:
    """Compiles the train step of a phase, unless an equal one was."""
    state = state_shapes(job, entered)
    train = job.task.train
    # Arrays lie on the device; of what is read from files, one batch.
    count = job.config.batch_size if isinstance(train, Source) else num_examples(train)
    data = {
        name: jax.ShapeDtypeStruct((count, *x.shape), x.dtype)
        for name, x in shapes_of(train).items()
    }
    started = time.perf_counter()
    chunk = build_chunk(job.config, job.task, entered.model, entered.transform)
    lowered = chunk.lower(state, data)
    identity = hashlib.sha256(lowered.as_text().encode()).hexdigest()
    if identity not in known:
        executable = lowered.compile()
        seconds = time.perf_counter() - started
        known[identity] = _costs(executable, seconds)
    return known[identity]


def _costs(executable: Any, seconds: float) -> Compiled:
    memory, costs = executable.memory_analysis(), executable.cost_analysis()
    new = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return Compiled(
        step_flops=float(costs["flops"]),
        held_bytes=memory.argument_size_in_bytes + new,
        temporary_bytes=memory.temp_size_in_bytes,
        seconds=seconds,
    )


def _shipped(config: Config, task: Task, last: Entered) -> tuple[Sizes, int]:
    """Sizes of the artifact, and its multiply-accumulates for one example."""
    model, setting = last.model, config.export.quantize
    after = [] if setting is None else [post_training(setting)]

    def forward(params: PyTree, model_state: PyTree, *inputs: Any) -> Any:
        return model.forward(params, model_state, *inputs)[0]

    one = example_inputs(task, 1)
    sizes = foreseen_sizes(
        forward,
        _shapes(model.params),
        chain(last.transform, *after),
        *one,
        step=stage_starts(config)[-1],
        model_state=_shapes(model.model_state),
        platforms=config.export.platforms,
        static_batch=config.export.static_batch,
        lowering=config.export.lowering,
    )
    sites = find_sites(model.forward, model.params, model.model_state, *one)
    return sizes, sum(site.macs for site in sites)


def _shapes(tree: PyTree) -> PyTree:
    return jax.eval_shape(lambda x: x, tree)


def _bytes(tree: Any) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def predictions_table(predictions: Sequence[Prediction]) -> str:
    """The predictions as text, a line per run."""
    titles = ("run", "weights file", "programs", "MACs", "FLOPs per step")
    rows = [
        (*titles, "peak memory in training", "compilation"),
        *(_line(prediction) for prediction in predictions),
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths))
        )
        for row in rows
    )


def _line(found: Prediction) -> tuple[str, ...]:
    return (
        found.row,
        f"{found.weights_bytes:,} bytes",
        f"{found.program_bytes:,} bytes",
        f"{found.macs:,}",
        f"{found.step_flops:,.0f}",
        f"{found.peak_bytes:,} bytes",
        f"{found.compile_seconds:.1f} s",
    )


def predictions_json(predictions: Sequence[Prediction]) -> Mapping[str, Any]:
    """The predictions, for a file."""
    return {
        "format_version": 1,
        "runs": [prediction._asdict() for prediction in predictions],
    }
