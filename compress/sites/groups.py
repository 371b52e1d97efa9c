"""Groups of channels that are removed together."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np


class Member(NamedTuple):
    path: str
    axis: int
    indices: np.ndarray
    reads: bool
    writes: bool
    layer_axis: int | None


@dataclasses.dataclass(frozen=True)
class Group:
    name: str
    kind: str
    size: int
    layers: int | None
    members: tuple[Member, ...]
    frozen: str | None
    signature: str


@dataclasses.dataclass(frozen=True)
class Groups:
    groups: tuple[Group, ...]
    count_parameters: Callable[[Mapping[str, int]], int] | None = None
    count_macs: Callable[[Mapping[str, int]], int] | None = None

    def __iter__(self) -> Iterator[Group]:
        return iter(self.groups)

    @property
    def free(self) -> tuple[Group, ...]:
        return tuple(g for g in self.groups if g.frozen is None)

    def parameters(self, sizes: Mapping[str, int]) -> int:
        assert self.count_parameters is not None
        return self.count_parameters(sizes)

    def macs(self, sizes: Mapping[str, int]) -> int:
        assert self.count_macs is not None
        return self.count_macs(sizes)

    def matching(
        self, patterns: str | Sequence[str], exclude: Any = (), *, user: str
    ) -> list[Group]:
        import fnmatch

        wanted = [patterns] if isinstance(patterns, str) else patterns
        skip = [exclude] if isinstance(exclude, str) else exclude
        for p in wanted:
            hit = [g for g in self.groups if fnmatch.fnmatchcase(g.name, p)]
            if not hit:
                raise ValueError(f'{user}: groups="{p}" matches none')
            if len(hit) == 1 and hit[0].frozen and hit[0].name == p:
                raise ValueError(f'{user}: group "{p}" is frozen: {hit[0].frozen}')
        return [
            g
            for g in self.free
            if any(fnmatch.fnmatchcase(g.name, p) for p in wanted)
            and not any(fnmatch.fnmatchcase(g.name, p) for p in skip)
        ]
