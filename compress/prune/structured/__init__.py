"""Structured pruning: which units of which groups go, until a budget is met."""

from compress.prune.structured.budgets import Choice as Choice
from compress.prune.structured.budgets import choose_units as choose_units
from compress.prune.structured.collect import UnitScores as UnitScores
from compress.prune.structured.collect import unit_scores as unit_scores
from compress.prune.structured.costs import bops_of as bops_of
from compress.prune.structured.keep import keep_from_json as keep_from_json
from compress.prune.structured.keep import keep_to_json as keep_to_json
from compress.prune.structured.keep import sizes_of as sizes_of
from compress.prune.structured.transform import StructuredState as StructuredState
from compress.prune.structured.transform import kept_units as kept_units
from compress.prune.structured.transform import structured as structured
