"""Flax NNX modules as pure functions."""

from typing import Any

import jax

from compress.adapters.model import Model
from compress.annotations import PyTree


def from_nnx(module: Any) -> Model:
    """Turns a Flax NNX module into a `Model`; the module itself is not changed.

    Args:
      module: A `flax.nnx.Module` whose `__call__` takes the inputs. Dropout follows
        its `deterministic`, batch normalisation its `use_running_average` attribute,
        both set from `train`.

    Returns:
      The model; names are attribute paths, `blocks/0/kernel`. Its `forward` raises
      ValueError if it is to train a module that draws random numbers without a key.
    """
    from flax import nnx

    graph, params, statistics, rest = nnx.split(module, nnx.Param, nnx.BatchStat, ...)

    def forward(
        params_: PyTree,
        model_state: PyTree,
        *inputs: Any,
        train: bool = False,
        key: Any = None,
    ) -> tuple[Any, PyTree]:
        merged = nnx.merge(
            graph,
            _filled(params, params_),
            _filled(statistics, model_state),
            rest,
            copy=True,  # else the caller's variables would be changed in place
        )
        view = _view(merged, train)
        _reseed(view, train, key)
        outputs = view(*inputs)
        return outputs, _plain(nnx.state(view, nnx.BatchStat))

    return Model(forward, _plain(params), _plain(statistics))


def _view(module: Any, train: bool) -> Any:
    """The module in train or inference mode, whichever of the switches it has."""
    from flax import nnx

    switches = {"deterministic": not train, "use_running_average": not train}
    present = {
        name: value
        for name, value in switches.items()
        if any(hasattr(m, name) for _, m in nnx.iter_modules(module))
    }
    return nnx.view(module, **present) if present else module


def _reseed(module: Any, train: bool, key: Any) -> None:
    """Gives every random stream a key of its own; layers of a scan, one each."""
    from flax import nnx

    nodes = (node for _, node in nnx.iter_graph(module))
    tags = sorted({n.tag for n in nodes if isinstance(n, nnx.RngStream)})
    if key is not None:
        keys: Any = {t: jax.random.fold_in(key, i) for i, t in enumerate(tags)}
        nnx.reseed(module, policy="match_shape", **keys)
    elif train and tags:
        raise ValueError(
            f"from_nnx: the module draws random numbers ({', '.join(tags)}) and would "
            "draw the same ones in every step. Pass key= with train=True."
        )


def _plain(state: Any) -> PyTree:
    """A state as nested dicts of arrays with string keys (lists have integers)."""
    plain: dict[str, Any] = {}
    for path, leaf in _leaves(state).items():
        node = plain
        for part in path[:-1]:
            node = node.setdefault(str(part), {})
        node[str(path[-1])] = leaf
    return plain


def _leaves(state: Any) -> dict[tuple[Any, ...], Any]:
    from flax import nnx

    return {
        path: variable[...] if isinstance(variable, nnx.Variable) else variable
        for path, variable in nnx.to_flat_state(state)
    }


def _filled(template: Any, plain: PyTree) -> Any:
    """A state like `template` with the arrays of `plain`."""
    from flax import nnx

    def array_at(path: tuple[Any, ...]) -> Any:
        node = plain
        for part in path:
            node = node[str(part)]
        return node

    flat = [
        (path, variable.replace(array_at(path)))
        for path, variable in nnx.to_flat_state(template)
    ]
    filled = nnx.from_flat_state(flat)
    return filled if flat else jax.tree.map(lambda x: x, template)
