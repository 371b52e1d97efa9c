"""Pruning: which weights are kept."""

from compress.prune.connections import connections as connections
from compress.prune.connections import magnitude as magnitude
from compress.prune.fixed import fixed as fixed
from compress.prune.masking import apply_masks as apply_masks
from compress.prune.masks import keep_largest as keep_largest
from compress.prune.patterns import Pattern as Pattern
from compress.prune.patterns import block as block
from compress.prune.patterns import channel as channel
from compress.prune.patterns import n_m as n_m
from compress.prune.patterns import row as row
from compress.prune.patterns import unstructured as unstructured
from compress.prune.scopes import Scope as Scope
from compress.prune.scores import Score as Score
from compress.prune.scores import magnitude_score as magnitude_score
from compress.prune.scores import movement_score as movement_score
from compress.prune.scores import random_score as random_score
from compress.prune.scores import saliency_score as saliency_score
from compress.prune.state import ConnectionsState as ConnectionsState
from compress.prune.when import When as When
from compress.prune.when import cyclic as cyclic
from compress.prune.when import gradual as gradual
from compress.prune.when import periodic as periodic
from compress.prune.when import rigl as rigl
from compress.prune.when import sparse_evolution as sparse_evolution
from compress.prune.when import straight_through as straight_through
