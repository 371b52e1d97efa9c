"""How much of what embeddings are for is left after compression; no labels needed."""

import numpy as np

Embeddings = np.ndarray  # [sentences, width], each of length 1


def mean_cosine(found: Embeddings, reference: Embeddings) -> float:
    """Of each sentence's embedding with its reference."""
    return float(np.mean(np.sum(_unit(found) * _unit(reference), axis=1)))


def similarity_spearman(found: Embeddings, reference: Embeddings) -> float:
    """Whether pairs of sentences stand in the same order of similarity.

    Spearman's correlation between the cosines of all pairs, ties by their mean rank.
    """
    pairs = np.triu_indices(len(reference), 1)
    ours, theirs = (_ranks((x @ x.T)[pairs]) for x in (_unit(found), _unit(reference)))
    return float(np.corrcoef(ours, theirs)[0, 1])


def neighbour_recall(
    found: Embeddings, reference: Embeddings, count: int = 10
) -> float:
    """Share of each sentence's nearest `count` others that are still among them.

    Raises:
      ValueError: If there are not that many others.
    """
    if len(reference) <= count:
        raise ValueError(
            f"recall@{count} needs more than {count} sentences, not {len(reference)}."
        )
    ours, theirs = (_nearest(_unit(x), count) for x in (found, reference))
    kept = [len(set(a) & set(b)) for a, b in zip(ours, theirs, strict=True)]
    return float(np.mean(kept) / count)


def _nearest(x: Embeddings, count: int) -> np.ndarray:
    """`[sentences, count]`; a sentence is not its own neighbour."""
    similarity = x @ x.T
    np.fill_diagonal(similarity, -np.inf)
    return np.argpartition(-similarity, count, axis=1)[:, :count]


def _ranks(x: np.ndarray) -> np.ndarray:
    _, position, counts = np.unique(x, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[position]


def _unit(x: Embeddings) -> Embeddings:
    x = np.asarray(x, np.float64)
    return x / np.linalg.norm(x, axis=1, keepdims=True)
