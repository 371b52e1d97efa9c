"""MACs and bit operations."""

from compress.report import theoretical_bops, total_bops
from compress.report.records import SiteRecord


def site(**changes):
    fields = {
        "name": "kernel",
        "op": "dot",
        "shape": (10, 10),
        "macs": 100,
        "weight_bits": 8,
        "activation_bits": 8,
        "num_weights": 100,
        "num_nonzero": 25,
        "num_scales": 10,
        "reason": None,
    }
    return SiteRecord(**(fields | changes))


def test_bops_are_macs_times_both_widths_summed_over_sites():
    sites = [site(), site(macs=10, weight_bits=32, activation_bits=32)]
    assert total_bops(sites) == 100 * 64 + 10 * 1024


def test_theoretical_bops_count_only_weights_that_are_not_zero():
    assert theoretical_bops([site()]) == 1600


def test_site_without_weights_counts_in_full():
    weightless = site(shape=(), num_weights=0, num_nonzero=0)
    assert theoretical_bops([weightless]) == total_bops([weightless])
