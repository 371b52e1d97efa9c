"""Float constants of a `.tflite` file, read without TensorFlow.

Only the few tables of the format that lead from an operator to its constants are read:
https://github.com/tensorflow/tensorflow/blob/master/tensorflow/compiler/mlir/lite/schema/schema.fbs
"""

import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from flatbuffers import number_types
from flatbuffers.table import Table

# Positions of fields in their tables, from the schema.
_SUBGRAPHS, _BUFFERS = 2, 4  # of a model
_TENSORS, _OPERATORS = 0, 3  # of a subgraph
_SHAPE, _TYPE, _BUFFER = 0, 1, 2  # of a tensor
_INPUTS = 1  # of an operator
_DATA = 0  # of a buffer
_FLOAT32 = 0
_INT8 = number_types.Int8Flags
_UINT32 = number_types.Uint32Flags


def float_constants(path: pathlib.Path) -> list[list[np.ndarray]]:
    """The float32 constants of each operator that has any, in the order of execution.

    A convolution's are its kernel `[out, height, width, in]` and its bias.
    """
    data = path.read_bytes()
    if data[4:8] != b"TFL3":
        raise ValueError(f"{path}: not a .tflite file.")
    root = int.from_bytes(data[:4], "little")
    model = Table(bytearray(data), root)
    graph = next(_tables(model, _SUBGRAPHS))
    buffers = list(_tables(model, _BUFFERS))
    tensors = list(_tables(graph, _TENSORS))
    found = []
    for operator in _tables(graph, _OPERATORS):
        inputs = [tensors[i] for i in _numbers(operator, _INPUTS, np.int32) if i >= 0]
        arrays = [_constant(tensor, buffers) for tensor in inputs]
        found.append([array for array in arrays if array is not None])
    return [arrays for arrays in found if arrays]


def _constant(tensor: Table, buffers: list[Table]) -> np.ndarray | None:
    """The array of a tensor; None if it is computed, or not float32."""
    content = _numbers(buffers[_number(tensor, _BUFFER, _UINT32)], _DATA, np.uint8)
    if _number(tensor, _TYPE, _INT8) != _FLOAT32 or not content.size:
        return None
    shape = _numbers(tensor, _SHAPE, np.int32)
    return content.view("<f4").reshape(shape).copy()


def _number(table: Table, index: int, kind: Any) -> int:
    where = _field(table, index)
    return table.Get(kind, table.Pos + where) if where else 0


def _field(table: Table, index: int) -> int:
    """Where a field is, or 0 if the table does not have it."""
    return table.Offset(4 + 2 * index)


def _tables(table: Table, index: int) -> Iterator[Table]:
    where = _field(table, index)
    for i in range(table.VectorLen(where) if where else 0):
        yield Table(table.Bytes, table.Indirect(table.Vector(where) + 4 * i))


def _numbers(table: Table, index: int, dtype: Any) -> np.ndarray:
    where = _field(table, index)
    if not where:
        return np.empty(0, dtype)
    start, count = table.Vector(where), table.VectorLen(where)
    return np.frombuffer(table.Bytes, dtype, count, start)
