"""Flax Linen modules as pure functions."""

import inspect
from typing import Any

from compress.adapters.model import Model
from compress.annotations import PyTree


def from_linen(module: Any, variables: PyTree) -> Model:
    """Turns a Flax Linen module and its variables into a `Model`.

    Args:
      module: A `flax.linen.Module`. If its `__call__` takes `train`, `training`,
        `deterministic` or `use_running_average`, it is set from `train`.
      variables: From `module.init`; the collection `params` is trainable, the others
        are model state.
    """
    switches = _switches(module)
    state = {name: value for name, value in variables.items() if name != "params"}

    def forward(
        params: PyTree,
        model_state: PyTree,
        *inputs: Any,
        train: bool = False,
        key: Any = None,
    ) -> tuple[Any, PyTree]:
        switched = {
            name: train if same else not train for name, same in switches.items()
        }
        rngs = {} if key is None else {"dropout": key}
        collections = {"params": params, **model_state}
        if not (train and model_state):
            outputs = module.apply(collections, *inputs, rngs=rngs, **switched)
            return outputs, model_state
        return module.apply(
            collections, *inputs, rngs=rngs, mutable=list(model_state), **switched
        )

    return Model(forward, variables["params"], state)


def _switches(module: Any) -> dict[str, bool]:
    """The arguments that select training: True where they mean `train`."""
    known = {
        "train": True,
        "training": True,
        "deterministic": False,
        "use_running_average": False,
    }
    taken = inspect.signature(type(module).__call__).parameters
    return {name: same for name, same in known.items() if name in taken}
