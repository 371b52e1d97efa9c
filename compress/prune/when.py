"""When masks change, and what happens to pruned connections until they are fixed."""

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp

from compress.annotations import Array, Bool, Float, Int
from compress.transform import Ramp, ramp

Step = Int[Array, ""]


class Regrow(NamedTuple):
    """How connections are exchanged at a fixed number of them.

    Attributes:
      by: `gradient` grows those of the largest gradient, `random` any.
      drop: `(step) -> ` the fraction of a layer's connections that is exchanged.
      seed: Of the random choice.
    """

    by: str
    drop: Callable[[Step], Float[Array, ""]]
    seed: int = 0


class When(NamedTuple):
    """The time course of the masks.

    Attributes:
      name: For messages.
      ramps: The sparsity over time.
      due: `(step) -> ` whether masks are chosen anew after this step.
      end: The step from which on the masks are fixed.
      monotone: Whether a pruned weight never comes back.
      returns: Whether pruned weights are ranked with the others, and may come back.
      trains: Whether pruned weights are trained until `end`.
      holds: Whether pruned weights and their moments are kept at zero, so that those
        that come back start from there.
      dense: `(step) -> ` whether all weights are kept at this time; None for never.
      regrow: The exchange of connections after the first choice; None for none.
      one_of: Several time courses that differ in their sparsities alone, and which of
        them it is: a traced index; None if it is this one. See `one_of`.
    """

    name: str
    ramps: tuple[Ramp, ...]
    due: Callable[[Step], Bool[Array, ""]]
    end: int
    monotone: bool = False
    returns: bool = False
    trains: bool = False
    holds: bool = False
    dense: Callable[[Step], Bool[Array, ""]] | None = None
    regrow: Regrow | None = None
    one_of: "tuple[Sequence[When], Step] | None" = None

    @property
    def final(self) -> float:
        """The sparsity in the end."""
        return self.ramps[-1].final

    @property
    def at_once(self) -> bool:
        """Whether masks are needed before the first step."""
        return self.ramps[0].initial > 0.0 or self.ramps[0].end == 0


def gradual(
    sparsity: float | Ramp | Sequence[Ramp],
    *,
    every: int = 1,
    user: str = "prune.gradual",
) -> When:
    """At once or along ramps; pruned weights never come back.

    Source: Zhu and Gupta 2017, https://arxiv.org/abs/1710.01878. There, they may.

    Args:
      sparsity: Fraction of zeros, in [0, 1): a number (at once, before the first
        step), a ramp, or several ramps one after the other.
      every: Steps between updates of the masks during a ramp. The end of a ramp is
        reached exactly whatever it is.
      user: Who asks, for messages.

    Raises:
      ValueError: If a setting is out of range or a ramp falls.
    """
    ramps = _as_ramps(sparsity, begin=0)
    _check_sparsity(ramps, user)
    _check_rising(ramps, user)
    _check_positive(user, every=every)
    due = partial(_due_in_ramps, ramps, every)
    return When(user, ramps, due, end=ramps[-1].end, monotone=True)


def periodic(sparsity: float | Ramp, *, steps: tuple[int, int], every: int) -> When:
    """The weights are ranked again every so many steps; pruned ones may come back.

    A pruned weight keeps the value it had, and competes with it.

    Args:
      sparsity: Fraction of zeros, from the first of `steps` on; or a ramp.
      steps: First and last step at which masks are chosen.
      every: Steps in between.

    Raises:
      ValueError: If a setting is out of range.
    """
    ramps, due = _between("prune.periodic", sparsity, steps, every)
    return When("prune.periodic", ramps, due, end=steps[1], returns=True)


def straight_through(
    sparsity: float | Ramp, *, steps: tuple[int, int], every: int = 1
) -> When:
    """All weights are trained by the gradient of the masked ones (top-k, STE).

    Source: Bengio et al. 2013, https://arxiv.org/abs/1308.3432; Jayakumar et al. 2021
    and Lee et al. 2023 (JaxPruner) for weights, https://arxiv.org/abs/2304.14082

    Args:
      sparsity: Fraction of zeros, from the first of `steps` on; or a ramp.
      steps: First step at which masks are chosen, and the last: after it they are
        fixed and only kept weights are trained.
      every: Steps between choices.

    Raises:
      ValueError: If a setting is out of range.
    """
    user = "prune.straight_through"
    ramps, due = _between(user, sparsity, steps, every)
    return When(user, ramps, due, end=steps[1], returns=True, trains=True)


def cyclic(
    sparsity: float | Ramp, *, steps: tuple[int, int], sparse: int, dense: int
) -> When:
    """Sparse and dense phases in turn (AC/DC); the last one is sparse.

    In a dense phase the pruned weights start again from zero, without momentum.

    Source: Peste et al. 2021, https://arxiv.org/abs/2106.12379

    Args:
      sparsity: Fraction of zeros in sparse phases: a number.
      steps: Start of the first sparse phase, and of the last one: a phase that is on
        at that step ends there.
      sparse: Steps of a sparse phase.
      dense: Steps of a dense phase.

    Raises:
      ValueError: If a setting is out of range, or no dense phase fits.
    """
    user, (begin, end) = "prune.cyclic", steps
    _check_number(sparsity, user)
    ramps = _as_ramps(sparsity, begin)
    _check_sparsity(ramps, user)
    _check_positive(user, sparse=sparse, dense=dense)
    if not 0 <= begin < begin + sparse < end:
        raise ValueError(
            f"{user}: after {sparse} sparse steps no dense phase fits into "
            f"steps={steps}. Let them end after {begin + sparse}, or shorten the phase."
        )
    phases = (begin, end, sparse, dense)
    return When(
        user,
        ramps,
        due=partial(_phase_starts, phases),
        end=end,
        holds=True,
        dense=partial(_is_dense, phases),
    )


def rigl(
    sparsity: float | Ramp, *, steps: tuple[int, int], every: int, drop: float = 0.3
) -> When:
    """The smallest connections are exchanged for those of the largest gradient.

    Each layer keeps its number. New connections start at zero, without momentum. The
    fraction falls to zero as half a cosine. The first mask is that of the score, not a
    random one.

    Source: Evci et al. 2020, https://arxiv.org/abs/1911.11134

    Args:
      sparsity: Fraction of zeros: a number.
      steps: When the first mask is chosen, and when exchanging ends.
      every: Steps between exchanges.
      drop: The fraction of each layer's connections exchanged at first.

    Raises:
      ValueError: If a setting is out of range.
    """
    falling = partial(_half_cosine, drop, steps)
    return _exchanging("prune.rigl", sparsity, steps, every, drop, "gradient", falling)


def sparse_evolution(
    sparsity: float | Ramp,
    *,
    steps: tuple[int, int],
    every: int,
    drop: float = 0.3,
    seed: int = 0,
) -> When:
    """The smallest connections are exchanged for random ones (SET).

    Each layer keeps its number. New connections start at zero, without momentum.

    Source: Mocanu et al. 2018, https://arxiv.org/abs/1707.04780

    Args:
      sparsity: Fraction of zeros: a number.
      steps: When the first mask is chosen, and when exchanging ends.
      every: Steps between exchanges.
      drop: The fraction of each layer's connections exchanged.
      seed: Of the random choice.

    Raises:
      ValueError: If a setting is out of range.
    """
    user, same = "prune.sparse_evolution", lambda step: jnp.float32(drop)
    return _exchanging(user, sparsity, steps, every, drop, "random", same, seed)


def one_of(several: Sequence[When], index: Step) -> When:
    """One of several time courses, of which a traced index says which.

    So a grid over sparsities is one program under `jax.vmap`. The numbers of zeros are
    those each has alone, to the last.

    Args:
      several: They differ in their sparsities alone.
      index: From 0.

    Raises:
      ValueError: If their steps differ, or what becomes of pruned weights.
    """
    first = several[0]
    for other in several:
        if _without_sparsities(other) != _without_sparsities(first):
            raise ValueError(
                f"prune.one_of: {other.name} at steps {_steps(other)} and {first.name} "
                f"at steps {_steps(first)} differ in more than their sparsity. Give "
                "them the same steps and settings."
            )
    return first._replace(one_of=(tuple(several), index))


def _without_sparsities(when: When) -> tuple[Any, ...]:
    regrow = when.regrow and (when.regrow.by, when.regrow.seed)
    settings = (when.name, when.end, when.monotone, when.returns, when.trains)
    steps = [(r.begin, r.end, r.power) for r in when.ramps]
    return (*settings, when.holds, when.at_once, steps, regrow)


def _steps(when: When) -> list[tuple[int, int]]:
    return [(r.begin, r.end) for r in when.ramps]


def _exchanging(
    user: str,
    sparsity: float | Ramp,
    steps: tuple[int, int],
    every: int,
    drop: float,
    by: str,
    fraction: Callable[[Step], Float[Array, ""]],
    seed: int = 0,
) -> When:
    _check_number(sparsity, user)
    ramps, due = _between(user, sparsity, steps, every)
    if not 0.0 < drop <= 1.0:
        raise ValueError(f"{user}: drop={drop} must be above 0 and at most 1.")
    regrow = Regrow(by, fraction, seed)
    return When(user, ramps, due, end=steps[1], holds=True, regrow=regrow)


def _as_ramps(sparsity: float | Ramp | Sequence[Ramp], begin: int) -> tuple[Ramp, ...]:
    if isinstance(sparsity, Ramp):
        return (sparsity,)
    if isinstance(sparsity, (int, float)):
        return (ramp(0.0, sparsity, steps=(begin, begin)),)
    return tuple(sparsity)


def _between(
    user: str, sparsity: float | Ramp, steps: tuple[int, int], every: int
) -> tuple[tuple[Ramp, ...], Callable[[Step], Bool[Array, ""]]]:
    """The ramp and the due steps of what chooses masks at even intervals."""
    begin, end = steps
    if not 0 <= begin < end:
        raise ValueError(f"{user}: steps={steps} must be 0 <= first < last.")
    ramps = _as_ramps(sparsity, begin)
    _check_sparsity(ramps, user)
    _check_positive(user, every=every)
    if ramps[0].begin < begin or ramps[-1].end > end:
        raise ValueError(
            f"{user}: the ramp at steps ({ramps[0].begin}, {ramps[-1].end}) must be "
            f"within steps={steps}."
        )
    return ramps, partial(_due_every, begin, end, every)


def _check_sparsity(ramps: tuple[Ramp, ...], user: str) -> None:
    if not ramps:
        raise ValueError(f"{user}: sparsity is empty. Give a number or a ramp.")
    for value in [v for r in ramps for v in (r.initial, r.final)]:
        if not 0.0 <= value < 1.0:
            raise ValueError(
                f"{user}: sparsity={value} must be at least 0 and below 1; it is the "
                "fraction of zeros."
            )


def _check_rising(ramps: tuple[Ramp, ...], user: str) -> None:
    for falling in [r for r in ramps if r.final < r.initial]:
        raise ValueError(
            f"{user}: the ramp from {falling.initial} to {falling.final} falls, but "
            "pruned weights do not come back. Let it rise."
        )
    for first, second in itertools.pairwise(ramps):
        if second.begin < first.end or second.initial < first.final:
            raise ValueError(
                f"{user}: the ramp from {second.initial} to {second.final} at steps "
                f"({second.begin}, {second.end}) must come after the ramp to "
                f"{first.final} and not below it: pruned weights do not come back."
            )


def _check_number(sparsity: float | Ramp, user: str) -> None:
    if isinstance(sparsity, Ramp):
        raise ValueError(
            f"{user}: sparsity={sparsity} must be a number: it does not change. Use "
            "prune.gradual for a ramp."
        )


def _check_positive(user: str, **counts: int) -> None:
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{user}: {name}={value} must be at least 1.")


def _due_in_ramps(ramps: tuple[Ramp, ...], every: int, step: Step) -> Bool[Array, ""]:
    """During a ramp every so many steps, and at its end always."""
    due = [
        ((step > r.begin) & (step < r.end) & ((step - r.begin) % every == 0))
        | (step == r.end)
        for r in ramps
    ]
    return jnp.any(jnp.stack(due))


def _due_every(begin: int, end: int, every: int, step: Step) -> Bool[Array, ""]:
    within = (step >= begin) & (step <= end)
    return within & (((step - begin) % every == 0) | (step == end))


def _phase_starts(phases: tuple[int, int, int, int], step: Step) -> Bool[Array, ""]:
    begin, end, sparse, dense = phases
    position = (step - begin) % (sparse + dense)
    starts = (position == 0) | (position == sparse) | (step == end)
    return (step >= begin) & (step <= end) & starts


def _is_dense(phases: tuple[int, int, int, int], step: Step) -> Bool[Array, ""]:
    begin, end, sparse, dense = phases
    return (step < end) & ((step - begin) % (sparse + dense) >= sparse)


def _half_cosine(drop: float, steps: tuple[int, int], step: Step) -> Float[Array, ""]:
    begin, end = steps
    past = (step - begin).astype(jnp.float32) / (end - begin)
    return 0.5 * drop * (1.0 + jnp.cos(math.pi * jnp.clip(past, 0.0, 1.0)))
