"""Trained and served integers are the same at every site, or the site is named."""

import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import compress
from compress.export import ArtifactError
from compress.export.build import shipped_model
from compress.export.lower import Lowering
from compress.export.operations import check_integer_sites, weight_uses
from compress.export.shared import Shared
from compress.export.taps import allowed_difference, parting_site, tapped_sites
from compress.quantize import Range
from tests.export import models


def random_dense(rng: np.random.Generator) -> tuple[Any, Any, tuple[int, ...]]:
    """Dense layers; one weight is used again, transposed."""
    a, b = (int(n) for n in rng.integers(1, 9, 2))
    params = {"in": models.normal(rng, a, b), "out": models.normal(rng, a, 3)}

    def forward(params: Any, x: Any) -> Any:
        x = jax.nn.relu(x @ params["in"]) @ params["in"].T
        return x @ params["out"]

    return forward, params, (a,)


def random_conv(rng: np.random.Generator) -> tuple[Any, Any, tuple[int, ...]]:
    """A convolution with any stride, dilation, groups and padding, then a dense one."""
    groups, inside, out = (int(n) for n in rng.integers(1, 4, 3))
    kernel = tuple(int(n) for n in rng.integers(1, 4, 2))
    settings = {
        "window_strides": tuple(int(n) for n in rng.integers(1, 3, 2)),
        "padding": str(rng.choice(["SAME", "VALID"])),
        "rhs_dilation": tuple(int(n) for n in rng.integers(1, 3, 2)),
        "feature_group_count": groups,
        "dimension_numbers": ("NHWC", "HWIO", "NHWC"),
    }
    channels = groups * out
    params = {
        "conv": models.normal(rng, *kernel, inside, channels),
        "head": models.normal(rng, channels, 3),
    }

    def forward(params: Any, x: Any) -> Any:
        x = jax.lax.conv_general_dilated(x, params["conv"], **settings)
        return jax.nn.relu(x).mean((1, 2)) @ params["head"]

    return forward, params, (6, 7, groups * inside)


def random_scan(rng: np.random.Generator) -> tuple[Any, Any, tuple[int, ...]]:
    """Layers in a scan, with two sites each."""
    layers, width = int(rng.integers(1, 4)), int(rng.integers(1, 8))
    params = {
        "up": models.normal(rng, layers, width, 2 * width),
        "down": models.normal(rng, layers, 2 * width, width),
    }

    def forward(params: Any, x: Any) -> Any:
        def layer(x: Any, weights: Any) -> Any:
            up, down = weights
            return x + jax.nn.relu(x @ up) @ down, None

        return jax.lax.scan(layer, x, (params["up"], params["down"]))[0]

    return forward, params, (width,)


def random_attention(rng: np.random.Generator) -> tuple[Any, Any, tuple[int, ...]]:
    """One block of attention with a fused projection, and its output projection."""
    heads, depth = int(rng.integers(1, 3)), int(rng.integers(1, 5))
    width, length = heads * depth, int(rng.integers(1, 6))
    params = {
        "qkv": models.normal(rng, width, 3 * width),
        "out": models.normal(rng, heads, depth, width),
    }

    def forward(params: Any, x: Any) -> Any:
        split = jnp.split(x @ params["qkv"], 3, axis=-1)
        q, k, v = (part.reshape(*x.shape[:2], heads, depth) for part in split)
        scores = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k), axis=-1)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", scores, v)
        return jnp.einsum("bqhd,hdw->bqw", mixed, params["out"])

    return forward, params, (length, width)


FAMILIES: dict[str, Callable[[np.random.Generator], Any]] = {
    "dense": random_dense,
    "conv": random_conv,
    "scan": random_scan,
    "attention": random_attention,
}


def many_models(family: str, count: int) -> tuple[Any, Any, tuple[Any, ...]]:
    """Random models side by side in one function, so that they compile together."""
    parts = [FAMILIES[family](np.random.default_rng(seed)) for seed in range(count)]
    rng = np.random.default_rng(0)
    scales = 10.0 ** rng.integers(-3, 4, count)
    inputs = tuple(
        jnp.asarray(scale * rng.normal(size=(2, *shape)), jnp.float32)
        for scale, (_, _, shape) in zip(scales, parts)
    )

    def forward(params: Any, *inputs: Any) -> Any:
        return [
            part[0](params[f"{index:02d}"], x)
            for index, (part, x) in enumerate(zip(parts, inputs))
        ]

    return forward, {f"{i:02d}": part[1] for i, part in enumerate(parts)}, inputs


def with_ranges(state: compress.State) -> compress.State:
    """A state as after calibration, with ranges too narrow, right, and too wide."""
    rng = np.random.default_rng(0)
    is_range = lambda x: isinstance(x, Range)  # noqa: E731
    return jax.tree.map(
        lambda x: (
            Range(
                jnp.asarray(10.0 ** rng.uniform(-3, 4, x.absmax.shape), jnp.float32),
                jnp.ones_like(x.count),
            )
            if is_range(x)
            else x
        ),
        state,
        is_leaf=is_range,
    )


@pytest.mark.parametrize("count", [3, pytest.param(25, marks=pytest.mark.slow)])
@pytest.mark.parametrize("activations", ["int8", "int8_dynamic"])
@pytest.mark.parametrize("family", FAMILIES)
def test_trained_and_served_integers_are_equal_at_every_site(
    family: str, activations: str, count: int
) -> None:
    forward, params, inputs = many_models(family, count)
    transform = compress.quantize.fake_quant(activations=activations)
    state = with_ranges(compress.init(forward, transform, params, *inputs))
    model = shipped_model(Shared(forward, transform), params, state, None, inputs)
    rounded, compared, largest = set(), 0, 0.0
    for site, trained, served in tapped_sites(model, inputs):
        assert allowed_difference(site) == 0.0
        # The same integers, multiplied as in training and as they are served.
        np.testing.assert_array_equal(trained.served, trained.total, site.name)
        np.testing.assert_array_equal(*sides(site, trained, served)["weight"])
        if (number := site.name[:2]) in rounded:
            continue  # what follows a rounded integer is another number
        compared, largest = compared + 1, max(largest, np.abs(trained.total).max())
        ours, theirs = sides(site, trained, served)["input"]
        # Between sites the two programs compute floats, each with its own rounding.
        np.testing.assert_allclose(ours, theirs, atol=1, err_msg=site.name)
        if (ours != theirs).any():
            rounded.add(number)
    assert compared >= 2 * count - 2 and largest > 127 and len(rounded) <= count // 8


def sides(site: Any, *tapped: Any) -> dict[str, list[Any]]:
    """The operands of a site, by what they are."""
    both = [(x.lhs, x.rhs) for x in tapped]
    weight = site.weight_side
    return {"weight": [x[weight] for x in both], "input": [x[1 - weight] for x in both]}


def test_a_site_that_sums_more_than_float32_can_is_allowed_to_round() -> None:
    params = {"w": jnp.ones((1041, 2))}
    site = compress.find_sites(lambda p, x: x @ p["w"], params, jnp.ones((1, 1041)))
    assert allowed_difference(site["w"]) > 0


def off_by_one_at(width: int) -> Callable[..., Any]:
    """The served product, wrong where the result has `width` columns."""
    exact = Lowering.product

    def product(self: Lowering, *operands: Any) -> Any:
        total = exact(self, *operands)
        wrong = total + jnp.asarray(300, total.dtype)
        return wrong if total.shape[-1] == width else total

    return product


@pytest.mark.parametrize(
    ("model", "width", "site"),
    [
        ("mlp", 16, "first/kernel"),
        ("mlp", 4, "head/kernel"),
        ("conv", 4, "conv"),
        ("scanned", 6, "layers"),
    ],
)
def test_a_wrong_product_is_refused_by_the_name_of_its_site(
    model: str,
    width: int,
    site: str,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wrong = off_by_one_at(width)
    monkeypatch.setattr(Lowering, "product", wrong)
    with pytest.raises(
        ArtifactError,
        match=rf'at site "{site}" \(.*models\.py:\d+.*its product of the same '
        r"integers is -?\d+ instead of -?\d+ at .*Nothing was written",
    ):
        models.export(tmp_path / "a", model, "static")
    assert list(tmp_path.iterdir()) == []


def broken(change: Callable[..., Any]) -> str:
    """What is said of the MLP whose shipped weights were changed."""
    forward, params, transform, state, (x, _) = models.compressed("mlp", "static")
    model = shipped_model(Shared(forward, transform), params, state, None, (x,))
    weights = {k: v.copy() for k, v in model.packed.weights.items()}
    change(weights)
    model.packed.weights.update(weights)
    return parting_site(model, (jnp.asarray(x),))


def test_a_changed_weight_is_named() -> None:
    def change(weights: Any) -> None:
        weights["head/kernel"][0, 0] += -1 if weights["head/kernel"][0, 0] > 0 else 1

    said = broken(change)
    assert 'They part at site "head/kernel"' in said
    assert "the integers of its weight differ by up to 1 (1 of 64 do)" in said
    assert 'Before it, "first/kernel" agrees.' in said


def test_what_differs_between_two_sites_is_named_by_the_later_one() -> None:
    def change(weights: Any) -> None:
        weights["first/bias"] += 1

    said = broken(change)
    assert 'They part at site "head/kernel"' in said and "integers of its input" in said


def test_what_differs_after_the_last_site_is_said() -> None:
    def change(weights: Any) -> None:
        weights["head/bias"] += 1

    assert 'Every site agrees, up to "head/kernel": they part after it' in broken(
        change
    )


@pytest.mark.parametrize(
    ("model", "scheme", "kinds"),
    [
        ("mlp", "static", {"integer"}),
        ("conv", "dynamic", {"integer"}),
        ("scanned", "static", {"integer"}),
        ("mlp", "weights", {"float"}),
        ("mlp", "float", {"float"}),
    ],
)
def test_a_weight_is_followed_to_where_it_is_multiplied(
    model: str, scheme: str, kinds: set[str], exported: Any
) -> None:
    artifact = exported(model, scheme, "plain")
    names = sorted(artifact.weights)
    for parts in artifact.programs.values():
        uses = weight_uses(parts.whole(), names)
        for site in artifact.manifest["sites"]:
            assert uses[site["path"]] == kinds
        for name in names:
            if name.endswith(("bias", "::scale")):
                assert "integer" not in uses[name]


def integer_program(body: Callable[..., Any]) -> Any:
    """A program of one int8 weight `[4, 4]`."""
    shapes = {"w": jax.ShapeDtypeStruct((4, 4), jnp.int8)}
    x = jax.ShapeDtypeStruct((2, 4), jnp.int8)
    return jax.export.export(jax.jit(body))(shapes, x)


def dot(x: Any, w: Any) -> Any:
    return jax.lax.dot(x, w, preferred_element_type=jnp.int32)


def in_a_scan(w: Any, x: Any) -> Any:
    """Multiplies with a carried weight, twice."""
    step = lambda carry, _: ((carry[0], carry[1] + dot(x, carry[0])), None)  # noqa: E731
    start = (w, jnp.zeros((2, 4), jnp.int32))
    return jax.lax.scan(step, start, length=2)[0][1]


@pytest.mark.parametrize(
    ("body", "kinds"),
    [
        (lambda p, x: dot(x, jax.jit(jnp.transpose)(p["w"])), {"integer"}),
        (lambda p, x: dot(x, jnp.pad(p["w"], 1)[1:-1, 1:-1]), {"integer"}),
        (lambda p, x: x.astype("int32") * p["w"].astype("int32")[:1, :], {"integer"}),
        (lambda p, x: x.astype("float32") @ p["w"].astype("float32"), {"float"}),
        (
            lambda p, x: jax.lax.cond(
                x[0, 0] > 0,
                lambda: dot(x, p["w"]),
                lambda: dot(x, p["w"].astype("float32").astype("int8")),
            ),
            {"integer", "float"},
        ),
        (lambda p, x: in_a_scan(p["w"], x), {"integer"}),
        (
            lambda p, x: jax.lax.dot(x, p["w"], preferred_element_type=jnp.float32),
            {"float"},
        ),
        (lambda p, x: x + p["w"][:2], set()),
    ],
)
def test_integer_uses_are_told_from_float_ones(body: Any, kinds: set[str]) -> None:
    assert weight_uses(integer_program(body), ["w"])["w"] == kinds


def test_a_site_whose_program_is_in_float_is_named() -> None:
    site = {"name": "a", "path": "w", "op": "dot_general"}
    site |= {"weight_bits": 8, "activation_bits": 8}
    floating = integer_program(
        lambda p, x: x.astype("float32") @ p["w"].astype("float32")
    )
    with pytest.raises(ArtifactError, match='site "a": .* never multiplies its weight'):
        check_integer_sites(floating, ["w"], [site], {})
    exact = integer_program(lambda p, x: dot(x, p["w"]))
    assert check_integer_sites(exact, ["w"], [site], {}) == 1
    in_float = site | {"activation_bits": 32}
    assert check_integer_sites(floating, ["w"], [in_float], {}) == 0
    carried = {"a": {"rule": "float"}}
    assert check_integer_sites(floating, ["w"], [site], carried) == 0
