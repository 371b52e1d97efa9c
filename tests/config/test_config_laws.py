"""Laws: saving and reading back changes nothing; the schema accepts what we accept."""

import ast
import json
from pathlib import Path

import hypothesis.strategies as st
import pydantic
import pytest
import yaml
from hypothesis import given, settings

import compress.config
from compress.config import config_hash, json_schema, load_config, parse_config

_text = st.text("abc /*.", min_size=1, max_size=8)
_patterns = _text | st.lists(_text, min_size=1, max_size=3)
_positive = st.floats(1e-6, 1e3)
_scalars = _text | st.integers() | st.booleans() | st.none() | st.floats(-9, 9)
_model = st.dictionaries(_text, _scalars, max_size=3)
_rates = _positive | st.fixed_dictionaries(
    {"schedule": st.sampled_from(["cosine", "linear"]), "peak": _positive},
    optional={"end": st.floats(0, 1), "warmup": st.integers(0, 9)},
)
_prunes = st.fixed_dictionaries(
    {"sparsity": st.just(0.5)},
    optional={
        "schedule": st.sampled_from(["one_shot", "cubic", "linear"]),
        "until": st.floats(0.1, 1),
    },
)
_where = st.fixed_dictionaries(
    {}, optional={"scope": st.sampled_from(["global", "uniform"]), "sites": _patterns}
)
_grids = {
    "weights": st.just("int8"),
    "activations": st.sampled_from(["int8", "int8_dynamic", None]),
    "sites": _patterns,
    "exclude": _patterns,
}


@st.composite
def _configs(draw):
    """Mappings that are valid configs, with most keys present or not."""
    distills = st.fixed_dictionaries({}, optional={"temperature": _positive})
    stage = st.fixed_dictionaries(
        {"steps": st.integers(10, 99), "learning_rate": _rates},
        optional={"prune": st.none() | _prunes, "distill": distills},
    )
    teacher = {"model": _model, "steps": st.integers(10, 99), "learning_rate": _rates}
    config = draw(
        st.fixed_dictionaries(
            {
                "task": st.sampled_from(["a:b", "a.b:c.d"]),
                "batch_size": st.integers(1, 99),
                "stages": st.lists(stage, min_size=1, max_size=3),
                "teacher": st.fixed_dictionaries(teacher),
            },
            optional={
                "name": _text,
                "model": _model,
                "data": _model,
                "seeds": st.lists(st.integers(0), min_size=1, unique=True),
                "log_every": st.integers(1, 99),
            },
        )
    )
    where = draw(_where)  # the same in all stages
    for each in config["stages"]:
        if each.get("prune"):
            each["prune"] = {**each["prune"], **where}
    if draw(st.booleans()):
        quantize = st.fixed_dictionaries({}, optional=_grids)
        config["stages"][-1]["quantize"] = draw(quantize)
    else:
        quantize = st.fixed_dictionaries({}, optional=_grids)
        config["export"] = {"quantize": draw(st.none() | quantize)}
    if draw(st.booleans()):
        value = st.integers(1, 9)
        row = {"name": draw(_text), "set": {"batch_size": draw(value)}}
        config["compare"] = {"rows": [row]}
    return config


@settings(deadline=None, max_examples=200)
@given(_configs())
def test_a_dumped_config_reads_back_as_itself(values):
    config = parse_config(values)
    for dump in (
        config.model_dump(),
        config.model_dump(mode="json"),
        json.loads(config.model_dump_json()),
    ):
        again = parse_config(dump)
        assert again == config
        assert config_hash(again) == config_hash(config)


@settings(deadline=None, max_examples=50)
@given(values=_configs())
def test_a_config_written_as_yaml_loads_as_itself(values, tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "run.yaml"
    # JSON is YAML, and unlike PyYAML's own writer it quotes every text.
    path.write_text(json.dumps({"name": "run", **values}))
    assert load_config(path) == parse_config({"name": "run", **values})


def test_reading_does_not_change_the_mapping_or_share_it():
    values = {
        "task": "a:b",
        "batch_size": 1,
        "model": {"width": 3},
        "stages": [{"steps": 1, "learning_rate": 0.1}],
    }
    before = json.dumps(values)
    config = parse_config(values)
    values["model"]["width"] = 4
    assert config.model == {"width": 3}
    values["model"]["width"] = 3
    assert json.dumps(values) == before


def test_a_config_is_frozen():
    stages = [{"steps": 1, "learning_rate": 0.1}]
    config = parse_config({"task": "a:b", "batch_size": 1, "stages": stages})
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        config.batch_size = 2  # pyright: ignore[reportAttributeAccessIssue]


def test_every_field_of_the_schema_is_described():
    schema = json_schema()
    for owner in [schema, *schema["$defs"].values()]:
        assert owner["additionalProperties"] is False
        for name, field in owner["properties"].items():
            assert field.get("description"), (owner["title"], name)


def test_the_schema_is_json_and_allows_what_a_file_allows():
    schema = json.loads(json.dumps(json_schema()))
    assert {"base", "fast", "stages"} <= set(schema["properties"])
    required = [sorted(option["required"]) for option in schema["anyOf"]]
    assert required == [["base"], ["batch_size", "stages", "task"]]
    assert schema["$defs"]["Stage"]["required"] == ["steps", "learning_rate"]
    rate = schema["$defs"]["Stage"]["properties"]["learning_rate"]["anyOf"]
    assert {"exclusiveMinimum": 0, "type": "number"} in rate
    sites = schema["$defs"]["Prune"]["properties"]["sites"]
    assert [option["type"] for option in sites["anyOf"]] == ["string", "array"]


def test_the_package_imports_only_pydantic_yaml_and_the_standard_library():
    imported = set()
    for path in Path(compress.config.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {name.name for name in node.names}
            if isinstance(node, ast.ImportFrom):
                imported.add(node.module or "")
    foreign = {
        name for name in imported if name.split(".")[0] in ("jax", "flax", "numpy")
    }
    inside = {name for name in imported if name.startswith("compress")}
    assert not foreign
    assert all(name.startswith("compress.config") for name in inside)
    assert yaml.__name__ in imported
