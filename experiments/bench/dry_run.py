"""What a dry run predicts of the demo, and what running it then measures.

Goal: each within 10 %. Every figure is of processes of their own, in turns: one for a
prediction, one for a run, and one for a run whose memory is watched, which makes it
slower. Of a run are measured: the files of the artifact; the bytes of live arrays when
a chunk of training starts, plus by how much what is allocated grows while it runs; by
how much its first chunk takes longer than later ones. FLOPs cannot be measured here;
beside them stand those of the contractions alone, counted by hand.
"""

import ctypes
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any

import jax

import compress.train.loop as loop
from compress.compare import dry_run, run_cell
from compress.config import Config, load_config, row_config
from compress.machine import describe_machine
from compress.schedule import Chunk, build_chunk
from compress.sites import find_sites
from compress.task import build_model, example_inputs, load_task
from experiments.bench.results import save

_CONFIG = pathlib.Path(__file__).parents[2] / "configs/digits.yaml"
_ROWS = ("baseline + budget", "PTQ", "P+Q", "P+Q+D")
_ROUNDS = 3
_MALLINFO = """arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks
keepcost"""
# Every array by itself from the system, so that what is freed is seen to be; and one
# arena, since mallinfo2 counts no others, and the room of new ones as in use.
_MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": "16384",
    "MALLOC_TRIM_THRESHOLD_": "0",
    "MALLOC_ARENA_MAX": "1",
}


def config_of(row: str) -> Config:
    """The demo's row with few steps, which change no shape."""
    few = [*(f"stages[{i}].steps=40" for i in range(3)), "teacher.steps=20"]
    config = load_config(_CONFIG, few)
    assert config.compare is not None
    return row_config(config, {r.name: r for r in config.compare.rows}[row])


class _Allocated(threading.Thread):
    """The most bytes that were allocated since `restart`."""

    class _Info(ctypes.Structure):
        """What glibc's mallinfo2 gives."""

        _fields_ = tuple((name, ctypes.c_size_t) for name in _MALLINFO.split())

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.call = ctypes.CDLL(None).mallinfo2
        self.call.restype = self._Info
        # Of what was seen before a restart, nothing may count after it.
        self.lock = threading.Lock()
        self.most = 0

    def now(self) -> int:
        info = self.call()
        return info.hblkhd + info.uordblks

    def restart(self) -> int:
        with self.lock:
            self.most = self.now()
            return self.most

    def run(self) -> None:
        while True:
            with self.lock:
                self.most = max(self.most, self.now())
            time.sleep(1e-4)


class _Measured:
    """Chunks of the student's training, with the time or the memory they take."""

    def __init__(self, *, watched: bool) -> None:
        self.allocated = _Allocated() if watched else None
        if self.allocated is not None:
            self.allocated.start()
        self.seconds: list[float] = []
        self.peaks: list[int] = []

    def build(self, config: Config, *rest: Any) -> Chunk:
        chunk = build_chunk(config, *rest)
        return chunk if config.name == "teacher" else chunk._replace(run=self.of(chunk))

    def of(self, chunk: Chunk) -> Any:
        def run(state: Any, data: Any, count: int) -> Any:
            live = sum(array.nbytes for array in jax.live_arrays())
            before = self.allocated.restart() if self.allocated else 0
            started = time.perf_counter()
            result = jax.block_until_ready(chunk.run(state, data, count))
            self.seconds.append(time.perf_counter() - started)
            if self.allocated is not None:
                self.peaks.append(live + self.allocated.most - before)
            return result

        return run


def measure(row: str, *, watched: bool) -> dict[str, float]:
    """Runs the row, and measures it: its memory, or everything else."""
    measured = _Measured(watched=watched)
    setattr(loop, "build_chunk", measured.build)  # noqa: B010 - as a test would
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        result = run_cell(
            config_of(row), root / "cell", seed=0, teachers=root, quiet=True
        )
    if watched:
        return {"peak_bytes": statistics.median(measured.peaks[1:])}
    first, *later = measured.seconds
    return {
        "weights_bytes": result["sizes"]["file"],
        "dense_bytes": result["sizes"]["dense"],
        "program_bytes": result["program_bytes"],
        "macs": result["macs"],
        "compile_seconds": first - statistics.median(later),
        "step_flops": _contractions(config_of(row)),
    }


def _contractions(config: Config) -> float:
    """FLOPs of the contractions of a step: forward, and twice that backward.

    Nothing is computed for the gradient of the input; the teacher only goes forward.
    """
    task = load_task(config.task, config.data)
    student, first = _macs(config, task, config.model)
    macs = 3 * student - first
    if config.teacher is not None:
        macs += _macs(config, task, config.teacher.model)[0]
    return 2.0 * config.batch_size * macs


def _macs(config: Config, task: Any, arguments: Any) -> tuple[int, int]:
    """Multiply-accumulates of a model for one example, and of its first site."""
    model = build_model(task, config.task, arguments, jax.random.key(0))
    one = example_inputs(task, 1)
    sites = find_sites(model.forward, model.params, model.model_state, *one)
    macs = [site.macs for site in sites]
    return sum(macs), macs[0]


def _in_process(what: str, row: str) -> dict[str, float]:
    command = [sys.executable, "-m", "experiments.bench.dry_run", what, row]
    environment = {**os.environ, **(_MALLOC if what == "watch" else {})}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def _figures(row: str) -> dict[str, Any]:
    """The medians over rounds of what was predicted and measured."""
    rounds = []
    for _ in range(_ROUNDS):
        foreseen = _in_process("predict", row)
        rounds.append(
            (foreseen, {**_in_process("measure", row), **_in_process("watch", row)})
        )
    return {
        name: [statistics.median(pair[i][name] for pair in rounds) for i in (0, 1)]
        for name in rounds[0][1]
    }


def main() -> None:
    """Measures and saves; in a process of its own, one part of it."""
    if len(sys.argv) == 3:
        what, row = sys.argv[1:]
        if what == "predict":
            (prediction,) = dry_run(config_of(row))
            found = prediction._asdict()
        else:
            found = measure(row, watched=what == "watch")
        print(json.dumps(found))
        return
    entries = {row: _figures(row) for row in _ROWS}
    result = {
        "kind": "dry_run",
        "machine": describe_machine(),
        "rounds": _ROUNDS,
        "entries": entries,
    }
    save("dry_run", "What a dry run predicts of the demo", result)


if __name__ == "__main__":
    main()
