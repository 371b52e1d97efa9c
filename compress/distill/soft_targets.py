"""Soft targets: the student matches the teacher's softened predictions.

Source: Hinton et al. 2015, section 2. https://arxiv.org/abs/1503.02531
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp

from compress.annotations import Array, Float, PyTree
from compress.transform import Transform

Window = tuple[int, int | None]
_NEVER = 2**31 - 1


class SoftTargetsState(NamedTuple):
    """What distillation remembers.

    Attributes:
      teacher: The teacher's parameters, never changed.
    """

    teacher: PyTree


def soft_targets(
    teacher: tuple[Callable[..., Any], PyTree],
    *,
    temperature: float | Float[Array, ""] = 4.0,
    soft_weight: float | Float[Array, ""] = 0.9,
    hard_weight: float | Float[Array, ""] = 0.1,
    steps: Window | Sequence[Window] = (0, None),
) -> Transform:
    """Adds the divergence from the teacher's predictions to the loss.

    `hard_weight * loss + soft_weight * T**2 * KL(teacher || student)` in the window of
    steps, the plain loss outside it. The teacher is evaluated in the same jit and only
    inside the window.

    Temperature and weights may be traced: a grid over them is one program under
    `jax.vmap`. What a traced number is cannot be checked.

    Args:
      teacher: `(forward, params)` of any architecture, `forward(params, *inputs)`
        giving logits for the inputs the student gets.
      temperature: Divides the logits of both; positive.
      soft_weight: Of the divergence.
      hard_weight: Of the task's own loss.
      steps: From the first to before the second (None: to the end), or several.

    Raises:
      ValueError: If a setting is out of range.
    """
    teacher_forward, teacher_params = teacher
    windows = _as_windows(steps)
    _check_settings(temperature, soft_weight, hard_weight, windows)

    def loss(
        memory: SoftTargetsState, step: Array, loss: Array, inputs: Any, outputs: Any
    ) -> Array:
        def distilled() -> Array:
            logits = teacher_forward(jax.lax.stop_gradient(memory.teacher), *inputs)
            soft = soft_cross_entropy(
                outputs, jax.lax.stop_gradient(logits), temperature=temperature
            )
            hard = jnp.asarray(hard_weight, loss.dtype) * loss
            return hard + jnp.asarray(soft_weight, loss.dtype) * soft.astype(loss.dtype)

        active = [(step >= begin) & (step < end) for begin, end in windows]
        return jax.lax.cond(jnp.any(jnp.stack(active)), distilled, lambda: loss)

    return Transform(
        name="distill.soft_targets",
        init=lambda params, sites: SoftTargetsState(teacher_params),
        loss=loss,
        preserves=frozenset({"mask", "grid"}),
    )


def soft_cross_entropy(
    student: Float[Array, "*batch classes"],
    teacher: Float[Array, "..."],
    *,
    temperature: float | Float[Array, ""],
) -> Float[Array, ""]:
    """`T**2 * KL(softmax(teacher / T) || softmax(student / T))`, mean over the batch.

    Args:
      student: Logits.
      teacher: Logits of the same classes.
      temperature: Positive.

    Raises:
      ValueError: If the two do not have the same classes.
    """
    if student.shape != teacher.shape:
        raise ValueError(
            f"distill.soft_targets: the student gives logits of shape {student.shape}, "
            f"the teacher {teacher.shape}. Both must have the same classes; select or "
            "reorder the teacher's outputs in its forward function."
        )
    log_student = jax.nn.log_softmax(student.astype(jnp.float32) / temperature)
    log_teacher = jax.nn.log_softmax(teacher.astype(jnp.float32) / temperature)
    target = jnp.exp(log_teacher)
    # A class masked with -inf has no share in the sum; 0 * (-inf + inf) would be NaN.
    gap = jnp.where(target > 0, log_teacher - log_student, 0.0)
    divergence = jnp.sum(target * gap, axis=-1)
    return temperature**2 * jnp.mean(divergence)


def _as_windows(steps: Any) -> tuple[tuple[int, int], ...]:
    if not steps:
        raise ValueError(
            "distill.soft_targets: steps is empty. Give (begin, end), or leave it out."
        )
    several = steps if isinstance(steps[0], (tuple, list)) else (steps,)
    return tuple((a, _NEVER if b is None else b) for a, b in several)


def _is_known(value: Any) -> bool:
    return not isinstance(value, jax.core.Tracer)


def _check_settings(
    temperature: Any,
    soft_weight: Any,
    hard_weight: Any,
    windows: Sequence[tuple[int, int]],
) -> None:
    if _is_known(temperature) and temperature <= 0:
        raise ValueError(
            f"distill.soft_targets: temperature={temperature} must be positive."
        )
    weights_known = _is_known(soft_weight) and _is_known(hard_weight)
    if weights_known and (
        min(soft_weight, hard_weight) < 0 or soft_weight + hard_weight == 0
    ):
        raise ValueError(
            f"distill.soft_targets: soft_weight={soft_weight} and "
            f"hard_weight={hard_weight} must not be negative, nor both zero."
        )
    for begin, end in windows:
        if begin < 0 or end <= begin:
            raise ValueError(
                f"distill.soft_targets: steps ({begin}, {end}) hold no step."
            )
