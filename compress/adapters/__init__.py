"""Turn a model of a framework into a pure function and pytrees; nothing more."""

from compress.adapters.linen import from_linen as from_linen
from compress.adapters.model import Model as Model
from compress.adapters.nnx import from_nnx as from_nnx
