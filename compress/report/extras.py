"""Import of the libraries that only the `report` extra installs."""

import importlib
from typing import Any


def require(module: str) -> Any:
    """The module, or an ImportError that says how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError as problem:
        raise ImportError(
            f"write_report needs {module}, which is not installed. Run "
            'pip install "jax-compress[report]". render_table needs no extra.'
        ) from problem
