"""These tests compile many small programs."""

from tests.quick import quick_compilation as quick_compilation
