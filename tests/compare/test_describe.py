"""What an artifact weighs is a function of its bytes alone."""

import os
import pathlib
import subprocess
import sys

from tests.export import models

# Two orders of the same arrays mostly have the same size; so the bytes are compared.
_DESCRIBE = """
import json, sys, zlib
import compress
from compress.compare.cell import describe_artifact

original = zlib.compress
def told(data, **settings):
    print(data.hex())
    return original(data, **settings)

zlib.compress = told
print(json.dumps(describe_artifact(compress.load(sys.argv[1]))))
"""


def described(artifact: pathlib.Path, hash_seed: int) -> list[str]:
    """By a process in which sets of names have another order."""
    done = subprocess.run(
        [sys.executable, "-c", _DESCRIBE, str(artifact)],
        env={**os.environ, "PYTHONHASHSEED": str(hash_seed)},
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.splitlines()


def test_no_size_depends_on_the_order_of_a_set(tmp_path: pathlib.Path) -> None:
    models.export(tmp_path / "artifact", "mlp", "static")
    one, other = (described(tmp_path / "artifact", seed) for seed in (1, 2))
    assert len(one) > 1, "nothing was compressed"
    assert one == other
