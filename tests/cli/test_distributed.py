"""Several processes that run one command: flags that do not fit, and a whole run."""

import json
import os
import pathlib
import subprocess
import sys

import pytest
from absl import flags
from absl.testing import flagsaver

import compress
from compress.cli.main import main
from tests.cli.test_commands import CONFIG, ROOT

ALL = ["--coordinator=localhost:1234", "--num_processes=2", "--process_id=0"]


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (ALL[:1], "--coordinator: only for several processes. Add --distributed"),
        (
            ["--distributed", *ALL[:2]],
            "--coordinator, --num_processes without --process_id. Give all three",
        ),
        (
            ["--distributed", *ALL[:2], "--process_id=2"],
            "--process_id=2 with --num_processes=2: they are counted from 0. Use 0 to",
        ),
        (
            ["--distributed", "--coordinator=node0", *ALL[1:]],
            "--coordinator=node0: has no port. Write HOST:PORT",
        ),
    ],
)
def test_flags_that_do_not_fit_say_what_to_do(arguments, remedy, capsys):
    with flagsaver.flagsaver():
        status = main(flags.FLAGS(["jax-compress", "run", "x.yaml", *arguments]))
    assert status == 1
    assert remedy in capsys.readouterr().err


def test_only_a_run_is_distributed(capsys):
    arguments = ["jax-compress", "compare", "x.yaml", "--distributed", *ALL]
    with flagsaver.flagsaver():
        status = main(flags.FLAGS(arguments))
    assert status == 1
    assert "compare is for one process; only run trains" in capsys.readouterr().err


def of_slurm(number: int) -> dict[str, str]:
    """The environment of one of two tasks on this host."""
    return {
        "SLURM_JOB_ID": str(20000 + os.getpid() % 4096),
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": str(number),
        "SLURM_LOCALID": str(number),
    }


@pytest.mark.slow
def test_a_run_started_by_slurm_writes_one_result(tmp_path):
    path: pathlib.Path = tmp_path / "tiny.yaml"
    path.write_text(CONFIG + "mesh: {data: 4}\n")
    command = [sys.executable, "-m", "compress.cli.main", "run", str(path)]
    command += ["--distributed", f"--workdir={tmp_path / 'runs'}"]
    devices = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    started = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **of_slurm(i), "JAX_PLATFORMS": "cpu", **devices},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    said = [process.communicate(timeout=600) for process in started]
    for process, (_, errors) in zip(started, said, strict=True):
        assert process.returncode == 0, errors[-3000:]
    assert "seed 0: accuracy" in said[0][0]
    assert "seed 0" not in said[1][0]  # gloo writes there too
    result = json.loads((tmp_path / "runs/seed0/result.json").read_text())
    assert result["sparsity"] == 0.5
    artifact = compress.load(tmp_path / "runs/seed0/artifact")
    assert artifact.manifest["metadata"]["seed"] == 0
