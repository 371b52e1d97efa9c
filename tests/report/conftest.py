"""Made-up compare directories, for tests only."""

import dataclasses
import json
import pathlib
import shutil
import types
from typing import Any

import numpy as np
import pytest

from compress.report import ReportPaths, pack_items, write_report
from compress.report.metric import MetricRecord

ROWS = {  # row: (accuracy, sparsity, bits, techniques)
    "float": (0.834, 0.0, 32, []),
    "P": (0.828, 0.8, 32, ["prune"]),
    "PTQ": (0.829, 0.0, 8, ["quantize"]),
    "P+Q": (0.826, 0.8, 8, ["prune", "quantize"]),
}
NUM_TEST = 1000
DESIGN = {"float": [], "P": ["P"], "PTQ": ["Q"], "P+Q": ["P", "Q"]}
SENSITIVITY = {
    "format_version": 1,
    "row": "float",
    "seed": 0,
    "checkpoint_hash": "0123456789abcdef",
    "sample": "validation",
    "num_examples": 180,
    "loss": 0.5,
    "score": 0.83,
    "sites": [
        {
            "name": name,
            "costs": {
                "80% zeros": {"loss": loss, "score": -loss / 2},
                "int4": {"loss": loss / 10, "score": -loss / 20},
            },
        }
        for name, loss in (("stem/kernel", 0.31), ("head/kernel", 0.02))
    ],
}


def site(**changes: Any) -> dict[str, Any]:
    return {
        "name": "block1/conv/kernel",
        "op": "conv",
        "shape": [3, 3, 16, 16],
        "macs": 2_359_296,
        "weight_bits": 8,
        "activation_bits": 8,
        "num_weights": 2304,
        "num_nonzero": 461,
        "num_scales": 16,
        "reason": None,
    } | changes


def sizes(sparsity: float, bits: int, num_weights: int = 77_360) -> dict[str, int]:
    dense = num_weights * bits // 8
    kept = dense * (1 - sparsity)
    return {
        "file": dense + 2400,
        "dense": dense + 2000,
        "bitmask": round(kept + num_weights / 8) + 2000,
        "index": round(1.4 * kept) + 2000,
        "entropy": round(0.85 * kept) + 2000,
        "zlib": round(0.9 * kept + num_weights / 10) + 2000,
        "float": 4 * num_weights + 1500,
        "weights_dense": dense,
        "weights_bitmask": round(kept + num_weights / 8),
        "weights_float": 4 * num_weights,
    }


def result(row: str, seed: int, spec: Any = None, **changes: Any) -> dict[str, Any]:
    accuracy, sparsity, bits, techniques = spec or ROWS[row]
    rng = np.random.default_rng([seed, len(row), sum(map(ord, row))])
    items = np.random.default_rng(seed).random(NUM_TEST)  # shared: rows are paired
    correct = items + 0.05 * rng.standard_normal(NUM_TEST) < accuracy
    sites = [
        site(weight_bits=bits, activation_bits=bits),
        site(name="head/kernel", op="dot", shape=[64, 10], macs=640, num_weights=640),
        site(name="stem/kernel", num_nonzero=432, num_weights=432, reason="first"),
    ]
    return {
        "format_version": 2,
        "row": row,
        "seed": seed,
        "config_hash": f"{sum(map(ord, row)):08x}cafe",
        "task": "images",
        "metric": dataclasses.asdict(MetricRecord()),
        "score": float(correct.mean()),
        "trained_score": float(correct.mean()),
        "agreement": 0.998,
        **pack_items(correct),
        "num_test": NUM_TEST,
        "techniques": techniques,
        "sparsity": sparsity,
        "train_seconds": 61.5,
        "train_steps": 400,
        "artifact": "artifact",
        "program_bytes": 41_233,
        "macs": 12_500_000,
        "sites": sites,
        "sizes": sizes(sparsity, bits),
        "records": ["stem/kernel: left in float"] if bits == 8 else [],
        "checkpoint_hash": "0123456789abcdef",
    } | changes


def metrics(row: str, seed: int, spec: Any = None) -> list[dict[str, Any]]:
    accuracy, sparsity, _, _ = spec or ROWS[row]
    rng = np.random.default_rng(seed)
    lines = []
    for step in range(0, 400, 5):
        share = step / 400
        line = {
            "step": step,
            "stage": "prune" if share < 0.5 else "quantize",
            "loss": float(2.2 * np.exp(-4 * share) + 0.4 + 0.03 * rng.normal()),
            "sparsity": sparsity * min(1.0, 2 * share),
            "learning_rate": 0.1,
        }
        if step % 40 == 0:
            line["eval_score"] = accuracy * (1 - 0.6 * float(np.exp(-5 * share)))
        lines.append(line)
    return lines


def write_cell(directory: pathlib.Path, data: dict[str, Any], spec: Any = None) -> None:
    folder = directory / f"{data['row'].replace('/', '_')}-{data['seed']}"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(data))
    lines = metrics(data["row"], data["seed"], spec)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))


def latency(rows: Any = None) -> dict[str, Any]:
    rows = ROWS if rows is None else rows
    batches = {}
    for batch, float_us in ((1, 233.0), (64, 2100.0)):
        entries = {}
        for i, (row, (_, _, bits, _)) in enumerate(rows.items()):
            ratio = (0.63 if bits == 8 else 1.0) + 0.01 * (i % 5)
            entries[row] = {
                "median_us": ratio * float_us,
                "quartiles_us": [0.98 * ratio * float_us, 1.03 * ratio * float_us],
                "iqr_us": 0.05 * ratio * float_us,
                "ratio": ratio,
                "paired_ratio": ratio,
                "inner_calls": 3,
            }
        batches[str(batch)] = {
            "reference": "float",
            "repetitions": 50,
            "warmup": 5,
            "min_sample_ms": 0.5,
            "seed": 0,
            "machine": {"cpu": "Test CPU 9000", "num_usable_cpus": 2, "backend": "cpu"},
            "entries": entries,
        }
    return {"format_version": 1, "batches": batches}


def compare(rows: Any = None, seeds: Any = (0, 1, 2), **changes: Any) -> dict[str, Any]:
    return {
        "name": "Grid on images",
        "rows": list(ROWS if rows is None else rows),
        "reference": "float",
        "seeds": list(seeds),
        "versions": {"jax": "0.10.2", "jax-compress": "0.1.0"},
        "notes": ["Trained for 400 steps."],
        "contrasts": [["P+Q", "PTQ"]],
    } | changes


def write_compare(
    directory: pathlib.Path, rows: Any = None, seeds: Any = (0, 1, 2), **changes: Any
) -> pathlib.Path:
    """A whole compare directory, every cell finished."""
    rows = ROWS if rows is None else rows
    directory.mkdir(parents=True, exist_ok=True)
    for row, spec in rows.items():
        for seed in seeds:
            write_cell(directory, result(row, seed, spec), spec)
    settings = compare(rows, seeds, **changes)
    (directory / "compare.json").write_text(json.dumps(settings))
    (directory / "latency.json").write_text(json.dumps(latency(rows)))
    return directory


@pytest.fixture(scope="session")
def _whole(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return write_compare(tmp_path_factory.mktemp("whole") / "compare")


@pytest.fixture
def compare_dir(_whole: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """A whole compare directory, to change at will."""
    return pathlib.Path(shutil.copytree(_whole, tmp_path / "compare"))


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> ReportPaths:
    """A written report of a comparison with everything, and one failed run."""
    directory = tmp_path_factory.mktemp("report") / "compare"
    write_compare(directory, factors=["P", "Q"], design=DESIGN)
    (directory / "sensitivity.json").write_text(json.dumps(SENSITIVITY))
    for path in directory.glob("P-*/result.json"):  # P is beaten by PTQ
        made = json.loads(path.read_text())
        made["sizes"]["bitmask"] = 90_000
        path.write_text(json.dumps(made))
    error = {"row": "P", "seed": 1, "error": "loss is nan </script><b>"}
    (directory / "P-1" / "result.json").unlink()
    (directory / "P-1" / "error.json").write_text(json.dumps(error))
    return write_report(directory)


@pytest.fixture
def made_up() -> types.SimpleNamespace:
    """The functions above, for tests that change something."""
    return types.SimpleNamespace(
        result=result, write_cell=write_cell, write_compare=write_compare, site=site
    )
