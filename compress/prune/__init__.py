"""Pruning: which weights are kept."""

from compress.prune.magnitude import MagnitudeState as MagnitudeState
from compress.prune.magnitude import magnitude as magnitude
from compress.prune.shrink import Shrunk as Shrunk
from compress.prune.shrink import mask_units as mask_units
from compress.prune.shrink import shrink as shrink
from compress.prune.select import keep_largest as keep_largest
