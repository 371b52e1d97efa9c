"""The command line as a user meets it: each error is one message with a remedy."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
from typing import Any

import numpy as np
import onnxruntime
import pytest
from absl import flags
from absl.testing import flagsaver

import compress
import compress.cli.commands as commands
from compress.cli.main import COMMANDS, main, underscored
from tests.compare.conftest import made_up as made_up
from tests.export import models

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = """\
# What does one run cost?
task: tests.tiny:task
model: {width: 8}
batch_size: 16
log_every: 10
stages:
  - name: fit
    steps: 10
    learning_rate: 0.02
  - name: thin
    steps: 10
    learning_rate: 0.01
    prune: {sparsity: 0.5, every: 2}
export: {quantize: {batches: 2}, platforms: [cpu]}
fast:
  stages[0].steps: 2
  stages[1].steps: 2
"""
ROWS = """\
compare:
  rows:
    - {name: float}
    - {name: P+PTQ, use: [prune, ptq]}
"""
MODULE = [sys.executable, "-m", "compress.cli.main"]


@pytest.fixture
def config(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def grid(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "grid.yaml"
    path.write_text(CONFIG + ROWS)
    return path


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("cli") / "artifact"
    models.export(path, "mlp", "pruned", metadata={"seed": 1})
    return path


@pytest.fixture
def images(tmp_path: pathlib.Path) -> pathlib.Path:
    np.save(tmp_path / "x.npy", models.inputs_of("mlp", 3))
    return tmp_path / "x.npy"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a command in this process: exit status, stdout and stderr."""

    def call(*arguments: Any) -> tuple[int, str, str]:
        with flagsaver.flagsaver():
            status = main(flags.FLAGS(["jax-compress", *map(str, arguments)]))
        out, err = capsys.readouterr()
        return status, out, err

    return call


def shell(*arguments: Any, **settings: Any) -> subprocess.CompletedProcess[str]:
    """Runs a command as a user does."""
    command = [*MODULE, *map(str, arguments)]
    settings = {"capture_output": True, "text": True, "timeout": 120, **settings}
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, "JAX_PLATFORMS": "cpu"}, **settings
    )


def assert_one_screen(text: str) -> None:
    """At most 24 lines of at most 100 columns wrapped, and no traceback."""
    assert "Traceback" not in text
    assert 0 < sum(1 + len(line) // 100 for line in text.splitlines()) <= 24, text


def test_help_is_readable_and_mentions_every_command() -> None:
    done = shell("--help")
    assert done.returncode == 0
    text = done.stdout + done.stderr
    for name in COMMANDS:
        assert f"jax-compress {name} " in text or f"jax-compress {name}\n" in text
    for flag in ("--workdir", "--set", "--fast", "--resume", "--row", "--workers"):
        assert flag in text
    assert "absl" not in text and "--logtostderr" not in text
    assert max(map(len, text.splitlines())) <= 88


def test_without_a_command_the_help_is_shown(run: Any) -> None:
    status, out, _ = run()
    assert status == 2 and "jax-compress compare CONFIG" in out


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (
            ["train", "x.yaml"],
            "no command 'train'; there are run, compare, sweep, onnx",
        ),
        (["run"], "run takes 1 argument, got 0. See jax-compress --help"),
        (["run", "a.yaml", "b.yaml"], "run takes 1 argument, got 2"),
        (["predict", "a"], "predict takes at least 2 arguments, got 1"),
        (["schema", "x"], "schema takes 0 arguments, got 1"),
    ],
)
def test_a_wrong_command_says_what_there_is(
    arguments: list[str], remedy: str, run: Any
) -> None:
    status, out, err = run(*arguments)
    assert status == 2 and remedy in err and out == ""
    assert_one_screen(err)


def test_an_unknown_flag_is_one_message() -> None:
    done = shell("run", "x.yaml", "--sed", "a=1")
    assert done.returncode != 0
    assert "Unknown command line flag 'sed'" in done.stdout + done.stderr
    assert_one_screen(done.stdout + done.stderr)


def test_a_typo_in_a_config_shows_line_and_nearest_name(
    config: pathlib.Path,
) -> None:
    config.write_text(CONFIG.replace("sparsity", "sparsty"))
    done = shell("run", config)
    assert done.returncode == 1 and done.stdout == ""
    assert f"{config}:13" in done.stderr
    assert "did you mean 'sparsity'?" in done.stderr
    assert_one_screen(done.stderr)
    assert not (ROOT / "runs" / "tiny").exists()


@pytest.mark.parametrize("command", ["run", "compare", "inspect"])
def test_a_missing_config_is_named(
    command: str, run: Any, tmp_path: pathlib.Path
) -> None:
    status, _, err = run(command, tmp_path / "none.yaml")
    assert status == 1 and "none.yaml" in err
    assert_one_screen(err)


def test_several_problems_are_all_shown(run: Any, config: pathlib.Path) -> None:
    config.write_text(CONFIG.replace("16", "0").replace("0.02", "-1"))
    status, _, err = run("run", config)
    assert status == 1 and "2 problems" in err
    assert ":4" in err and ":9" in err
    assert_one_screen(err)


def test_set_changes_a_value(run: Any, config: pathlib.Path) -> None:
    _, before, _ = run("inspect", config)
    status, out, _ = run(
        "inspect",
        config,
        "--set",
        "stages[1].prune.sparsity=0.75",
        "--set=model.width=4",
    )
    assert status == 0
    assert "sparsity=0.5" in before and "sparsity=0.75" in out
    assert "5x8" in before and "5x4" in out


@pytest.mark.parametrize(
    ("setting", "remedy"),
    [
        ("stages[1].prune.sparsty=0.9", "did you mean 'sparsity'?"),
        ("batch_size", "write path=value"),
        ("stages[7].steps=1", "stages"),
        ("batch_size=many", "batch_size"),
    ],
)
def test_a_wrong_set_is_explained(
    setting: str, remedy: str, run: Any, config: pathlib.Path
) -> None:
    status, _, err = run("inspect", config, "--set", setting)
    assert status == 1 and remedy in err and "--set" in err
    assert_one_screen(err)


@pytest.mark.parametrize("command", ["run", "inspect"])
@pytest.mark.parametrize("flag", [[], ["--row", "Q"]])
def test_a_missing_row_lists_the_rows(
    command: str, flag: list[str], run: Any, grid: pathlib.Path
) -> None:
    status, _, err = run(command, grid, *flag)
    assert status == 1 and "float, P+PTQ" in err and "--row" in err
    assert_one_screen(err)


def test_a_row_of_a_config_without_rows_is_refused(
    run: Any, config: pathlib.Path
) -> None:
    status, _, err = run("inspect", config, "--row", "P+PTQ")
    assert status == 1 and "has no compare: section. Leave out --row" in err


def test_inspect_shows_the_sites_and_the_plan_and_trains_nothing(
    run: Any, grid: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "run_cell", None)
    before = sorted(grid.parent.rglob("*"))
    status, out, _ = run("inspect", grid, "--row", "P+PTQ")
    assert status == 0
    assert "P+PTQ: tests.tiny:task, 20 steps" in out
    for word in ("first/kernel", "second/kernel", "int8 weights", "5x8", "prune"):
        assert word in out, word
    assert "after training: post-training quantization" in out
    # 5 x 8 + 8 + 8 x 3 + 3 parameters; 64 of them lose 3 bytes and gain 11 scales.
    assert "parameters: 75, 300 bytes" in out
    assert f"shipped weights: {300 - 3 * 64 + 4 * 11} bytes" in out
    assert "multiply-accumulates per example: 64" in out
    assert sorted(grid.parent.rglob("*")) == before


def test_a_dry_run_predicts_every_row_and_writes_it_down(
    run: Any, grid: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "plan.json"
    flags = ("--dry_run", "--quiet", "--output", path)
    status, out, err = run("inspect", grid, *flags, "--row", "P+PTQ")
    assert status == 0, err
    title, line = out.splitlines()
    assert "peak memory in training" in title and line.startswith("P+PTQ ")
    (found,) = json.loads(path.read_text())["runs"]
    assert found["row"] == "P+PTQ" and f"{found['weights_bytes']:,} bytes" in line
    assert not list(tmp_path.glob("runs"))
    status, _, err = run("inspect", grid, "--dry_run", "--output", tmp_path / "no/x")
    assert status == 1 and "is no folder. Make it first" in err


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("--dry-run", "--dry_run"),
        ("--nodry-run", "--nodry_run"),
        ("--data-dir=a-b", "--data_dir=a-b"),
        ("--no-such-flag", "--no-such-flag"),
        ("runs/a-b", "runs/a-b"),
    ],
)
def test_flags_may_be_written_with_dashes(written: str, read: str) -> None:
    assert underscored(written) == read


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        ((), "has no sweep: section. Add one"),
        (("--set", "sweep={grid: {batchsize: [8]}}"), "did you mean 'batch_size'"),
        (("--set", "sweep={grid: {batch_size: [8]}}", "--shard=2/2"), "out of range"),
        (
            ("--set", "sweep={grid: {batch_size: [8]}}", "--launcher=slurm"),
            "say --jobs",
        ),
        (
            (
                *("--set", "sweep={grid: {batch_size: [8]}}", "--launcher=slurm"),
                *("--jobs=1", "--slurm=mem_gb"),
            ),
            "write --slurm=name=value",
        ),
    ],
)
def test_a_sweep_that_cannot_run_says_why(
    run: Any, config: pathlib.Path, tmp_path: pathlib.Path, arguments: Any, remedy: str
) -> None:
    root = tmp_path / "runs"
    status, _, err = run("sweep", config, "--workdir", root, *arguments)
    assert status == 1 and remedy in err
    assert_one_screen(err)
    assert not root.exists()


def test_a_sweep_of_a_row_runs_its_shard_and_then_reports(
    run: Any, grid: pathlib.Path, tmp_path: pathlib.Path, made_up: Any
) -> None:
    sparsities = "{grid: {'stages[1].prune.sparsity': [0.2, 0.5]}}"
    root = tmp_path / "runs"
    arguments = ("sweep", grid, "--row", "P+PTQ", "--set", f"sweep={sparsities}")
    arguments = (*arguments, "--workdir", root, "--quiet")
    status, out, err = run(*arguments, "--shard=1/2")
    assert status == 0, err
    assert made_up.done == [(0.5, 0)] and "same command without --shard" in out
    made_up.failing = {0.2}
    status, out, err = run(*arguments)
    assert status == 1 and made_up.done == [(0.5, 0), (0.2, 0)]
    assert f"1 cells failed; {root / 'sweep.csv'} says which" in out
    assert (root / "report/report.html").exists()


def test_inspect_lists_groups_of_units_and_predicts_what_is_left(
    run: Any, config: pathlib.Path
) -> None:
    shrink = "stages[1].shrink={budget: {macs: 0.5}, round_to: 1}"
    flags = ("--set", "stages[1].prune=", "--set", shrink)
    status, out, _ = run("inspect", config, *flags, "--latency")
    assert status == 0
    assert "thin: shrink (budget={'macs': 0.5}, round_to=1)" in out
    for word in ("first/kernel:1", "second/kernel:0", "an axis of the model's output"):
        assert word in out, word
    # 5 x 4 + 4 + 4 x 3 + 3 of 75 parameters, 20 + 12 of 64 products.
    assert (
        "predicted once units are removed: parameters 39 (0.52x), "
        "multiply-accumulates per example 32 (0.50x)"
    ) in out
    assert "latency at batch 1 once thin has removed units, untrained" in out
    status, _, err = run(
        "inspect", config, *flags, "--set", "stages[1].shrink.groups=x"
    )
    assert status == 1 and "first/kernel:1" in err
    assert_one_screen(err)


def test_inspect_finds_a_rule_that_matches_nothing(
    run: Any, config: pathlib.Path
) -> None:
    status, _, err = run("inspect", config, "--set", "stages[1].prune.sites=**/w")
    assert status == 1 and "first/kernel" in err
    assert_one_screen(err)


def test_inspect_shows_what_an_artifact_holds(run: Any, artifact: pathlib.Path) -> None:
    status, out, _ = run("inspect", artifact)
    assert status == 0
    for words in (
        "format 3",
        "inputs:  float32[batch, 6]",
        "outputs: float32[batch, 4]",
        "180 parameters",
        "first/kernel",
        "int8",
        "on 11 items",
    ):
        assert words in out, words
    (first,) = (line for line in out.splitlines() if line.startswith("first/kernel"))
    assert "50.0%" in first or "%" in first


def test_inspect_of_half_precision_weights(
    run: Any, artifact: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    shutil.copytree(artifact, tmp_path / "a")
    models.rewrite_manifest(
        tmp_path / "a", lambda m: m["sites"][0].update(weight_bits=16)
    )
    status, out, _ = run("inspect", tmp_path / "a")
    assert status == 0 and "float16" in out


@pytest.mark.parametrize("command", ["inspect", "predict"])
def test_a_directory_that_is_no_artifact_is_named(
    command: str, run: Any, tmp_path: pathlib.Path, images: pathlib.Path
) -> None:
    arguments = [images] if command == "predict" else []
    status, _, err = run(command, tmp_path, *arguments)
    assert status == 1 and f"{tmp_path}: no manifest.json" in err
    assert_one_screen(err)


def test_predict_prints_and_writes_the_outputs(
    run: Any, artifact: pathlib.Path, images: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    expected = np.asarray(compress.load(artifact)(np.load(images)))
    status, out, _ = run("predict", artifact, images, f"--output={tmp_path}/y.npy")
    assert status == 0
    assert "largest: " + " ".join(map(str, expected.argmax(-1))) in out
    assert "3 items in" in out
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), expected)


@pytest.mark.parametrize(
    ("content", "remedy"),
    [
        (np.zeros((3, 5), np.float32), "expected (batch, 6)"),
        (np.zeros((0, 6), np.float32), "batch at least 1"),
        (np.zeros((3, 6)), "Convert it with .astype('float32')"),
        (np.float32(1), "expected (batch, 6)"),
        (b"1,2,3\n", "not a .npy array"),
        (b"", "not a .npy array"),
        (b"\x93NUMPY\x01\x00", "not a .npy array"),
        (b"PK\x03\x04 a torn archive", "not a .npy array"),
        ("npz", "not a .npy array"),
        ("directory", "Is a directory"),
        ("missing", "No such file"),
        ("pickle", "not a .npy array"),
    ],
)
def test_a_wrong_input_is_explained(
    content: Any, remedy: str, run: Any, artifact: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "x.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif not isinstance(content, str):
        np.save(path, content)
    elif content == "npz":
        with path.open("wb") as file:
            np.savez(file, x=np.zeros((3, 6), np.float32))
    elif content == "directory":
        path.mkdir()
    elif content == "pickle":
        np.save(path, np.array([{"a": 1}], object), allow_pickle=True)
    status, out, err = run("predict", artifact, path)
    assert status == 1 and remedy in err and out == ""
    assert_one_screen(err)


def test_too_many_inputs_are_refused(
    run: Any, artifact: pathlib.Path, images: pathlib.Path
) -> None:
    status, _, err = run("predict", artifact, images, images)
    assert status == 1 and "takes 1 inputs, got 2" in err


def test_an_output_that_cannot_be_written_is_said(
    run: Any, artifact: pathlib.Path, images: pathlib.Path
) -> None:
    for folder in (images, images.parent / "none"):
        status, out, err = run("predict", artifact, images, f"--output={folder}/y.npy")
        assert status == 1 and f"{folder} is no folder. Make it first" in err
        assert out == ""  # found before the run
        assert_one_screen(err)
    status, out, err = run("predict", artifact, images, f"--output={images.parent}")
    assert status == 1 and "is a folder. Name a file in it" in err and out == ""


@pytest.mark.parametrize("name", ["y", "y.bin", "y.npy"])
def test_predict_writes_to_exactly_the_path_it_is_given(
    name: str, run: Any, artifact: pathlib.Path, images: pathlib.Path
) -> None:
    folder = images.parent / "out"
    folder.mkdir()
    assert run("predict", artifact, images, f"--output={folder}/{name}")[0] == 0
    assert [path.name for path in folder.iterdir()] == [name]
    np.testing.assert_array_equal(
        np.load(folder / name), compress.load(artifact)(np.load(images))
    )


def test_predict_writes_several_outputs_as_npz(
    run: Any, images: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    compress.export(
        tmp_path / "two",
        lambda params, x: {"file": x * params["w"], "more": [x]},
        {"w": np.full((1, 6), 2, np.float32)},
        batches=[np.load(images)],
        platforms=["cpu"],
    )
    arguments = ("predict", tmp_path / "two", images)
    status, out, err = run(*arguments, f"--output={tmp_path}/y.npy")
    assert status == 1 and f"Use --output={tmp_path}/y.npz" in err and out == ""
    assert run(*arguments, f"--output={tmp_path}/y.npz")[0] == 0
    with np.load(tmp_path / "y.npz") as written:
        assert set(written) == {"file", "more/0"}
        np.testing.assert_array_equal(written["file"], 2 * np.load(images))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_predict_refuses_an_input_that_is_not_finite(
    value: float, run: Any, artifact: pathlib.Path, images: pathlib.Path
) -> None:
    x = np.load(images)
    x[1, 4] = value
    np.save(images, x)
    status, out, err = run("predict", artifact, images)
    assert status == 1 and out == ""
    assert f"{images}: holds {value} at [1, 4]. Clean the data" in err


def test_the_schema_is_json(run: Any) -> None:
    status, out, _ = run("schema")
    schema = json.loads(out)
    assert status == 0 and {"task", "stages", "compare"} <= set(schema["properties"])


def test_a_reader_that_stops_early_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    done = shell("schema", capture_output=False, stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert done.stderr == ""


@pytest.mark.parametrize("command", ["run", "compare"])
def test_a_workdir_that_cannot_be_written_is_said(
    command: str, run: Any, config: pathlib.Path, grid: pathlib.Path
) -> None:
    chosen = config if command == "run" else grid
    for workdir, reason in ((f"{config}/runs", "Not a directory"), ("/proc/none", "")):
        status, _, err = run(
            command, chosen, "--fast", "--quiet", f"--workdir={workdir}"
        )
        assert status == 1 and "cannot be written" in err and reason in err
        assert workdir in err
        assert_one_screen(err)


def test_a_batch_larger_than_the_data_is_explained(
    run: Any, config: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    status, _, err = run(
        "run", config, "--set", "batch_size=71", "--workdir", tmp_path / "runs"
    )
    assert (
        status == 1 and "larger than the 70 training" in err and "Use at most 70" in err
    )
    assert_one_screen(err)


@pytest.mark.parametrize("command", ["run", "inspect"])
@pytest.mark.parametrize(
    ("task", "remedy"),
    [
        ("tests.no_such:task", "No module named 'tests.no_such'"),
        ("tests.tiny:tsak", "has no 'tsak'. It has: "),
        ("tests.tiny:CONFIG", "CONFIG"),
        ("torn_task:task", "torn_task"),
        ("wrong_task:task", "wrong_task"),
    ],
)
def test_a_task_that_cannot_be_loaded_is_explained(
    command: str,
    task: str,
    remedy: str,
    run: Any,
    config: pathlib.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "torn_task.py").write_text("def task(:\n")
    (tmp_path / "wrong_task.py").write_text("import no_such_library\n")
    monkeypatch.syspath_prepend(tmp_path)
    workdir = f"--workdir={tmp_path}/runs"
    status, _, err = run(command, config, "--set", f"task={task}", workdir)
    assert status == 1 and remedy in err and "Traceback" not in err
    assert_one_screen(err)


@pytest.mark.parametrize("command", ["run", "inspect", "compare"])
def test_a_task_that_takes_no_such_argument_is_explained(
    command: str, run: Any, grid: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    row = ["--row=float"] * (command != "compare")
    workdir = f"--workdir={tmp_path}/runs"
    status, _, err = run(command, grid, *row, "--set", "data.rows=3", workdir)
    assert status == 1 and "unexpected keyword argument 'rows'" in err
    assert "It takes: examples." in err and not (tmp_path / "runs").exists()
    assert_one_screen(err)


@pytest.mark.parametrize("command", ["run", "inspect"])
def test_a_model_that_takes_no_such_argument_is_explained(
    command: str, run: Any, config: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    workdir = f"--workdir={tmp_path}/runs"
    status, _, err = run(command, config, "--set", "model.depth=3", workdir)
    assert status == 1 and "cannot build the model" in err and "depth" in err
    assert_one_screen(err)


def test_traceback_shows_where_an_error_was_raised(
    run: Any, config: pathlib.Path
) -> None:
    with pytest.raises(ValueError, match="write path=value"):
        run("inspect", config, "--set", "x", "--traceback")


def test_a_report_of_nothing_asks_for_the_directory(
    run: Any, tmp_path: pathlib.Path
) -> None:
    status, _, err = run("report", tmp_path)
    assert status == 1 and "Pass the directory that a comparison was written to" in err
    assert_one_screen(err)


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (["nothing.json"], "cannot be read (No such file"),
        (["pyproject.toml"], "not JSON"),
        (["configs/schema.json"], "Name the lock.json beside a report"),
    ],
)
def test_what_is_no_lock_is_refused(run: Any, arguments: Any, remedy: str) -> None:
    status, _, err = run("reproduce", *(ROOT / name for name in arguments))
    assert status == 1 and remedy in err
    assert_one_screen(err)


def test_a_missing_extra_says_how_to_get_it(
    run: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"name": "t", "rows": ["a"], "reference": "a", "seeds": [0]}
    (tmp_path / "compare.json").write_text(json.dumps(settings))
    monkeypatch.setitem(sys.modules, "altair", None)
    status, _, err = run("report", tmp_path)
    assert status == 1 and 'pip install "jax-compress[report]"' in err
    assert_one_screen(err)


def test_run_trains_exports_and_says_what_came_out(
    run: Any, config: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    workdir = f"--workdir={tmp_path}/runs"
    status, out, _ = run("run", config, "--fast", "--quiet", workdir)
    folder = tmp_path / "runs" / "seed0"
    assert status == 0 and str(folder / "artifact") in out and "accuracy" in out
    result = json.loads((folder / "result.json").read_text())
    assert result["train_steps"] == 4 and result["techniques"] == ["prune", "ptq"]
    assert json.loads((folder / "config.json").read_text())["stages"][0]["steps"] == 2

    # Again: it is refused, or resumed.
    status, _, err = run("run", config, "--fast", "--quiet", workdir)
    assert status == 1 and "Pass --resume" in err
    assert_one_screen(err)
    status, again, _ = run("run", config, "--fast", "--quiet", workdir, "--resume")
    assert status == 0 and again == out
    status, _, err = run("run", config, "--quiet", workdir, "--resume")
    assert status == 1 and "Choose another --workdir" in err
    assert_one_screen(err)


def test_onnx_writes_the_model_of_a_finished_run(
    run: Any, config: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    place = [config, "--fast", "--quiet", "--workdir", tmp_path / "w"]
    status, _, error = run("onnx", *place)
    assert status == 1 and "no finished run" in error and "Use `run` first" in error
    assert run("run", *place)[0] == 0
    status, out, _ = run("onnx", *place)
    path = tmp_path / "w/seed0/model.onnx"
    assert status == 0 and f"{path.stat().st_size:,} bytes" in out
    x = models.inputs_of("mlp", 3)[:, :5]
    named = {"input_0": x}
    ours = compress.load(tmp_path / "w/seed0/artifact")(x)
    theirs = onnxruntime.InferenceSession(path).run(None, named)[0]
    np.testing.assert_allclose(theirs, ours, atol=2 / 127 * np.abs(ours).max())


def test_compare_runs_what_is_left_and_writes_the_report(
    run: Any,
    grid: pathlib.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import compress.compare.grid as comparing
    import compress.compare.groups as groups
    from tests.compare.test_grid import in_this_process

    monkeypatch.setattr(comparing, "run_jobs", in_this_process)
    monkeypatch.setattr(comparing, "measure_latency", lambda *args: None)
    workdir = tmp_path / "runs"
    status, out, _ = run(
        "compare", grid, "--fast", "--quiet", "--workdir", workdir, "--set=seeds=[3]"
    )
    assert status == 0 and "P+PTQ" in out
    assert (workdir / "P+PTQ-seed3/result.json").is_file()
    assert (workdir / "report/report.html").is_file()

    # Its lock is run again elsewhere, and not over itself.
    lock = [workdir / "report/lock.json", "--rows=float", "--quiet", "--workdir"]
    assert str(lock[0]) in out
    status, out, _ = run("reproduce", *lock, tmp_path / "again")
    assert status == 0 and "0 different" in out and "every bit is the same" in out
    status, _, err = run("reproduce", *lock, workdir)
    assert status == 1 and "Choose another --workdir" in err
    assert_one_screen(err)

    # A cell that fails is named, and the exit status says so.
    monkeypatch.setattr(groups, "train", lambda *args, **settings: 1 / 0)
    shutil.rmtree(workdir / "P+PTQ-seed3")
    status, out, err = run(
        "compare", grid, "--fast", "--workdir", workdir, "--set=seeds=[3]"
    )
    assert status == 1 and "1 cells failed" in out
    assert "P+PTQ, seed 3: failed" in err and "[2/2]" in err


def test_run_and_predict_as_a_user_does(
    config: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    done = shell("run", config, "--fast", f"--workdir={tmp_path}/runs")
    assert done.returncode == 0, done.stderr
    np.save(tmp_path / "x.npy", np.zeros((2, 5), np.float32))
    artifact = tmp_path / "runs/seed0/artifact"
    done = shell("predict", artifact, tmp_path / "x.npy")
    assert done.returncode == 0 and "largest:" in done.stdout and done.stderr == ""
