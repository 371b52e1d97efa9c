"""Several processes that run one program over the devices of all (jax.distributed).

Every process makes the same calls in the same order: whatever only one can know (a
signal, a lock, a file) is agreed on first.
"""

import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils


class ProcessError(RuntimeError):
    """What went wrong in process 0, as the others are told."""


def several() -> bool:
    """Whether there is more than this process."""
    return jax.process_count() > 1


def is_primary() -> bool:
    """Whether this process writes logs and results."""
    return jax.process_index() == 0


def any_of(flag: bool) -> bool:
    """Whether it is true in any process."""
    if not several():
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.bool_(flag))))


def on_primary(work: Callable[[], Any]) -> Any:
    """What `work` gives in process 0, in every process; the others wait for it.

    Args:
      work: Returns what JSON can hold, where there are several processes.

    Raises:
      ProcessError: In the other processes, if it fails in process 0.
    """
    if not several():
        return work()
    if not is_primary():
        told = json.loads(_from_primary(""))
        if "error" in told:
            raise ProcessError(f"process 0: {told['error']}")
        return told["value"]
    try:
        value = work()
        text = json.dumps({"value": value})
    except Exception as error:
        _from_primary(json.dumps({"error": f"{type(error).__name__}: {error}"}))
        raise
    _from_primary(text)
    return value


def _from_primary(text: str) -> str:
    data = np.frombuffer(text.encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(data.size)))
    buffer = data if is_primary() else np.zeros(size, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(buffer)).tobytes().decode()
