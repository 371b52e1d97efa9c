"""The flags of the command line."""

import contextlib
import sys
import textwrap

from absl import app, flags

WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where results go; by default runs/<name of the config>."
)
SET = flags.DEFINE_multi_string(
    "set",
    [],
    "Overrides a value of the config, --set stages[1].prune.sparsity=0.9; may be "
    "repeated.",
)
DATA_DIR = flags.DEFINE_string(
    "data_dir",
    None,
    "Folder of data sets; tasks find it in the environment as JAX_COMPRESS_DATA.",
)
FAST = flags.DEFINE_bool(
    "fast", False, "Applies the config's fast: section, which shrinks it to seconds."
)
RESUME = flags.DEFINE_bool("resume", False, "run: goes on from the newest checkpoint.")
ROW = flags.DEFINE_string(
    "row", None, "run, onnx, inspect, sweep: the row of a compare: section."
)
WORKERS = flags.DEFINE_integer(
    "workers",
    None,
    "compare, sweep: processes at a time; by default one per core.",
    lower_bound=1,
)
ROWS = flags.DEFINE_list("rows", [], "reproduce: only these rows.")
SEEDS = flags.DEFINE_list("seeds", [], "reproduce: only these seeds.")
DISTRIBUTED = flags.DEFINE_bool(
    "distributed",
    False,
    "run: this is one of several processes that train together, on one or several "
    "hosts, over all their devices. Which one is read from the environment (Slurm, "
    "GKE, Open MPI, TPU pods), or from --coordinator, --num_processes, --process_id.",
)
COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "--distributed: HOST:PORT of process 0."
)
NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", None, "--distributed: how many there are.", lower_bound=1
)
PROCESS_ID = flags.DEFINE_integer(
    "process_id", None, "--distributed: which this one is, from 0.", lower_bound=0
)
SHARD = flags.DEFINE_string(
    "shard",
    None,
    "sweep: runs only every n-th cell, from number i on, as --shard=i/n; several may "
    "share one --workdir.",
)
LAUNCHER = flags.DEFINE_enum(
    "launcher",
    "local",
    ["local", "slurm", "ray"],
    "sweep: runs cells in processes here, submits --jobs shards as a Slurm array, or "
    "runs them on the Ray cluster that RAY_ADDRESS names.",
)
JOBS = flags.DEFINE_integer(
    "jobs", None, "sweep --launcher=slurm or ray: how many jobs.", lower_bound=1
)
SLURM = flags.DEFINE_multi_string(
    "slurm",
    [],
    "sweep --launcher=slurm: what each job asks for, by submitit's names, "
    "--slurm=timeout_min=60, --slurm=slurm_partition=gpu; may be repeated.",
)
RAY = flags.DEFINE_multi_string(
    "ray",
    [],
    "sweep --launcher=ray: what each job asks for, by Ray's names, --ray=num_cpus=4, "
    "--ray=num_gpus=1; may be repeated.",
)
QUIET = flags.DEFINE_bool("quiet", False, "Shows no progress.")
VERBOSE = flags.DEFINE_bool("traceback", False, "Shows where an error was raised.")
OUTPUT = flags.DEFINE_string(
    "output",
    None,
    "predict: writes the output to this file as .npy; several outputs as .npz. bench, "
    "inspect --dry_run: writes the figures as JSON.",
)
DRY_RUN = flags.DEFINE_bool(
    "dry_run",
    False,
    "inspect CONFIG: predicts memory, FLOPs, sizes and compilation of every run; "
    "nothing is trained.",
)
LATENCY = flags.DEFINE_bool(
    "latency",
    False,
    "inspect CONFIG: times artifacts with untrained weights, with and without the "
    "units that may be removed.",
)
FLOAT = flags.DEFINE_string(
    "float", None, "bench: the float artifact to compare with, if not made from config."
)
BATCHES = flags.DEFINE_list("batches", ["1", "32"], "bench: batch sizes, 1,32.")
ROUNDS = flags.DEFINE_integer(
    "rounds", 50, "bench: rounds of timing, interleaved.", lower_bound=1
)


def show_only_ours(help_text: str) -> None:
    """Makes --help show what the program does and its own flags, no library's."""

    def show(
        shorthelp: bool = False,
        writeto_stdout: bool = False,
        detailed_error: object = None,
        exitcode: int | None = None,
    ) -> None:
        stream = sys.stdout if writeto_stdout else sys.stderr
        lines = [f"\nflags:\n{_own_help()}"] if not detailed_error else []
        text = f"{detailed_error}\n" if detailed_error else help_text
        with contextlib.suppress(BrokenPipeError):
            print(text, *lines, file=stream, flush=True)
        if writeto_stdout or exitcode is not None:
            sys.exit(exitcode or 0)  # absl would leave --help with status 1

    setattr(app, "usage", show)  # noqa: B010 - replaces absl's own


def _own_help() -> str:
    own = flags.FLAGS.flags_by_module_dict().get(__name__, [])
    return "\n".join(
        f"  --{flag.name}{'' if flag.boolean else '=VALUE'}\n      {_help(flag)}"
        for flag in sorted(own, key=lambda flag: flag.name)
    )


def _help(flag: flags.Flag) -> str:
    """Without what absl adds to a flag that may be repeated, in lines of 88 columns."""
    text = flag.help.partition(";\n")[0]
    return textwrap.fill(text, 82, subsequent_indent=" " * 6)
