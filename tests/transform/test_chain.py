"""A chain applies transforms in order, is a transform, and refuses what breaks one."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import compress
from compress import ContractError, State, Transform, chain, distill, prune, quantize


def forward(params: Any, x: Any) -> Any:
    return jnp.tanh(x @ params["a"]) @ params["b"]


@pytest.fixture
def model(key: jax.Array) -> tuple[Any, jax.Array]:
    a, b, x = jax.random.split(key, 3)
    params = {"a": jax.random.normal(a, (4, 8)), "b": jax.random.normal(b, (8, 3))}
    return params, jax.random.normal(x, (5, 4))


def assert_equal(one: Any, two: Any) -> None:
    one, two = jax.tree.leaves(one), jax.tree.leaves(two)
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)


def scaled(factor: float, name: str = "scaled", **contract: Any) -> Transform:
    """Multiplies parameters; remembers how often it was updated."""
    return Transform(
        name=name,
        init=lambda params, sites: jnp.int32(0),
        parameters=lambda m, p, step: jax.tree.map(lambda x: factor * x + 1.0, p),
        loss=lambda m, step, loss, inputs, outputs: factor * loss + 1.0,
        update=lambda memory, what: memory + 1,
        metrics=lambda memory, step: {name: memory},
        **contract,
    )


def effect(transform: Transform, params: Any, x: Any) -> Any:
    """Everything a transform does in one step."""
    state = compress.init(forward, transform, params, x)
    observing = jax.jit(compress.observe(forward, transform))
    outputs, observed = observing(params, state, x)
    state = compress.update(transform, state, params, None, observed)
    again, _ = observing(params, state, x)
    loss = compress.loss(transform, state, outputs.sum(), (x,), outputs)
    return outputs, again, loss, compress.metrics(transform, state), state.step


def test_an_empty_chain_changes_nothing(model: Any) -> None:
    outputs, _, loss, metrics, step = effect(chain(), *model)
    assert_equal(outputs, jax.jit(forward)(*model))
    assert loss == outputs.sum()
    assert metrics == {}
    assert step == 1
    compress.check(chain(), model[0], compress.init(forward, chain(), *model))


def test_a_chain_applies_the_first_transform_first(model: Any) -> None:
    params, x = model
    transform = chain(scaled(2.0), scaled(3.0))
    state = compress.init(forward, transform, params, x)
    seen = compress.parameters(transform, params, state)
    assert_equal(seen, jax.tree.map(lambda p: 3.0 * (2.0 * p + 1.0) + 1.0, params))
    assert compress.loss(transform, state, jnp.float32(5.0), (x,), x) == 34.0


def test_how_a_chain_is_nested_does_not_matter(model: Any) -> None:
    links = (
        prune.magnitude(0.5),
        distill.soft_targets((forward, model[0])),
        quantize.fake_quant(),
    )
    a, b, c = links
    flat = effect(chain(a, b, c), *model)
    assert_equal(effect(chain(a, chain(b, c)), *model), flat)
    assert_equal(effect(chain(chain(a, b), c), *model), flat)
    assert_equal(effect(chain(chain(), a, chain(b), c), *model), flat)


def test_a_chain_of_one_is_that_one(model: Any) -> None:
    transform = quantize.fake_quant()
    assert_equal(effect(chain(transform), *model), effect(transform, *model))


def test_each_link_observes_for_itself(model: Any) -> None:
    params, x = model
    float_range = quantize.fake_quant(sites="a", steps=(100, None))
    transform = chain(prune.magnitude(0.5), float_range)
    state = compress.init(forward, transform, params, x)
    _, observed = compress.observe(forward, transform)(params, state, x)
    state = compress.update(transform, state, params, None, observed)
    assert state.memory[1].ranges["a"].absmax == jnp.max(jnp.abs(x))


def test_to_prune_after_quantization_is_refused_with_the_remedy() -> None:
    message = (
        r"prune\.magnitude after quantize\.fake_quant would destroy its grid\. "
        r"Put prune\.magnitude first"
    )
    for second in (prune.magnitude(0.5), chain(prune.magnitude(0.5))):
        with pytest.raises(ValueError, match=r"would destroy its grid.*Put .*first"):
            chain(quantize.fake_quant(), second)
    with pytest.raises(ValueError, match=message):
        chain(quantize.fake_quant(), prune.magnitude(0.5))


def test_to_quantize_twice_is_refused_with_the_remedy() -> None:
    with pytest.raises(ValueError, match="or use one of them"):
        chain(quantize.fake_quant(), quantize.fake_quant())


def test_a_link_between_does_not_hide_a_wrong_order() -> None:
    teacher = distill.soft_targets((forward, {}))
    with pytest.raises(ValueError, match="would destroy its grid"):
        chain(quantize.fake_quant(), teacher, prune.magnitude(0.5))
    with pytest.raises(ValueError, match="would destroy its grid"):
        chain(chain(quantize.fake_quant(), teacher), prune.magnitude(0.5))


def test_a_chain_preserves_what_all_its_links_preserve() -> None:
    both = chain(prune.magnitude(0.5), quantize.fake_quant())
    assert both.provides == {"mask", "grid"}
    assert both.preserves == {"mask"}
    assert chain().preserves == {"mask", "grid"}


def test_check_raises_with_every_breach(model: Any) -> None:
    params, x = model
    harmful = scaled(1.0, name="harmful", preserves=frozenset({"mask", "grid"}))
    transform = chain(prune.magnitude(0.5), harmful)
    state = compress.init(forward, transform, params, x)
    with pytest.raises(ContractError, match=r'"a".*not zero.*\n.*"b".*not zero'):
        compress.check(transform, params, state)


def test_plans_of_a_site_are_joined(model: Any) -> None:
    transform = chain(prune.magnitude(0.5, sites="a"), quantize.fake_quant())
    assert transform.plan is not None
    plan = transform.plan(compress.find_sites(forward, *model))
    assert (
        plan["a"] == "pruned 50% of all sites together; int8 weights, int8 activations"
    )
    assert plan["b"] == "int8 weights, int8 activations"


def test_the_step_counts_updates(model: Any) -> None:
    for transform in (chain(), scaled(1.0), Transform("nothing", lambda p, s: ())):
        state = compress.init(forward, transform, *model)
        for expected in range(1, 4):
            state = compress.update(transform, state, model[0])
            assert state.step == expected


def test_one_transform_does_nothing_by_default(model: Any) -> None:
    transform = Transform("nothing", lambda params, sites: ())
    outputs, _, loss, metrics, _ = effect(transform, *model)
    assert_equal(outputs, jax.jit(forward)(*model))
    assert loss == outputs.sum()
    assert metrics == {}


def test_a_function_that_returns_a_tree_still_does(model: Any) -> None:
    params, x = model
    tree = lambda p, x: {"logits": forward(p, x), "aux": (x, None)}  # noqa: E731
    state = compress.init(tree, chain(), params, x)
    out = compress.apply(tree, chain())(params, state, x)
    assert_equal(out, tree(params, x))
    assert out["aux"][1] is None


# init


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_init_refuses_parameters_that_are_not_finite(model: Any, bad: float) -> None:
    params, x = model
    broken = {**params, "b": params["b"].at[1, 2].set(bad)}
    with pytest.raises(ValueError, match=r'"b" holds NaN.*Restore it'):
        compress.init(forward, chain(), broken, x)


def test_init_needs_shapes_only_where_nothing_is_ranked(model: Any) -> None:
    shapes = jax.eval_shape(lambda *args: args, *model)
    ramp = compress.ramp(0.0, 0.5, steps=(0, 10))
    transform = chain(prune.magnitude(ramp), quantize.fake_quant())
    expected = compress.init(forward, transform, *model)
    assert_equal(compress.init(forward, transform, *shapes), expected)


# calibrate


def test_calibrate_sees_the_masked_float_model(model: Any) -> None:
    params, x = model
    transform = chain(prune.magnitude(0.5), quantize.fake_quant(observer="absmax"))
    state = compress.init(forward, transform, params, x)
    # Small, so that tanh does not hide a change of its input.
    batches = [0.1 * x, 0.3 * x, 0.2 * x]
    state = compress.calibrate(forward, transform, params, state, batches)
    masks, ranges = state.memory[0].masks, state.memory[1].ranges
    hidden = [jnp.tanh(b @ (jnp.where(masks["a"], params["a"], 0.0))) for b in batches]
    assert ranges["a"].absmax == jnp.max(jnp.abs(batches[1]))
    # XLA fuses otherwise: an ulp of tanh.
    np.testing.assert_allclose(
        ranges["b"].absmax, max(jnp.max(jnp.abs(h)) for h in hidden), rtol=3e-7
    )
    assert ranges["a"].count == 3
    assert state.step == 0


def test_calibrate_takes_functions_of_several_inputs(model: Any) -> None:
    params, x = model
    two = lambda p, x, y: forward(p, x + y)  # noqa: E731
    transform = quantize.fake_quant()
    state = compress.init(two, transform, params, x, x)
    state = compress.calibrate(two, transform, params, state, [(x, x)])
    assert state.memory.ranges["a"].absmax == jnp.max(jnp.abs(x + x))


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], r"no batches\. Give at least one"),
        ([jnp.ones((2, 4)), jnp.full((2, 4), jnp.nan)], r"batch 2 holds NaN.*Clean"),
        ([jnp.full((2, 4), jnp.inf)], r"batch 1 holds NaN or infinity"),
        ([jnp.zeros((0, 4))], r"batch 1 is empty"),
    ],
    ids=["none", "nan", "inf", "empty"],
)
def test_calibrate_refuses_bad_data(model: Any, batches: Any, message: str) -> None:
    transform = quantize.fake_quant()
    state = compress.init(forward, transform, *model)
    with pytest.raises(ValueError, match=message):
        compress.calibrate(forward, transform, model[0], state, batches)


def test_calibrate_refuses_a_transform_that_observes_nothing(model: Any) -> None:
    transform = prune.magnitude(0.5)
    state = compress.init(forward, transform, *model)
    with pytest.raises(ValueError, match=r"prune\.magnitude has nothing to"):
        compress.calibrate(forward, transform, model[0], state, [model[1]])


def test_the_state_is_a_tree_of_arrays(model: Any) -> None:
    transform = chain(prune.magnitude(0.5), quantize.fake_quant())
    state = compress.init(forward, transform, *model)
    leaves, structure = jax.tree.flatten(state)
    assert all(isinstance(leaf, jax.Array) for leaf in leaves)
    again = jax.tree.unflatten(structure, [np.asarray(leaf) for leaf in leaves])
    assert isinstance(again, State)
    assert jax.tree.structure(again) == structure


def test_gradients_and_what_is_held_pass_through_every_link(model: Any) -> None:
    def link(name: str, factor: float) -> Transform:
        return Transform(
            name,
            init=lambda params, sites: jnp.float32(factor),
            gradients=lambda m, g, step: jax.tree.map(lambda x: m * x + 1.0, g),
            hold=lambda m, leaves, step: {n: m * x for n, x in leaves.items()},
        )

    params, x = model
    transform = chain(link("one", 2.0), scaled(1.0), link("two", 3.0))
    state = compress.init(forward, transform, params, x)
    grads = compress.gradients(transform, state, params)
    assert_equal(grads, jax.tree.map(lambda g: 3.0 * (2.0 * g + 1.0) + 1.0, params))
    moments = {"mu": params, "count": jnp.float32(5.0)}
    held, moments = compress.hold(transform, state, params, moments)
    assert_equal(held, jax.tree.map(lambda p: 6.0 * p, params))
    assert_equal(moments["mu"], held)
    assert moments["count"] == 5.0


def test_a_chain_without_these_moments_costs_no_pass_over_the_parameters() -> None:
    transform = chain(prune.magnitude(0.5), quantize.fake_quant())
    assert transform.gradients is None
    assert transform.hold is None
