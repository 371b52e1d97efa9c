"""Turn a model of a framework into a pure function and pytrees; nothing more."""

from compress.adapters.equinox import from_equinox as from_equinox
from compress.adapters.haiku import from_haiku as from_haiku
from compress.adapters.keras import from_keras as from_keras
from compress.adapters.linen import from_linen as from_linen
from compress.adapters.model import Model as Model
from compress.adapters.nnx import from_nnx as from_nnx
from compress.adapters.precision import compute_in as compute_in
from compress.adapters.torch import from_torch as from_torch
