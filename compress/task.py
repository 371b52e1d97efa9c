"""A task: data, model and metric, as a user provides them."""

import functools
import importlib
import inspect
import math
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from compress.adapters import Model, compute_in
from compress.annotations import Array, Bool, Float, Shaped
from compress.data import Batch, Data, Source, shapes_of


class TaskError(ValueError):
    """A task that cannot be loaded or does not fit its config."""


class Metric(NamedTuple):
    """What a task is judged by; a score is its mean over the examples.

    Attributes:
      of: `(outputs, batch) -> one number, or bool, per example`; traceable.
      name: As tables call it: "accuracy", "loss", "cosine".
      unit: Of a shown score: "%", "nats", or nothing.
      scale: A score is shown multiplied by it.
      higher_is_better: False for losses and errors.
    """

    of: Callable[[Any, Batch], Shaped[Array, "batch"]]
    name: str = "accuracy"
    unit: str = "%"
    scale: float = 100.0
    higher_is_better: bool = True

    def described(self) -> dict[str, Any]:
        """Everything but the function, as JSON holds it."""
        return {key: value for key, value in self._asdict().items() if key != "of"}


class Task(NamedTuple):
    """What to learn; `task: my_package.module:attribute` names one in a config.

    Attributes:
      build: `(key, **model) -> Model`; the keywords are the config's `model:`.
      train: Training examples: arrays, or a `compress.data` source that reads them.
      test: Examples the reported score is measured on, once.
      loss: `(outputs, batch) -> scalar`, mean over the batch.
      correct: `(outputs, batch) -> bool per example`; exactly one of `correct` and
        `metric` is given.
      validation: Examples for the curves; None evaluates on `test`.
      inputs: Fields that are the model's inputs, in order.
      augment: `(key, batch) -> batch`, in training.
      metric: What models are judged by, if not the fraction `correct`.
      extra_metrics: `(outputs, batch) -> one number per example` by name; their means
        are reported beside the score, and judge nothing.
      classifies: Whether the last axis of the outputs holds scores of classes, of
        which an artifact must choose the same one as the trained model; False for
        embeddings and other numbers.
      classes: Names of the classes, for whoever uses an artifact.
      sample_rate: Samples per second, if the input is sound.
    """

    build: Callable[..., Model]
    train: Data
    test: Data
    loss: Callable[[Any, Batch], Float[Array, ""]]
    correct: Callable[[Any, Batch], Bool[Array, "batch"]] | None = None
    validation: Data | None = None
    inputs: tuple[str, ...] = ("x",)
    augment: Callable[[Array, Batch], Batch] | None = None
    metric: Metric | None = None
    extra_metrics: Mapping[str, Callable[[Any, Batch], Shaped[Array, "batch"]]] = (
        MappingProxyType({})
    )
    classifies: bool = True
    classes: tuple[str, ...] | None = None
    sample_rate: int | None = None

    @property
    def judge(self) -> Metric:
        """The metric, or the accuracy that `correct` stands for."""
        if self.metric is not None:
            return self.metric
        assert self.correct is not None, "load_task refuses a task with neither"
        return Metric(self.correct)

    def inputs_of(self, batch: Batch) -> tuple[Any, ...]:
        """The model's inputs among the fields of a batch."""
        return tuple(batch[name] for name in self.inputs)


def load_task(reference: str, arguments: Mapping[str, Any] | None = None) -> Task:
    """Imports a task, `package.module:attribute`; a function is called.

    The current directory is searched first, so a task needs no installation.

    Args:
      reference: The config's `task:`.
      arguments: The config's `data:`, keyword arguments of the function.

    Raises:
      TaskError: If there is none, with the reason.
    """
    value, arguments = _named(reference), dict(arguments or {})
    if inspect.isfunction(value):
        _check_arguments(reference, value, arguments)
        value = _run(reference, functools.partial(value, **arguments))
    elif arguments:
        raise TaskError(
            f"task {reference!r}: is no function, so it takes no data={arguments}. "
            "Remove data, or name a function that returns a compress.Task."
        )
    if not isinstance(value, Task):
        raise TaskError(
            f"task {reference!r}: gives a {type(value).__name__}, not a compress.Task. "
            "Name a Task, or a function that returns one."
        )
    _check(reference, value)
    return _canonical(value)


def _check_arguments(
    reference: str, function: Callable[..., Any], arguments: Mapping[str, Any]
) -> None:
    """Refuses arguments that the function of a task does not take, or lacks."""
    signature = inspect.signature(function)
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise TaskError(
            f"task {reference!r}: cannot be called with data={dict(arguments)}: "
            f"{error}. It takes: {', '.join(signature.parameters) or 'nothing'}. "
            "Name a Task, or a function that returns one, with its arguments in data:."
        ) from error


def _named(reference: str) -> Any:
    """What `package.module:attribute` names."""
    module_name, _, attribute = reference.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    module = _run(reference, lambda: importlib.import_module(module_name))
    value: Any = module
    for part in attribute.split("."):
        if not hasattr(value, part):
            public = ", ".join(n for n in dir(value) if not n.startswith("_"))
            raise TaskError(
                f"task {reference!r}: {module.__file__} has no {attribute!r}. It has: "
                f"{public}."
            )
        value = getattr(value, part)
    return value


def _run(reference: str, user_code: Callable[[], Any]) -> Any:
    """Runs code of the user; whatever it raises is told with its line."""
    try:
        return user_code()
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{last.filename}:{last.lineno}: {type(error).__name__}: "
        message = f"task {reference!r}: {where}{error}"
        if isinstance(error, ModuleNotFoundError):
            message = (
                f"task {reference!r}: {error}. Searched from {os.getcwd()}; run from "
                "the directory that holds the package, or install it."
            )
        raise TaskError(message) from error


def _canonical(task: Task) -> Task:
    """The task with the dtypes JAX computes in: float64 data become float32."""

    def converted(data: Data) -> Data:
        if isinstance(data, Source):
            return replace(data, read=lambda index: converted_arrays(data[index]))
        return converted_arrays(data)

    def converted_arrays(batch: Batch) -> dict[str, np.ndarray]:
        return {
            name: np.asarray(x, jax.dtypes.canonicalize_dtype(x.dtype))
            for name, x in batch.items()
        }

    return task._replace(
        train=converted(task.train),
        test=converted(task.test),
        validation=task.validation and converted(task.validation),
    )


def _check(reference: str, task: Task) -> None:
    _check_metric(reference, task)
    parts = {"train": task.train, "test": task.test}
    if task.validation is not None:
        parts["validation"] = task.validation
    for name, data in parts.items():
        batch = shapes_of(data) if isinstance(data, Source) else data
        if isinstance(data, Source):
            sizes = dict.fromkeys(batch, len(data))
        else:
            sizes = {field: len(array) for field, array in batch.items()}
        if len(set(sizes.values())) != 1 or 0 in sizes.values():
            raise TaskError(
                f"task {reference!r}: the fields of {name} have {sizes} examples; they "
                "must have the same number, at least one."
            )
        missing = sorted(set(task.inputs) - set(batch))
        if missing:
            raise TaskError(f"task {reference!r}: {name} lacks the inputs {missing}.")


def _check_metric(reference: str, task: Task) -> None:
    if (task.correct is None) == (task.metric is None):
        both = "neither" if task.metric is None else "both"
        raise TaskError(
            f"task {reference!r}: gives {both} of correct and metric. Give one: "
            "`correct` for an accuracy, a compress.Metric for anything else."
        )
    metric = task.judge
    if not metric.name or not (math.isfinite(metric.scale) and metric.scale > 0):
        raise TaskError(
            f"task {reference!r}: metric has name={metric.name!r} and "
            f"scale={metric.scale!r}. Give it a name and a positive scale; "
            "higher_is_better=False says that less is better."
        )
    if metric.name in task.extra_metrics:
        raise TaskError(
            f"task {reference!r}: {metric.name!r} is the metric and an extra metric. "
            "Give the extra one another name."
        )


def build_model(
    task: Task,
    reference: str,
    arguments: Mapping[str, Any],
    key: Array,
    *,
    compute: str = "float32",
) -> Model:
    """Builds the model a config asks for.

    Args:
      task: Its task.
      reference: What the task is called, for the message.
      arguments: The config's `model:`.
      key: Of the initialization.
      compute: The config's `compute:`, a dtype.

    Raises:
      TaskError: If the task does not take these arguments, or gives no `Model`.
    """
    try:
        model = task.build(key, **arguments)
    except TypeError as error:
        raise TaskError(
            f"{reference}: cannot build the model from model={dict(arguments)}: "
            f"{error}."
        ) from error
    if not isinstance(model, Model):
        raise TaskError(
            f"{reference}: build gives a {type(model).__name__}, not a compress.Model. "
            "Use compress.from_nnx or another compress.from_*."
        )
    return model if compute == "float32" else compute_in(model, jnp.dtype(compute))


def example_inputs(task: Task, batch_size: int) -> tuple[jax.ShapeDtypeStruct, ...]:
    """The shapes of the model's inputs for one batch."""
    return tuple(
        jax.ShapeDtypeStruct((batch_size, *x.shape), x.dtype)
        for x in task.inputs_of(shapes_of(task.train))
    )
