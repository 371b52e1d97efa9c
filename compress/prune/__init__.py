"""Pruning: which weights are kept."""

from compress.prune.magnitude import MagnitudeState as MagnitudeState
from compress.prune.magnitude import magnitude as magnitude
from compress.prune.masks import keep_largest as keep_largest
from compress.prune.one_shot import Pruned as Pruned
from compress.prune.one_shot import Record as Record
from compress.prune.one_shot import one_shot as one_shot
from compress.prune.shrink import Shrunk as Shrunk
from compress.prune.shrink import mask_units as mask_units
from compress.prune.shrink import shrink as shrink
