"""Loading a task, and what is said when it does not load."""

import numpy as np
import pytest

from compress.task import Metric, TaskError, load_task
from tests import tiny

LOSS = Metric(lambda outputs, batch: outputs[:, 0], "loss", "nats", 1.0, False)


def test_a_function_or_a_task_can_be_named():
    assert load_task("tests.tiny:task").inputs == ("x",)


@pytest.mark.parametrize(
    ("reference", "remedy"),
    [
        ("no_such_package.module:task", "run from the directory that holds"),
        ("tests.tiny:tsak", "It has: .*task"),
        ("tests.tiny:CONFIG", "Name a Task, or a function"),
        ("tests.tiny:build", "Name a Task, or a function"),
    ],
)
def test_a_wrong_task_says_what_was_found(reference, remedy):
    with pytest.raises(TaskError, match=remedy):
        load_task(reference)


def test_a_function_gets_the_data_arguments_of_a_config(monkeypatch):
    task = tiny.task()

    def shortened(examples, reverse=False):
        rows = slice(None, None, -1) if reverse else slice(examples)
        return task._replace(train={k: x[rows] for k, x in task.train.items()})

    monkeypatch.setattr(tiny, "task", shortened)
    assert len(load_task("tests.tiny:task", {"examples": 7}).train["y"]) == 7
    backwards = load_task("tests.tiny:task", {"examples": 7, "reverse": True})
    assert len(backwards.train["y"]) == 70
    for wrong in ({}, {"examples": 7, "revers": True}):
        with pytest.raises(TaskError, match=r"It takes: examples, reverse\. "):
            load_task("tests.tiny:task", wrong)


def test_a_task_that_is_no_function_takes_no_arguments(monkeypatch):
    monkeypatch.setattr(tiny, "ready", tiny.task(), raising=False)
    with pytest.raises(TaskError, match="Remove data, or name a function"):
        load_task("tests.tiny:ready", {"examples": 7})


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        ({"train": {"x": np.ones((3, 5)), "y": np.ones(2)}}, "the same number"),
        ({"test": {"x": np.ones((0, 5))}}, "at least one"),
        ({"inputs": ("image",)}, r"lacks the inputs \['image'\]"),
        ({"correct": None}, "neither of correct and metric. Give one"),
        ({"metric": LOSS}, "both of correct and metric. Give one"),
        ({"correct": None, "metric": LOSS._replace(scale=-1.0)}, "a positive scale"),
        ({"correct": None, "metric": LOSS._replace(name="")}, "Give it a name"),
        ({"extra_metrics": {"accuracy": LOSS.of}}, "the extra one another name"),
    ],
)
def test_a_task_that_does_not_fit_together_is_refused(monkeypatch, change, remedy):
    broken = tiny.task()._replace(**change)
    monkeypatch.setattr(tiny, "task", lambda: broken)
    with pytest.raises(TaskError, match=remedy):
        load_task("tests.tiny:task")


def test_double_precision_data_become_what_jax_computes_in(monkeypatch):
    wide = {"x": np.ones((3, 5)), "y": np.ones(3, np.int64)}
    task = tiny.task()._replace(train=wide, validation=wide)
    monkeypatch.setattr(tiny, "task", lambda: task)
    loaded = load_task("tests.tiny:task")
    for part in (loaded.train, loaded.validation):
        assert (part["x"].dtype, part["y"].dtype) == (np.float32, np.int32)


def test_an_error_in_the_users_code_is_told_with_its_line(monkeypatch):
    def broken():
        return {}["nothing"]

    monkeypatch.setattr(tiny, "task", broken)
    with pytest.raises(TaskError, match=r"test_task\.py:\d+: KeyError: 'nothing'"):
        load_task("tests.tiny:task")


def test_an_attribute_of_an_attribute_can_be_named(monkeypatch):
    monkeypatch.setattr(tiny.task, "other", tiny.task(), raising=False)
    assert load_task("tests.tiny:task.other").inputs == ("x",)
