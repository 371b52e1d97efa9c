"""Which code made a number: the commit of this package and of the task."""

import pathlib
import subprocess
import sys
import types
from collections.abc import Callable

import pytest

from compress.train import git_commit
from compress.train.provenance import _commit_of

Git = Callable[..., str]


@pytest.fixture
def git(tmp_path: pathlib.Path) -> Git:
    """Runs git in a repository that holds `task.py`."""

    def run(*arguments: str) -> str:
        settings = ("-c", "user.name=a", "-c", "user.email=a@b")
        command = ["git", *settings, *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)
        return done.stdout.decode().strip()

    run("init", "-q")
    (tmp_path / "task.py").write_text("one = 1\n")
    run("add", "task.py")
    run("commit", "-qm", "first")
    return run


def test_every_set_of_changes_has_a_name_of_its_own(
    git: Git, tmp_path: pathlib.Path
) -> None:
    task, commit = tmp_path / "task.py", git("rev-parse", "HEAD")
    found = [_commit_of(task)]
    for number in (2, 3):
        task.write_text(f"one = {number}\n")
        found.append(_commit_of(task))
    task.write_text("one = 1\n")
    (tmp_path / "results.txt").write_text("of no code")
    assert _commit_of(task) == found[0] == commit
    for number in (2, 3):  # of a module that git does not know yet
        (tmp_path / "new.py").write_text(f"two = {number}\n")
        found.append(_commit_of(task))
    assert len(set(found)) == 5
    assert all(one and one.startswith(f"{commit}+changes-") for one in found[1:])


def test_what_is_ignored_or_in_no_repository_has_no_commit(
    git: Git, tmp_path: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (tmp_path / ".gitignore").write_text(".venv\n")
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv/installed.py").write_text("")
    assert _commit_of(tmp_path / ".venv/installed.py") is None
    assert _commit_of(tmp_path_factory.mktemp("outside") / "task.py") is None


def test_the_commit_is_of_this_package_and_the_task_and_of_no_other_folder(
    git: Git, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = git_commit("tests.tiny:task")
    module = types.ModuleType("their_task")
    module.__file__ = str(tmp_path / "task.py")
    monkeypatch.setitem(sys.modules, "their_task", module)
    monkeypatch.chdir(tmp_path)
    assert git_commit("tests.tiny:task") == ours
    both = [ours, git("rev-parse", "HEAD")]
    assert git_commit("their_task:task") == ", ".join(filter(None, both))
