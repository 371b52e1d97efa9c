"""Checkpoints of a run, written while it goes on (orbax)."""

import contextlib
import hashlib
import pathlib
from collections.abc import Generator
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as orbax

from compress.annotations import PyTree
from compress.sites import flat_paths


class CheckpointError(ValueError):
    """A checkpoint that cannot be used for this run."""


class Checkpoints:
    """The checkpoints of one run directory.

    Saved as a flat dict of arrays by path, so that they can be read without the code
    that made them.
    """

    def __init__(
        self,
        directory: pathlib.Path,
        *,
        keep: int,
        identity: str,
        read_only: bool = False,
    ) -> None:
        """Opens a directory of checkpoints, or makes it.

        Args:
          directory: For checkpoints alone.
          keep: How many of the newest are kept.
          identity: What the run is; another one is refused.
          read_only: Leaves alone what another process may be writing.
        """
        self.directory = directory.absolute()
        # Typed loosely: orbax re-exports its policies under another name.
        policies: Any = orbax.training.preservation_policies
        self._checkpointer = orbax.training.Checkpointer(
            str(self.directory),
            preservation_policy=policies.LatestN(keep),
            custom_metadata={"identity": identity},
            cleanup_tmp_directories=not read_only,
        )
        self._check_identity(identity)

    def _check_identity(self, identity: str) -> None:
        metadata: Any = self._checkpointer.root_metadata().custom_metadata or {}
        known = metadata.get("identity")
        if known not in (None, identity):
            self.close()
            raise CheckpointError(
                f"{self.directory}: made by another config, seed or data:\n"
                f"  there: {known}\n  here:  {identity}\n"
                "Go back to those, or choose another --workdir."
            )

    @property
    def latest(self) -> int | None:
        """The step of the newest checkpoint."""
        newest = self._checkpointer.latest
        return None if newest is None else newest.step

    def save(self, step: int, state: PyTree) -> None:
        """Starts saving; waits only for a save still under way."""
        # Copied to the host first: the state's buffers are donated to the next chunk.
        flat = {k: _to_host(v) for k, v in _flatten(state).items()}
        with self._reporting(f"step {step} cannot be saved"):
            self._checkpointer.save_async(step, flat, force=True)

    def load(self, like: PyTree) -> PyTree:
        """The newest checkpoint, as a pytree like `like`."""
        flat = _flatten(like)
        try:
            restored = self._checkpointer.load(self.latest, flat)
        except (ValueError, KeyError, OSError) as error:
            raise CheckpointError(
                f"{self.directory}: step {self.latest} does not fit this model "
                f"({str(error)[:300]})."
            ) from error
        leaves = [restored[path] for path in flat_paths(like)]
        return jax.tree.unflatten(jax.tree.structure(like), leaves)

    def close(self) -> None:
        """Waits until everything is on disk."""
        with self._reporting("the newest step cannot be saved"):
            self._checkpointer.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        if kind is None:
            self.close()
            return
        # What went wrong is told; that closing went wrong as well is not.
        with contextlib.suppress(CheckpointError):
            self.close()

    @contextlib.contextmanager
    def _reporting(self, what: str) -> Generator[None]:
        """One line instead of what the threads of orbax have to say."""
        try:
            yield
        except (OSError, ValueError) as error:
            reason = _disk_reason(error) or str(error)[:200]
            raise CheckpointError(
                f"{self.directory}: {what} ({reason}). Free some space or choose "
                "another --workdir; --resume goes on from the newest whole checkpoint."
            ) from error


def _disk_reason(error: Exception) -> str | None:
    """What the system said of the disk, in the middle of a long message."""
    known = ("No space left on device", "Read-only file system", "Permission denied")
    return next((reason for reason in known if reason in str(error)), None)


def _flatten(state: PyTree) -> dict[str, Any]:
    return dict(zip(flat_paths(state), jax.tree.leaves(state), strict=True))


def _to_host(leaf: Any) -> Any:
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(
            jax.random.key_data(leaf).copy(), impl=jax.random.key_impl(leaf)
        )
    return np.array(leaf)


def hash_of(tree: PyTree) -> str:
    """SHA-256 of every bit of a pytree's arrays, with their paths."""
    digest = hashlib.sha256()
    for path, leaf in _flatten(tree).items():
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        x = np.ascontiguousarray(leaf)
        digest.update(f"{path}{x.shape}{x.dtype}".encode())
        digest.update(x.data)
    return digest.hexdigest()
