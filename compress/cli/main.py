"""jax-compress: quantize, prune and distill JAX models, and compare the results.

  jax-compress run CONFIG             train and export one model per seed
  jax-compress compare CONFIG         all rows of a comparison, all seeds, and a report
  jax-compress sweep CONFIG           every run of a sweep:, or a shard of it
  jax-compress onnx CONFIG            a finished run's models as ONNX files as well
  jax-compress inspect CONFIG         the sites, and what will happen to each
  jax-compress inspect CONFIG --dry_run
                                      memory, FLOPs, sizes, compilation of every run
  jax-compress inspect ARTIFACT       what an artifact holds
  jax-compress predict ARTIFACT INPUT.npy
                                      run an artifact on inputs, print its outputs
  jax-compress predict ARTIFACT SPEECH.wav
                                      what was said, and how long it took to tell
  jax-compress verify ARTIFACT        hashes, signature, integer operations, golden
                                      outputs: whether it is what was exported
  jax-compress bench ARTIFACT         latency, memory, cold start against float
  jax-compress upgrade ARTIFACT       export its programs again for this version of jax
  jax-compress report RUNS            write the report of a comparison again
  jax-compress reproduce LOCK         run a comparison again from its lock file, and say
                                      of each number whether it came out the same
  jax-compress schema                 the JSON schema of configs, for editors

Examples:
  jax-compress inspect configs/digits.yaml --row P+Q+D
  jax-compress run configs/digits.yaml --row P+Q --set stages[1].prune.sparsity=0.9
  jax-compress compare configs/digits.yaml --fast --workdir runs/try
  jax-compress predict runs/digits/P+Q-seed0/artifact images.npy

Results go to --workdir, by default runs/<name of the config>. An interrupted `run`
goes on with --resume; `compare` and `sweep` always go on, and skip what is finished.
"""

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from absl import app, flags, logging

import compress.cli.commands as commands
import compress.cli.predicting as predicting
import compress.cli.reproducing as reproducing
import compress.cli.shipping as shipping
from compress.cli import flags as own_flags
from compress.cli.distributed import start_distributed
from compress.compare import CellError
from compress.config import ConfigError
from compress.export import ArtifactError
from compress.processes import ProcessError
from compress.task import TaskError
from compress.train import CheckpointError, RunError

COMMANDS: dict[str, tuple[Callable[..., int], int, int]] = {
    # name: (function, fewest arguments, most arguments)
    "run": (commands.run, 1, 1),
    "compare": (commands.compare, 1, 1),
    "sweep": (commands.sweep, 1, 1),
    "onnx": (commands.onnx, 1, 1),
    "inspect": (commands.inspect, 1, 1),
    "predict": (predicting.predict, 2, 9),
    "verify": (shipping.verify, 1, 1),
    "bench": (shipping.bench, 1, 1),
    "upgrade": (shipping.upgrade, 1, 1),
    "report": (commands.report, 1, 1),
    "reproduce": (reproducing.reproduce, 1, 1),
    "schema": (commands.schema, 0, 0),
}
# What a user can mend: shown as one message, without a traceback.
_USER_ERRORS = (
    ArtifactError,
    CellError,
    CheckpointError,
    ConfigError,
    ProcessError,
    RunError,
    TaskError,
    ImportError,
    NotImplementedError,
    OSError,
    SyntaxError,
    ValueError,
)


def main(argv: Sequence[str]) -> int:
    """Runs a command; returns the exit status."""
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)
    if not own_flags.VERBOSE.value:
        logging.get_absl_logger().addFilter(_is_not_of_orbax)
    if len(argv) < 2:
        print(__doc__)
        return 2
    name, arguments = argv[1], list(argv[2:])
    if name not in COMMANDS:
        return _usage(f"no command {name!r}; there are {', '.join(COMMANDS)}")
    function, fewest, most = COMMANDS[name]
    if not fewest <= len(arguments) <= most:
        return _usage(f"{name} takes {_count(fewest, most)}, got {len(arguments)}")
    try:
        _offer_data()
        start_distributed(name)
        return function(*arguments)
    except BrokenPipeError:
        return 0
    except _USER_ERRORS as error:
        if own_flags.VERBOSE.value:
            raise
        print(f"jax-compress {name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _offer_data() -> None:
    """Tells tasks, here and in the workers of a comparison, where their data are."""
    folder = own_flags.DATA_DIR.value
    if folder is None:
        return
    if not os.path.isdir(folder):
        raise ValueError(f"--data_dir: {folder} is no folder. Name the data's folder.")
    os.environ["JAX_COMPRESS_DATA"] = os.path.abspath(folder)


def _is_not_of_orbax(record: Any) -> bool:
    """orbax logs a traceback per thread for an error that it raises as well."""
    return "/orbax/" not in record.pathname


def _usage(problem: str) -> int:
    print(f"jax-compress: {problem}. See jax-compress --help.", file=sys.stderr)
    return 2


def _count(fewest: int, most: int) -> str:
    what = "argument" if fewest == 1 else "arguments"
    return f"{fewest} {what}" if fewest == most else f"at least {fewest} {what}"


def run() -> None:
    """The console script."""
    own_flags.show_only_ours(__doc__ or "")
    app.run(main, argv=[sys.argv[0], *map(underscored, sys.argv[1:])])


def underscored(argument: str) -> str:
    """Lets flags be written as `--dry-run`; what is no flag stays as it is."""
    name, equals, value = argument.partition("=")
    known = name.removeprefix("--").replace("-", "_")
    is_known = known in flags.FLAGS or known.removeprefix("no") in flags.FLAGS
    is_flag = name.startswith("--") and is_known
    return f"--{known}{equals}{value}" if is_flag else argument


if __name__ == "__main__":
    run()
