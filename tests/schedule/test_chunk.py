"""The compiled schedule: one program, the same numbers however it is cut."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import compress
from compress.config import Config, parse_config
from compress.schedule import build_chunk, build_transform, chunk, init_state
from compress.train import hash_of
from tests import tiny


def started(config: Config):
    task = tiny.task()
    model = task.build(jax.random.key(0), **config.model)
    teacher = (lambda params, x: x @ params, np.ones((5, 3), np.float32))
    transform = build_transform(config, teacher)
    state = init_state(config, task, model, transform, jax.random.key(1))
    state = jax.device_put(state, jax.devices()[0])
    data = jax.device_put(dict(task.train), jax.devices()[0])
    return build_chunk(config, task, model, transform), state, data, transform


def trained(config: Config, cuts: list[int]):
    chunk_, state, data, transform = started(config)
    losses = []
    for count in cuts:
        state, metrics = chunk_.run(state, data, count)
        losses += [float(x) for x in metrics["loss"][:count]]
    return state, losses, chunk_, transform


def test_the_whole_schedule_is_one_compilation():
    config = parse_config({**tiny.CONFIG, "log_every": 10})
    state, _, chunk_, transform = trained(config, [10, 10, 10, 10, 7, 3])
    assert chunk_.compilations() == 1
    assert int(state.compression.step) == 50
    compress.check(transform, state.params, state.compression)


def test_every_stage_does_what_it_declares():
    config = parse_config({**tiny.CONFIG, "log_every": 50})
    chunk_, state, data, transform = started(config)
    at = {}
    for end in (15, 30, 35, 50):
        state, _ = chunk_.run(state, data, end - int(state.compression.step))
        sparsity = compress.metrics(transform, state.compression)["sparsity"]
        seen = compress.parameters(transform, state.params, state.compression)
        at[end] = (float(sparsity), seen["first"]["kernel"])
    assert at[15][0] == 0.0
    assert at[30][0] == at[35][0] == at[50][0] == 0.5  # 32 of 64 weights
    assert isinstance(at[50][1], compress.interpret.Quantized)
    q = np.asarray(at[50][1].qvalue)
    assert (q == np.round(q)).all()
    assert np.abs(q).max() == 127
    # Before fake-quant starts the box holds the weight itself.
    assert (np.asarray(at[15][1].scale) == 1).all()


def test_where_chunks_are_cut_changes_no_bit():
    config = parse_config(tiny.CONFIG)
    one, losses, _, _ = trained(config, [7] * 7 + [1])
    other, others, _, _ = trained(config, [1, 7, 3, 7, 7, 7, 7, 7, 4])
    assert losses == others
    assert hash_of(one) == hash_of(other)


def test_a_loop_on_the_host_trains_the_same_model(monkeypatch):
    config = parse_config(tiny.CONFIG)
    _, losses, _, _ = trained(config, [7] * 7 + [1])
    monkeypatch.setattr(chunk, "prefers_host_loop", lambda *_: True)
    _, others, chunk_, _ = trained(config, [7] * 7 + [1])
    assert chunk_.compilations() == 1
    # The two programs may fuse, and so round, differently; errors grow over 50 steps.
    np.testing.assert_allclose(losses, others, rtol=1e-3)


def test_convolutions_on_a_cpu_are_looped_over_from_the_host():
    from experiments.tasks import digits

    config = parse_config(
        {
            **tiny.CONFIG,
            "teacher": None,
            "stages": [{"steps": 5, "learning_rate": 0.01}],
        }
    )
    task = digits.task()
    cnn = digits.build(jax.random.key(0), "cnn", 2)
    mlp = digits.build(jax.random.key(0), "mlp", 2)
    assert chunk.prefers_host_loop(config, task, cnn)
    assert not chunk.prefers_host_loop(config, task, mlp)


def test_each_epoch_shows_every_example_once_in_another_order():
    walk = chunk.Walk(examples=10, size=5)
    data = {"x": jnp.arange(10)}
    key = jax.random.key(0)

    def seen(steps):
        rows = [
            walk.batch(data, walk.order(key, jnp.int32(s)), jnp.int32(s))["x"]
            for s in steps
        ]
        return np.concatenate(rows).tolist()

    first, second = seen([0, 1]), seen([2, 3])
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second


def test_identical_seeds_give_identical_models_and_others_do_not():
    config = parse_config(
        {
            **tiny.CONFIG,
            "stages": [{"steps": 5, "learning_rate": 0.01}],
            "teacher": None,
        }
    )
    task = tiny.task()

    def run(seed):
        model = task.build(jax.random.key(0), **config.model)
        transform = build_transform(config)
        state = init_state(config, task, model, transform, jax.random.key(seed))
        run = build_chunk(config, task, model, transform).run
        return hash_of(run(state, dict(task.train), 5)[0].params)

    assert run(0) == run(0)
    assert run(0) != run(1)


@pytest.mark.parametrize("missing", ["**/nothing", "op=conv*", "size>=1000000"])
def test_a_rule_that_matches_nothing_stops_before_training(missing):
    stages = [{"steps": 5, "learning_rate": 0.01, "quantize": {"sites": missing}}]
    config = parse_config({**tiny.CONFIG, "stages": stages, "teacher": None})
    with pytest.raises(ValueError, match=r"matches none of 2 sites\. The nearest: "):
        started(config)
