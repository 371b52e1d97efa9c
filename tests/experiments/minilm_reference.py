"""all-MiniLM-L6-v2 in float64 NumPy, sentence by sentence, from the equations."""

import math
from typing import Any

import numpy as np

_erf = np.vectorize(math.erf)


def embedding(arrays: dict[str, np.ndarray], config: dict[str, Any], ids: Any) -> Any:
    """Of one sentence, without padding: mean of the tokens, then length 1.

    Args:
      arrays: The published file's.
      config: Its `config.json`.
      ids: Tokens, with the marks at both ends.
    """
    w = {name: x.astype(np.float64) for name, x in arrays.items() if x.ndim < 3}
    x = w["embeddings.word_embeddings.weight"][ids]
    x = x + w["embeddings.position_embeddings.weight"][: len(ids)]
    x = x + w["embeddings.token_type_embeddings.weight"][0]
    epsilon = config["layer_norm_eps"]
    x = _norm(x, w, "embeddings.LayerNorm", epsilon)
    for index in range(config["num_hidden_layers"]):
        at = f"encoder.layer.{index}"
        attended = _attention(x, w, f"{at}.attention", config["num_attention_heads"])
        x = _norm(x + attended, w, f"{at}.attention.output.LayerNorm", epsilon)
        hidden = _dense(x, w, f"{at}.intermediate.dense")
        hidden = hidden * 0.5 * (1 + _erf(hidden / math.sqrt(2)))
        x = x + _dense(hidden, w, f"{at}.output.dense")
        x = _norm(x, w, f"{at}.output.LayerNorm", epsilon)
    mean = x.mean(axis=0)
    return mean / np.linalg.norm(mean)


def _dense(x: Any, w: Any, name: str) -> Any:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def _norm(x: Any, w: Any, name: str, epsilon: float) -> Any:
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred**2).mean(axis=-1, keepdims=True)
    return (
        w[f"{name}.weight"] * centred / np.sqrt(variance + epsilon) + w[f"{name}.bias"]
    )


def _attention(x: Any, w: Any, name: str, heads: int) -> Any:
    size = x.shape[1] // heads
    query, key, value = (
        _dense(x, w, f"{name}.self.{part}") for part in ("query", "key", "value")
    )
    mixed = []
    for head in range(heads):
        cut = slice(head * size, (head + 1) * size)
        scores = query[:, cut] @ key[:, cut].T / math.sqrt(size)
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        mixed.append(weights / weights.sum(axis=1, keepdims=True) @ value[:, cut])
    return _dense(np.concatenate(mixed, axis=1), w, f"{name}.output.dense")
