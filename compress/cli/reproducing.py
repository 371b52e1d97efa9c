"""The command that runs a locked comparison again."""

import pathlib

from compress.cli import flags
from compress.compare import LockError, read_lock, summary
from compress.compare import reproduce as run_again


def reproduce(lock_path: str) -> int:
    """Runs a comparison from its lock file; fails if a number came out otherwise."""
    lock = read_lock(pathlib.Path(lock_path))
    given = flags.WORKDIR.value or f"runs/{lock.name}-reproduced"
    result = run_again(
        lock,
        pathlib.Path(given),
        rows=flags.ROWS.value,
        seeds=[_seed(text) for text in flags.SEEDS.value],
        workers=flags.WORKERS.value,
        say=(lambda line: None) if flags.QUIET.value else print,
    )
    print("\n".join(summary(result)))
    return 0 if result.succeeded else 1


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise LockError(f"--seeds: {text!r} is no seed. Write --seeds=0,1.")
    return int(text)
