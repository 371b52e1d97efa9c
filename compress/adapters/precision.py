"""Mixed precision: a model that computes in bfloat16 and is trained in float32.

Source: Micikevicius et al. 2018, section 3.1 (float32 masters).
https://arxiv.org/abs/1710.03740. bfloat16 has float32's range, so the loss needs no
scaling.
"""

from typing import Any

import jax
import jax.numpy as jnp

from compress.adapters.model import Model
from compress.annotations import PyTree


def compute_in(model: Model, dtype: Any) -> Model:
    """The model computing in `dtype`; its parameters stay as they are.

    Parameters and inputs are cast on the way in, so sites keep their names and masks
    and ranges belong to the float32 parameters. Model state is given as it is: batch
    statistics want float32. Outputs come back in float32, so losses are computed there.

    Args:
      model: Of any framework. A module that casts to a dtype of its own keeps it.
      dtype: A floating dtype, such as `jnp.bfloat16`.
    """

    def forward(
        params: PyTree, model_state: PyTree, *inputs: Any, **settings: Any
    ) -> tuple[Any, PyTree]:
        cast, given = _floats_to(params, dtype), _floats_to(inputs, dtype)
        outputs, new_state = model.forward(cast, model_state, *given, **settings)
        new_state = jax.tree.map(
            lambda new, old: new.astype(old.dtype), new_state, model_state
        )
        return _floats_to(outputs, jnp.float32), new_state

    return model._replace(forward=forward)


def _floats_to(tree: PyTree, dtype: Any) -> PyTree:
    """Every floating array in `dtype`; others, integers and keys, as they are."""

    def cast(x: Any) -> Any:
        return x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x

    return jax.tree.map(cast, tree)
