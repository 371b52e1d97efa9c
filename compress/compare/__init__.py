"""Compare: combinations of techniques and seeds, trained, shipped and measured."""

from compress.compare.bench import bench as bench
from compress.compare.cell import CellError as CellError
from compress.compare.cell import run_cell as run_cell
from compress.compare.cell import write_onnx as write_onnx
from compress.compare.checks import summary as summary
from compress.compare.dry_run import dry_run as dry_run
from compress.compare.grid import cell_folder as cell_folder
from compress.compare.grid import compare as compare
from compress.compare.launch import launch as launch
from compress.compare.lock import LockError as LockError
from compress.compare.lock import read_lock as read_lock
from compress.compare.lock import write_lock as write_lock
from compress.compare.rebuild import upgrade_artifact as upgrade_artifact
from compress.compare.rerun import reproduce as reproduce
from compress.compare.sweep import Shard as Shard
from compress.compare.sweep import parse_shard as parse_shard
from compress.compare.sweep import sweep as sweep
from compress.compare.trial import predicted_latencies as predicted_latencies
from compress.compare.units import latency_of as latency_of
