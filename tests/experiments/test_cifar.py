"""The task without its data: models, augmentation, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.tasks import cifar


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
