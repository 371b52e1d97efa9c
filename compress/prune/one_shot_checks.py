"""What one-shot pruning is asked for, and whether it can be done."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from compress.annotations import PyTree
from compress.interpret import Program
from compress.prune.inputs import neighbours, refusal
from compress.sites import Site, Sites, matching_sites
from compress.transform import check_batch

USER = "prune.one_shot"
# What each score needs to know of the inputs.
SCORES = {"magnitude": "none", "wanda": "norms", "second_order": "hessian"}


class Asked(NamedTuple):
    """The arguments of `one_shot` that are checked before anything is traced."""

    score: str
    sparsity: float | None
    pattern: str
    rank: str | None
    damping: float
    block: int | None
    quantizes: bool


class Settings(NamedTuple):
    """The checked arguments of `one_shot`.

    Attributes:
      score: One of `SCORES`.
      sparsity: Fraction of zeros.
      n_of_m: How many of how many neighbours are kept; None for unstructured.
      rank: `layer` or `output`.
      damping: Of the Hessian.
      block: Columns whose mask is chosen together; None for the default.
    """

    score: str
    sparsity: float
    n_of_m: tuple[int, int] | None
    rank: str
    damping: float
    block: int | None


def check_settings(asked: Asked) -> Settings:
    """The settings, if they are possible.

    Raises:
      ValueError: That says which is not.
    """
    score, block = asked.score, asked.block
    if score not in SCORES:
        raise ValueError(f"{USER}: score={score!r} must be one of {tuple(SCORES)}.")
    if asked.quantizes and score != "second_order":
        raise ValueError(
            f'{USER}: quantize= rounds in the pass of score="second_order". With '
            f'score="{score}", apply the quantizer to the pruned parameters.'
        )
    if asked.damping < 0.0 or (block is not None and block < 1):
        raise ValueError(
            f"{USER}: damping={asked.damping} must be at least 0 and block={block} at "
            "least 1; 0.01 and 128 are the paper's."
        )
    n_of_m = _parse_pattern(asked.pattern)
    _check_rank(asked, n_of_m)
    sparsity = _check_sparsity(asked.sparsity, n_of_m, asked.pattern)
    rank = asked.rank or ("output" if score == "wanda" else "layer")
    return Settings(score, sparsity, n_of_m, rank, asked.damping, block)


def _check_rank(asked: Asked, n_of_m: tuple[int, int] | None) -> None:
    if asked.rank not in (None, "layer", "output"):
        raise ValueError(f'{USER}: rank={asked.rank!r} must be "layer" or "output".')
    if asked.rank and (n_of_m or asked.score == "second_order"):
        reason = f"pattern={asked.pattern!r}" if n_of_m else 'score="second_order"'
        raise ValueError(
            f"{USER}: rank={asked.rank!r} has no meaning with {reason}, which ranks in "
            "groups of its own. Leave rank out."
        )


def _parse_pattern(pattern: str) -> tuple[int, int] | None:
    if pattern == "unstructured":
        return None
    match = re.fullmatch(r"(\d+):(\d+)", pattern)
    if not match:
        raise ValueError(
            f'{USER}: pattern={pattern!r} must be "unstructured" or N:M such as "2:4".'
        )
    n, m = int(match[1]), int(match[2])
    if not 1 <= n <= m:
        raise ValueError(
            f"{USER}: pattern={pattern!r} keeps {n} of each {m} weights; N:M needs "
            f'1 <= N <= M. Did you mean "{m}:{n}"?'
            if n > m
            else f"{USER}: pattern={pattern!r} keeps nothing. N must be at least 1."
        )
    return n, m


def _check_sparsity(
    sparsity: float | None, n_of_m: tuple[int, int] | None, pattern: str
) -> float:
    if n_of_m is not None:
        implied = 1.0 - n_of_m[0] / n_of_m[1]
        if sparsity is not None and not math.isclose(sparsity, implied):
            raise ValueError(
                f"{USER}: sparsity={sparsity} with pattern={pattern!r}, which gives "
                f"{implied:g}. Leave sparsity out."
            )
        return implied
    sparsity = 0.5 if sparsity is None else sparsity
    if not 0.0 <= sparsity < 1.0:
        raise ValueError(
            f"{USER}: sparsity={sparsity} must be at least 0 and below 1; it is the "
            "fraction of zeros."
        )
    return sparsity


def checked_batches(batches: Iterable[Any], model_state: PyTree) -> list[Any]:
    """The arguments after the parameters, batch by batch.

    Raises:
      ValueError: If there are none, or one is empty or not finite.
    """
    first = () if model_state is None else (model_state,)
    checked = []
    for count, batch in enumerate(batches, start=1):
        inputs = batch if isinstance(batch, tuple) else (batch,)
        check_batch(inputs, count, user=USER)
        checked.append((*first, *inputs))
    if not checked:
        raise ValueError(
            f"{USER}: there are no batches. Give at least one batch of training data."
        )
    return checked


def choose(
    program: Program,
    sites: Sites,
    patterns: str | Sequence[str],
    exclude: str | Sequence[str],
    settings: Settings,
) -> dict[str, list[Site]]:
    """The parameters to prune, in program order, with all sites that read them.

    Raises:
      ValueError: If a pattern matches nothing, or a site has no whole groups or would
        lose all of its weights.
    """
    found = matching_sites(sites, patterns, exclude, user=USER)
    named = {patterns} if isinstance(patterns, str) else set(patterns)
    kept = [s for s in found if s.path not in sites.embeddings or s.name in named]
    if not kept:
        raise ValueError(
            f"{USER}: only embeddings match. Name them exactly in sites to prune them."
        )
    for site in kept:
        _check_shape(program, site, settings)
    readers = sites.by_path()
    return {str(site.path): readers[str(site.path)] for site in kept}


def _check_shape(program: Program, site: Site, settings: Settings) -> None:
    """Whether the site has whole groups, and keeps a weight."""
    size = math.prod(site.weight_shape[a] for a in (*site.contracting, *site.output))
    if settings.n_of_m is None:
        if size and round(settings.sparsity * size) >= size:
            raise ValueError(
                f'{USER} "{site.name}": sparsity={settings.sparsity} leaves none of '
                f"its {size} weights. Exclude it, or prune less."
            )
        return
    m, length = settings.n_of_m[1], neighbours(program, site)
    if length % m:
        divisors = [d for d in range(2, length + 1) if length % d == 0][:6]
        raise ValueError(
            f'{USER} "{site.name}": of shape {site.weight_shape}, contracted along '
            f"{site.contracting}, it has {length} neighbouring inputs: no whole groups "
            f"of {m}. Exclude the site, or use an M that divides {length}: "
            f"{', '.join(map(str, divisors)) or 'there is none'}."
        )


def refusals(
    program: Program, sites: Sites, by_path: Mapping[str, Sequence[Site]]
) -> dict[str, str]:
    """Why the inputs of some of the parameters cannot be observed, by path."""
    reasons: dict[str, str] = {}
    for path, uses in by_path.items():
        others = [s for s in sites if s.path == path and s.reason]
        found = [(s.name, refusal(program, s)) for s in uses]
        found += [(s.name, s.reason) for s in others]
        for name, reason in found:
            if reason is not None:
                reasons.setdefault(path, f'"{name}" is {reason}')
    return reasons
