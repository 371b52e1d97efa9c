"""A model computing in bfloat16 is compressed, trained in float32 and shipped."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np

import compress
from compress import prune, quantize
from compress.compare import run_cell
from compress.config import parse_config
from tests import tiny

X = np.linspace(-2, 2, 80, dtype=np.float32).reshape(16, 5)


def test_sites_multiply_in_bfloat16_and_keep_their_names() -> None:
    model = tiny.build(jax.random.key(0))
    low = compress.compute_in(model, jnp.bfloat16)
    arguments = (model.params, model.model_state, X)
    program = jax.make_jaxpr(low.forward)(*arguments)
    products = [e for e in program.eqns if e.primitive is jax.lax.dot_general_p]
    assert [v.aval.dtype for e in products for v in e.invars] == [jnp.bfloat16] * 4
    assert [v.dtype for v in program.out_avals] == [jnp.float32, jnp.int32]
    names = [s.name for s in compress.find_sites(low.forward, *arguments)]
    assert names == [s.name for s in compress.find_sites(model.forward, *arguments)]
    # Three roundings to 8 bits on the way.
    np.testing.assert_allclose(
        low.forward(*arguments)[0], model.forward(*arguments)[0], atol=0.05
    )


def test_masks_and_integers_are_those_of_the_float32_parameters() -> None:
    model = tiny.build(jax.random.key(0))
    low = compress.compute_in(model, jnp.bfloat16)
    transform = compress.chain(
        prune.magnitude(sparsity=0.5), quantize.fake_quant(activations=None)
    )
    arguments = (model.model_state, X)
    states = [
        compress.init(m.forward, transform, model.params, *arguments)
        for m in (model, low)
    ]
    seen = [compress.parameters(transform, model.params, s) for s in states]
    for a, b in zip(*map(jax.tree.leaves, seen), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_run_in_bfloat16_trains_float32_parameters_and_is_served_as_trained(
    tmp_path: pathlib.Path,
) -> None:
    config = parse_config({**tiny.CONFIG, "compute": "bfloat16", "accumulate": 2})
    result = run_cell(
        config, tmp_path / "run", seed=0, teachers=tmp_path / "teachers", quiet=True
    )
    assert result["agreement"] == 1.0
    assert result["score"] > 0.6
    artifact = compress.load(tmp_path / "run/artifact")
    assert artifact.weights["first/bias"].dtype == np.float32
    assert artifact.weights["first/kernel"].dtype == np.int8
