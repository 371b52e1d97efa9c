"""The task without its data: models, augmentation, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.data import data_file
from experiments.tasks import cifar, cifar_pretrained, resnet8
from experiments.tasks.tflite import float_constants


def test_a_network_of_other_widths_gives_ten_logits(key):
    def outputs(key, x, train):
        model = cifar.build(key, "4-6-8")
        logits, state = model.forward(model.params, model.model_state, x, train=train)
        return model.params, model.model_state, logits, state

    x = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.uint8)
    for train in (False, True):
        params, before, logits, after = jax.eval_shape(
            lambda key, x, train=train: outputs(key, x, train), key, x
        )
        assert logits.shape == (2, 10)
        assert params["block2/shortcut"]["kernel"].shape == (1, 1, 4, 6)
        assert after == before


@pytest.mark.parametrize("widths", ["", "16-32", "16-0-64", "wide"])
def test_widths_that_make_no_network_are_refused(key, widths):
    with pytest.raises(ValueError, match=r"three widths"):
        cifar.build(key, widths)


def test_augmentation_moves_and_mirrors_pixels_and_makes_none(key):
    x = np.random.default_rng(0).integers(1, 256, (16, 32, 32, 3)).astype(np.uint8)
    batch = cifar.augment(key, {"x": jnp.asarray(x), "y": jnp.arange(16)})
    moved = np.asarray(batch["x"])
    assert moved.dtype == np.uint8
    assert moved.shape == x.shape
    for before, after in zip(x, moved):
        inside = after[8:24, 8:24]  # what a shift by four cannot push out
        images = (before, before[:, ::-1])
        assert any(
            np.array_equal(inside, image[8 + i : 24 + i, 8 + j : 24 + j])
            for image in images
            for i in range(-4, 5)
            for j in range(-4, 5)
        )


def needs(name):
    try:
        return data_file(name)
    except FileNotFoundError as error:
        pytest.skip(str(error))


def test_constants_of_a_tflite_file_are_the_keras_weights_with_norms_folded():
    path = needs("mlperf_tiny/resnet8_cifar10_float32.tflite")
    keras = resnet8.load_params()
    names = [name for name in cifar_pretrained._LARGE if name in keras]
    for name, (kernel, bias) in zip(names, float_constants(path), strict=True):
        ours = keras[name]
        axes = (3, 0, 1, 2) if kernel.ndim == 4 else (1, 0)
        # Folded in float64 here and in float32 there.
        np.testing.assert_allclose(kernel, ours["kernel"].transpose(axes), rtol=1e-4)
        np.testing.assert_allclose(bias, ours["bias"], rtol=1e-4, atol=1e-5)


def test_what_is_no_tflite_file_is_refused(tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"not a \.tflite file"):
        float_constants(path)


def test_norms_put_back_change_nothing_of_the_large_network(key):
    needs("mlperf_tiny/resnet8_large_cifar10_float32.tflite")
    x = np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3)).astype(np.uint8)
    folded = cifar_pretrained.large_folded()
    unfolded = cifar.unfolded(*folded, jnp.asarray(x))
    run = jax.jit(cifar.logits)
    before, after = run(*folded, x[:4])[0], run(*unfolded, x[:4])[0]
    np.testing.assert_allclose(after, before, atol=1e-5 * np.abs(before).max())
    # And training sees them as statistics of these images.
    trained = jax.jit(lambda *arrays: cifar.logits(*arrays, train=True)[0])
    np.testing.assert_allclose(
        trained(*unfolded, x), run(*folded, x)[0], atol=1e-4 * np.abs(before).max()
    )
