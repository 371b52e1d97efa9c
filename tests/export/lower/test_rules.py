"""Every rule gives the integers of plain int32 arithmetic, whatever the shapes."""

import functools
import importlib
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.extend.core import primitives

from compress.export.lower import Lowering
from compress.export.lower.guard import Signature, problem, reference
from compress.export.lower.offset_dot import offset_dot, to_unsigned
from compress.export.lower.rules import RULES, Choice, candidates
from compress.export.manifest import ArtifactError
from compress.interpret import trace
from compress.sites import find_sites

offset_dot_module = importlib.import_module("compress.export.lower.offset_dot")
CONTRACTIONS = (primitives.dot_general_p, primitives.conv_general_dilated_p)


def signature_of(function: Any, *shapes: Any) -> Signature:
    """Of the one contraction of a function; the weight is the int8 operand."""
    operands = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in shapes]
    program = trace(lambda *x: function(*(a.astype(jnp.float32) for a in x)), *operands)
    (equation,) = (e for e in program.jaxpr.eqns if e.primitive in CONTRACTIONS)
    return Signature(equation, *operands)


def choices_of(signature: Signature, stacked: bool = False) -> list[Choice]:
    return candidates(signature.equation, *signature.shaped, stacked=stacked)


def product(m: int, k: int, n: int) -> Signature:
    return signature_of(jnp.matmul, ((m, k), jnp.float32), ((k, n), jnp.int8))


def convolution(
    size: int, channels: int, features: int, kernel: int, stride: int, groups: int = 1
) -> Signature:
    """Of square images, NHWC, padded to the same size."""
    function = functools.partial(
        jax.lax.conv_general_dilated,
        window_strides=(stride, stride),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )
    image = (2, size, size, channels)
    weight = (kernel, kernel, channels // groups, features)
    return signature_of(function, (image, jnp.float32), (weight, jnp.int8))


@st.composite
def any_convolution(draw: Any) -> Signature:
    """1 to 3 spatial axes; any stride, dilation, padding, groups and layout."""
    rank = draw(st.integers(1, 3))
    each = lambda low, high: draw(  # noqa: E731
        st.lists(st.integers(low, high), min_size=rank, max_size=rank)
    )
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    channels = groups * draw(st.sampled_from([1, 2, 3, 8, 16]))
    if draw(st.booleans()) and groups > 1:
        groups = channels  # depthwise
    features = groups * draw(st.sampled_from([1, 2, 5]))
    space, kernel, dilation = each(1, 9), each(1, 4), each(1, 2)
    padding = list(zip(each(0, 3), each(0, 3), strict=True))
    stride = each(1, 3)
    stretch = each(1, 2) if stride == [1] * rank else [1] * rank
    axes = "DHW"[-rank:]
    layout, weights = draw(
        st.sampled_from([(f"N{axes}C", f"{axes}IO"), (f"NC{axes}", f"OI{axes}")])
    )
    sizes = {"N": 2, "C": channels, **dict(zip(axes, space, strict=True))}
    taps = {"I": channels // groups, "O": features}
    taps |= dict(zip(axes, kernel, strict=True))
    lhs = (tuple(sizes[axis] for axis in layout), jnp.float32)
    rhs = (tuple(taps[axis] for axis in weights), jnp.int8)
    function = functools.partial(
        jax.lax.conv_general_dilated,
        window_strides=stride,
        padding=padding,
        lhs_dilation=stretch,
        rhs_dilation=dilation,
        dimension_numbers=(layout, weights, layout),
        feature_group_count=groups,
    )
    return signature_of(function, lhs, rhs)


@st.composite
def any_product(draw: Any) -> Signature:
    """Axes in any order, the weight on either side, with and without a batch axis."""
    small = st.integers(1, 9)
    batch = draw(st.lists(small, max_size=1))
    summed = draw(st.lists(small, min_size=1, max_size=2))
    free = [draw(st.lists(small, max_size=2)) for _ in range(2)]
    shapes, numbers = [], []
    for side in range(2):
        axes = [*batch, *summed, *free[side]]
        order = draw(st.permutations(range(len(axes))))
        shapes.append(tuple(axes[i] for i in order))
        place = [order.index(i) for i in range(len(axes))]
        numbers.append((place[len(batch) :][: len(summed)], place[: len(batch)]))
    contracted, batched = zip(*numbers, strict=True)
    dtypes = draw(st.permutations([jnp.float32, jnp.int8]))
    function = lambda a, b: jax.lax.dot_general(a, b, (contracted, batched))  # noqa: E731
    return signature_of(function, *zip(shapes, dtypes, strict=True))


@given(any_convolution() | any_product())
def test_every_rule_computes_the_integers_of_int32(signature: Signature) -> None:
    if 0 in signature.equation.outvars[0].aval.shape:
        return
    found = choices_of(signature)
    assert found[-1].rule == "plain"
    for choice in found:
        assert problem(choice.rule, signature) is None


@pytest.mark.parametrize(
    ("signature", "rule"),
    [
        (product(64, 512, 512), "unsigned"),
        (product(1, 512, 512), "matvec"),
        (product(64, 16, 16), "float"),
        (convolution(8, 3, 16, 3, 1), "patches_of_2"),
        (convolution(8, 32, 32, 3, 1), "rows"),
        (convolution(8, 32, 32, 3, 2), "patches"),
        (convolution(8, 32, 32, 1, 2), "patches"),
        (convolution(8, 32, 32, 3, 1, groups=32), "depthwise"),
        (convolution(8, 32, 32, 3, 1, groups=2), "patches_of_2"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.key[:30],
)
def test_the_fastest_rule_depends_on_the_shape(signature: Signature, rule: str) -> None:
    assert choices_of(signature)[0].rule == rule
    assert problem(rule, signature) is None


def test_a_weight_in_a_scan_is_not_laid_out_at_every_round() -> None:
    row = product(1, 512, 512)
    assert choices_of(row, stacked=True)[0].rule == "unsigned"


@pytest.mark.parametrize("transposed", ["operand", "result"])
def test_transposes_around_a_product_do_not_break_its_compilation(
    transposed: str,
) -> None:
    # Without the barriers XLA exchanges the operands, and has no int8 x uint8 kernel.
    x, w = product(31, 63, 16).operands()

    def computed(x: Any) -> Any:
        if transposed == "result":
            bind = offset_dot_module._mixed_dot_p.bind
            return bind(to_unsigned(x), w, transposed=False).T
        return offset_dot(to_unsigned(jnp.clip(jnp.round(x.T / 2), -127, 127)), w)

    if transposed == "result":
        lhs, found = np.asarray(x, np.int32) + 128, jax.jit(computed)(x).T
    else:
        lhs, found = (
            np.round(np.asarray(x) / 2).astype(np.int32),
            jax.jit(computed)(x.T),
        )
    np.testing.assert_array_equal(found, lhs @ np.asarray(w, np.int32))


def test_the_rules_export_for_every_platform_and_batch_size() -> None:
    signature = convolution(6, 3, 5, 3, 2)
    x, w = signature.operands()
    (batch,) = jax.export.symbolic_shape("batch")
    exported = jax.export.export(
        jax.jit(lambda x: RULES["patches_of_2"](signature.equation, x, w)),
        platforms=["cpu", "cuda", "tpu"],
    )(jax.ShapeDtypeStruct((batch, *x.shape[1:]), jnp.float32))
    loaded = jax.export.deserialize(exported.serialize())
    three = jnp.concatenate([x, x[:1]])
    plain = RULES["plain"](signature.equation, three, w)
    np.testing.assert_array_equal(loaded.call(three), plain)


def test_a_wrong_rule_is_refused_and_another_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exact = RULES["unsigned"]
    monkeypatch.setitem(RULES, "unsigned", lambda *x: exact(*x).at[0, 0].add(1))
    params = {"w": jnp.ones((77, 79))}
    site = next(iter(find_sites(lambda p, x: x @ p["w"], params, jnp.ones((5, 77)))))
    signature = product(5, 77, 79)
    x, w = signature.operands()
    lowering = Lowering("fastest")
    total = lowering.product(site, signature.equation, x, w)
    np.testing.assert_array_equal(total, reference(signature.equation, [x, w]))
    (record,) = lowering.records().values()
    assert record["rule"] == "plain"
    assert "unsigned: XLA computes 1 of 395 sums wrongly" in record["refused"][0]


def test_where_no_rule_is_right_the_export_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(RULES, "plain", lambda _, x, w: jnp.zeros((5, 83), jnp.int32))
    params = {"w": jnp.ones((78, 83))}
    site = next(iter(find_sites(lambda p, x: x @ p["w"], params, jnp.ones((5, 78)))))
    signature = product(5, 78, 83)
    message = r'"w" \(test_rules.*in float with exclude='
    with pytest.raises(ArtifactError, match=message):
        Lowering("plain").product(site, signature.equation, *signature.operands())


def test_measuring_takes_the_fastest_and_remembers_it(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    params = {"w": jnp.ones((256, 512))}
    site = next(iter(find_sites(lambda p, x: x @ p["w"], params, jnp.ones((64, 256)))))
    signature = product(64, 256, 512)
    lowering = Lowering("measured")
    lowering.product(site, signature.equation, *signature.operands())
    (record,) = lowering.records().values()
    assert record["rule"] in {choice.rule for choice in choices_of(signature)}
    assert record["reason"].startswith("measured: unsigned ")
    assert len(list(tmp_path.rglob("*.json"))) == 1


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="must be one of .*'fastest', 'measured'"):
        Lowering("quick")
