"""Runs the benchmark and writes its part of RESULTS.md.

python -m experiments.bench.peers --peers_python=.venv-peers/bin/python
"""

import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from absl import app, flags, logging

from compress.files import write_json
from compress.machine import describe_machine
from experiments.bench.peers.driver import Settings, run_row
from experiments.bench.peers.registry import CONTENDERS, Contender
from experiments.bench.peers.statistics import BASELINE
from experiments.bench.peers.tables import section
from experiments.bench.peers.work import WORKS
from experiments.bench.results import save
from experiments.data import cache_folder

_ROOT = pathlib.Path(__file__).parents[3]
_SHOWN = ("onnxruntime", "ai-edge-litert", "torch", "torchao", "qwix", "jax")

_PEERS_PYTHON = flags.DEFINE_string(
    "peers_python",
    str(_ROOT / ".venv-peers/bin/python"),
    "Python with experiments/bench/peers/requirements.txt installed (`make bench`).",
)
_WORK = flags.DEFINE_multi_enum("work", None, list(WORKS), "Only this work.")
_BATCH = flags.DEFINE_multi_integer("batch", None, "Only this batch size.")
_THREADS = flags.DEFINE_multi_integer("threads", [1, 2], "Threads and cores.")
_CONTENDER = flags.DEFINE_multi_enum(
    "contender", None, list(CONTENDERS), "Only this one, and float32 XLA."
)
_CLOCK = flags.DEFINE_enum(
    "clock", "wall", ["wall", "cpu"], "cpu: for one thread on a busy machine; not kept."
)
_RESUME = flags.DEFINE_bool("resume", False, "Keep the rows of a run that was cut off.")
_QUICK = flags.DEFINE_bool("quick", False, "Few rounds; prints, and keeps nothing.")


def main(argv: Sequence[str]) -> None:
    """Runs what the flags ask for."""
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments: {argv[1:]}")
    logging.set_verbosity(logging.WARNING)  # JAX tells of every backend it has not
    if not pathlib.Path(_PEERS_PYTHON.value).is_file():
        raise app.UsageError(
            f"--peers_python={_PEERS_PYTHON.value} is not there. `make bench` makes it."
        )
    settings = _settings()
    contenders = _chosen()
    unfinished = settings.folder / "unfinished.json"
    if _RESUME.value and not unfinished.is_file():
        raise app.UsageError(f"--resume: {unfinished} is not there. Leave it out.")
    rows = json.loads(unfinished.read_text()) if _RESUME.value else []
    done = {(row["work"], row["batch"], row["threads"]) for row in rows}
    for threads in _THREADS.value:
        for work in (WORKS[name] for name in _WORK.value or WORKS):
            for batch in work.batches:
                if _BATCH.value and batch not in _BATCH.value:
                    continue
                if (work.name, batch, threads) in done:
                    continue
                start = time.perf_counter()
                rows.append(run_row(settings, work, batch, threads, contenders))
                seconds = time.perf_counter() - start
                write_json(unfinished, rows)
                print(
                    f"{work.name}, batch {batch}, {threads} threads: {seconds:.0f} s",
                    flush=True,
                )
    result = _result(settings, contenders, rows)
    partial = _WORK.value or _BATCH.value or _CONTENDER.value or _QUICK.value
    if (
        partial or _CLOCK.value != "wall" or _THREADS.value != [1, 2]
    ):  # a part of the table would replace the whole
        print(section({"title": "A part of the benchmark, not kept", **result}))
    else:
        save("peers", "The same work in other runtimes", result)


def _settings() -> Settings:
    pythons = {"project": sys.executable, "peers": _PEERS_PYTHON.value}
    folder = cache_folder() / "peers"
    if _QUICK.value:
        return Settings(pythons, folder, 2.0, (3, 10), clock=_CLOCK.value)
    return Settings(pythons, folder, clock=_CLOCK.value)


def _chosen() -> list[Contender]:
    names = _CONTENDER.value or list(CONTENDERS)
    return [c for c in CONTENDERS.values() if c.name in names or c.name == BASELINE]


def _result(
    settings: Settings, contenders: Sequence[Contender], rows: list[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "kind": "peers",
        "machine": describe_machine(),
        "load_average": os.getloadavg(),
        "versions": _versions(settings.pythons["peers"]),
        "settings": {"rounds": settings.rounds, "row_seconds": settings.row_seconds},
        "contenders": {c.name: {"role": c.role, "note": c.note} for c in contenders},
        "rows": rows,
    }


def _versions(python: str) -> dict[str, str]:
    code = "import sys; from importlib.metadata import version; "
    code += "print(*map(version, sys.argv[1:]))"
    shown = subprocess.run(
        [python, "-c", code, *_SHOWN], capture_output=True, text=True, check=True
    )
    return dict(zip(_SHOWN, shown.stdout.split(), strict=True))


if __name__ == "__main__":
    app.run(main)
