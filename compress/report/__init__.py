"""Tells what compression cost and gained: sizes, operations, latency, score."""

from compress.machine import describe_machine as describe_machine
from compress.report.compute import theoretical_bops as theoretical_bops
from compress.report.compute import total_bops as total_bops
from compress.report.items import pack_items as pack_items
from compress.report.latency import measure_latency as measure_latency
from compress.report.latency import write_latency as write_latency
from compress.report.load import FORMAT_VERSION as FORMAT_VERSION
from compress.report.load import load_cell as load_cell
from compress.report.load import load_compare as load_compare
from compress.report.metric import score_text as score_text
from compress.report.records import Cell as Cell
from compress.report.records import Comparison as Comparison
from compress.report.sizes import size_accounting as size_accounting
from compress.report.sizes import weights_only_ratio as weights_only_ratio
from compress.report.stats import bootstrap_difference as bootstrap_difference
from compress.report.stats import paired_difference as paired_difference
from compress.report.stats import summarize as summarize
from compress.report.table import render_table as render_table
from compress.report.write import LOCK as LOCK
from compress.report.write import ReportPaths as ReportPaths
from compress.report.write import write_report as write_report
