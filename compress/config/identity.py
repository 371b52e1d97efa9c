"""Which configs give the same numbers."""

from __future__ import annotations

import hashlib
import json

from compress.config.models import Config

# What a run is called, which runs there are, which of them share a program, how often
# they speak and save, and which devices they use.
WITHOUT_EFFECT = {
    "name",
    "compare",
    "sweep",
    "seeds",
    "vmap_seeds",
    "log_every",
    "checkpoint_every",
    "keep_checkpoints",
    "keep_best",
    "mesh",
    "sharding",
}


def config_hash(config: Config) -> str:
    """SHA-256, in hex, of everything in a config that changes a run's numbers."""
    values = config.model_dump(mode="json", exclude=WITHOUT_EFFECT)
    canonical = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
