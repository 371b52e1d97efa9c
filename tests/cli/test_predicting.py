"""predict on recordings: what was said, how fast, and what is refused."""

import os
import pathlib
import subprocess
import sys
import wave
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

import compress
from compress.cli.main import main
from compress.export import ArtifactError

RATE, SAMPLES = 1000, 200
CLASSES = ("early", "late")


def forward(params: Any, x: Any) -> Any:
    """How loud the first half of a recording is, and the second."""
    halves = (x.astype(jnp.float32) / 2.0**15).reshape(x.shape[0], 2, -1)
    return jnp.abs(halves).mean(-1) * params["gain"]


def export(path: pathlib.Path, **settings: Any) -> compress.Artifact:
    x = np.random.default_rng(0).integers(-9000, 9000, (4, SAMPLES)).astype(np.int16)
    x[:, :100] //= 3
    params = {"gain": np.full((1, 2), 10, np.float32)}
    return compress.export(
        path, forward, params, batches=[x], platforms=["cpu"], **settings
    )


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("audio") / "artifact"
    export(path, classes=CLASSES, sample_rate=RATE)
    return path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs predict in this process: exit status, stdout and stderr."""

    def call(*arguments: Any) -> tuple[int, str, str]:
        with flagsaver.flagsaver():
            status = main(
                flags.FLAGS(["jax-compress", "predict", *map(str, arguments)])
            )
        out, err = capsys.readouterr()
        return status, out, err

    return call


def record(path: pathlib.Path, samples: Any, rate: int = RATE) -> pathlib.Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.asarray(samples, "<i2").tobytes())
    return path


def spoken(start: int, length: int = 150) -> np.ndarray:
    """Noise from `start` on, silence before."""
    samples = np.random.default_rng(1).integers(-9000, 9000, length)
    samples[:start] //= 100
    return samples


def test_a_recording_is_named_and_timed(
    run: Any, artifact: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    path = record(tmp_path / "speech.wav", spoken(75))
    status, out, _ = run(artifact, path, f"--output={tmp_path}/y.npy")
    assert status == 0
    first, scores, time = out.splitlines()
    assert first == "late" and scores.startswith("scores: late ")
    assert time.startswith("0.15 s of sound in ") and "real-time factor " in time
    padded = np.pad(spoken(75), 25).astype(np.int16)[None]  # in the middle of 0.2 s
    expected = compress.load(artifact)(padded)
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), expected)


def test_classes_are_named_for_arrays_too(
    run: Any, artifact: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    np.save(tmp_path / "x.npy", np.stack([spoken(100, 200), spoken(0, 200)[::-1] // 9]))
    x = np.load(tmp_path / "x.npy").astype(np.int16)
    x[1, 100:] = 0
    np.save(tmp_path / "x.npy", x)
    assert "largest: late early" in run(artifact, tmp_path / "x.npy")[1]


@pytest.mark.parametrize(
    ("samples", "rate", "remedy"),
    [
        (spoken(75), 44_100, "the artifact takes 1,000. Convert it: ffmpeg -i "),
        (spoken(75, 500), RATE, "0.50 s; the artifact takes up to 0.2 s. Cut out"),
        ([], RATE, "is empty. Record it again"),
        (np.zeros(50), RATE, "is silent"),
        (b"no sound", RATE, "not a PCM .wav file"),
        ("missing", RATE, "No such file"),
        ("twice", RATE, "takes one .wav file, got 2"),
    ],
)
def test_a_wrong_recording_is_refused(
    samples: Any,
    rate: int,
    remedy: str,
    run: Any,
    artifact: pathlib.Path,
    tmp_path: pathlib.Path,
) -> None:
    path = tmp_path / "speech.wav"
    if isinstance(samples, bytes):
        path.write_bytes(samples)
    elif not isinstance(samples, str):
        record(path, samples, rate)
    more = [path] if isinstance(samples, str) and samples == "twice" else []
    status, out, err = run(artifact, path, *more)
    assert status == 1 and remedy in err and out == "" and "Traceback" not in err


def test_an_artifact_that_takes_no_sound_says_what_it_takes(
    run: Any, tmp_path: pathlib.Path
) -> None:
    export(tmp_path / "plain")
    path = record(tmp_path / "speech.wav", spoken(75))
    status, _, err = run(tmp_path / "plain", path)
    assert status == 1
    assert "takes no sound, but int16 ['batch', 200]. Give a .npy file" in err


@pytest.mark.parametrize(
    ("settings", "remedy"),
    [
        ({"classes": ["a", "b", "c"]}, "3 names of classes, 3 different"),
        ({"classes": ["a", "a"]}, "name each class of one output once"),
        ({"sample_rate": 0}, "sample_rate=0 is for one input"),
    ],
)
def test_names_and_rates_that_do_not_fit_are_refused(
    settings: Any, remedy: str, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(ArtifactError, match=remedy):
        export(tmp_path / "wrong", **settings)
    assert not (tmp_path / "wrong").exists()


def test_it_needs_no_task_and_no_experiments(
    artifact: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    path = record(tmp_path / "speech.wav", spoken(75))
    script = (
        "import sys; from compress.cli.main import run\n"
        "class No:\n"
        "  def find_spec(self, name, *rest):\n"
        "    assert name.split('.')[0] not in ('experiments', 'tests'), name\n"
        "sys.meta_path.insert(0, No()); run()"
    )
    root = pathlib.Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script, "predict", str(artifact), str(path)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0 and done.stdout.startswith("late\n"), done.stderr
