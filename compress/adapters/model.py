"""A model as a pure function: what every framework is turned into."""

from collections.abc import Callable
from typing import Any, NamedTuple

from compress.annotations import PyTree


class Model(NamedTuple):
    """A pure function and its arrays.

    Attributes:
      forward: `(params, model_state, *inputs, train=False, key=None) -> (outputs,
        model_state)`. `train` selects dropout and batch statistics, `key` is theirs.
      params: Trainable, nested dicts of arrays.
      model_state: The rest that changes, such as batch statistics; nested dicts.
    """

    forward: Callable[..., tuple[Any, PyTree]]
    params: PyTree
    model_state: PyTree

    def predictor(self, model_state: PyTree = None) -> Callable[..., Any]:
        """The inference function `(params, *inputs) -> outputs`.

        Args:
          model_state: To infer with; by default the one the model came with.
        """
        state = self.model_state if model_state is None else model_state

        def predict(params: PyTree, *inputs: Any) -> Any:
            return self.forward(params, state, *inputs)[0]

        return predict
