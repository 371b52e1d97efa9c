"""jaxtyping cannot compare a symbolic batch with a size of 1, so it does not try."""

import importlib
from collections.abc import Iterator
from typing import Any

import jaxtyping
import pytest

# The module; `compress.export` is the function.
build = importlib.import_module("compress.export.build")


def without_shape_checks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Shapes are not checked while a program is exported; elsewhere they are."""
    export_program = build.export_program

    def unchecked(*args: Any) -> Any:
        jaxtyping.config.update("jaxtyping_disable", True)
        try:
            return export_program(*args)
        finally:
            jaxtyping.config.update("jaxtyping_disable", False)

    monkeypatch.setattr(build, "export_program", unchecked)
    yield


unchecked_symbolic_shapes = pytest.fixture(autouse=True)(without_shape_checks)
