"""What each command does."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

from compress import processes
from compress.cli import flags
from compress.cli.arrays import check_output
from compress.cli.inspecting import inspect_artifact, inspect_config
from compress.compare import (
    CellError,
    LockError,
    cell_folder,
    launch,
    parse_shard,
    run_cell,
    write_lock,
    write_onnx,
)
from compress.compare import compare as run_comparison
from compress.compare import sweep as run_sweep
from compress.compare.dry_run import dry_run, predictions_json, predictions_table
from compress.compare.grid import speaker
from compress.compare.launch import LOGS, run_on_ray
from compress.config import Config, json_schema, load_config, read_value, row_config
from compress.files import write_json
from compress.report import (
    LOCK,
    load_compare,
    render_table,
    score_text,
    write_report,
)


def run(config_path: str) -> int:
    """Trains, exports and measures one model per seed."""
    whole = _load(config_path)
    config, root = _single(whole), _workdir(whole)
    for seed in config.seeds:
        # The folder in which `compare` looks for the same row and seed.
        row = flags.ROW.value
        folder = root / (cell_folder(row, seed) if row else f"seed{seed}")
        result = run_cell(
            config,
            folder,
            seed=seed,
            teachers=root / "teachers",
            resume=flags.RESUME.value,
            quiet=flags.QUIET.value,
        )
        if not processes.is_primary():
            continue
        sizes, metric = result["sizes"], result["metric"]
        print(
            f"seed {seed}: {metric['name']} {score_text(result['score'], metric)} "
            f"(trained forward {score_text(result['trained_score'], metric)}), "
            f"weights {sizes['file']:,} bytes "
            f"({sizes['file'] / sizes['float']:.2f}x of float32), sparsity "
            f"{result['sparsity']:.1%}\n  artifact: {folder / 'artifact'}"
        )
    return 0


def onnx(config_path: str) -> int:
    """Writes the models of a finished run as ONNX files, beside their artifacts."""
    whole = _load(config_path)
    config, root = _single(whole), _workdir(whole)
    for seed in config.seeds:
        row = flags.ROW.value
        folder = root / (cell_folder(row, seed) if row else f"seed{seed}")
        path = write_onnx(config, folder, seed=seed, teachers=root / "teachers")
        print(f"seed {seed}: {path.stat().st_size:,} bytes in {path}")
    return 0


def compare(config_path: str) -> int:
    """Runs a comparison and writes its report."""
    config = _load(config_path)
    root = _workdir(config)
    say = (lambda line: None) if flags.QUIET.value else None
    failed = run_comparison(config, root, workers=flags.WORKERS.value, say=say)
    report(str(root))
    if failed:
        print(f"{failed} cells failed; the report names them.")
    return 1 if failed else 0


def sweep(config_path: str) -> int:
    """Runs a sweep, or a shard of it, and writes its report."""
    whole = _load(config_path)
    config = _single(whole).model_copy(update={"name": whole.name})
    root = pathlib.Path(flags.WORKDIR.value or f"runs/{whole.name}-sweep")
    if flags.LAUNCHER.value != "local":
        return _launch(config, root)
    say = (lambda line: None) if flags.QUIET.value else None
    shard = parse_shard(flags.SHARD.value) if flags.SHARD.value else None
    workers = flags.WORKERS.value
    failed = run_sweep(config, root, workers=workers, shard=shard, say=say)
    if shard is None:
        report(str(root))
        print(f"cells: {root / 'sweep.csv'}")
    else:
        print("Once all shards are done, the same command without --shard reports.")
    if failed:
        print(f"{failed} cells failed; {root / 'sweep.csv'} says which.")
    return 1 if failed else 0


def _launch(config: Config, root: pathlib.Path) -> int:
    """Submits a sweep to Slurm, or runs it on a Ray cluster."""
    launcher, count = flags.LAUNCHER.value, flags.JOBS.value
    if flags.SHARD.value is not None or count is None:
        raise CellError(f"--launcher={launcher}: say --jobs, and leave --shard out.")
    if launcher == "ray":
        options, workers = _options("ray", flags.RAY.value), flags.WORKERS.value
        failed = run_on_ray(
            config, root, jobs=count, options=options, workers=workers, say=print
        )
        print("The same command without --launcher reports.")
        return 1 if failed else 0
    options = _options("slurm", flags.SLURM.value)
    jobs = launch(
        config, root, jobs=count, options=options, workers=flags.WORKERS.value
    )
    print(f"submitted: {', '.join(job.job_id for job in jobs)}; logs in {root / LOGS}")
    print("Once they are done, the same command without --launcher reports.")
    return 0


def _options(flag: str, texts: Sequence[str]) -> dict[str, Any]:
    options = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise CellError(
                f"--{flag}={text}: has no value; write --{flag}=name=value."
            )
        options[name] = read_value(value)
    return options


def report(runs: str) -> int:
    """Prints the table of a comparison and writes its report."""
    directory = pathlib.Path(runs)
    print(render_table(load_compare(directory), style="terminal"))
    locked = _lock(directory)
    paths = write_report(directory)
    print(f"\nreport: {paths.html}")
    print(f"tables: {paths.markdown}, {paths.csv}, {paths.runs}")
    print(f"plots:  {', '.join(str(path) for path in paths.plots)}")
    print(locked)
    return 0


def _lock(directory: pathlib.Path) -> str:
    """Writes the lock beside where the report will be; says where, or why not."""
    path = directory / "report" / LOCK
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)  # that of earlier results
    try:
        return f"lock:   {write_lock(directory, path)}"
    except LockError as error:
        return f"no lock: {error}"


def inspect(what: str) -> int:
    """Shows a config's sites and plan, or an artifact's content."""
    path = pathlib.Path(what)
    if path.is_dir():
        print(inspect_artifact(path))
    elif flags.DRY_RUN.value:
        _predict(_load(what))
    else:
        print(inspect_config(_single(_load(what)), latency=flags.LATENCY.value))
    return 0


def _predict(config: Config) -> None:
    """Shows what every run of a config will cost."""
    output = pathlib.Path(flags.OUTPUT.value) if flags.OUTPUT.value else None
    if output is not None:
        check_output(output, 1)
    chosen = config if flags.ROW.value is None else _single(config)
    found = dry_run(chosen, (lambda line: None) if flags.QUIET.value else speaker())
    print(predictions_table(found))
    if output is not None:
        write_json(output, predictions_json(found))


def schema() -> int:
    """Prints the JSON schema of configs."""
    print(json.dumps(json_schema(), indent=2))
    return 0


def _load(path: str) -> Config:
    return load_config(path, flags.SET.value, fast=flags.FAST.value)


def _workdir(config: Config) -> pathlib.Path:
    given = flags.WORKDIR.value
    return pathlib.Path(given) if given else pathlib.Path("runs") / str(config.name)


def _single(config: Config) -> Config:
    """The config of one model: itself, or the row the user chose."""
    if config.compare is None:
        if flags.ROW.value is not None:
            raise CellError(
                f"config {config.name!r} has no compare: section. Leave out --row."
            )
        return config
    rows = {row.name: row for row in config.compare.rows}
    if flags.ROW.value not in rows:
        raise CellError(
            f"config {config.name!r} compares {len(rows)} rows: choose one with --row, "
            f"of {', '.join(rows)}; or use `compare`."
        )
    return row_config(config, rows[flags.ROW.value])
