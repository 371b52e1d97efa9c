from typing import Any

import jax
import jax.numpy as jnp
import pytest

import compress


def _forward(params: Any, x: Any) -> Any:
    hidden = jax.nn.relu(x @ params["up"]["kernel"] + params["up"]["bias"][None])
    return jnp.sort(hidden @ params["sorted"]) @ params["down"]


_PARAMS = {
    "up": {"kernel": jnp.ones((3, 8)), "bias": jnp.ones(8)},
    "sorted": jnp.ones((8, 6)),
    "down": jnp.ones((6, 2)),
}


@pytest.fixture
def groups() -> compress.Groups:
    return compress.find_groups(_forward, _PARAMS, jnp.ones((1, 3)))


def test_a_group_says_where_its_units_are_and_what_one_saves(
    groups: compress.Groups,
) -> None:
    (group,) = groups.free
    assert (group.name, group.size, group.kind) == ("up/kernel:1", 8, "units")
    roles = {(m.path, m.axis): (m.reads, m.writes) for m in group.members}
    assert roles == {
        ("up/bias", 0): (False, False),
        ("up/kernel", 1): (False, True),
        ("sorted", 0): (True, False),
    }
    assert (group.parameters, group.macs) == (3 + 1 + 6, 3 + 6)
    assert groups.parameters({group.name: 5}) == groups.parameters() - 3 * 10
    assert groups.macs() == 3 * 8 + 8 * 6 + 6 * 2


def test_the_table_tells_free_groups_and_why_others_are_frozen(
    groups: compress.Groups,
) -> None:
    lines = str(groups).splitlines()
    assert lines[1].split() == [
        *("up/kernel:1", "units", "8", "10", "9"),
        *("sorted:0,", "up/bias:0,", "up/kernel:1"),
    ]
    assert any("sorted:1 (6): sorted, test_groups.py:" in line for line in lines)
    assert any("down:1 (2): an axis of the model's output" in line for line in lines)


def test_the_tree_names_the_groups_of_every_axis(groups: compress.Groups) -> None:
    name = ("up/kernel:1",)
    assert groups.tree(_PARAMS) == {
        "up": {"kernel": ((), name), "bias": (name,)},
        "sorted": (name, ()),
        "down": ((), ()),
    }


def test_patterns_that_match_nothing_or_frozen_groups_only_are_refused(
    groups: compress.Groups,
) -> None:
    assert [g.name for g in groups.matching("up/**", user="t")] == ["up/kernel:1"]
    assert [g.name for g in groups.matching("sorted", user="t")] == ["up/kernel:1"]
    with pytest.raises(ValueError, match=r'"dow" matches none .* nearest: down:'):
        groups.matching("dow", user="t")
    with pytest.raises(ValueError, match=r"cannot lose units: .*\(sorted, test_gro"):
        groups.matching("sorted:1", user="t")
    with pytest.raises(ValueError, match=r"Exclude less"):
        groups.matching("**", "up/**", user="t")
    with pytest.raises(KeyError, match=r"nearest: up/kernel:1"):
        groups["up/kernel"]
