"""Loading a task, and what is said when it does not load."""

import numpy as np
import pytest

from compress.task import TaskError, load_task
from tests import tiny


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


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        ({"train": {"x": np.ones((3, 5)), "y": np.ones(2)}}, "the same number"),
        ({"test": {"x": np.ones((0, 5))}}, "at least one"),
        ({"inputs": ("image",)}, r"lacks the inputs \['image'\]"),
    ],
)
def test_examples_that_do_not_fit_are_refused(monkeypatch, change, remedy):
    broken = tiny.task()._replace(**change)
    monkeypatch.setattr(tiny, "task", lambda: broken)
    with pytest.raises(TaskError, match=remedy):
        load_task("tests.tiny:task")
