"""What a technique is: pure functions, each optional, around a pytree of state."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from compress.annotations import Array, Int, PyTree
from compress.sites import Site, Sites

# Arrays by the path of the parameter they belong to.
Leaves = Mapping[str, Array]


class State(NamedTuple):
    """What a transform remembers.

    Attributes:
      step: Updates done so far; everything that varies with time is a function of it.
      memory: The transform's own state, whatever its `init` returned.
    """

    step: Int[Array, ""]
    memory: PyTree


class Update(NamedTuple):
    """What a transform may look at after an optimizer step.

    Attributes:
      step: Updates done, this one included.
      params: After the optimizer's update.
      grads: Of the loss, like the parameters, before `gradients` changed them; None
        when there are none.
      before: The parameters the gradients are of; None when they are not given.
      observed: What `operands` observed, by site name.
      on_grid: `(params) -> params` with the values that later transforms of the chain
        round them to at this step; None if no later one provides a grid.
    """

    step: Int[Array, ""]
    params: PyTree
    grads: PyTree
    observed: Mapping[str, PyTree]
    before: PyTree = None
    on_grid: Callable[[PyTree], PyTree] | None = None


class Transform(NamedTuple):
    """A compression technique, as the moments at which it acts.

    Attributes:
      name: For messages, `prune.magnitude`.
      init: `(params, sites) -> memory`.
      parameters: `(memory, params, step) -> params` as the forward pass sees them.
      given: `(memory) -> {site name: pytree}`, what `operands` gets at each site; for
        a site inside scans with one leading axis per scan.
      operands: `(site, given, step, operands) -> (operands, observed)`.
      loss: `(memory, step, loss, inputs, outputs) -> loss`.
      gradients: `(memory, grads, step) -> grads` as the optimizer sees them.
      hold: `(memory, {path: array}, step) -> {path: array}`: parameters after the
        optimizer's update, and arrays of its state that belong to one (moments), with
        zeros where nothing may be kept.
      join: `(observed) -> observed`: what a whole batch would have shown, from what its
        parts did, stacked; needed by every transform that observes.
      update: `(memory, Update) -> memory`, after every optimizer step.
      calibrate: `(memory, observed) -> memory`, for one batch of calibration data.
      metrics: `(memory, step) -> {name: scalar}`.
      check: `(memory, params, seen, step) -> problems`: breaches of its contract,
        given concrete arrays; `seen` is what the forward pass sees.
      plan: `(sites) -> {site name: what will happen there}`.
      provides: Properties of the parameters it establishes: `mask`, `grid`.
      preserves: Properties established before it that it leaves intact.
    """

    name: str
    init: Callable[[PyTree, Sites], PyTree]
    parameters: Callable[[PyTree, PyTree, Array], PyTree] | None = None
    given: Callable[[PyTree], Mapping[str, PyTree]] | None = None
    operands: Callable[[Site, Any, Array, Sequence[Any]], tuple[Any, Any]] | None = None
    loss: Callable[[PyTree, Array, Array, Any, Any], Array] | None = None
    gradients: Callable[[PyTree, PyTree, Array], PyTree] | None = None
    hold: Callable[[PyTree, Leaves, Array], Leaves] | None = None
    join: Callable[[Mapping[str, PyTree]], Mapping[str, PyTree]] | None = None
    update: Callable[[PyTree, Update], PyTree] | None = None
    calibrate: Callable[[PyTree, Mapping[str, PyTree]], PyTree] | None = None
    metrics: Callable[[PyTree, Array], Mapping[str, Array]] | None = None
    check: Callable[[PyTree, PyTree, PyTree, Any], list[str]] | None = None
    plan: Callable[[Sites], Mapping[str, str]] | None = None
    provides: frozenset[str] = frozenset()
    preserves: frozenset[str] = frozenset()
