"""Pruning: which weights are kept."""

from compress.prune.magnitude import MagnitudeState as MagnitudeState
from compress.prune.magnitude import magnitude as magnitude
from compress.prune.masks import keep_largest as keep_largest
from compress.prune.shrink import Shrunk as Shrunk
from compress.prune.shrink import mask_units as mask_units
from compress.prune.shrink import shrink as shrink
from compress.prune.structured import Choice as Choice
from compress.prune.structured import StructuredState as StructuredState
from compress.prune.structured import UnitScores as UnitScores
from compress.prune.structured import bops_of as bops_of
from compress.prune.structured import choose_units as choose_units
from compress.prune.structured import keep_from_json as keep_from_json
from compress.prune.structured import keep_to_json as keep_to_json
from compress.prune.structured import kept_units as kept_units
from compress.prune.structured import sizes_of as sizes_of
from compress.prune.structured import structured as structured
from compress.prune.structured import unit_scores as unit_scores
