"""Runs: what they leave behind, how they go on, and how they stop."""

import json
import pathlib
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from compress.config import parse_config
from compress.task import TaskError
from compress.train import (
    CheckpointError,
    RunError,
    check_schedule,
    finished,
    hash_of,
    teacher_of,
    train,
)
from compress.train.directory import claimed
from compress.train.metrics import read_metrics
from tests import tiny

ROOT = pathlib.Path(__file__).parents[2]
PLAIN = {
    **tiny.CONFIG,
    "teacher": None,
    "stages": [
        {"name": "a", "steps": 20, "learning_rate": 0.01, "prune": {"sparsity": 0.5}},
        {"name": "b", "steps": 30, "learning_rate": 0.01, "quantize": {}},
    ],
}


def run(directory, config=PLAIN, task=None, **settings):
    settings = {"seed": 0, "quiet": True, **settings}
    return train(parse_config(config), task or tiny.task(), directory, **settings)


def script(directory, steps):
    """A run in a process of its own, slowed down so that it can be killed midway."""
    config = json.dumps({**PLAIN, "log_every": 1, "checkpoint_every": 1})
    return textwrap.dedent(f"""
        import json, pathlib, sys, time
        from compress.config import parse_config
        from compress.train import hash_of, train
        from compress.train import loop
        from tests import tiny
        record = loop._Run._record
        def slow(self, step, *rest):
            record(self, step, *rest)
            time.sleep(0.2 if step < {steps} else 0)
        loop._Run._record = slow
        config = parse_config(json.loads({config!r}))
        state = train(config, tiny.task(), pathlib.Path({str(directory)!r}), seed=0,
                      resume=True, quiet=True).state
        print(hash_of(state))
    """)


def start(directory, steps=20):
    return subprocess.Popen(
        [sys.executable, "-c", script(directory, steps)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_step(directory, step):
    for _ in range(600):
        lines = read_metrics(directory / "metrics.jsonl")
        if lines and lines[-1]["step"] >= step:
            return
        time.sleep(0.1)
    raise AssertionError("the run did not start")


def test_a_run_directory_says_how_to_run_it_again(tmp_path):
    trained = run(tmp_path / "run")
    assert trained.compilations == 1
    provenance = json.loads((tmp_path / "run/run.json").read_text())
    assert {"seed", "data_hash", "git_commit", "versions", "machine"} <= set(provenance)
    config = parse_config(json.loads((tmp_path / "run/config.json").read_text()))
    again = train(config, tiny.task(), tmp_path / "again", seed=0, quiet=True)
    assert hash_of(again.state) == hash_of(trained.state)


def test_metrics_are_written_for_every_chunk_and_stage(tmp_path):
    run(tmp_path / "run")
    lines = read_metrics(tmp_path / "run/metrics.jsonl")
    assert [line["step"] for line in lines] == [7, 14, 21, 28, 35, 42, 49, 50]
    assert [line["stage"] for line in lines] == ["a", "a", *["b"] * 6]
    assert lines[-1]["sparsity"] == pytest.approx(0.5)
    assert "eval_score" in lines[-1]


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path):
    whole = run(tmp_path / "whole")
    process = start(tmp_path / "killed")
    wait_for_step(tmp_path / "killed", 5)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    reached = read_metrics(tmp_path / "killed/metrics.jsonl")[-1]["step"]
    assert reached < 50
    output, errors = start(tmp_path / "killed", steps=0).communicate(timeout=120)
    assert output.strip() == hash_of(whole.state), errors
    lines = read_metrics(tmp_path / "killed/metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, 51))


def test_sigterm_saves_and_exits(tmp_path):
    process = start(tmp_path / "run")
    wait_for_step(tmp_path / "run", 3)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "saved at step" in errors
    assert any((tmp_path / "run/checkpoints").glob("[0-9]*"))


def test_resuming_a_finished_run_changes_nothing(tmp_path):
    first = run(tmp_path / "run")
    again = run(tmp_path / "run", resume=True)
    assert hash_of(again.state) == hash_of(first.state)


def test_a_run_is_not_started_over_another_one(tmp_path):
    run(tmp_path / "run")
    with pytest.raises(RunError, match="--resume"):
        run(tmp_path / "run")


def test_a_checkpoint_of_another_config_is_refused(tmp_path):
    run(tmp_path / "run")
    other = {**PLAIN, "batch_size": 8}
    with pytest.raises(CheckpointError, match="made by another config"):
        run(tmp_path / "run", other, resume=True)
    with pytest.raises(CheckpointError, match="made by another config"):
        run(tmp_path / "run", seed=1, resume=True)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(tmp_path):
    with pytest.raises(
        RunError, match="at step 1, in stage 'a' of .*'tiny', seed 0: nan"
    ):
        run(tmp_path / "run", task=tiny.nan_task())
    assert not list((tmp_path / "run/checkpoints").glob("[0-9]*"))


def test_a_batch_larger_than_the_data_is_refused_before_training(tmp_path):
    with pytest.raises(TaskError, match="batch_size=71 is larger than the 70"):
        run(tmp_path / "run", {**PLAIN, "batch_size": 71})
    assert not (tmp_path / "run").exists()


def test_data_that_is_not_finite_is_refused_before_training(tmp_path):
    task = tiny.task()
    x = task.train["x"].copy()
    x[3, 2] = np.nan
    broken = task._replace(train={**task.train, "x": x})
    with pytest.raises(TaskError, match=r"train\['x'\] holds NaN"):
        run(tmp_path / "run", task=broken)


def test_model_arguments_the_task_does_not_take_are_named(tmp_path):
    with pytest.raises(TaskError, match="widht"):
        run(tmp_path / "run", {**PLAIN, "model": {"widht": 8}})


def test_a_teacher_with_other_classes_is_refused_before_training(tmp_path):
    config = {**tiny.CONFIG, "teacher": {**tiny.CONFIG["teacher"]}}
    config["teacher"]["model"] = {"classes": 4}
    parsed, task = parse_config(config), tiny.task()
    # Four outputs for three labels train well enough; the student has three.
    teacher = teacher_of(parsed, task, tmp_path, quiet=True)
    with pytest.raises(ValueError, match="must have the same classes"):
        train(parsed, task, tmp_path / "run", seed=0, teacher=teacher, quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_teacher_is_trained_once_and_then_restored(tmp_path):
    config, task = parse_config(tiny.CONFIG), tiny.task()
    _, first = teacher_of(config, task, tmp_path, quiet=True)
    before = sorted(p.name for p in tmp_path.glob("*/checkpoints/*"))
    _, again = teacher_of(config, task, tmp_path, quiet=True)
    assert hash_of(first) == hash_of(again)
    assert before == sorted(p.name for p in tmp_path.glob("*/checkpoints/*"))


def test_a_directory_that_cannot_be_made_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        run(tmp_path / "file/run")


@pytest.mark.skipif(not pathlib.Path("/proc/self").exists(), reason="needs Linux")
def test_a_read_only_file_system_is_one_clear_error():
    # Not even root can make a directory there.
    with pytest.raises(RunError, match="/proc/run: cannot be written"):
        run(pathlib.Path("/proc/run"))


def test_a_full_disk_is_one_line_and_the_run_goes_on_later(tmp_path, monkeypatch):
    from compress.train import checkpoints

    def full(*_, **__):
        raise ValueError("RESOURCE_EXHAUSTED: ... [No space left on device] " * 50)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.orbax.training.Checkpointer, "save_async", full)
        with pytest.raises(CheckpointError, match="No space left") as caught:
            run(tmp_path / "run")
    assert len(str(caught.value)) < 400
    assert hash_of(run(tmp_path / "run", resume=True).state) == hash_of(
        run(tmp_path / "other").state
    )


def test_another_runs_resume_leaves_the_first_run_as_it_was(tmp_path):
    run(tmp_path / "run")
    before = [(tmp_path / "run" / n).read_text() for n in ("run.json", "config.json")]
    with pytest.raises(CheckpointError):
        run(tmp_path / "run", {**PLAIN, "batch_size": 8}, resume=True)
    after = [(tmp_path / "run" / n).read_text() for n in ("run.json", "config.json")]
    assert before == after


def test_a_run_does_not_go_on_with_other_data(tmp_path):
    run(tmp_path / "run")
    task = tiny.task()
    other = task._replace(train={**task.train, "x": task.train["x"] + 1})
    with pytest.raises(CheckpointError, match="another config, seed or data"):
        run(tmp_path / "run", task=other, resume=True)


def test_two_processes_do_not_write_to_one_run(tmp_path):
    with (
        claimed(tmp_path / "run"),
        pytest.raises(RunError, match="in use by another process"),
    ):
        run(tmp_path / "run")
    run(tmp_path / "run")


def test_the_time_of_earlier_processes_counts(tmp_path):
    first = run(tmp_path / "run")
    again = finished(parse_config(PLAIN), tiny.task(), tmp_path / "run", seed=0)
    assert again is not None
    assert again.seconds == pytest.approx(first.seconds, abs=0.5)
    assert hash_of(again.state) == hash_of(first.state)
    resumed = run(tmp_path / "run", resume=True)
    assert resumed.seconds >= again.seconds


def test_whatever_a_trace_can_tell_is_found_before_the_teacher_is_trained():
    stages = [{**stage} for stage in tiny.CONFIG["stages"]]
    stages[1]["prune"] = {"sparsity": 0.5, "sites": "nothing/*"}
    config = parse_config({**tiny.CONFIG, "stages": stages})
    with pytest.raises(ValueError, match="matches none of 2 sites"):
        check_schedule(config, tiny.task())
    four = {**tiny.CONFIG["teacher"], "model": {"classes": 4}}
    with pytest.raises(ValueError, match="must have the same classes"):
        check_schedule(parse_config({**tiny.CONFIG, "teacher": four}), tiny.task())
    many = {"quantize": {"batches": 5}}
    config = parse_config({**PLAIN, "stages": PLAIN["stages"][:1], "export": many})
    with pytest.raises(TaskError, match="Use at most 4"):
        check_schedule(config, tiny.task())


def test_a_one_shot_mask_of_the_first_stage_can_be_checked():
    prune = {"sparsity": 0.5, "schedule": "one_shot"}
    stages = [{"steps": 5, "learning_rate": 0.1, "prune": prune}]
    check_schedule(parse_config({**PLAIN, "stages": stages}), tiny.task())
