"""Soft targets: their divergence, when it counts, and a teacher that never changes."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import compress
from compress import chain, distill, quantize
from compress.distill import soft_cross_entropy

logits = st.lists(
    st.floats(-30.0, 30.0, width=32, allow_subnormal=False), min_size=12, max_size=12
).map(lambda x: jnp.asarray(x, jnp.float32).reshape(4, 3))
temperatures = st.floats(0.5, 10.0)


def forward(params: Any, x: Any) -> Any:
    return jnp.tanh(x @ params["a"]) @ params["b"]


@pytest.fixture
def model(key: jax.Array) -> tuple[Any, jax.Array]:
    a, b, x = jax.random.split(key, 3)
    params = {"a": jax.random.normal(a, (4, 8)), "b": jax.random.normal(b, (8, 3))}
    return params, jax.random.normal(x, (5, 4))


def oracle(student: Any, teacher: Any, temperature: float) -> float:
    """`T**2 * sum p log(p / q)`, mean over rows, in float64."""

    def log_softmax(x: Any) -> Any:
        x = np.float64(x) / temperature
        x = x - x.max(axis=-1, keepdims=True)
        return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))

    p, q = log_softmax(teacher), log_softmax(student)
    return temperature**2 * (np.exp(p) * (p - q)).sum(axis=-1).mean()


# The divergence


@given(logits, logits, temperatures)
def test_the_divergence_is_that_of_the_equation(
    student: Any, teacher: Any, temperature: float
) -> None:
    out = soft_cross_entropy(student, teacher, temperature=temperature)
    # Logits of up to 30 / T have 2**-24 of that as rounding, T**2 times; 8 such terms.
    atol = 8 * 60.0 * max(temperature, 1.0) * 2.0**-24 * 4
    expected = oracle(student, teacher, temperature)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=atol)


@given(logits, temperatures)
def test_equal_logits_have_no_divergence_and_no_gradient(
    both: Any, temperature: float
) -> None:
    divergence = lambda x: soft_cross_entropy(x, both, temperature=temperature)  # noqa: E731
    value, gradient = jax.value_and_grad(divergence)(both)
    # Logits of 30 have 2**-24 of that as rounding, T times; in one fusion or two.
    np.testing.assert_allclose(value, 0.0, atol=10 * 30 * 2.0**-23)
    # T * (softmax - softmax): sums of probabilities that round to 1.
    np.testing.assert_allclose(gradient, 0.0, atol=10 * 2.0**-22)


@given(logits, logits)
def test_a_shift_of_all_logits_changes_nothing(student: Any, teacher: Any) -> None:
    one = soft_cross_entropy(student, teacher, temperature=2.0)
    two = soft_cross_entropy(student + 8.0, teacher - 4.0, temperature=2.0)
    # Shifted logits round to another 2**-24 of 38.
    np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-4)


def test_the_gradient_does_not_fade_with_the_temperature() -> None:
    # At high T the divergence falls as 1 / T**2, which T**2 undoes (Hinton, section 2).
    student, teacher = jnp.asarray([[0.0, 1.0, 2.0]]), jnp.asarray([[1.0, -1.0, 0.5]])
    gradient = jax.grad(lambda s: soft_cross_entropy(s, teacher, temperature=100.0))
    centred = lambda x: x - x.mean()  # noqa: E731
    expected = (centred(student) - centred(teacher)) / 3
    # Eq. 4 holds to first order in 1 / T.
    np.testing.assert_allclose(gradient(student), expected, rtol=0.05)


def test_a_class_masked_in_both_has_no_share() -> None:
    masked = jnp.asarray([[1.0, 2.0, -jnp.inf]])
    student = jnp.asarray([[2.0, 1.0, -jnp.inf]])
    divergence = lambda s: soft_cross_entropy(s, masked, temperature=2.0)  # noqa: E731
    value, gradient = jax.value_and_grad(divergence)(student)
    expected = oracle(student[:, :2], masked[:, :2], 2.0)
    np.testing.assert_allclose(value, expected, rtol=1e-6)  # a few float32 roundings
    assert jnp.isfinite(gradient).all()


def test_half_precision_is_summed_in_float32(model: Any) -> None:
    student = jax.random.normal(jax.random.key(1), (4, 3)).astype(jnp.bfloat16)
    out = soft_cross_entropy(student, 2.0 * student, temperature=2.0)
    assert out.dtype == jnp.float32
    expected = oracle(np.float32(student), np.float32(2.0 * student), 2.0)
    np.testing.assert_allclose(out, expected, rtol=1e-5)


def test_other_classes_are_refused_with_the_remedy() -> None:
    message = r"shape \(2, 3\), the teacher \(2, 4\).*same classes; select or reorder"
    with pytest.raises(ValueError, match=message):
        soft_cross_entropy(jnp.ones((2, 3)), jnp.ones((2, 4)), temperature=1.0)


def test_a_teacher_of_other_classes_is_refused_when_traced(model: Any) -> None:
    params, x = model
    teacher = lambda p, x: forward(p, x)[:, :2]  # noqa: E731
    transform = distill.soft_targets((teacher, params))
    state = compress.init(forward, transform, params, x)
    with pytest.raises(ValueError, match="same classes"):
        compress.loss(transform, state, jnp.float32(0), (x,), forward(params, x))


# The loss


def loss_at(transform: Any, model: Any, step: int) -> Any:
    params, x = model
    state = compress.init(forward, transform, params, x)._replace(step=jnp.int32(step))
    return compress.loss(transform, state, jnp.float32(3.0), (x,), forward(params, x))


def test_the_loss_weighs_both_parts(model: Any) -> None:
    params, x = model
    teacher = jax.tree.map(lambda p: 2.0 * p, params)
    transform = distill.soft_targets(
        (forward, teacher), temperature=2.0, soft_weight=0.5, hard_weight=0.25
    )
    expected = 0.25 * 3.0 + 0.5 * oracle(forward(params, x), forward(teacher, x), 2.0)
    np.testing.assert_allclose(loss_at(transform, model, 0), expected, rtol=1e-5)


def test_a_student_equal_to_its_teacher_has_zero_loss_and_gradient(model: Any) -> None:
    params, x = model
    transform = distill.soft_targets(
        (forward, params), soft_weight=1.0, hard_weight=0.0
    )
    state = compress.init(forward, transform, params, x)

    def loss(params: Any) -> Any:
        outputs = forward(params, x)
        return compress.loss(transform, state, outputs.sum(), (x,), outputs)

    value, gradient = jax.value_and_grad(loss)(params)
    assert value == 0.0
    for leaf in jax.tree.leaves(gradient):
        # Differences of probabilities that round to 1, times T and the inputs.
        np.testing.assert_allclose(leaf, 0.0, atol=1e-5)


@pytest.mark.parametrize(
    ("steps", "active"),
    [
        ((0, None), [0, 1, 2, 3, 4, 5]),
        ((2, None), [2, 3, 4, 5]),
        ((1, 3), [1, 2]),
        ([(0, 1), (3, 5)], [0, 3, 4]),
    ],
)
def test_outside_its_windows_the_loss_is_the_task_s(
    model: Any, steps: Any, active: list[int]
) -> None:
    teacher = jax.tree.map(lambda p: 2.0 * p, model[0])
    transform = distill.soft_targets((forward, teacher), steps=steps)
    losses = [float(loss_at(transform, model, step)) for step in range(6)]
    assert [n for n, loss in enumerate(losses) if loss != 3.0] == active


def test_one_compilation_serves_all_windows(model: Any) -> None:
    params, x = model
    transform = distill.soft_targets((forward, params), steps=[(1, 2), (4, None)])
    state = compress.init(forward, transform, params, x)

    @jax.jit
    def step(state: Any, x: Any) -> Any:
        outputs = forward(params, x)
        loss = compress.loss(transform, state, outputs.sum(), (x,), outputs)
        return loss, compress.update(transform, state, params)

    for _ in range(6):
        _, state = step(state, x)
    assert step._cache_size() == 1


def test_no_gradient_reaches_the_teacher(model: Any) -> None:
    params, x = model
    transform = distill.soft_targets((forward, jax.tree.map(jnp.cos, params)))
    state = compress.init(forward, transform, params, x)

    def loss(teacher: Any, params: Any) -> Any:
        taught = state._replace(memory=state.memory._replace(teacher=teacher))
        outputs = forward(params, x)
        return compress.loss(transform, taught, outputs.sum(), (x,), outputs)

    at_teacher, at_student = jax.grad(loss, argnums=(0, 1))(
        state.memory.teacher, params
    )
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(at_teacher))
    assert all((leaf != 0).any() for leaf in jax.tree.leaves(at_student))


# One process, several models

ROLES = ("teacher", "student", "qat")


@pytest.mark.parametrize("order", list(itertools.permutations(ROLES)), ids="-".join)
def test_models_traced_in_any_order_do_not_touch_one_another(
    model: Any, order: tuple[str, ...]
) -> None:
    params, x = model
    # A function of its own, so that its trace is cached by no other test.
    shared = jax.jit(lambda p, x: jnp.tanh(x @ p["a"]) @ p["b"])
    exact = np.tanh(np.float64(x) @ np.float64(params["a"])) @ np.float64(params["b"])
    transform = chain(distill.soft_targets((shared, params)), quantize.fake_quant())
    state = compress.init(shared, transform, params, x)

    def taught(params: Any, state: Any, x: Any) -> Any:
        outputs = compress.apply(shared, transform)(params, state, x)
        loss = compress.loss(transform, state, jnp.float32(0), (x,), outputs)
        return outputs, loss

    runs = {
        "teacher": lambda: shared(params, x),
        "student": lambda: jax.jit(lambda p, x: shared(p, x))(params, x),
        "qat": lambda: jax.jit(taught)(params, state, x),
    }
    out = {role: runs[role]() for role in order}
    # Float32 sums of 8 terms; quantized they are 1e-2 apart.
    np.testing.assert_allclose(out["teacher"], exact, rtol=0, atol=1e-5)
    np.testing.assert_allclose(out["student"], exact, rtol=0, atol=1e-5)
    quantized, loss = out["qat"]
    assert np.abs(quantized - exact).max() > 1e-3
    assert loss > 0.0
    np.testing.assert_array_equal(runs["teacher"](), out["teacher"])
    np.testing.assert_array_equal(runs["qat"]()[0], quantized)


def test_the_teacher_computes_the_same_bits_after_the_student_was_quantized(
    model: Any,
) -> None:
    params, x = model
    before = np.asarray(jax.jit(forward)(params, x))
    transform = quantize.fake_quant()
    state = compress.init(forward, transform, params, x)
    apply = jax.jit(compress.apply(forward, transform))
    jax.grad(lambda p: apply(p, state, x).sum())(params)
    np.testing.assert_array_equal(jax.jit(forward)(params, x), before)
    jax.clear_caches()
    np.testing.assert_array_equal(jax.jit(forward)(params, x), before)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, "must be positive"),
        ({"soft_weight": -1.0}, "must not be negative"),
        ({"soft_weight": 0.0, "hard_weight": 0.0}, "nor both zero"),
        ({"steps": (3, 3)}, "hold no step"),
        ({"steps": [(0, 2), (-1, 4)]}, "hold no step"),
        ({"steps": ()}, "steps is empty"),
    ],
)
def test_bad_settings_are_refused_with_the_remedy(settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        distill.soft_targets((forward, {}), **settings)
