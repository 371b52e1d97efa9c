"""Checkpoints of a run, written while it goes on (orbax)."""

import contextlib
import errno
import hashlib
import itertools
import os
import pathlib
from collections.abc import Generator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint import v1 as orbax

from compress import processes
from compress.annotations import PyTree
from compress.sites import flat_paths
from compress.train.checksums import checksums
from compress.train.preservation import NewestAndBest, Score

_SUMS = "checksums"
# What says nothing of a checkpoint, but that this machine cannot read it now.
_ERRNOS = (errno.ENOMEM, errno.EIO, errno.EMFILE, errno.ENFILE, errno.EACCES)
_PASSING = ("RESOURCE_EXHAUSTED", *map(os.strerror, _ERRNOS))


class CheckpointError(ValueError):
    """A checkpoint that cannot be used for this run."""


class DamagedError(CheckpointError):
    """A checkpoint that cannot be read, or does not hold what was saved."""


class Checkpoints:
    """The checkpoints of one run directory.

    Saved as a flat dict of arrays by path, so that they can be read without the code
    that made them; by all processes, where there are several.
    """

    def __init__(
        self,
        directory: pathlib.Path,
        *,
        keep: int,
        keep_best: int = 0,
        identity: str,
        read_only: bool = False,
    ) -> None:
        """Opens a directory of checkpoints, or makes it.

        Args:
          directory: For checkpoints alone.
          keep: How many of the newest are kept.
          keep_best: How many of the best are kept besides.
          identity: What the run is; another one is refused.
          read_only: Leaves alone what another process may be writing.
        """
        self.directory = directory.absolute()
        self._policy = NewestAndBest(keep, keep_best)
        self._identity, self._read_only = identity, read_only
        self._checkpointer = self._open()
        self._check_identity(identity)

    def _open(self) -> Any:
        # Typed loosely: orbax re-exports its policies under another name.
        policy: Any = self._policy
        return orbax.training.Checkpointer(
            str(self.directory),
            preservation_policy=policy,
            custom_metadata={"identity": self._identity},
            cleanup_tmp_directories=not self._read_only,
        )

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
    def steps(self) -> list[int]:
        """The steps there are checkpoints of, newest first; some may be damaged."""
        return [saved.step for saved in reversed(self._checkpointer.checkpoints)]

    @property
    def latest(self) -> int | None:
        """The step of the newest checkpoint."""
        return next(iter(self.steps), None)

    def save(self, step: int, state: PyTree) -> None:
        """Starts saving; waits only for a save still under way."""
        # Copied first: the state's buffers are donated to the next chunk.
        flat = {k: _copied(v) for k, v in _flatten(state).items()}
        with self._reporting(f"step {step} cannot be saved"):
            self._checkpointer.save_async(
                step, flat, force=True, custom_metadata={_SUMS: checksums(flat)}
            )

    def scored(self, step: int, score: Score) -> None:
        """Notes how the checkpoint of a step did, so that the best are kept."""
        self._policy.scored(step, score)

    def load(self, step: int, like: PyTree) -> PyTree:
        """A checkpoint as a pytree like `like`, on whatever devices that is on.

        Raises:
          DamagedError: If it cannot be read, or holds other numbers than were saved.
          CheckpointError: If it may be whole: memory is short, or the disk fails.
        """
        restored = self._read(step, _flatten(like))
        leaves = [restored[path] for path in flat_paths(like)]
        return jax.tree.unflatten(jax.tree.structure(like), leaves)

    def _read(self, step: int, like: dict[str, Any]) -> dict[str, Any]:
        """The arrays of a checkpoint by path, if they are what was saved."""
        where, restored, sums, problem = self.directory / str(step), {}, {}, None
        try:
            found = self._checkpointer.load(step, like)
            restored = {path: found[path] for path in like}
            metadata: Any = self._checkpointer.metadata(step).custom_metadata or {}
            sums = metadata.get(_SUMS, {})
        except Exception as error:  # whatever a damaged file makes orbax raise
            problem = _root(error)
        if processes.any_of(problem is not None):
            text = f"{type(problem).__name__}: {str(problem)[:200]}"
            said = f"{where}: {text if problem else 'another process cannot read it'}"
            if processes.any_of(_is_passing(problem)):
                raise CheckpointError(
                    f"{said}. It is left as it is: free memory, or see to the disk, "
                    "and go on with --resume."
                ) from problem
            raise DamagedError(said) from problem
        added = checksums(restored)
        wrong = [path for path in like if sums.get(path) != added[path]]
        if wrong:
            rest = f" and {len(wrong) - 1} others" if len(wrong) > 1 else ""
            raise DamagedError(f"{where}: not what was saved: {wrong[0]}{rest}")
        return restored

    def set_aside(self, steps: Sequence[int]) -> pathlib.Path:
        """Moves checkpoints to a directory beside this one, which is returned.

        In their place the run will save others.
        """
        aside = self.directory.with_name("damaged")
        self.close()
        processes.on_primary(lambda: _move(self.directory, aside, steps))
        self._checkpointer = self._open()
        return aside

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


def _root(error: BaseException) -> BaseException:
    """What went wrong; orbax says of all of it that no handler fits."""
    cause = error.__cause__ or error.__context__
    return error if cause is None else _root(cause)


def _is_passing(problem: BaseException | None) -> bool:
    known = any(reason in str(problem) for reason in _PASSING)
    return isinstance(problem, MemoryError) or known


def _flatten(state: PyTree) -> dict[str, Any]:
    return dict(zip(flat_paths(state), jax.tree.leaves(state), strict=True))


def _copied(leaf: Any) -> Any:
    """On the host; what several processes hold together stays on their devices."""
    if processes.several():
        # An accelerator's array is copied from it in any case before a save goes on.
        return jnp.copy(leaf) if jax.default_backend() == "cpu" else leaf
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        data = jnp.asarray(np.array(jax.random.key_data(leaf)))
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    return np.array(leaf)


def _move(directory: pathlib.Path, aside: pathlib.Path, steps: Sequence[int]) -> None:
    aside.mkdir(exist_ok=True)
    for step in steps:
        # Saved again, and damaged again: 50, 50-2, 50-3.
        names = (f"{step}-{n}" if n > 1 else str(step) for n in itertools.count(1))
        free = next(name for name in names if not (aside / name).exists())
        (directory / str(step)).rename(aside / free)


def hash_of(tree: PyTree) -> str:
    """SHA-256 of every bit of a pytree's arrays, with their paths."""
    digest = hashlib.sha256()
    for path, leaf in _flatten(tree).items():
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        x = np.ascontiguousarray(leaf)
        digest.update(f"{path}{x.shape}{x.dtype}".encode())
        digest.update(x.view(np.uint8).data)  # bfloat16 is no buffer
    return digest.hexdigest()
