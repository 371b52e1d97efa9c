"""One-shot pruning: exact counts, the right elements, and records of the rest."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import compress
from compress import prune, quantize
from compress.interpret import Quantized

D, LAYERS = 8, 2


def draw(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def forward(params: Any, x: Any) -> Any:
    def block(h: Any, layer: Any) -> Any:
        return h + jnp.tanh(h @ layer["up"] + layer["bias"][None]) @ layer["down"], None

    return jax.lax.scan(block, x, params["layers"])[0] @ params["head"]


PARAMS = {
    "layers": {
        "up": draw(LAYERS, D, D, seed=1) / 3,
        "bias": draw(LAYERS, D, seed=2),
        "down": draw(LAYERS, D, D, seed=3) / 4,
    },
    "head": draw(D, 6, seed=4),
}
# Inputs of unequal size that partly say the same, as activations do.
MIXING = draw(D, D, seed=5) * jnp.logspace(0, -1, D)[None]
BATCHES = [draw(40, D, seed=s) @ MIXING for s in (6, 7)]
PRUNED = ("layers/up", "layers/down")


@functools.cache
def shot(sites: Any = "layers/*", **settings: Any) -> prune.Pruned:
    return prune.one_shot(forward, PARAMS, BATCHES, sites=sites, **settings)


def leaf(params: Any, path: str) -> np.ndarray:
    for part in path.split("/"):
        params = params[part]
    return np.asarray(params)


RUN = jax.jit(forward)


@pytest.mark.parametrize("score", ["magnitude", "wanda", "second_order"])
@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
def test_every_layer_of_every_site_loses_exactly_half(score: str, pattern: str) -> None:
    params, masks, records = shot(score=score, pattern=pattern)
    assert tuple(masks) == PRUNED
    assert tuple(record.path for record in records) == PRUNED
    for record in records:
        mask, weights = np.asarray(masks[record.path]), leaf(params, record.path)
        layers = mask.reshape(-1, *mask.shape[-2:])
        np.testing.assert_array_equal(layers.mean(axis=(1, 2)), 0.5)
        np.testing.assert_array_equal(weights == 0.0, ~mask)
        assert (record.weights, record.pruned) == (mask.size, mask.size // 2)
        assert record.notes == ()
        if score != "second_order":  # the others stay as they are
            np.testing.assert_array_equal(
                weights[mask], leaf(PARAMS, record.path)[mask]
            )
        if pattern == "2:4":  # along the contracted axis
            groups = np.moveaxis(mask, -2, -1).reshape(-1, 4)
            np.testing.assert_array_equal(groups.sum(1), 2)
    np.testing.assert_array_equal(params["layers"]["bias"], PARAMS["layers"]["bias"])


WIDE = draw(48, 24, seed=8)
WIDE_X = [draw(200, 48, seed=9) @ draw(48, 48, seed=10) * jnp.exp(draw(1, 48, seed=11))]


@functools.cache
def wide(**settings: Any) -> prune.Pruned:
    return prune.one_shot(lambda p, x: x @ p, WIDE, WIDE_X, **settings)


def wide_error(params: Any) -> float:
    return float(np.square(WIDE_X[0] @ (params - WIDE)).mean())


def test_second_order_changes_the_outputs_least() -> None:
    magnitude = wide_error(wide(score="magnitude").params)
    wanda = wide_error(wide(score="wanda").params)
    second = wide_error(wide().params)
    assert second < wanda < magnitude


def test_wanda_ranks_each_output_alone_and_magnitude_each_layer() -> None:
    zeros = lambda **how: (~np.asarray(wide(**how).masks[""])).sum(0)  # noqa: E731
    assert set(zeros(score="wanda")) == {24}
    assert len(set(zeros(score="wanda", rank="layer"))) > 1
    assert len(set(zeros(score="magnitude"))) > 1
    assert set(zeros(score="magnitude", rank="output")) == {24}


def test_n_of_m_of_a_convolution_is_along_its_input_channels() -> None:
    numbers = ("NCHW", "OIHW", "NCHW")
    (mask,) = prune.one_shot(
        lambda p, x: jax.lax.conv_general_dilated(
            x, p, (1, 1), "SAME", dimension_numbers=numbers
        ),
        draw(3, 8, 2, 2),
        [draw(2, 8, 4, 4)],
        score="wanda",
        pattern="2:4",
    ).masks.values()
    groups = np.moveaxis(np.asarray(mask), 1, -1).reshape(-1, 4)
    np.testing.assert_array_equal(groups.sum(1), 2)


def test_the_recorded_error_is_that_of_the_outputs() -> None:
    params, _, records = shot(sites="head")
    inputs = [RUN({**PARAMS, "head": jnp.eye(D)}, x) for x in BATCHES]
    change = sum(np.square(h @ (params["head"] - PARAMS["head"])).sum() for h in inputs)
    before = sum(np.square(h @ PARAMS["head"]).sum() for h in inputs)
    assert records[0].error == pytest.approx(float(change / before), rel=1e-4)


def test_a_layout_changes_nothing_but_the_layout() -> None:
    x, w = BATCHES[0], PARAMS["head"]
    plain = prune.one_shot(lambda p, x: x @ p, w, [x])
    turned = prune.one_shot(lambda p, x: jnp.dot(p, x.T).T, w.T, [x])
    np.testing.assert_allclose(turned.params.T, plain.params, atol=1e-5)
    kernel = w.reshape(2, 2, 2, 6)
    images = x.reshape(-1, 2, 2, 2)
    numbers = ("NHWC", "HWIO", "NHWC")
    convolved = prune.one_shot(
        lambda p, x: jax.lax.conv_general_dilated(
            x, p, (1, 1), "VALID", dimension_numbers=numbers
        ),
        kernel,
        [images],
    )
    np.testing.assert_allclose(convolved.params.reshape(D, 6), plain.params, atol=1e-5)


def test_site_after_site_sees_what_was_pruned_before_it() -> None:
    both = shot(sequential=True).params
    first = shot(sites="layers/up").params
    second = prune.one_shot(forward, first, BATCHES, sites="layers/down").params
    np.testing.assert_array_equal(leaf(both, "layers/up"), leaf(first, "layers/up"))
    np.testing.assert_allclose(
        leaf(both, "layers/down"), leaf(second, "layers/down"), atol=1e-5
    )
    dense = shot().params
    assert (leaf(dense, "layers/down") != leaf(both, "layers/down")).any()


# Rounding in the same pass


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_the_quantizer_finds_the_integers_that_were_chosen(weights: str) -> None:
    quantizer = quantize.fake_quant(weights=weights, activations=None)
    params, masks, records = shot(quantize=quantizer)
    assert [record.notes for record in records] == [()] * 2
    state = compress.init(forward, quantizer, params, BATCHES[0])
    seen = compress.parameters(quantizer, params, state)
    for path, mask in masks.items():
        box = _box(seen, path)
        np.testing.assert_array_equal(np.asarray(box.qvalue)[~np.asarray(mask)], 0)
        # The float weights are on its grid already: rounding moves nothing.
        steps = leaf(params, path) / np.asarray(box.scale)
        np.testing.assert_allclose(steps, box.qvalue, atol=1e-4)
        assert (leaf(params, path) != leaf(shot().params, path)).any()


def _box(tree: Any, path: str) -> Any:
    for part in path.split("/"):
        tree = tree[part]
    return tree


def test_rounding_in_the_pass_beats_rounding_after_it() -> None:
    quantizer = quantize.fake_quant(weights="int4", activations=None)

    def rounded(params: Any) -> Any:
        state = compress.init(lambda p, x: x @ p, quantizer, params, WIDE_X[0])
        return compress.parameters(quantizer, params, state).dequantize()

    joint, after = wide(quantize=quantizer).params, wide().params
    assert wide_error(rounded(joint)) < 0.9 * wide_error(rounded(after))


def test_only_what_the_quantizer_quantizes_is_rounded() -> None:
    settings: Any = {"weights": "int4", "activations": None}
    quantizer = quantize.fake_quant(**settings, exclude="layers/up")
    up = leaf(shot(quantize=quantizer).params, "layers/up")
    np.testing.assert_allclose(up, leaf(shot().params, "layers/up"), atol=1e-6)
    unrelated = quantize.fake_quant(**settings, sites="head")
    with pytest.raises(ValueError, match="none of the sites to prune.*the same sites"):
        shot(quantize=unrelated)


def test_a_quantizer_that_would_round_again_is_recorded() -> None:
    # Its scale is a little larger than what the largest weight asks for.
    def looser(memory: Any, params: Any, step: Any) -> Any:
        scale = jnp.abs(params).max(0, keepdims=True) / 6.5
        return Quantized(jnp.clip(jnp.round(params / scale), -7, 7), scale, bits=4)

    quantizer = compress.Transform("looser", lambda p, s: (), parameters=looser)
    (record,) = wide(quantize=quantizer).records
    assert "weights are rounded again by looser" in record.notes[0]


# What is pruned, and what is not


def test_a_model_with_state_is_given_it() -> None:
    def with_state(params: Any, state: Any, x: Any) -> Any:
        return x * state["scale"][None] @ params["w"], state

    params, state = {"w": PARAMS["head"]}, {"scale": jnp.logspace(0, 2, D)}
    found = prune.one_shot(
        with_state, params, BATCHES, score="wanda", model_state=state
    )
    folded = prune.one_shot(
        lambda p, x: x * state["scale"][None] @ p["w"], params, BATCHES, score="wanda"
    )
    np.testing.assert_array_equal(found.masks["w"], folded.masks["w"])


def test_embeddings_and_excluded_sites_stay_dense() -> None:
    tied = lambda p, x: jnp.take(p["embed"], x, axis=0) @ p["w"] @ p["embed"].T  # noqa: E731
    params, ids = {"embed": draw(6, D), "w": draw(D, D)}, jnp.arange(6)
    found = prune.one_shot(tied, params, [ids], score="wanda")
    assert set(found.masks) == {"w"}
    named = prune.one_shot(tied, params, [ids], score="wanda", sites=["embed", "w"])
    assert set(named.masks) == {"embed", "w"}
    rest = shot("**", score="magnitude", exclude="layers/up").masks
    assert set(rest) == {"layers/down", "head"}


def test_a_weight_without_inputs_of_its_own_is_left_dense_with_the_reason() -> None:
    def model(params: Any, x: Any) -> Any:
        return jnp.tanh(x @ params["w"]) @ params["w"].T @ params["v"]

    params = {"w": draw(D, D), "v": draw(D, D, seed=1)}
    found = prune.one_shot(model, params, BATCHES, score="wanda")
    assert set(found.masks) == {"v"}
    np.testing.assert_array_equal(found.params["w"], params["w"])
    (record,) = [r for r in found.records if r.path == "w"]
    assert record.pruned == 0
    assert "left dense: multiplied in several ways" in str(record)


def test_a_loop_that_cannot_be_observed_is_left_dense_with_the_reason() -> None:
    def model(params: Any, x: Any) -> Any:
        rounds = lambda h: h @ params["w"]  # noqa: E731
        h = jax.lax.while_loop(lambda h: jnp.abs(h).max() < 1.0, rounds, x)
        return h @ params["v"]

    params = {"w": draw(D, D), "v": draw(D, D, seed=1)}
    found = prune.one_shot(model, params, BATCHES, score="wanda")
    assert set(found.masks) == {"v"}
    assert 'left dense: "w" is inside a while loop' in str(found.records[0])


def test_an_expert_that_got_no_input_is_ranked_by_magnitude_and_recorded() -> None:
    sizes = jnp.asarray([40, 0], jnp.int32)
    experts = draw(2, D, D)
    model = lambda p, x: jax.lax.ragged_dot(x, p, sizes)  # noqa: E731
    by_magnitude = prune.one_shot(model, experts, BATCHES, score="magnitude")
    found = prune.one_shot(model, experts, BATCHES)
    np.testing.assert_array_equal(found.masks[""][1], by_magnitude.masks[""][1])
    assert (
        "1 of 2 layers, experts or channels had no input" in found.records[0].notes[0]
    )


def test_damping_that_was_raised_is_recorded() -> None:
    few = [BATCHES[0][:2]]
    found = prune.one_shot(lambda p, x: x @ p, PARAMS["head"], few, damping=0.0)
    assert "damping raised from 0 to" in found.records[0].notes[0]
    assert "Give more batches" in str(found.records[0])
    assert np.isfinite(np.asarray(found.params)).all()


# Bad input


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sparsity": 1.0}, "below 1; it is the fraction of zeros"),
        ({"sparsity": 0.999}, 'layers/up".*leaves none of its'),
        ({"pattern": "4:2"}, 'N:M needs 1 <= N <= M. Did you mean "2:4"'),
        ({"pattern": "0:4"}, "keeps nothing"),
        ({"pattern": "block"}, 'must be "unstructured" or N:M'),
        ({"pattern": "2:4", "sparsity": 0.7}, "gives 0.5. Leave sparsity out"),
        ({"pattern": "2:3"}, r'"layers/up".*has 8 neighbouring.*: 2, 4, 8'),
        ({"score": "taylor"}, r"must be one of \('magnitude', 'wanda'"),
        ({"rank": "row"}, 'must be "layer" or "output"'),
        ({"rank": "layer"}, "no meaning with .*second_order.*Leave rank out"),
        ({"damping": -1.0}, "damping=-1.0 must be at least 0"),
        ({"block": 0}, "block=0 at least 1"),
        ({"sites": "**/kernel"}, r"prune\.one_shot: .*The nearest: "),
        (
            {"score": "wanda", "quantize": quantize.fake_quant()},
            "apply the quantizer to the pruned parameters",
        ),
    ],
)
def test_bad_settings_are_refused_with_the_remedy(settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        shot(**settings)


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "no batches. Give at least one"),
        ([BATCHES[0], jnp.full((2, D), jnp.nan)], "batch 2 holds NaN"),
        ([jnp.zeros((0, D))], "batch 1 is empty"),
    ],
)
def test_bad_batches_are_refused(batches: Any, message: str) -> None:
    with pytest.raises(ValueError, match=rf"prune\.one_shot: .*{message}"):
        prune.one_shot(forward, PARAMS, batches)


def test_parameters_that_are_not_finite_are_refused() -> None:
    broken = {**PARAMS, "head": PARAMS["head"].at[0, 0].set(jnp.inf)}
    with pytest.raises(ValueError, match='"head" holds NaN'):
        prune.one_shot(forward, broken, BATCHES)
