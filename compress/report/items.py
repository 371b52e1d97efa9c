"""The metric of every test item, as `result.json` holds it.

What is right or wrong is a bit per item, `correct`; any other metric is a float32 per
item, `per_example`, little-endian. Both are base64.
"""

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np

from compress.annotations import Shaped

_FLOAT = np.dtype("<f4")


def pack_items(values: Shaped[np.ndarray, "items"]) -> dict[str, str]:
    """The entry of `result.json` for bools or numbers, one per item."""
    if values.dtype == bool:
        return {"correct": _encoded(np.packbits(values))}
    return {"per_example": _encoded(values.astype(_FLOAT))}


def unpack_items(
    result: Mapping[str, Any], num_test: int
) -> Shaped[np.ndarray, "items"]:
    """What `pack_items` packed.

    Raises:
      ValueError: If there is none of both, or it is not of `num_test` items.
    """
    if "correct" in result:
        size, what = (num_test + 7) // 8, "base64 of np.packbits, a bit per test item"
        data = _decoded("correct", result["correct"], size, num_test, what)
        return np.unpackbits(np.frombuffer(data, np.uint8), count=num_test).astype(bool)
    if "per_example" in result:
        what = "base64 of a little-endian float32 per test item"
        text, size = result["per_example"], num_test * _FLOAT.itemsize
        data = _decoded("per_example", text, size, num_test, what)
        return np.frombuffer(data, _FLOAT).astype(np.float32)
    raise ValueError("missing correct, or per_example. Write it again.")


def _encoded(array: np.ndarray) -> str:
    return base64.b64encode(array.tobytes()).decode()


def _decoded(key: str, text: str, size: int, num_test: int, what: str) -> bytes:
    data = base64.b64decode(text)
    if len(data) != size:
        raise ValueError(
            f"{key} holds {len(data)} bytes, but num_test={num_test} needs {size}. "
            f"Write {what}."
        )
    return data
