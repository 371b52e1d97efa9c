"""A site: one contraction of the traced model, named by the parameter it reads."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from compress.interpret import Location


@dataclasses.dataclass(frozen=True)
class Site:
    """One place that can be compressed.

    Attributes:
      name: Unique. The path of its weight; `#1`, `#2` for further uses of one weight;
        for a site without a weight the enclosing name scope, or the nearest weight
        before it, and `~` with a number.
      op: `dot_general`, `conv_general_dilated` or `ragged_dot`.
      path: Of the parameter it reads, `blocks/mlp/kernel`; None without a weight.
      weight_side: The operand that is the weight, 0 or 1; None without one.
      weight_shape: Of the whole parameter, scanned layers included; () without one.
      weight_dtype: Of the parameter.
      contracting: Axes of the parameter that the site sums over.
      output: Axes of the parameter that become axes of the result.
      window: The contracting axes that a convolution's window runs along.
      operand_shapes: As the site reads them.
      out_shape: Of the result.
      activation_contracting: Axes of the other operand that are summed over; for a
        convolution all but the batch axis.
      paired: Axes of the other operand that are summed with axes of the parameter, and
        these; of a convolution the features only.
      stack: Lengths of the scans around the site.
      macs_once: Multiply-accumulates of one execution, over all devices.
      reason: Why the site cannot be compressed, or None.
      source: The user's line, `model.py:12 (forward)`.
      location: Where its equation stands in the traced program.
    """

    name: str
    op: str
    path: str | None
    weight_side: int | None
    weight_shape: tuple[int, ...]
    weight_dtype: Any
    contracting: tuple[int, ...]
    output: tuple[int, ...]
    window: tuple[int, ...]
    operand_shapes: tuple[tuple[Any, ...], tuple[Any, ...]]
    out_shape: tuple[Any, ...]
    activation_contracting: tuple[int, ...]
    paired: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
    stack: tuple[int, ...]
    macs_once: Any
    reason: str | None
    source: str
    location: Location

    @property
    def macs(self) -> Any:
        """Multiply-accumulates of one forward pass, scans included."""
        return self.macs_once * math.prod(self.stack)

    @property
    def weight_size(self) -> int:
        """Elements of the parameter; 0 without one."""
        return math.prod(self.weight_shape) if self.path is not None else 0

    @property
    def weight_bytes(self) -> int:
        """Bytes of the parameter as it is now."""
        return self.weight_size * self.weight_dtype.itemsize if self.path else 0

    @property
    def stacked(self) -> tuple[int, ...]:
        """Axes of the parameter that are neither contracted nor output: layers."""
        used = {*self.contracting, *self.output}
        return tuple(i for i in range(len(self.weight_shape)) if i not in used)


@dataclasses.dataclass(frozen=True)
class Sites:
    """The sites of a model, in the order of its program.

    Attributes:
      sites: The sites.
      embeddings: Paths of parameters whose rows are looked up.
    """

    sites: tuple[Site, ...]
    embeddings: frozenset[str] = frozenset()

    def __iter__(self) -> Iterator[Site]:
        return iter(self.sites)

    def __len__(self) -> int:
        return len(self.sites)

    def __getitem__(self, name: str) -> Site:
        for site in self.sites:
            if site.name == name:
                return site
        raise KeyError(name)

    @property
    def weighted(self) -> tuple[Site, ...]:
        """The sites that read a parameter and can be compressed."""
        return tuple(s for s in self.sites if s.path is not None and s.reason is None)

    def by_path(self) -> dict[str, list[Site]]:
        """The sites that read each parameter."""
        paths: dict[str, list[Site]] = {}
        for site in self.weighted:
            paths.setdefault(str(site.path), []).append(site)
        return paths

    def table(self, plans: Mapping[str, str] | None = None) -> str:
        """A table for people; `plans` adds a column, what will happen, by name."""
        columns: dict[str, Callable[[Site], str]] = {
            "site": lambda s: s.name,
            "op": lambda s: _OPS.get(s.op, s.op),
            "weight": lambda s: _shape(s.weight_shape) if s.path else "-",
            "in": lambda s: ",".join(map(str, s.contracting)) or "-",
            "out": lambda s: ",".join(map(str, s.output)) or "-",
            "MACs": lambda s: f"{s.macs:,}" if isinstance(s.macs, int) else str(s.macs),
            "bytes": lambda s: f"{s.weight_bytes:,}",
            "source": lambda s: s.source,
        }
        if plans is not None:
            columns["plan"] = lambda s: s.reason or plans.get(s.name, "stays as it is")
        elif any(s.reason for s in self.sites):
            columns["note"] = lambda s: s.reason or ""
        rows = [list(columns), *([show(s) for show in columns.values()] for s in self)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(columns))]
        lines = [
            "  ".join(c.ljust(w) for c, w in zip(r, widths)).rstrip() for r in rows
        ]
        return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])

    def __str__(self) -> str:
        return self.table()


_OPS = {"dot_general": "dot", "conv_general_dilated": "conv", "ragged_dot": "ragged"}


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "()"
