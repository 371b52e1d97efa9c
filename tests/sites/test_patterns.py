"""Patterns pick sites, and one that picks none is an error."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest

from compress import find_sites
from compress.sites import Sites, matching_sites


@pytest.fixture(scope="module")
def sites() -> Sites:
    def forward(p: Any, x: Any) -> Any:
        h = jax.lax.conv_general_dilated(
            x, p["stem"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        h = h @ p["a"]["mlp"]["kernel"] @ p["a"]["mlp"]["gate"]
        return h @ p["kernel"] + p["bias"]

    params = {
        "stem": jnp.zeros((1, 3, 2, 4)),
        "a": {"mlp": {"kernel": jnp.zeros((4, 8)), "gate": jnp.zeros((8, 4))}},
        "kernel": jnp.zeros((4, 5)),
        "bias": jnp.zeros((1, 1, 1, 5)),
    }
    return find_sites(forward, params, jnp.zeros((1, 6, 6, 2)))


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ("**", ["stem", "a/mlp/kernel", "a/mlp/gate", "kernel"]),
        ("*", ["stem", "kernel"]),
        ("**/kernel", ["a/mlp/kernel", "kernel"]),
        ("*/kernel", None),
        ("*/*/kernel", ["a/mlp/kernel"]),
        ("a/**", ["a/mlp/kernel", "a/mlp/gate"]),
        ("a/*/gat?", ["a/mlp/gate"]),
        ("kernel", ["kernel"]),
        ("ker.el", None),
        ("op=conv*", ["stem"]),
        ("op=dot_general", ["a/mlp/kernel", "a/mlp/gate", "kernel"]),
        ("size>=24", ["stem", "a/mlp/kernel", "a/mlp/gate"]),
        ("size>24", ["a/mlp/kernel", "a/mlp/gate"]),
        ("size<=20", ["kernel"]),
        ("size<20", None),
        (["stem", "kernel"], ["stem", "kernel"]),
    ],
)
def test_a_pattern_picks_the_sites_it_describes(
    sites: Sites, patterns: Any, expected: Any
) -> None:
    if expected is None:
        with pytest.raises(ValueError, match="matches none of 4 sites"):
            matching_sites(sites, patterns, user="test")
    else:
        found = matching_sites(sites, patterns, user="test")
        assert [site.name for site in found] == expected


def test_excluded_sites_are_left_out(sites: Sites) -> None:
    found = matching_sites(sites, "**", ["op=conv*", "**/gate"], user="test")
    assert [site.name for site in found] == ["a/mlp/kernel", "kernel"]


def test_a_pattern_without_a_match_lists_the_nearest_names(sites: Sites) -> None:
    message = (
        r'prune: sites="a/mlp/kernle" matches none of 4 sites\. '
        r"The nearest: a/mlp/kernel, "
    )
    with pytest.raises(ValueError, match=message):
        matching_sites(sites, "a/mlp/kernle", user="prune")


def test_a_pattern_to_exclude_without_a_match_is_an_error_too(sites: Sites) -> None:
    with pytest.raises(ValueError, match='sites="steam" matches none'):
        matching_sites(sites, "**", "steam", user="prune")


def test_to_exclude_everything_is_an_error(sites: Sites) -> None:
    with pytest.raises(ValueError, match=r"leaves none of the sites.*Exclude less"):
        matching_sites(sites, "kernel", "**/kernel", user="prune")


def test_a_match_that_cannot_be_compressed_is_named_with_its_reason() -> None:
    sites = find_sites(lambda p, x: x @ x, {}, jnp.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"there are none.*input~1 \(no weight"):
        matching_sites(sites, "**", user="prune")
