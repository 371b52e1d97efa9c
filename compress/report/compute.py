"""What one forward pass costs in arithmetic: MACs and bit operations.

Source of BOPs = MACs * weight bits * activation bits: Baskin et al. 2018 (UNIQ), with
the accumulator term left out. https://arxiv.org/abs/1804.10969
"""

from collections.abc import Iterable

from compress.report.records import SiteRecord


def total_bops(sites: Iterable[SiteRecord]) -> int:
    """Bit operations: the sum of MACs * weight bits * activation bits."""
    return sum(_bops(site) for site in sites)


def theoretical_bops(sites: Iterable[SiteRecord]) -> float:
    """`total_bops` with every site scaled by its fraction of non-zero weights.

    Theoretical: no kernel that XLA has skips single zeros.
    """
    return sum(_bops(site) * density(site) for site in sites)


def density(site: SiteRecord) -> float:
    """Fraction of weights that are not zero; 1 for a site without weights."""
    return site.num_nonzero / site.num_weights if site.num_weights else 1.0


def _bops(site: SiteRecord) -> int:
    return site.macs * site.weight_bits * site.activation_bits
