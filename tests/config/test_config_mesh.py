"""A mesh and rules that do not fit each other, or the batch."""

import pytest

from compress.config import ConfigError, config_hash, load_config, parse_config
from tests import tiny

RUN = """\
task: tests.tiny:task
batch_size: 16
stages:
  - {steps: 5, learning_rate: 0.1}
"""


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (
            ["mesh: {data: 3}"],
            "run.yaml:2: batch_size: found 16, which mesh.data=3 does not divide; give "
            "a multiple of 3, such as 15",
        ),
        (
            ["mesh: {data: 4}", "accumulate: 8"],
            "run.yaml:2: batch_size: found 16, which mesh.data=4 times accumulate=8 "
            "does not divide; give a multiple of 32, such as 32",
        ),
        (
            ["mesh: {data: 2, model: 2}"],
            "run.yaml:5: mesh.model: no rule of sharding uses the axis 'model', so its "
            "devices would repeat the work of others; name it in a rule, or call it "
            "data",
        ),
        (
            ["mesh: {model: 1}", "sharding: {parameters: fsdp}"],
            "run.yaml:6: sharding.parameters: fsdp splits over the mesh axis data, and "
            "the mesh has only model; add data to it, or use rules",
        ),
        (
            ["sharding: {parameters: fsdp}"],
            "run.yaml:5: sharding: there is no mesh to split over; add `mesh: {data: "
            "4}`, or remove it",
        ),
        (
            ["mesh: {data: 2}", "sharding:", "  rules: {'**/up': [null, dota]}"],
            "run.yaml:7: sharding.rules.**/up: the mesh has no axis 'dota'; did you "
            "mean 'data'?",
        ),
        (
            ["mesh: {data: 2}", "sharding:", "  rules: {'**/up': [data, data]}"],
            "run.yaml:7: sharding.rules.**/up: 'data' is there twice; a parameter has "
            "it along one axis",
        ),
        (
            ["mesh: {data: 0}"],
            "run.yaml:5: mesh.data: found 0; must be at least 1",
        ),
    ],
)
def test_what_does_not_fit_has_one_error_at_its_line(
    tmp_path, monkeypatch, lines, expected
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(RUN + "\n".join(lines))
    with pytest.raises(ConfigError) as caught:
        load_config("run.yaml")
    assert caught.value.problems == (expected,)


def test_a_mesh_can_be_changed_or_left_out_from_the_command_line(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(RUN + "mesh: {data: 4}\n")
    assert load_config(path, ["mesh.data=2"]).mesh == {"data": 2}
    assert load_config(path, ["mesh=null"]).mesh is None


def test_the_devices_are_no_part_of_what_a_run_is():
    split = {"mesh": {"data": 4}, "sharding": {"parameters": "fsdp"}, "keep_best": 2}
    plain, placed = parse_config(tiny.CONFIG), parse_config({**tiny.CONFIG, **split})
    assert config_hash(plain) == config_hash(placed)
