"""Stores arrays of any JAX dtype in a safetensors file that NumPy alone can read.

A dtype NumPy lacks is kept as bytes, with the true dtype and shape in the file's
metadata, `{"dtypes": '{name: {"dtype": ..., "shape": [...]}}'}`: fp8 one value per
byte, int4 two per byte in C order, the first of a pair in the low four bits.
"""

import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from compress.export.manifest import ArtifactError

_DTYPES = "dtypes"
# What safetensors writes as it is; bfloat16 is a type of the format.
_NATIVE = frozenset({"bool", "float16", "float32", "float64", "bfloat16"}) | {
    f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)
}
# In the order of the format's own list, by which it sorts arrays in a file.
_CODES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "int16": "I16",
    "uint16": "U16",
    "float16": "F16",
    "bfloat16": "BF16",
    "int32": "I32",
    "uint32": "U32",
    "float32": "F32",
    "float64": "F64",
    "int64": "I64",
    "uint64": "U64",
}
_NIBBLES = frozenset({"int4", "uint4"})


def write_arrays(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays of any real dtype of JAX.

    Raises:
      ArtifactError: If a dtype cannot be stored.
    """
    stored = {name: _stored(name, array) for name, array in arrays.items()}
    save_file(stored, path, _metadata(arrays))
    # As any new file there, not for its owner alone, as safetensors leaves it.
    path.chmod(path.parent.stat().st_mode & 0o666)


def _metadata(arrays: Mapping[str, Any]) -> dict[str, str] | None:
    """The true dtypes and shapes of what the format does not know."""
    dtypes = {
        name: {"dtype": x.dtype.name, "shape": list(x.shape)}
        for name, x in arrays.items()
        if x.dtype.name not in _NATIVE
    }
    return {_DTYPES: json.dumps(dtypes)} if dtypes else None


def _stored(name: str, array: np.ndarray) -> np.ndarray:
    kind = array.dtype.name
    if kind in _NATIVE:
        return np.ascontiguousarray(array).reshape(array.shape)
    if kind in _NIBBLES:
        return pack_nibbles(array.astype(np.int8))
    if kind.startswith("float8_"):
        return np.ascontiguousarray(array).reshape(array.shape).view(np.uint8)
    raise ArtifactError(
        f'export "{name}": {kind} cannot be stored. Ship it as one of '
        f"{', '.join(sorted(_NATIVE | _NIBBLES))} or float8_*."
    )


def bits_per_element(array: np.ndarray | jax.ShapeDtypeStruct) -> int:
    """Bits that an element takes in the file."""
    return 4 if array.dtype.name in _NIBBLES else 8 * array.dtype.itemsize


def stored_bytes(array: np.ndarray | jax.ShapeDtypeStruct) -> int:
    """Bytes that an array takes in the file."""
    return math.ceil(array.size * bits_per_element(array) / 8)


def file_bytes(arrays: Mapping[str, jax.ShapeDtypeStruct]) -> int:
    """Bytes of the file that `write_arrays` would make of arrays of these shapes.

    Source: the layout of a header, https://github.com/huggingface/safetensors#format;
    arrays lie in it by dtype, the last of `_CODES` first, then by name.
    """
    metadata = _metadata(arrays)
    layouts = {name: _layout(name, x) for name, x in arrays.items()}
    order = list(_CODES)
    names = sorted(layouts, key=lambda name: (-order.index(layouts[name][0]), name))
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    end = 0
    for name in names:
        kind, shape = layouts[name]
        start, end = end, end + math.prod(shape) * jnp.dtype(kind).itemsize
        entry = {"dtype": _CODES[kind], "shape": shape, "data_offsets": [start, end]}
        header[name] = entry
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False)
    return 8 + -(-len(text.encode()) // 8) * 8 + end


def _layout(name: str, x: jax.ShapeDtypeStruct) -> tuple[str, list[int]]:
    """The dtype and shape under which `_stored` keeps an array."""
    kind = x.dtype.name
    if kind in _NATIVE:
        return kind, list(x.shape)
    if kind in _NIBBLES:
        return "uint8", [(math.prod(x.shape) + 1) // 2]
    return "uint8", list(x.shape)


def pack_nibbles(values: np.ndarray) -> np.ndarray:
    """Integers of four bits, two per byte, flat; an odd last one shares with 0."""
    low = (values.reshape(-1).astype(np.int8).view(np.uint8)) & 0x0F
    low = np.append(low, np.zeros(low.size % 2, np.uint8))
    return low[0::2] | (low[1::2] << 4)


def unpack_nibbles(packed: np.ndarray, shape: Any, *, signed: bool) -> np.ndarray:
    """The int8 (or uint8) integers of `shape` that `pack_nibbles` packed."""
    both = np.stack([packed & 0x0F, packed >> 4], axis=-1).reshape(-1)
    values = both[: math.prod(shape)]
    if signed:
        values = (values ^ 8).astype(np.int8) - np.int8(8)
    return values.reshape(shape)


def read_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of a file, in their true dtypes.

    Sizes come from the file: what its header claims beyond its end is refused by
    safetensors before anything is allocated.

    Raises:
      ArtifactError: If the file is not one, or its metadata do not fit its arrays.
    """
    try:
        with safe_open(path, framework="np") as file:
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
        dtypes = json.loads(metadata.get(_DTYPES, "{}"))
    except OSError:
        raise
    except (SafetensorError, ValueError, AttributeError, RecursionError) as error:
        raise ArtifactError(f"{path}: {str(error)[:300]}. Export again.") from None
    if not isinstance(dtypes, dict) or not dtypes.keys() <= stored.keys():
        raise ArtifactError(f"{path}: its dtypes name other arrays. Export again.")
    for name, entry in dtypes.items():
        stored[name] = _restored(path, name, stored[name], entry)
    return stored


def _restored(
    path: pathlib.Path, name: str, stored: np.ndarray, entry: Any
) -> np.ndarray:
    """An array in the dtype that the metadata give it."""
    kind, shape = _entry(path, name, entry)
    size = math.prod(shape)
    needed = (size + 1) // 2 if kind in _NIBBLES else size
    if stored.dtype != np.uint8 or stored.size != needed:
        raise ArtifactError(
            f'{path}: "{name}" is stored as {stored.dtype}{list(stored.shape)}, which '
            f"is not {kind}{shape}. Export again."
        )
    if kind in _NIBBLES:
        values = unpack_nibbles(stored.reshape(-1), shape, signed=kind == "int4")
        return values.astype(jnp.dtype(kind))
    return stored.view(jnp.dtype(kind)).reshape(shape)


def _entry(path: pathlib.Path, name: str, entry: Any) -> tuple[str, list[int]]:
    kind = entry.get("dtype") if isinstance(entry, dict) else None
    shape = entry.get("shape") if isinstance(entry, dict) else None
    known = isinstance(kind, str) and (kind in _NIBBLES or _is_fp8(kind))
    counts = isinstance(shape, list) and all(
        type(size) is int and 0 <= size < 2**48 for size in shape
    )
    if not known or not counts or len(shape) > 32:
        raise ArtifactError(
            f'{path}: "{name}" has no dtype and shape that can be read '
            f"({str(entry)[:100]}). Update jax-compress, or export again."
        )
    return str(kind), shape


def _is_fp8(kind: str) -> bool:
    return kind.startswith("float8_") and hasattr(jnp, kind)
