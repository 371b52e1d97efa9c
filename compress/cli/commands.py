"""What each command does."""

import json
import pathlib

from compress import processes
from compress.cli import flags
from compress.cli.inspecting import inspect_artifact, inspect_config
from compress.compare import (
    CellError,
    LockError,
    cell_folder,
    run_cell,
    write_lock,
    write_onnx,
)
from compress.compare import compare as run_comparison
from compress.config import Config, json_schema, load_config, row_config
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
    else:
        print(inspect_config(_single(_load(what)), latency=flags.LATENCY.value))
    return 0


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
