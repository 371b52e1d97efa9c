"""Where arrays live: one device, or split over a mesh.

Parameters are split by rules, or fully (each over the devices that share a batch:
ZeRO, Rajbhandari et al. 2020, https://arxiv.org/abs/1910.02054). Whatever belongs to a
parameter (masks, moments, scores, the ranges of its scanned layers) is found by its
path and split like it. XLA derives the communication (GSPMD, Xu et al. 2021,
https://arxiv.org/abs/2105.04663).
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from compress.annotations import Array, PyTree
from compress.config import Config, Sharding
from compress.config.mesh import DATA, axes_of
from compress.sites import flat_paths, parameter_paths
from compress.sites.patterns import glob, nearest_names

Specs = Mapping[str, PartitionSpec]


class Plan(NamedTuple):
    """How the arrays of a model are split.

    Attributes:
      sizes: Devices along each axis of the mesh; none without a mesh.
      sharding: The settings.
      shapes: Of the parameters, by path.
      specs: By path of a parameter, the mesh axes along its axes.
      notes: What is not split as asked.
    """

    sizes: Mapping[str, int]
    sharding: Sharding
    shapes: Mapping[str, tuple[int, ...]]
    specs: Specs
    notes: tuple[str, ...]

    def spec_of(self, path: str, leaf: Any) -> PartitionSpec:
        """How any array of a training state is split.

        One that ends in the path of a parameter is split like it, if it has its shape
        or one entry for each of its first axes. Others, such as a teacher's, follow
        the settings where those fit.
        """
        shape = tuple(np.shape(leaf))
        if _is_key(leaf) or not shape:
            return PartitionSpec()
        owner = _owner(path, self.shapes)
        if owner is not None and self.shapes[owner][: len(shape)] == shape:
            return PartitionSpec(*tuple(self.specs[owner])[: len(shape)])
        return _by_settings(self.sharding, self.sizes, path, shape)[0]


def plan_sharding(config: Config, params: PyTree, *, first: bool = True) -> Plan:
    """How a model is split over the mesh of a config; nothing is placed yet.

    Args:
      config: The run.
      params: Arrays or their shapes.
      first: Whether these are the shapes that the rules were written for. After units
        were removed, what no longer divides is left whole, and noted.

    Raises:
      ValueError: If a rule matches no parameter, or does not fit one.
    """
    sizes, sharding = dict(config.mesh or {}), config.sharding
    shapes = {p: tuple(np.shape(x)) for p, x in parameter_paths(params).items()}
    if first:
        _check_rules(sharding, list(shapes))
    specs, notes = {}, []
    for path, shape in shapes.items():
        specs[path], problem = _by_settings(sharding, sizes, path, shape)
        if problem and first:
            raise ValueError(f"sharding: {problem}")
        if problem:
            notes.append(f"sharding: {problem} It is left whole.")
    return Plan(sizes, sharding, shapes, specs, tuple(notes))


class Placement(NamedTuple):
    """Where the arrays of one phase live.

    Attributes:
      mesh: All devices; None for the first one of this process.
      plan: How arrays are split.
    """

    mesh: Mesh | None
    plan: Plan

    def shardings(self, tree: PyTree) -> PyTree:
        """Where each array of a training state belongs."""
        leaves, structure = jax.tree.flatten(tree)
        specs = map(self.plan.spec_of, flat_paths(tree), leaves)
        return jax.tree.unflatten(structure, [self._at(spec) for spec in specs])

    def put(self, tree: PyTree) -> PyTree:
        """A training state where it belongs."""
        # On its device for good: a state half placed would compile the step twice.
        if self.mesh is None:
            return jax.device_put(tree, jax.local_devices()[0])
        return jax.tree.map(_put, tree, self.shardings(tree))

    def replicate(self, tree: PyTree) -> PyTree:
        """Arrays that every device has whole, such as the training data."""
        if self.mesh is None:
            return jax.device_put(tree, jax.local_devices()[0])
        return jax.tree.map(lambda leaf: _put(leaf, self._at()), tree)

    def target(self, tree: PyTree) -> PyTree:
        """What a checkpoint is restored as: a state like `tree`, where it belongs."""
        if self.mesh is None:
            return tree
        return jax.tree.map(_like, tree, self.shardings(tree))

    def keep(self, tree: PyTree) -> PyTree:
        """In a compiled program, holds a training state where it belongs."""
        if self.mesh is None:
            return tree
        return jax.lax.with_sharding_constraint(tree, self.shardings(tree))

    def gather(self, tree: PyTree) -> PyTree:
        """In a compiled program, makes arrays whole on every device."""
        if self.mesh is None:
            return tree
        return jax.lax.with_sharding_constraint(tree, self._at())

    def split(self, batch: PyTree) -> PyTree:
        """In a compiled program, splits the examples of a batch over the mesh."""
        if self.mesh is None or DATA not in self.mesh.shape:
            return batch
        count = self.mesh.shape[DATA]
        if any(leaf.shape[0] % count for leaf in jax.tree.leaves(batch)):
            return batch  # the last examples of an evaluation
        return jax.lax.with_sharding_constraint(batch, self._at(DATA))

    def whole(self, tree: PyTree) -> PyTree:
        """All of an array, on the first device of each process."""
        if self.mesh is None:
            return tree
        return jax.tree.map(lambda leaf: _whole(leaf, self._at()), tree)

    def _at(self, spec: Any = None) -> NamedSharding:
        assert self.mesh is not None
        if not isinstance(spec, PartitionSpec):
            spec = PartitionSpec() if spec is None else PartitionSpec(spec)
        return NamedSharding(self.mesh, spec)


def place(config: Config, params: PyTree, *, first: bool = True) -> Placement:
    """The placement of a phase; see `plan_sharding`.

    Raises:
      ValueError: If the mesh is not all devices, or a rule does not fit.
    """
    plan = plan_sharding(config, params, first=first)
    if config.mesh is None:
        return Placement(None, plan)
    check_devices(config)
    names, sizes = tuple(config.mesh), tuple(config.mesh.values())
    # GSPMD decides what is communicated; explicit axes would change what models mean.
    kinds = (AxisType.Auto,) * len(names)
    return Placement(jax.make_mesh(sizes, names, axis_types=kinds), plan)


def check_devices(config: Config) -> None:
    """Refuses a mesh that is not made of all devices of all processes.

    Raises:
      ValueError: With the numbers of both.
    """
    count, processes = jax.device_count(), jax.process_count()
    if config.mesh is None:
        if processes > 1:
            raise ValueError(
                f"mesh: {processes} processes need one, or each would train alone. "
                f"Add `mesh: {{data: {count}}}` to the config."
            )
        return
    wanted = math.prod(config.mesh.values())
    if wanted != count:
        text = " x ".join(f"{name} {size}" for name, size in config.mesh.items())
        raise ValueError(
            f"mesh: {text} is {wanted} devices, and there are {count} "
            f"({jax.default_backend()}, {processes} processes). Change the mesh, as "
            f"with --set mesh.{next(iter(config.mesh))}=N, or use --set mesh=null for "
            "one device."
        )


def _check_rules(sharding: Sharding, paths: Sequence[str]) -> None:
    for pattern in sharding.rules:
        if not any(re.fullmatch(glob(pattern), path) for path in paths):
            raise ValueError(
                f'sharding: rules: "{pattern}" matches none of {len(paths)} '
                f"parameters. The nearest: {nearest_names(pattern, paths)}."
            )


def _by_settings(
    sharding: Sharding, sizes: Mapping[str, int], path: str, shape: tuple[int, ...]
) -> tuple[PartitionSpec, str]:
    """How an array is split by the settings alone, and why that is not as asked."""
    if not sizes:
        return PartitionSpec(), ""
    for pattern, entries in sharding.rules.items():
        # A teacher's parameters lie deeper in the state than the student's.
        if re.fullmatch(glob(f"**/{pattern}"), path):
            return _by_rule(pattern, entries, sizes, path, shape)
    if sharding.parameters == "fsdp" and math.prod(shape) >= sharding.min_size:
        return _fully(sizes[DATA], path, shape)
    return PartitionSpec(), ""


def _by_rule(
    pattern: str, entries: Any, sizes: Mapping[str, int], path: str, shape: Any
) -> tuple[PartitionSpec, str]:
    if len(entries) > len(shape):
        return PartitionSpec(), (
            f'rules: "{pattern}" names {len(entries)} axes, but "{path}" has the shape '
            f"{shape}. Give one mesh axis or null for each of its axes."
        )
    for axis, (entry, size) in enumerate(zip(entries, shape)):
        count = math.prod(sizes[name] for name in axes_of(entry))
        if size % count:
            return PartitionSpec(), (
                f'rules: "{pattern}" splits axis {axis} of "{path}", shape {shape}, '
                f"over {' x '.join(axes_of(entry))}, {count} devices, which do not "
                f"divide {size}. Split another axis, or give it a rule of nulls."
            )
    return PartitionSpec(*entries), ""


def _fully(count: int, path: str, shape: Any) -> tuple[PartitionSpec, str]:
    """Along the largest axis that divides, the first of equal ones."""
    fits = [axis for axis, size in enumerate(shape) if size % count == 0]
    if not fits:
        return PartitionSpec(), (
            f'fsdp: no axis of "{path}", shape {shape}, divides over data, {count} '
            f"devices. Add the rule '{path}': [] to leave it whole, or raise "
            "sharding.min_size."
        )
    best = max(fits, key=lambda axis: shape[axis])
    return PartitionSpec(*[None] * best, DATA), ""


def _owner(path: str, known: Mapping[str, Any]) -> str | None:
    """The parameter whose path is the end of this one, the longest of several."""
    parts = path.split("/")
    ends = ("/".join(parts[start:]) for start in range(len(parts)))
    return next((end for end in ends if end in known), None)


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _put(leaf: Any, sharding: NamedSharding) -> Array:
    """From an array that every process has whole."""
    if _is_key(leaf):
        data = _put(jax.random.key_data(leaf), sharding)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    host = np.asarray(leaf)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def _whole(leaf: Any, everywhere: NamedSharding) -> Array:
    if _is_key(leaf):
        data = _whole(jax.random.key_data(leaf), everywhere)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    copy = jax.device_put(leaf, everywhere).addressable_data(0)
    return jax.device_put(copy, jax.local_devices()[0])


def _like(leaf: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
