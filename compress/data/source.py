"""What data look like: arrays by field, or a source of single examples."""

import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

# Examples as arrays, NumPy's or JAX's, with one leading axis, by field.
Batch = Mapping[str, Any]


# What a file raises, or a member of an archive, that is not what it should be.
UNREADABLE: tuple[type[Exception], ...] = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    RuntimeError,  # zipfile's, of a member with a password or an unknown compression
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


class DataError(ValueError):
    """Files that cannot be used as data."""


@dataclass(frozen=True)
class Source:
    """Examples that are read from files when they are needed.

    It has the interface of a grain data source, so `grain.MapDataset.source` takes it.

    Attributes:
      read: `(index) -> {field: array}`, one example; several threads call it at once.
      size: How many examples there are.
      fingerprint: What tells these data from others, such as names and hashes of files.
      skipped: Files that could not be read and were left out, with the reason.
    """

    read: Callable[[int], Mapping[str, np.ndarray]]
    size: int
    fingerprint: str
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: Any) -> Mapping[str, np.ndarray]:
        return self.read(int(index))


# A Batch with every example, or a Source.
Data = Any


def num_examples(data: Data) -> int:
    """How many examples there are."""
    if isinstance(data, Source):
        return data.size
    return len(next(iter(data.values())))


def rows(data: Data, indices: Sequence[int] | np.ndarray) -> dict[str, np.ndarray]:
    """The examples at these positions, as NumPy arrays by field."""
    if not isinstance(data, Source):
        return {name: np.asarray(x)[indices] for name, x in data.items()}
    examples = [data[index] for index in indices]
    return {
        name: np.stack([example[name] for example in examples]) for name in examples[0]
    }


def batches_of(data: Data, size: int) -> Iterator[dict[str, np.ndarray]]:
    """All examples in order, `size` at a time; the last batch may be smaller."""
    total = num_examples(data)
    for start in range(0, total, size):
        yield rows(data, np.arange(start, min(start + size, total)))


def shapes_of(data: Data) -> dict[str, jax.ShapeDtypeStruct]:
    """Shape and dtype of one example, by field; of a source, of its first."""
    example = rows(data, [0])
    return {
        name: jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for name, x in example.items()
    }
