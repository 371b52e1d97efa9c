"""Boundaries in a run: what is removed there, and that a run goes on across them."""

import json
import shutil

import jax
import numpy as np
import pytest

import compress
from compress.compare.pool import share_compiled_programs
from compress.config import parse_config
from compress.schedule import split_phases
from compress.train import (
    CheckpointError,
    check_schedule,
    finished,
    foreseen_phases,
    hash_of,
    train,
)
from compress.train.boundaries import PHASES, read_boundaries, surviving_units
from compress.train.checks import untrained_teacher
from compress.train.metrics import read_metrics
from tests import tiny

SHRINK = {"budget": {"macs": 0.5}, "round_to": 1, "every": 2}
STAGES = [
    {"name": "fit", "steps": 9, "learning_rate": 0.02},
    {
        "name": "narrow",
        "steps": 12,
        "learning_rate": 0.02,
        "shrink": SHRINK,
        "distill": {},
    },
    {
        "name": "thin",
        "steps": 12,
        "learning_rate": 0.01,
        "prune": {"sparsity": 0.5, "score": "wanda", "schedule": "one_shot"},
    },
    {"name": "grid", "steps": 9, "learning_rate": 0.001, "quantize": {}},
]
# The unpruned network teaches the pruned one: the two look alike.
TEACHER = {**tiny.CONFIG["teacher"], "model": {"width": 8}}
PLAIN = {**tiny.CONFIG, "teacher": TEACHER, "log_every": 5, "checkpoint_every": 4}


def config_of(stages=STAGES, **more):
    return parse_config({**PLAIN, "stages": stages, "keep_checkpoints": 20, **more})


def run(directory, config, **settings):
    task = tiny.task()
    teacher = untrained_teacher(config, task)
    settings = {"seed": 0, "quiet": True, "teacher": teacher, **settings}
    return train(config, task, directory, **settings)


def found_again(directory, config):
    task = tiny.task()
    teacher = untrained_teacher(config, task)
    return finished(config, task, directory, seed=0, teacher=teacher)


@pytest.fixture(scope="module", autouse=True)
def _programs(without_shared_programs, tmp_path_factory):
    """Compiles each program once: the runs here share them, as a comparison's do."""
    share_compiled_programs(tmp_path_factory.mktemp("programs"))


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A run through three phases: its directory and what it gave."""
    directory = tmp_path_factory.mktemp("phases") / "run"
    return directory, run(directory, config_of())


def shapes(params):
    return {k: v.shape for k, v in compress.sites.parameter_paths(params).items()}


def spans(*stages):
    return [(p.stages, p.start, p.end) for p in split_phases(config_of(stages))]


def test_a_phase_starts_where_units_are_removed_or_inputs_are_looked_at():
    fit, narrow, thin, grid = STAGES
    assert spans(fit, grid) == [(("fit", "grid"), 0, 18)]
    assert spans(*STAGES) == [
        (("fit", "narrow"), 0, 21),
        (("thin", "grid"), 21, 42),
    ]
    assert spans(fit, thin, grid) == [(("fit",), 0, 9), (("thin", "grid"), 9, 30)]
    # Before the first step and after the last one.
    assert spans(thin) == [((), 0, 0), (("thin",), 0, 12)]
    assert spans(narrow) == [(("narrow",), 0, 12), ((), 12, 12)]


def test_a_run_goes_through_its_phases_and_says_what_it_kept(ran):
    directory, trained = ran
    assert trained.compilations == 2
    (boundary,) = trained.boundaries
    kept = boundary.keep["first/kernel:1"]
    assert len(kept) == 4 and boundary.sizes == {"first/kernel:1": 8}
    assert shapes(trained.state.params) == {
        "first/bias": (4,),
        "first/kernel": (5, 4),
        "second/bias": (3,),
        "second/kernel": (4, 3),
    }
    lines = read_metrics(directory / "metrics.jsonl")
    assert [line["step"] for line in lines] == [5, 10, 15, 20, 21, 26, 31, 36, 41, 42]
    assert int(trained.state.compression.step) == 42
    # The shrunk model, quantized and masked, is a function like any other.
    compressed = compress.apply(trained.model.forward, trained.transform)
    x = tiny.task().test["x"]
    state = trained.state
    logits, _ = compressed(state.params, state.compression, state.model_state, x)
    assert logits.shape == (40, 3)
    assert read_boundaries(directory) == list(trained.boundaries)


def test_masks_from_inputs_hold_in_every_later_stage(ran):
    _, trained = ran
    state = trained.state
    seen = compress.parameters(trained.transform, state.params, state.compression)
    for layer, count in (("first", 10), ("second", 6)):
        weights = np.asarray(seen[layer]["kernel"].qvalue)
        assert np.sum(weights == 0) >= count
    metrics = compress.metrics(trained.transform, state.compression)
    assert float(metrics["sparsity"]) == 0.5


def test_what_follows_the_parameters_gets_smaller_with_them(ran):
    _, trained = ran
    sizes = {leaf.shape for leaf in jax.tree.leaves(trained.state.optimizer)}
    assert sizes == {(), (5, 4), (4,), (4, 3), (3,)}
    (teacher,) = [m for m in trained.state.compression.memory if hasattr(m, "teacher")]
    assert shapes(teacher.teacher["params"])["first/kernel"] == (5, 8)


@pytest.mark.parametrize("step", [21, 24])
def test_a_run_goes_on_from_any_step_to_the_same_bits(ran, tmp_path, step):
    directory, whole = ran
    copy = tmp_path / "run"
    shutil.copytree(directory, copy)
    for folder in (copy / "checkpoints").glob("[0-9]*"):
        if int(folder.name) > step:
            shutil.rmtree(folder)
    again = run(copy, config_of(), resume=True)
    assert hash_of(again.state) == hash_of(whole.state)
    assert again.boundaries == whole.boundaries


def test_a_finished_run_is_found_again_in_its_last_shapes(ran):
    directory, whole = ran
    again = found_again(directory, config_of())
    assert hash_of(again.state) == hash_of(whole.state)
    assert again.boundaries == whole.boundaries


def test_without_the_kept_units_a_checkpoint_is_not_read(ran, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(ran[0], copy)
    (copy / PHASES).unlink()
    with pytest.raises(CheckpointError, match="of which 0 are known"):
        run(copy, config_of(), resume=True)
    (copy / PHASES).write_text('{"format_version": 1, "boundaries": [{}]}')
    with pytest.raises(CheckpointError, match="damaged"):
        run(copy, config_of(), resume=True)


def test_what_was_decided_is_done_again_and_not_decided_anew(ran, tmp_path):
    """A latency measured twice may choose other units: what is on disk counts."""
    copy = tmp_path / "run"
    shutil.copytree(ran[0], copy)
    for folder in (copy / "checkpoints").glob("[0-9]*"):
        if int(folder.name) > 21:
            shutil.rmtree(folder)
    content = json.loads((copy / PHASES).read_text())
    content["boundaries"][0]["keep"]["first/kernel:1"] = [0, 1, 2, 3]
    (copy / PHASES).write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="does not give the same bits"):
        run(copy, config_of(), resume=True)


def test_units_removed_after_the_last_step_are_removed_from_what_is_found_again(
    tmp_path,
):
    config = config_of(STAGES[1:2])
    trained = run(tmp_path / "run", config)
    assert trained.state.params["first"]["kernel"].shape == (5, 4)
    assert trained.compilations == 1
    again = found_again(tmp_path / "run", config)
    assert hash_of(again.state) == hash_of(trained.state)
    resumed = run(tmp_path / "run", config, resume=True)
    assert hash_of(resumed.state) == hash_of(trained.state)
    (tmp_path / "run" / PHASES).unlink()
    assert found_again(tmp_path / "run", config) is None


@pytest.mark.parametrize("score", ["taylor", "activation"])
def test_a_latency_is_met_by_measuring(tmp_path, score):
    budget = {"budget": {"latency": 0.5}, "score": score}
    stages = [{**STAGES[1], "steps": 3, "shrink": {**SHRINK, **budget}}]
    config = config_of(stages)
    asked = []

    def measure(entered, model):
        def ratio(keep):
            asked.append(len(keep.get("first/kernel:1", range(8))))
            return asked[-1] / 8

        return ratio

    trained = run(tmp_path / "run", config, measure=measure)
    assert trained.state.params["first"]["kernel"].shape == (5, 4)
    assert 4 in asked and len(asked) <= 8
    again = found_again(tmp_path / "run", config)
    assert hash_of(again.state) == hash_of(trained.state)


def test_a_latency_without_a_measure_says_who_measures(tmp_path):
    shrink = {**SHRINK, "budget": {"latency": 0.5}}
    config = config_of([{**STAGES[1], "steps": 1, "shrink": shrink}])
    with pytest.raises(ValueError, match="measured on exported artifacts"):
        run(tmp_path / "run", config)


def test_bit_operations_are_counted_in_the_grid_the_config_ends_with():
    shrink = {**SHRINK, "budget": {"bops": 0.5}}
    stages = [{**STAGES[1], "shrink": shrink}, {**STAGES[3], "quantize": {}}]
    stages[1]["quantize"] = {"sites": "first/*"}
    *_, last = foreseen_phases(config_of(stages), tiny.task())
    # 40 products of 8 x 8 bits and 24 of 32 x 32: the latter decide.
    kept = last.model.params["first"]["kernel"].shape[1]
    assert kept == 4
    assert last.boundaries[0].sizes == {"first/kernel:1": 8}


def test_what_comes_after_a_boundary_is_checked_before_anything_is_trained():
    stages = [STAGES[1], {**STAGES[3], "quantize": {"sites": "thrid/*"}}]
    with pytest.raises(ValueError, match="matches none of 2 sites"):
        check_schedule(config_of(stages), tiny.task())
    stages = [{**STAGES[1], "shrink": {**SHRINK, "groups": "blocks/*"}}]
    with pytest.raises(ValueError, match="first/kernel:1"):
        check_schedule(config_of(stages), tiny.task())


def test_units_of_two_boundaries_are_told_by_their_first_numbers():
    config = config_of([STAGES[1], {**STAGES[1], "name": "again"}, STAGES[3]])
    assert [p.stages for p in split_phases(config)] == [
        ("narrow",),
        ("again",),
        ("grid",),
    ]
    first = {"keep": {"a": [0, 2, 3], "b": [[0, 1], [1, 2]]}, "sizes": {"a": 4, "b": 3}}
    second = {"keep": {"a": [1, 2], "b": [[0], [1]]}, "sizes": {"a": 3, "b": 2}}
    from compress.train.boundaries import Boundary

    rest = {"step": 1, "before": "", "after": "", "masks": [], "records": []}
    found = surviving_units([Boundary(**rest, **first), Boundary(**rest, **second)])
    assert found == {
        "a": {"size": 4, "kept": [2, 3]},
        "b": {"size": 3, "kept": [[0], [2]]},
    }
