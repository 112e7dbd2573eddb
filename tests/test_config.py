"""Strict YAML, overrides, and what a config's author is told."""

from typing import Annotated, Literal

import pytest
from pydantic import Field, ValidationError, field_validator

from reasoner.config import (
    Config,
    ConfigError,
    apply_overrides,
    difference,
    read_yaml,
    save_resolved,
    validate,
)
from reasoner.registry import UserError


class SFT(Config):
    kind: Literal["sft"] = "sft"
    lr: float = Field(1e-5, description="peak learning rate")
    trl: dict = Field(default_factory=dict)


class PPO(Config):
    kind: Literal["ppo"] = "ppo"
    clip: float = 0.2
    kl_coef: float = 0.05

    @field_validator("clip")
    @classmethod
    def positive(cls, clip: float) -> float:
        if clip <= 0:
            raise ValueError(f"got {clip}, expected more than 0; 0.2 is usual")
        return clip


class Model(Config):
    path: str
    max_len: int = 1024


class Run(Config):
    name: str
    model: Model
    judge: Model | None = None
    stages: list[Annotated[SFT | PPO, Field(discriminator="kind")]] = Field(default_factory=list)
    seed: int = 0


RAW = {"name": "r", "model": {"path": "m"}, "stages": [{"kind": "sft"}, {"kind": "ppo"}]}


def read(tmp_path, text):
    (tmp_path / "run.yaml").write_text(text, encoding="utf-8")
    return read_yaml(tmp_path / "run.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("-2.5E+2", -250.0),
        ("1.", 1.0),
        (".5", 0.5),
        (".inf", float("inf")),
        ("-.inf", float("-inf")),
        ("3", 3),
        ("-3", -3),
        ("10_000", 10000),
        ("0", 0),
        ("true", True),
        ("False", False),
        ("null", None),
        ("", None),
        ("~", None),
        ("'1e-3'", "1e-3"),
        ("e-3", "e-3"),
        ("1e", "1e"),
        ("-", "-"),
        ("010", "010"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("'no'", "no"),
        ("[1e-3, a]", [0.001, "a"]),
    ],
)
def test_values_in_overrides_and_in_files(tmp_path, text, value):
    override = apply_overrides({}, [f"a={text}"])["a"]
    assert override == value and type(override) is type(value)
    if text != "-":
        from_file = read(tmp_path, f"a: {text}\n")["a"]
        assert from_file == value and type(from_file) is type(value)


@pytest.mark.parametrize("text", ["answer: yes", "x # y", "a: b: c", "*star", "@at", "https://host/path"])
def test_unquoted_override_is_one_string(text):
    assert apply_overrides({}, [f"a={text}"]) == {"a": text}


@pytest.mark.parametrize("word", ["yes", "No", "on", "OFF"])
def test_ambiguous_boolean_is_an_error(tmp_path, word):
    with pytest.raises(ConfigError, match=f"got {word}, expected true, false"):
        read(tmp_path, f"save_strategy: {word}\n")
    with pytest.raises(ConfigError, match=f"got {word}, expected true, false"):
        apply_overrides({}, [f"save_strategy={word}"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb:\n  c: 1\n  c: 2\n", r"line 4, column 3: got the key 'c' twice, expected it once"),
        ("a: [1\n", r"line 2, column 1: .*; expected valid YAML"),
        ("1: a\n", r"line 1, column 1: got the key 1, expected a string"),
        ("- a\n", r"got a list, expected a mapping"),
        ("", r"got nothing, expected a mapping"),
        ("a: !!python/object:os.system x\n", r"could not determine a constructor"),
    ],
)
def test_unusable_yaml(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message) as error:
        read(tmp_path, text)
    assert "\n" not in str(error.value) and "run.yaml" in str(error.value)


def test_unreadable_file(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml: No such file"):
        read_yaml(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="Is a directory"):
        read_yaml(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9\n")
    with pytest.raises(ConfigError, match=r"latin\.yaml: no UTF-8 text: 0xe9 at byte 4, convert it"):
        read_yaml(tmp_path / "latin.yaml")


def test_overrides_reach_into_mappings_and_lists():
    raw = {"a": {"b": 1}, "stages": [{"lr": 1}, {"lr": 2}], "none": None}
    result = apply_overrides(raw, ["a.b=2", "stages.1.lr=1e-3", "none.x=1", "new.deep.key=[1, 2]", "a.b=3"])
    assert result == {
        "a": {"b": 3},
        "stages": [{"lr": 1}, {"lr": 0.001}],
        "none": {"x": 1},
        "new": {"deep": {"key": [1, 2]}},
    }
    assert raw == {"a": {"b": 1}, "stages": [{"lr": 1}, {"lr": 2}], "none": None}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("a.b", "expected key=value"),
        ("=1", "expected key=value"),
        ("a..b=1", "expected key=value"),
        ("stages.2.lr=1", "got '2', expected an index 0 to 1"),
        ("stages.lr=1", "got 'lr', expected an index 0 to 1"),
        ("empty.0=1", "expected no index, since the list is empty"),
        ("a.b.c=1", "got 1 at a.b, expected a mapping or list"),
        ("a=[1", "override 'a=\\[1'.*expected valid YAML"),
    ],
)
def test_overrides_that_fail(override, message):
    with pytest.raises(ConfigError, match=message):
        apply_overrides({"a": {"b": 1}, "stages": [{}, {}], "empty": []}, [override])


def fault(raw) -> str:
    with pytest.raises(ConfigError) as error:
        validate(Run, raw, "run.yaml")
    return str(error.value)


def test_valid_config():
    run = validate(Run, RAW | {"seed": 3}, "run.yaml")
    assert (run.seed, run.stages[0].lr, run.stages[1].clip) == (3, 1e-5, 0.2)


def test_unknown_key_names_the_nearest():
    assert fault(RAW | {"sed": 1}) == (
        "run.yaml: sed: got an unknown key, expected one of judge, model, name, seed, stages; "
        "did you mean seed?"
    )


def test_unknown_key_in_a_stage_knows_only_that_stage():
    stages = [{"kind": "sft"}, {"kind": "ppo", "klcoef": 1}]
    assert fault(RAW | {"stages": stages}) == (
        "run.yaml: stages.1.klcoef: got an unknown key, expected one of clip, kind, kl_coef; "
        "did you mean kl_coef?"
    )


def test_a_stages_number_is_not_taken_for_a_word_of_another_stage():
    """The other stage knows the numbers 0, 1 and 2 as a key's values."""

    class First(Config):
        kind: Literal["first"]
        lr: float = 1.0

    class Second(Config):
        kind: Literal["second"]
        ahead: Literal[0, 1, 2] = 0

    class Both(Config):
        stages: list[Annotated[First | Second, Field(discriminator="kind")]]

    with pytest.raises(ConfigError, match=r"stages.0.rate: got an unknown key, expected one of kind, lr"):
        validate(Both, {"stages": [{"kind": "first", "rate": 1}]}, "run.yaml")


def test_unknown_key_in_an_optional_model():
    assert "judge.pth: got an unknown key, expected one of max_len, path; did you mean path?" in fault(
        RAW | {"judge": {"path": "m", "pth": 1}}
    )


def test_wrong_type_says_what_the_field_is():
    assert fault(RAW | {"stages": [{"kind": "sft", "lr": "fast"}]}) == (
        "run.yaml: stages.0.lr: got 'fast', expected a valid number, unable to parse string as a number "
        "(peak learning rate); change it"
    )


def test_missing_key():
    assert (
        fault({"name": "r", "model": {}})
        == "run.yaml: model.path: got nothing, expected a value; add the key"
    )


def test_own_check_speaks_for_itself():
    assert fault(RAW | {"stages": [{"kind": "ppo", "clip": 0}]}) == (
        "run.yaml: stages.0.clip: got 0.0, expected more than 0; 0.2 is usual"
    )


def test_unknown_stage_kind():
    message = fault(RAW | {"stages": [{"kind": "grpo"}]})
    assert message.startswith("run.yaml: stages.0: ") and "'sft', 'ppo'" in message


def test_one_line_per_fault():
    assert [line.split(":")[1] for line in fault({"seed": "x", "model": {"path": 3}}).splitlines()] == [
        " name",
        " model.path",
        " seed",
    ]


def test_config_error_is_a_user_error_and_a_value_error():
    assert issubclass(ConfigError, UserError) and issubclass(ConfigError, ValueError)


def test_config_is_frozen():
    with pytest.raises(ValidationError):
        validate(Run, RAW, "run.yaml").seed = 1


def test_saved_config_reads_back_the_same(tmp_path):
    options = {
        "a": "1e-3",
        "b": "no",
        "c": 1e-5,
        "d": "2024-01-01",
        "e": float("inf"),
        "f": "",
        "g": "x\ny: é",
    }
    run = validate(Run, RAW | {"stages": [{"kind": "sft", "trl": options}]}, "run.yaml")
    save_resolved(run, tmp_path / "config.yaml")
    raw = read_yaml(tmp_path / "config.yaml")
    assert raw["stages"] == [{"kind": "sft", "lr": 1e-5, "trl": options}]
    assert raw["seed"] == 0 and raw["judge"] is None
    assert validate(Run, raw, "config.yaml") == run
    assert difference(raw, run.model_dump(mode="json")) == []


def test_difference_names_keys_and_values():
    a = {"lr": 0.1, "same": [1, {"x": float("nan")}], "stages": [{"n": 1}, {"n": 2}], "old": "o"}
    b = {"lr": 0.2, "same": [1, {"x": float("nan")}], "stages": [{"n": 1}, {"n": True}, {}], "new": None}
    assert difference(a, b) == [
        "lr: 0.1 != 0.2",
        "stages.1.n: 2 != True",
        "stages.2: (absent) != {}",
        "old: 'o' != (absent)",
        "new: (absent) != None",
    ]
