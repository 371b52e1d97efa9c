"""Techniques in order: a chain of transforms is a transform."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax

from compress.annotations import Array, PyTree
from compress.interpret import unbox
from compress.sites import Site, Sites, flatten_parameters
from compress.transform.interface import State, Transform, Update
from compress.transform.like import map_like


class ContractError(ValueError):
    """A transform broke what another one relies on."""


def chain(*transforms: Transform) -> Transform:
    """Applies transforms in order, the first one first.

    Source: the composition of optax, with more moments at which to act.

    Raises:
      ValueError: If a transform would destroy what an earlier one provides.
    """
    _check_order(transforms)
    return Transform(
        name=f"chain({', '.join(t.name for t in transforms)})",
        init=lambda params, sites: tuple(t.init(params, sites) for t in transforms),
        parameters=partial(_parameters, transforms),
        given=partial(_given, transforms),
        operands=partial(_operands, transforms),
        loss=partial(_loss, transforms),
        gradients=_joined(transforms, "gradients"),
        hold=_joined(transforms, "hold"),
        join=partial(_join, transforms),
        update=partial(_update, transforms),
        calibrate=partial(_calibrate, transforms),
        metrics=partial(_metrics, transforms),
        check=partial(_check, transforms),
        plan=partial(_plan, transforms),
        provides=frozenset[str]().union(*(t.provides for t in transforms)),
        preserves=_preserved_by_all(transforms),
    )


# The transforms of a chain, and their memories in the same order.
Links = Sequence[Transform]


def _parameters(links: Links, memory: Any, params: PyTree, step: Array) -> PyTree:
    for i, t in enumerate(links):
        params = t.parameters(memory[i], params, step) if t.parameters else params
    return params


def _joined(links: Links, moment: str) -> Any:
    """The chain's own `gradients` or `hold`; None if no link has one."""
    if all(getattr(t, moment) is None for t in links):
        return None
    return partial(_each, links, moment)


def _each(links: Links, moment: str, memory: Any, tree: Any, step: Array) -> Any:
    for i, t in enumerate(links):
        act = getattr(t, moment)
        tree = act(memory[i], tree, step) if act else tree
    return tree


def _given(links: Links, memory: Any) -> dict[str, dict[str, PyTree]]:
    by_site: dict[str, dict[str, PyTree]] = {}
    for i, t in enumerate(links):
        for name, value in (t.given(memory[i]) if t.given else {}).items():
            by_site.setdefault(name, {})[str(i)] = value
    return by_site


def _operands(
    links: Links, site: Site, given: Any, step: Array, operands: Sequence[Any]
) -> Any:
    observed = {}
    for i, t in enumerate(links):
        if t.operands:
            mine = (given or {}).get(str(i))
            operands, seen = t.operands(site, mine, step, operands)
            if seen is not None:
                observed[str(i)] = seen
    return operands, observed or None


def _loss(
    links: Links, memory: Any, step: Array, loss: Array, inputs: Any, outputs: Any
) -> Array:
    for i, t in enumerate(links):
        loss = t.loss(memory[i], step, loss, inputs, outputs) if t.loss else loss
    return loss


def _join(links: Links, observed: Mapping[str, PyTree]) -> dict[str, dict[str, PyTree]]:
    by_site: dict[str, dict[str, PyTree]] = {name: {} for name in observed}
    for i, t in enumerate(links):
        for name, seen in (t.join(_link(observed, i)) if t.join else {}).items():
            by_site[name][str(i)] = seen
    return by_site


def _update(links: Links, memory: Any, what: Update) -> tuple[PyTree, ...]:
    return tuple(
        t.update(memory[i], _for_link(links, memory, i, what))
        if t.update
        else memory[i]
        for i, t in enumerate(links)
    )


def _for_link(links: Links, memory: Any, index: int, what: Update) -> Update:
    """What one link is shown: its own observations, and the grids of later ones."""
    later = [
        partial(t.parameters, memory[i])
        for i, t in enumerate(links)
        if i > index and t.parameters is not None and "grid" in t.provides
    ]
    on_grid = partial(_on_grid, later, what) if later else what.on_grid
    return what._replace(observed=_link(what.observed, index), on_grid=on_grid)


def _on_grid(
    later: Sequence[Callable[[PyTree, Array], PyTree]], what: Update, params: PyTree
) -> PyTree:
    for grid in later:
        params = grid(params, what.step)
    _, leaves, structure = flatten_parameters(params)
    params = jax.tree.unflatten(structure, [unbox(leaf) for leaf in leaves])
    return what.on_grid(params) if what.on_grid else params


def _calibrate(
    links: Links, memory: Any, observed: Mapping[str, PyTree]
) -> tuple[PyTree, ...]:
    return tuple(
        t.calibrate(memory[i], _link(observed, i)) if t.calibrate else memory[i]
        for i, t in enumerate(links)
    )


def _metrics(links: Links, memory: Any, step: Array) -> dict[str, Array]:
    found: dict[str, Array] = {}
    for i, t in enumerate(links):
        found.update(t.metrics(memory[i], step) if t.metrics else {})
    return found


def _check(
    links: Links, memory: Any, params: PyTree, seen: PyTree, step: Any
) -> list[str]:
    problems: list[str] = []
    for i, t in enumerate(links):
        problems += t.check(memory[i], params, seen, step) if t.check else []
    return problems


def _link(observed: Mapping[str, PyTree], index: int) -> dict[str, PyTree]:
    """What one link of the chain observed."""
    key = str(index)
    return {name: seen[key] for name, seen in observed.items() if key in seen}


def _preserved_by_all(transforms: Sequence[Transform]) -> frozenset[str]:
    everything = frozenset({"mask", "grid"})
    return everything.intersection(*(t.preserves for t in transforms))


def _check_order(transforms: Sequence[Transform]) -> None:
    for later, second in enumerate(transforms):
        for first in transforms[:later]:
            for broken in sorted(first.provides - second.preserves):
                raise ValueError(
                    f"chain: {second.name} after {first.name} would destroy its "
                    f"{broken}. Put {second.name} first"
                    + (", or use one of them." if first.name == second.name else ".")
                )


def _plan(transforms: Sequence[Transform], sites: Sites) -> dict[str, str]:
    plans: dict[str, list[str]] = {}
    for transform in transforms:
        for name, plan in (transform.plan(sites) if transform.plan else {}).items():
            plans.setdefault(name, []).append(plan)
    return {name: "; ".join(parts) for name, parts in plans.items()}


def parameters(transform: Transform, params: PyTree, state: State) -> PyTree:
    """The parameters as the forward pass sees them: masked, quantized."""
    if transform.parameters is None:
        return params
    return transform.parameters(state.memory, params, state.step)


def loss(
    transform: Transform, state: State, loss: Array, inputs: Any, outputs: Any
) -> Array:
    """The loss to train on, from the task's own `loss` on these inputs and outputs."""
    if transform.loss is None:
        return loss
    return transform.loss(state.memory, state.step, loss, inputs, outputs)


def gradients(transform: Transform, state: State, grads: PyTree) -> PyTree:
    """The gradients for the optimizer; `update` is given the original ones."""
    if transform.gradients is None:
        return grads
    return transform.gradients(state.memory, grads, state.step)


def hold(
    transform: Transform, state: State, params: PyTree, optimizer_state: PyTree
) -> tuple[PyTree, PyTree]:
    """Parameters and optimizer state after the optimizer's update, zeros where needed.

    Connections that may come back later (RigL) do so at zero and without momentum.

    Args:
      transform: What was given to `init`.
      state: Before `update`.
      params: After the optimizer's update.
      optimizer_state: Likewise. Arrays that belong to a parameter are found by the end
        of their path and their shape; what is shared by several weights stays.
    """
    if transform.hold is None:
        return params, optimizer_state
    act = partial(_hold_leaf, transform.hold, state)
    return map_like((params, optimizer_state), params, act)


def _hold_leaf(moment: Any, state: State, path: str, leaf: Array) -> Array:
    return moment(state.memory, {path: leaf}, state.step)[path]


def join(transform: Transform, observed: Mapping[str, PyTree]) -> Mapping[str, PyTree]:
    """What a whole batch would have shown.

    Args:
      transform: What was given to `init`.
      observed: From `observe` on equal parts of the batch, stacked along a new first
        axis.
    """
    return transform.join(observed) if transform.join else {}


def update(
    transform: Transform,
    state: State,
    params: PyTree,
    grads: PyTree = None,
    observed: Mapping[str, PyTree] | None = None,
    before: PyTree = None,
) -> State:
    """The state after an optimizer step that gave `params`.

    Args:
      transform: What was given to `init`.
      state: Before the step.
      params: After it.
      grads: Of the loss, as `jax.grad` gave them.
      observed: From `observe`.
      before: The parameters before the step; movement pruning needs them.
    """
    step = state.step + 1
    if transform.update is None:
        return State(step, state.memory)
    memory = transform.update(
        state.memory, Update(step, params, grads, dict(observed or {}), before)
    )
    return State(step, memory)


def metrics(transform: Transform, state: State) -> dict[str, Array]:
    """Scalars worth logging, such as the sparsity reached."""
    if transform.metrics is None:
        return {}
    return dict(transform.metrics(state.memory, state.step))


def check(
    transform: Transform, params: PyTree, state: State, seen: PyTree = None
) -> None:
    """Asserts every contract of the chain on concrete parameters.

    Args:
      transform: What was given to `init`.
      params: The parameters.
      state: After any number of steps.
      seen: The parameters as the forward pass sees them, where they are known.

    Raises:
      ContractError: With every breach found.
    """
    if transform.check is None:
        return
    if seen is None:
        seen = jax.jit(lambda p, s: parameters(transform, p, s))(params, state)
    problems = transform.check(state.memory, params, seen, int(state.step))
    if problems:
        raise ContractError("\n".join(problems))
