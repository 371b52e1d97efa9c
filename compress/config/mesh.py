"""The schema of a mesh of devices, and of how arrays are split over it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from compress.config.base import Many, Model, Name, as_tuple
from compress.config.errors import Problem
from compress.config.names import did_you_mean

if TYPE_CHECKING:
    from compress.config.models import Config

# Along this axis of the mesh batches are split, and parameters where fully sharded.
DATA = "data"

Mesh = Mapping[Name, Annotated[int, Field(ge=1)]]
# The axis of the mesh along one axis of a parameter; several split it further.
Axis = Annotated[str | tuple[str, ...] | None, BeforeValidator(as_tuple)]


class Sharding(Model):
    """How parameters, and all that follows them, are split over the mesh."""

    parameters: Literal["replicated", "fsdp"] = Field(
        default="replicated",
        description="Those without a rule: whole on every device, or split over data.",
    )
    rules: Mapping[Name, Many[Axis]] = Field(
        default_factory=dict,
        description="By glob of parameter paths, the mesh axis along each axis, or "
        "null; the first that matches: `'**/up/kernel': [null, model]`.",
    )
    min_size: int = Field(
        default=4096,
        ge=1,
        description="fsdp leaves parameters with fewer elements whole.",
    )


def axes_of(entry: Any) -> tuple[str, ...]:
    """The mesh axes along one axis of a parameter."""
    if entry is None:
        return ()
    return (entry,) if isinstance(entry, str) else entry


def _a_mesh_is_there(config: Config) -> Iterator[Problem]:
    sharding = config.sharding
    if config.mesh is None and (sharding.rules or sharding.parameters == "fsdp"):
        message = "there is no mesh to split over; add `mesh: {data: 4}`, or remove it"
        yield Problem(("sharding",), message)


def _fsdp_has_its_axis(config: Config) -> Iterator[Problem]:
    if config.mesh and config.sharding.parameters == "fsdp" and DATA not in config.mesh:
        message = (
            f"fsdp splits over the mesh axis data, and the mesh has only "
            f"{', '.join(config.mesh)}; add data to it, or use rules"
        )
        yield Problem(("sharding", "parameters"), message)


def _batches_divide(config: Config) -> Iterator[Problem]:
    data, parts = (config.mesh or {}).get(DATA, 1), config.accumulate
    if data > 1 and config.batch_size % (data * parts):
        unit = data * parts
        near = max(unit, round(config.batch_size / unit) * unit)
        several = f" times accumulate={parts}" if parts > 1 else ""
        message = (
            f"found {config.batch_size}, which mesh.data={data}{several} does not "
            f"divide; give a multiple of {unit}, such as {near}"
        )
        yield Problem(("batch_size",), message)


def _axes_are_known(config: Config) -> Iterator[Problem]:
    if config.mesh is None:
        return
    for pattern, entries in config.sharding.rules.items():
        path, seen = ("sharding", "rules", pattern), set[str]()
        for axis in (axis for entry in entries for axis in axes_of(entry)):
            if axis not in config.mesh:
                known = did_you_mean(axis, config.mesh)
                yield Problem(path, f"the mesh has no axis {axis!r}; {known}")
            if axis in seen:
                message = f"{axis!r} is there twice; a parameter has it along one axis"
                yield Problem(path, message)
            seen.add(axis)


def _axes_are_used(config: Config) -> Iterator[Problem]:
    rules = config.sharding.rules.values()
    used = {axis for entries in rules for entry in entries for axis in axes_of(entry)}
    for axis, size in (config.mesh or {}).items():
        if size > 1 and axis != DATA and axis not in used:
            message = (
                f"no rule of sharding uses the axis {axis!r}, so its devices would "
                "repeat the work of others; name it in a rule, or call it data"
            )
            yield Problem(("mesh", axis), message)


CHECKS = (
    _a_mesh_is_there,
    _fsdp_has_its_axis,
    _batches_divide,
    _axes_are_known,
    _axes_are_used,
)
