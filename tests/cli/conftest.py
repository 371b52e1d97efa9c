"""Export is part of every cell."""

from tests.export.symbolic import unchecked_symbolic_shapes  # noqa: F401
