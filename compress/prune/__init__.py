"""Pruning: which weights are kept."""

from compress.prune.magnitude import MagnitudeState as MagnitudeState
from compress.prune.magnitude import magnitude as magnitude
from compress.prune.select import keep_largest as keep_largest
