"""How arrays are split: by rules, fully, and like the parameter they belong to."""

import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as Spec

from compress.config import parse_config
from compress.schedule import place, plan_sharding
from tests import tiny

PARAMS = {
    "up": {"kernel": jnp.zeros((3, 6, 8)), "bias": jnp.zeros((8,))},
    "down": {"kernel": jnp.zeros((8, 6)), "odd": jnp.zeros((5, 7))},
}


def plan(rules=None, parameters="replicated", min_size=8, first=True, params=PARAMS):
    sharding = {"rules": rules or {}, "parameters": parameters, "min_size": min_size}
    # The rules of these tests need not use all axes, as a whole config's must.
    config = parse_config({**tiny.CONFIG, "mesh": {"data": 2}})
    config = config.model_copy(
        update={
            "mesh": {"data": 2, "model": 4},
            "sharding": type(config.sharding).model_validate(sharding),
        }
    )
    return plan_sharding(config, params, first=first)


def test_a_rule_names_the_mesh_axis_along_each_axis_and_the_first_one_counts():
    specs = plan({"up/b*": ["model"], "up/*": [None, "data"], "**/kernel": []}).specs
    assert specs["up/bias"] == Spec("model")
    assert specs["up/kernel"] == Spec(None, "data")
    assert specs["down/kernel"] == Spec()
    assert specs["down/odd"] == Spec()


def test_full_sharding_takes_the_largest_axis_that_divides():
    found = plan({"down/odd": []}, "fsdp", min_size=9).specs
    assert found["up/kernel"] == Spec(None, None, "data")
    assert found["down/kernel"] == Spec("data")
    assert found["up/bias"] == found["down/odd"] == Spec()  # small; by its rule


def test_an_array_goes_with_the_parameter_at_the_end_of_its_path():
    rules = {"down/kernel": ["model"], "up/kernel": [None, "data", "model"]}
    found = plan(rules)
    for path in ("masks/up/kernel", "1/mu/up/kernel", "score/up/kernel"):
        leaf = jnp.zeros((3, 6, 8))
        assert found.spec_of(f"state/{path}", leaf) == Spec(None, "data", "model")
    # The ranges of scanned layers: one for each of the first axis.
    assert found.spec_of("ranges/up/kernel/absmax", jnp.zeros((3,))) == Spec()
    assert found.spec_of("ranges/down/kernel", jnp.zeros((8,))) == Spec("model")
    # A wider teacher's: by the rules, where they fit it.
    assert found.spec_of("teacher/down/kernel", jnp.zeros((16, 6))) == Spec("model")
    assert found.spec_of("teacher/down/kernel", jnp.zeros((9, 6))) == Spec()
    assert found.spec_of("key", jax.random.key(0)) == Spec()


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        (
            {"up/kernl": []},
            'rules: "up/kernl" matches none of 4 parameters. The nearest: up/kernel, ',
        ),
        (
            {"up/bias": [None, "model"]},
            '"up/bias" names 2 axes, but "up/bias" has the shape (8,). Give one mesh '
            "axis or null for each of its axes.",
        ),
        (
            {"**/kernel": [["data", "model"]]},
            'splits axis 0 of "up/kernel", shape (3, 6, 8), over data x model, 8 '
            "devices, which do not divide 3. Split another axis, or give it a rule of "
            "nulls.",
        ),
    ],
)
def test_a_rule_that_does_not_fit_says_what_to_do(rules, expected):
    with pytest.raises(ValueError, match=re.escape(expected)):
        plan(rules)


def test_a_large_parameter_that_cannot_be_split_needs_a_rule():
    message = re.escape("Add the rule 'down/odd': [] to leave it whole")
    with pytest.raises(ValueError, match=message):
        plan(parameters="fsdp")


def test_after_units_are_removed_what_no_longer_divides_is_whole_and_noted():
    small = {"up": {"kernel": jnp.zeros((3, 6, 6)), "bias": jnp.zeros((6,))}}
    found = plan({"up/bias": ["model"], "down/*": []}, first=False, params=small)
    assert found.specs["up/bias"] == Spec()
    (note,) = found.notes
    assert re.search(r'axis 0 of "up/bias".* not divide 6.* It is left whole', note)


def test_a_mesh_must_be_all_devices():
    config = parse_config({**tiny.CONFIG, "mesh": {"data": 8}})
    with pytest.raises(ValueError, match=r"data 8 is 8 devices.*--set mesh\.data=N"):
        place(config, PARAMS)
