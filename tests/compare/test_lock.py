"""A comparison's lock file, and the run that it is compared with."""

import json
import pathlib
import shutil
from typing import Any

import pytest

import compress.compare.grid as grid
import compress.compare.groups as groups
import compress.compare.rerun as rerun
from compress.compare import (
    LockError,
    read_lock,
    reproduce,
    summary,
    write_lock,
)
from compress.compare.checks import Check, Reproduction, check_cell
from compress.compare.lock import _hash
from compress.config import load_config
from tests.compare.test_grid import in_this_process


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """No worker processes, and no time spent on latency."""
    monkeypatch.setattr(grid, "run_jobs", in_this_process)
    monkeypatch.setattr(grid, "measure_latency", lambda *args: None)


@pytest.fixture(scope="module")
def locked(
    finished_grid: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
    """The lock of a comparison of two rows, in a copy of its directory."""
    root = tmp_path_factory.mktemp("locked") / "grid"
    shutil.copytree(finished_grid, root)
    return write_lock(root, root / "lock.json")


def quiet(line: str) -> None:
    """Says nothing."""


def rewritten(path: pathlib.Path, to: pathlib.Path, **changes: Any) -> pathlib.Path:
    """The lock with other content, under the hash of that content."""
    raw = {**json.loads(path.read_text()), **changes}
    del raw["content_hash"]
    to.write_text(json.dumps({**raw, "content_hash": _hash(raw)}))
    return to


def test_a_part_of_a_grid_of_orders_is_that_part_alone(locked: pathlib.Path) -> None:
    study = load_config("configs/study.yaml", fast=True)
    assert study.compare is not None
    lock = read_lock(locked)
    numbers = lock.cells["P"]["0"]
    cells = {row.name: {"0": numbers} for row in study.compare.rows}
    assert len(cells) > 4
    changes = {"config": study.model_dump(mode="json"), "cells": cells, "seeds": (0,)}
    part = rerun._part(study, lock.model_copy(update=changes), ["PQ"], [])
    assert part.cells == (("PQ", 0),)
    assert part.config.compare is not None
    assert [row.name for row in part.config.compare.rows] == ["PQ"]


def test_a_lock_holds_what_it_takes_and_what_came_out(locked: pathlib.Path) -> None:
    lock = read_lock(locked)
    result = json.loads((locked.parent / "P-seed0/result.json").read_text())
    numbers = lock.cells["P"]["0"]
    assert (numbers.score, numbers.sizes) == (result["score"], result["sizes"])
    assert numbers.checkpoint_hash == result["checkpoint_hash"]
    weights = locked.parent / "P-seed0/artifact/weights.safetensors"
    assert numbers.sizes["file"] == weights.stat().st_size
    run = json.loads((locked.parent / "P-seed0/run.json").read_text())
    (origin,) = lock.origins
    assert (lock.data_hash, origin.versions) == (run["data_hash"], run["versions"])
    assert origin.git_commit == run["git_commit"]
    assert lock.config["stages"][1]["prune"]["sparsity"] == 0.5
    share = result["score"] * (1 - result["score"]) / 40
    assert numbers.score_error == pytest.approx(max(share**0.5, 1 / 40))


def test_a_row_run_again_from_its_lock_has_the_same_bits(
    here: None, locked: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    lines: list[str] = []
    where = tmp_path / "again"
    lock = read_lock(locked)
    result = reproduce(lock, where, rows=["P"], say=lines.append)
    assert result.changed == () and result.succeeded
    assert {check.row for check in result.checks} == {"P"}
    assert {check.verdict for check in result.checks} == {"exact"}
    names = {check.name for check in result.checks}
    assert {"score", "checkpoint_hash", "sizes.zlib", "items_hash"} <= names
    assert summary(result)[-1].startswith("reproduced: every bit is the same")
    written = json.loads((where / "reproduction.json").read_text())
    assert written["succeeded"] and len(written["checks"]) == len(result.checks)

    # What is finished is not run again; another lock does not go there.
    lines.clear()
    assert reproduce(lock, where, rows=["P"], say=lines.append).succeeded
    assert "1 of 1 cells are finished already" in lines
    with pytest.raises(LockError, match="no reproduction of this lock of 'tiny'"):
        reproduce(lock, locked.parent, say=quiet)


def test_a_cell_that_fails_now_is_missing_and_the_lock_not_reproduced(
    here: None,
    locked: pathlib.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(groups, "train", lambda *args, **settings: 1 / 0)
    result = reproduce(read_lock(locked), tmp_path, rows=["float"], say=quiet)
    assert not result.succeeded
    assert [check.verdict for check in result.checks] == ["missing"]
    assert "float, seed 0, score: missing, the cell failed" in summary(result)


@pytest.mark.parametrize(
    ("changes", "verdicts"),
    [
        ({}, {}),
        ({"checkpoint_hash": "other"}, {"checkpoint_hash": "close"}),
        ({"score": 0.8 + 0.19}, {"score": "close"}),
        ({"score": 0.8 - 0.19}, {"score": "close"}),
        ({"score": 0.8 + 0.191}, {"score": "different"}),
        ({"sparsity": 0.504}, {"sparsity": "close"}),
        ({"sparsity": 0.506}, {"sparsity": "different"}),
        ({"agreement": None}, {"agreement": "different"}),
        ({"macs": 66}, {"macs": "different"}),
        ({"extras": {"largest": 1.09}}, {"extras.largest": "close"}),
    ],
)
def test_a_number_is_exact_close_or_different(
    locked: pathlib.Path, changes: Any, verdicts: Any
) -> None:
    numbers = read_lock(locked).cells["P"]["0"]
    then = numbers.model_copy(
        update={
            **{"score": 0.8, "score_error": 0.19 / 3, "macs": 64},
            **{"extras": {"largest": 1.0}, "sparsity": 0.5, "agreement": 1.0},
        }
    )
    now = then.model_copy(update=changes)
    found = {c.name: c.verdict for c in check_cell("P", 0, then, now)}
    assert {n: v for n, v in found.items() if v != "exact"} == verdicts


def test_close_is_enough_only_where_something_changed(locked: pathlib.Path) -> None:
    then = read_lock(locked).cells["P"]["0"]
    now = then.model_copy(update={"checkpoint_hash": "other"})
    checks = tuple(check_cell("P", 0, then, now))
    assert Reproduction(("jax: 1 then, 2 here",), checks).succeeded
    assert not Reproduction((), checks).succeeded
    assert "so every bit should be" in summary(Reproduction((), checks))[-1]
    assert not Reproduction((), ()).succeeded


@pytest.mark.parametrize(
    ("before", "after", "succeeded"),
    [((0, 1), (0, 1), False), ((0, 1), (0,), True), (None, (0,), False)],
)
def test_close_is_enough_for_a_cell_trained_in_a_program_of_other_seeds(
    locked: pathlib.Path, before: Any, after: Any, succeeded: bool
) -> None:
    then = read_lock(locked).cells["P"]["0"]
    assert then.program_seeds == (0,)
    then = then.model_copy(update={"program_seeds": before})
    now = then.model_copy(update={"program_seeds": after, "weights_hash": "other"})
    result = Reproduction((), tuple(check_cell("P", 0, then, now)))
    assert result.succeeded == succeeded
    line, *_, verdict = summary(result)
    assert ("made by another grouping of seeds" in line) == succeeded
    assert ("groupings of seeds" in verdict) == succeeded
    # Another cell is judged by its own program.
    other = Check("Q", 0, "weights_hash", "a", "b", "close")
    assert not Reproduction((), (*result.checks, other)).succeeded


def no_work(config: Any, directory: pathlib.Path, **settings: Any) -> int:
    """Stands for `compare`: begins and is interrupted."""
    (directory / "compare.json").write_text("{}")
    return 0


@pytest.mark.parametrize("other", ["lock", "commit", "jax"])
def test_what_was_made_for_another_lock_or_by_other_code_reproduces_nothing(
    locked: pathlib.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    other: str,
) -> None:
    monkeypatch.setattr(rerun, "compare", no_work)
    monkeypatch.setattr(rerun, "_checks", lambda *args: [])
    lock, where = read_lock(locked), tmp_path / "again"
    reproduce(lock, where, say=quiet)
    reproduce(lock, where, say=quiet)  # it goes on
    remedy = "git commit: .* then, other here. Choose another --workdir, or remove it"
    if other == "lock":  # of the same name and data
        lock = read_lock(rewritten(locked, tmp_path / "lock.json", seeds=[0, 7]))
        remedy = "is no reproduction of this lock of 'tiny'. Choose another"
    elif other == "commit":
        monkeypatch.setattr(rerun, "git_commit", lambda task: "other")
    else:
        monkeypatch.setattr(rerun, "versions", lambda: {"jax": "0.1.2"})
        remedy = "jax: .* then, 0.1.2 here"
    with pytest.raises(LockError, match=remedy):
        reproduce(lock, where, say=quiet)


def test_a_comparison_in_which_a_row_failed_is_reproduced_without_it(
    locked: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[Any] = []
    monkeypatch.setattr(rerun, "compare", lambda config, *_, **__: ran.append(config))
    monkeypatch.setattr(rerun, "_checks", lambda *args: [])
    config = json.loads(locked.read_text())["config"]
    float_row, pruned = config["compare"]["rows"]
    config["compare"] |= {
        "rows": [float_row, pruned, {**pruned, "name": "failed"}],
        "reference": "failed",
        "contrasts": [{"row": "P", "other": "failed"}],
    }
    lock = read_lock(rewritten(locked, tmp_path / "lock.json", config=config))
    reproduce(lock, tmp_path / "again", say=quiet)
    assert [row.name for row in ran[0].compare.rows] == ["float", "P"]


def test_what_changed_is_said_before_the_run(
    here: None,
    locked: pathlib.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rerun, "compare", lambda *args, **settings: 0)
    monkeypatch.setattr(rerun, "_checks", lambda *args: [])
    raw = json.loads(locked.read_text())
    raw["origins"][0]["versions"]["jax"] = "0.1.2"
    raw["origins"][0]["machine"]["cpu"] = "8086"
    raw["cells"]["P"]["0"]["config_hash"] = "0123456789abcdef"
    changed = rewritten(locked, tmp_path / "lock.json", **raw)
    lines: list[str] = []
    reproduce(read_lock(changed), tmp_path / "again", say=lines.append)
    said = "\n".join(lines)
    assert "jax: 0.1.2 then, " in said and "cpu: 8086 then, " in said
    assert "config of P: 0123456789ab then, " in said
    assert len(lines) == 3


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        ({"format_version": 3}, "has format 3, .* knows 2. Use a newer one"),
        ({"format": "zip"}, "is no lock. Name the lock.json beside a report"),
        ({"sedes": [0]}, "unknown key 'sedes'; did you mean 'seeds'"),
        ({"seeds": "all"}, "seeds: Input should be a valid tuple"),
        ({"name": "other"}, "was changed after it was written"),
        ({"cells": {"P": {"0": {"score": 1.0}}}}, r"cells.P.0.config_hash: Field req"),
    ],
)
def test_a_lock_that_is_damaged_is_refused(
    locked: pathlib.Path, tmp_path: pathlib.Path, change: Any, remedy: str
) -> None:
    path = tmp_path / "lock.json"
    path.write_text(json.dumps({**json.loads(locked.read_text()), **change}))
    with pytest.raises(LockError, match=remedy):
        read_lock(path)


@pytest.mark.parametrize(
    ("text", "remedy"), [("{", "not JSON"), ("[1]", "holds list"), (None, "No such")]
)
def test_what_is_no_json_is_no_lock(
    tmp_path: pathlib.Path, text: str | None, remedy: str
) -> None:
    if text is not None:
        (tmp_path / "lock.json").write_text(text)
    with pytest.raises(LockError, match=remedy):
        read_lock(tmp_path / "lock.json")


@pytest.mark.parametrize(
    ("change", "asked", "remedy"),
    [
        ({"data_hash": "0" * 64}, {}, "made with other data: 0000000000000000, here"),
        ({"metric": {"name": "loss"}}, {}, "is now by .*'accuracy'"),
        ({"config": {"stages": []}}, {}, "Use the commit it was made with"),
        ({}, {"rows": ["flaot"]}, "--rows: .*The nearest: float"),
        ({}, {"seeds": [7]}, "--seeds: .*no numbers of '7'. The nearest: 0"),
    ],
)
def test_what_cannot_be_reproduced_is_refused_before_any_work(
    locked: pathlib.Path, tmp_path: pathlib.Path, change: Any, asked: Any, remedy: str
) -> None:
    lock = read_lock(rewritten(locked, tmp_path / "lock.json", **change))
    with pytest.raises(LockError, match=remedy):
        reproduce(lock, tmp_path / "again", say=quiet, **asked)
    assert not (tmp_path / "again").exists()


def test_a_directory_without_what_a_lock_needs_is_not_locked(
    locked: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    copy = pathlib.Path(shutil.copytree(locked.parent, tmp_path / "copy"))
    (copy / "P-seed0/run.json").unlink()
    with pytest.raises(LockError, match="Run `compare` again"):
        write_lock(copy, tmp_path / "lock.json")
    assert not (tmp_path / "lock.json").exists()
