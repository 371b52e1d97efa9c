"""Speech: the front end against its definition, the models, and the splits."""

import io
import os
import pathlib
import tarfile
import wave

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import compress
from compress.data import DataError
from compress.task import TaskError, load_task
from experiments.tasks import log_mel, speech, spoken_digits

RATE = spoken_digits.RATE
NEEDS_DATA = pytest.mark.skipif(
    "JAX_COMPRESS_DATA" not in os.environ,
    reason="needs the recordings: JAX_COMPRESS_DATA names their folder",
)


def waves(count: int = 3) -> np.ndarray:
    """Seconds of tones with overtones, in noise, of different loudness."""
    rng = np.random.default_rng(0)
    time = np.arange(spoken_digits.SAMPLES) / RATE
    rows = []
    for loud in np.geomspace(300, 20_000, count):
        pitch = rng.uniform(100, 300) * (1 + 0.2 * time)
        tone = sum(np.sin(2 * np.pi * k * pitch * time) / k for k in range(1, 8))
        burst = np.exp(-(((time - 0.5) / 0.15) ** 2))
        rows.append(loud * (tone * burst / 3 + 0.01 * rng.normal(size=len(time))))
    return np.stack(rows).astype(np.int16)


def reference(samples: np.ndarray) -> np.ndarray:
    """The log-mel spectrum in float64, by the sums of its definition."""
    size, hop = log_mel.WINDOW, log_mel.HOP
    n = np.arange(size)
    window = 0.5 * (1 - np.cos(2 * np.pi * n / size))
    bins = np.arange(size // 2 + 1)
    fourier = np.exp(-2j * np.pi * np.outer(n, bins) / size)
    starts = range(0, samples.shape[1] - size + 1, hop)
    frames = np.stack([samples[:, s : s + size] for s in starts], 1) / 2.0**15
    power = np.abs((frames * window) @ fourier) ** 2

    def mel(hertz):
        return 2595 * np.log10(1 + np.asarray(hertz) / 700)

    edges = np.linspace(mel(log_mel.LOWEST_HZ), mel(RATE / 2), log_mel.MELS + 2)
    places = mel(bins * RATE / size)
    filters = np.stack(
        [np.interp(places, edges[i : i + 3], [0, 1, 0]) for i in range(log_mel.MELS)], 1
    )
    bands = power @ filters
    loudest = bands.sum(-1).max(-1)[:, None, None]
    return np.log(bands / (loudest + 1e-9) + log_mel.FLOOR)


def test_the_log_mel_spectrum_is_that_of_its_definition() -> None:
    x = waves()
    found = jax.jit(lambda x: log_mel.log_mel(x, RATE))(x)
    assert found.shape == (3, 49, 20)
    # Power is right to 1e-6 of the loudest window, in bands of at least 1e-5 of it: a
    # tenth; measured 6e-4.
    np.testing.assert_allclose(found, reference(x), atol=3e-3)


def test_loudness_does_not_matter_and_silence_is_the_floor() -> None:
    quiet = waves() // 16
    spectrum = jax.jit(lambda x: log_mel.log_mel(x, RATE))
    np.testing.assert_allclose(
        spectrum(quiet * np.int16(16)), spectrum(quiet), atol=3e-3
    )
    silent = spectrum(np.zeros((1, 8000), np.int16))
    np.testing.assert_allclose(silent, np.log(log_mel.FLOOR), rtol=1e-6)


@pytest.mark.parametrize("kind", ["ds_cnn", "cnn"])
def test_the_front_end_is_no_site_and_every_layer_is_one(kind: str) -> None:
    model = speech.build(jax.random.key(0), kind, width=4, depth=2)
    x = waves()
    forward = model.predictor(model.model_state)
    sites = compress.find_sites(forward, model.params, x)
    (spectrum,) = [site for site in sites if not site.path]
    assert spectrum.reason == "no weight: an operand is a constant"
    named = {site.path for site in sites if site.path}
    kernels = {p for p in compress.sites.flat_paths(model.params) if "kernel" in p}
    assert named == kernels and len(kernels) == (6 if kind == "ds_cnn" else 3)
    assert forward(model.params, x).shape == (3, 10)


@pytest.mark.slow
def test_an_exported_int8_model_takes_the_waveform(tmp_path) -> None:
    model = speech.build(jax.random.key(0), width=4, depth=1)
    forward = lambda params, x: model.forward(params, model.model_state, x)[0]  # noqa: E731
    transform = compress.quantize.fake_quant(weights="int8", activations="int8_dynamic")
    x = waves()
    state = compress.init(forward, transform, model.params, x)
    artifact = compress.export(
        tmp_path / "artifact",
        forward,
        model.params,
        transform,
        state,
        batches=[x],
        tolerance=0.016,  # two integer steps
        classes=spoken_digits.WORDS,
        sample_rate=RATE,
    )
    assert artifact.manifest["classes"] == list(spoken_digits.WORDS)
    assert artifact.manifest["sample_rate"] == RATE
    assert artifact.manifest["inputs"] == [{"shape": ["batch", 8000], "dtype": "int16"}]
    expected = compress.apply(forward, transform)(model.params, state, x)
    np.testing.assert_allclose(artifact(x), expected, atol=0.016)


def test_augmented_recordings_are_the_same_words_elsewhere(key: jax.Array) -> None:
    x = jnp.zeros((64, 8000), jnp.int16).at[:, 4000].set(20_000)
    y = jnp.arange(64)
    out = jax.jit(speech.augment)(key, {"x": x, "y": y})
    np.testing.assert_array_equal(out["y"], y)
    assert out["x"].dtype == jnp.int16
    peaks = np.abs(np.asarray(out["x"], np.int32)).argmax(1)
    # A tenth of a second each way, stretched by at most 1 / 0.85.
    assert 500 < np.abs(peaks - 4000).max() <= 942 and len(set(peaks)) > 50


@pytest.mark.parametrize(
    ("data", "remedy"),
    [
        ({"split": "random"}, "must be 'official' or 'speaker'"),
        ({"hold_out": "theo"}, "Remove it, or set split: speaker"),
        ({"split": "speaker"}, "must be one of george, jackson"),
        ({"split": "speaker", "hold_out": "theo,tom"}, "must be one of george"),
        ({"split": "speaker", "hold_out": ",".join(speech.SPEAKERS)}, "not all"),
    ],
)
def test_a_wrong_split_is_refused(data, remedy) -> None:
    with pytest.raises(TaskError, match=remedy):
        load_task("experiments.tasks.speech:task", data)


@NEEDS_DATA
def test_no_speaker_and_no_recording_is_on_both_sides() -> None:
    task = load_task(
        "experiments.tasks.speech:task", {"split": "speaker", "hold_out": "theo,lucas"}
    )
    assert len(task.test["y"]) == 1000 and len(task.train["y"]) == 2000 - 120
    official = speech.load("official", None)
    assert len(official["test"]["y"]) == 300
    assert {len(official[part]["y"]) for part in official} == {300, 180, 2520}
    rows = [row.tobytes() for part in official.values() for row in part["x"]]
    assert len(set(rows)) == 3000
    assert np.bincount(official["test"]["y"]).tolist() == [30] * 10


def test_a_recording_is_in_the_middle_of_its_second() -> None:
    short = np.arange(1, 101, dtype=np.int16)
    middle = spoken_digits.centred(short)
    np.testing.assert_array_equal(middle[3950:4050], short)
    assert middle.shape == (8000,) and np.count_nonzero(middle) == 100
    long = np.zeros(20_000, np.int16)
    long[9000:10_000] = 7
    assert spoken_digits.centred(long).sum() == 7000


@pytest.fixture
def archive(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """Where the archive of recordings is looked for."""
    monkeypatch.setenv("JAX_COMPRESS_DATA", str(tmp_path))
    monkeypatch.setenv("JAX_COMPRESS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "spoken_digits_wav.tar.xz"


def write_archive(path: pathlib.Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:xz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def recording(samples: np.ndarray) -> bytes:
    with io.BytesIO() as file:
        with wave.open(file, "wb") as out:
            out.setparams((1, 2, RATE, 0, "NONE", ""))
            out.writeframes(samples.astype("<i2").tobytes())
        return file.getvalue()


def test_recordings_are_decoded_in_the_order_of_their_names(
    archive: pathlib.Path,
) -> None:
    loud, quiet = np.array([32767, -32768]), np.array([1, -1, 2])
    files = {"w/7_theo_12.wav": loud, "w/7_george_3.wav": quiet}
    write_archive(archive, {name: recording(x) for name, x in files.items()})
    found = spoken_digits.load()
    assert [found[name].tolist() for name in ("y", "speaker", "index")] == [
        [7, 7],
        [0, 4],
        [3, 12],
    ]
    np.testing.assert_array_equal(found["x"][0, 3998:4001], quiet)
    np.testing.assert_array_equal(found["x"][1, 3999:4001], loud)
    assert found["x"].dtype == np.int16


def test_a_damaged_archive_is_refused_with_the_names_of_all_broken_files(
    archive: pathlib.Path,
) -> None:
    good = recording(np.arange(100))
    names = ["w/1_theo_0.wav", "w/2_theo_0.wav", "w/theo.wav", "w/3_tom_0.wav"]
    write_archive(archive, dict(zip(names, [good, good[:-40], good, good])))
    with pytest.raises(DataError, match="3 of 4 files cannot be read") as refusal:
        spoken_digits.load()
    said = str(refusal.value)
    assert "w/2_theo_0.wav: this file: is cut off" in said
    assert said.count(".wav: is not called <digit>_<one of george, ") == 2
    assert said.endswith("The archive is damaged: get it again.")
    write_archive(archive, {"README": b"no sound"})
    with pytest.raises(DataError, match="holds no .wav file.*get it again"):
        spoken_digits.load()
    noise = np.random.default_rng(0).integers(-999, 999, 9000)
    write_archive(archive, {"w/1_theo_0.wav": recording(noise)})
    archive.write_bytes(archive.read_bytes()[:9000])
    with pytest.raises(DataError, match="cannot be read.*get it again"):
        spoken_digits.load()
    assert not list((archive.parent / "cache").iterdir())
