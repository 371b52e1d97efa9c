"""Flax NNX modules as pure functions."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import compress


class Normed(nnx.Module):
    """A dense layer, batch normalisation and two dropouts of the same shape."""

    def __init__(self, rngs: nnx.Rngs, rate: float = 0.5) -> None:
        self.dense = nnx.Linear(4, 8, rngs=rngs)
        self.norm = nnx.BatchNorm(8, momentum=0.5, rngs=rngs)
        self.first = nnx.Dropout(rate, rngs=rngs)
        self.second = nnx.Dropout(rate, rngs=rngs)

    def __call__(self, x: jax.Array) -> Any:
        x = self.norm(self.dense(x))
        return self.first(x), self.second(jnp.ones_like(x))


class Deep(nnx.Module):
    """Twelve layers, each of which does something else."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.layers = nnx.List([nnx.Linear(3, 3, rngs=rngs) for _ in range(12)])

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self.layers:
            x = jnp.tanh(layer(x))
        return x


class Noisy(nnx.Module):
    """Draws from a stream that is neither `default` nor `dropout`."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.rngs = rngs

    def __call__(self, x: jax.Array) -> jax.Array:
        return x + jax.random.normal(self.rngs.noise(), x.shape)


@pytest.fixture(scope="module")
def x() -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).normal(size=(6, 4)), jnp.float32)


@pytest.fixture(scope="module")
def model() -> compress.Model:
    return compress.from_nnx(Normed(nnx.Rngs(0)))


def train(model: compress.Model, x: jax.Array, seed: int, state: Any = None) -> Any:
    state = model.model_state if state is None else state
    return model.forward(model.params, state, x, train=True, key=jax.random.key(seed))


def assert_same(tree: Any, other: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, tree, other)


def test_parameters_and_batch_statistics_are_apart_and_named_by_attribute(
    model: compress.Model,
) -> None:
    assert set(model.params) == {"dense", "norm"}
    assert set(model.params["dense"]) == {"kernel", "bias"}
    assert set(model.model_state["norm"]) == {"mean", "var"}


def test_inference_is_that_of_the_module_in_evaluation_mode(x: jax.Array) -> None:
    module = Normed(nnx.Rngs(0))
    model = compress.from_nnx(module)
    expected = nnx.view(module, deterministic=True, use_running_average=True)(x)
    outputs, state = model.forward(model.params, model.model_state, x)
    assert_same(outputs, expected)
    assert_same(state, model.model_state)


def test_training_moves_the_batch_statistics_as_the_equation_says(
    model: compress.Model, x: jax.Array
) -> None:
    _, state = train(model, x, 0)
    dense = model.params["dense"]
    hidden = np.asarray(x, np.float64) @ np.asarray(dense["kernel"], np.float64)
    expected = 0.5 * (hidden + np.asarray(dense["bias"])).mean(0)
    # The momentum is 0.5 and the mean was 0; float32 sums of six terms.
    np.testing.assert_allclose(state["norm"]["mean"], expected, atol=1e-6)
    _, later = train(model, x, 0, state)
    np.testing.assert_allclose(later["norm"]["mean"], 1.5 * expected, atol=1e-6)


def test_the_same_key_gives_the_same_dropout_and_another_key_another_one(
    model: compress.Model, x: jax.Array
) -> None:
    (first, _), _ = train(model, x, 0)
    (again, _), _ = train(model, x, 0)
    (other, _), _ = train(model, x, 1)
    assert_same(first, again)
    assert ((first == 0) != (other == 0)).any()


def test_two_dropout_layers_draw_different_masks_from_one_key(
    model: compress.Model, x: jax.Array
) -> None:
    (first, second), _ = train(model, x, 0)
    assert ((first == 0) != (second == 0)).any()


def test_every_random_stream_follows_the_key_whatever_its_name(x: jax.Array) -> None:
    model = compress.from_nnx(Noisy(nnx.Rngs(noise=0)))
    assert_same(train(model, x, 0)[0], train(model, x, 0)[0])
    assert (train(model, x, 0)[0] != train(model, x, 1)[0]).any()


def test_dropout_inside_scanned_layers_takes_a_key_per_layer(x: jax.Array) -> None:
    @nnx.split_rngs(splits=3)
    @nnx.vmap(in_axes=0, out_axes=0)
    def layers(rngs: nnx.Rngs) -> nnx.Dropout:
        return nnx.Dropout(0.5, rngs=rngs)

    class Stack(nnx.Module):
        def __init__(self) -> None:
            self.layers = layers(nnx.Rngs(0))

        def __call__(self, x: jax.Array) -> jax.Array:
            run = nnx.scan(
                lambda x, layer: (x, layer(x)),
                in_axes=(nnx.Carry, 0),
                out_axes=(nnx.Carry, 0),
            )
            return run(x, self.layers)[1]

    model = compress.from_nnx(Stack())
    masks = np.asarray(train(model, jnp.ones_like(x), 0)[0])
    assert (masks[0] != masks[1]).any() and (masks[1] != masks[2]).any()
    assert (train(model, jnp.ones_like(x), 1)[0] != masks).any()


def test_training_without_a_key_is_refused_where_the_module_draws_numbers(
    model: compress.Model, x: jax.Array
) -> None:
    with pytest.raises(ValueError, match="Pass key="):
        model.forward(model.params, model.model_state, x, train=True)


def test_training_without_a_key_is_fine_where_nothing_is_drawn() -> None:
    model = compress.from_nnx(Deep(nnx.Rngs(0)))
    model.forward(model.params, model.model_state, jnp.ones((2, 3)), train=True)


def test_more_than_ten_layers_of_a_list_keep_their_order() -> None:
    module = Deep(nnx.Rngs(1))
    model = compress.from_nnx(module)
    x = jnp.linspace(-1.0, 1.0, 6).reshape(2, 3)
    assert_same(model.predictor()(model.params, x), module(x))
    assert set(model.params["layers"]) == {str(i) for i in range(12)}
    # One layer is changed, by its name: the same one as in the module.
    for index in (2, 10):
        changed = jax.tree.map(lambda leaf: leaf, model.params)
        changed["layers"][str(index)]["bias"] += 1.0
        twin = nnx.clone(module)
        twin.layers[index].bias[...] += 1.0
        assert_same(model.predictor()(changed, x), twin(x))


def test_neither_the_module_nor_the_callers_arrays_are_changed(x: jax.Array) -> None:
    module = Normed(nnx.Rngs(0))
    before = [np.array(leaf) for leaf in leaves_of(module)]
    model = compress.from_nnx(module)
    kept = [np.array(leaf) for leaf in jax.tree.leaves(model.model_state)]
    train(model, x, 0)
    jax.jit(lambda state: train(model, x, 0, state))(model.model_state)
    assert_same(before, [np.array(leaf) for leaf in leaves_of(module)])
    assert_same(kept, [np.array(leaf) for leaf in jax.tree.leaves(model.model_state)])


def leaves_of(module: nnx.Module) -> list[Any]:
    return [
        jax.random.key_data(leaf)
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        else leaf
        for leaf in jax.tree.leaves(nnx.state(module))
    ]


def test_it_can_be_compiled_differentiated_and_vectorized(
    model: compress.Model, x: jax.Array
) -> None:
    def loss(params: Any, key: Any) -> Any:
        (out, _), state = model.forward(
            params, model.model_state, x, train=True, key=key
        )
        return (out**2).sum(), state

    keys = jax.random.split(jax.random.key(0), 3)
    one = jax.value_and_grad(loss, has_aux=True)
    (values, states), grads = jax.jit(jax.vmap(one, (None, 0)))(model.params, keys)
    (value, state), grad = one(model.params, keys[1])
    # Compiled and not: float32 sums in another order.
    np.testing.assert_allclose(values[1], value, rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a[1], b, rtol=1e-4, atol=1e-5),
        (grads, states),
        (grad, state),
    )
    assert len(set(map(float, values))) == 3


def test_the_predictor_infers_with_the_given_statistics(
    model: compress.Model, x: jax.Array
) -> None:
    _, state = train(model, x, 0)
    given = model.predictor(state)(model.params, x)
    assert_same(given, model.forward(model.params, state, x)[0])
    own = model.predictor()(model.params, x)
    assert (given[0] != own[0]).any()


def test_a_module_without_parameters_or_state_is_a_model() -> None:
    class Double(nnx.Module):
        def __call__(self, x: jax.Array) -> jax.Array:
            return 2 * x

    model = compress.from_nnx(Double())
    assert model.params == {} and model.model_state == {}
    assert model.predictor()(model.params, jnp.ones(2)).tolist() == [2.0, 2.0]
