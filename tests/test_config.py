from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pytest
from pydantic import Field, ValidationError, model_validator
from tyro.conf import Positional

from rmt_rl.config import Frozen, validated
from rmt_rl.errors import UsageError
from rmt_rl.flags import parse, with_options
from rmt_rl.runs.folder import read_config, write_config
from rmt_rl.runs.options import OfflineRun, make_config
from tests.tiny import Values, tiny


class Inner(Frozen):
    """Inner things."""

    width: Annotated[int, Field(ge=1)] | tuple[int, int] = Field(3, description="a number or two")
    ratio: float = Field(0.5, description="any finite number")

    @model_validator(mode="after")
    def _odd(self) -> Self:
        if self.width == 4:
            raise ValueError("width=4 is unlucky: choose another one")
        return self


class Outer(Frozen):
    """Outer things."""

    name: str = Field(description="what it is called")
    mode: Literal["fast", "slow"] = Field("fast", description="pace")
    inner: Inner = Inner()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "x", "mode": "fats"}, r"mode='fats': Input should be 'fast' or 'slow'; expected pace"),
        ({"name": 3}, r"name=3: Input should be a valid string; expected what it is called"),
        ({}, r"name is missing; expected what it is called"),
        ({"name": "x", "mod": 1}, r"unknown option mod=1 \(known: name, mode, inner\); did you mean 'mode'\?"),
        ({"name": "x", "inner": {"widht": 1}}, r"unknown option inner.widht=1 \(known: width, ratio\).*'width'\?"),
        ({"name": "x", "inner": {"width": "a"}}, r"inner.width='a': .* or .*; expected a number or two"),
        ({"name": "x", "inner": {"width": [1, "a"]}}, r"inner.width=\[1, 'a'\]: .*; expected a number or two"),
        ({"name": "x", "inner": {"ratio": float("inf")}}, r"inner.ratio=inf: Input should be a finite number"),
        ({"name": "x", "inner": 5}, r"inner=5: Input should be a valid dictionary"),
        ({"name": "x", "inner": {"width": 4}}, r"inner: width=4 is unlucky: choose another one"),
    ],
)
def test_an_error_names_field_value_and_remedy_in_one_line(values: Values, message: str) -> None:
    with pytest.raises(UsageError, match=f"^{message}") as caught:
        validated(Outer, values)
    assert "\n" not in str(caught.value)


def test_configs_are_immutable() -> None:
    config = validated(Outer, {"name": "x"})
    with pytest.raises(ValidationError, match="frozen"):
        config.name = "y"  # type: ignore[misc]


# Flags


class Command(Frozen):
    """Does something."""

    where: Positional[Path] = Field(description="a folder")
    count: int = Field(1, ge=1, description="how often")
    options: Any = None
    thing_options: Any = None


WITH_THING = with_options(Command, thing=Inner)


def read(*arguments: str, **options: Any) -> Command:
    return parse(WITH_THING, arguments, "prog", "What it does.", **options)


def test_flags_make_a_config() -> None:
    command = read("here", "--count", "3", "--thing.width", "1", "2")
    assert (command.where, command.count) == (Path("here"), 3)
    assert command.thing_options == Inner(width=(1, 2))
    assert read("here", "--thing.ratio", "2").thing_options == Inner(ratio=2)
    assert read(default=command) == command
    assert read("--count", "4", default=command) == command.model_copy(update={"count": 4})


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--count", "0"], r"count=0: .*greater than or equal to 1; expected how often"),
        (["--thing.ratio", "nan"], r"thing_options.ratio=nan: Input should be a finite number"),
        (["--thing.width", "4"], r"thing_options: width=4 is unlucky"),
    ],
)
def test_values_of_flags_are_checked_by_the_config(flags: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read("here", *flags)


@pytest.mark.parametrize(
    ("flags", "shown"),
    [
        (["--cuont", "3"], "--count"),
        (["--count", "three"], "'three'"),
        (["--thing.width", "x"], "cannot|could not be|invalid literal"),
        (["--thing.depth", "x"], "--thing.depth"),
    ],
)
def test_what_cannot_be_read_is_told_without_a_traceback(
    flags: list[str], shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        read("here", *flags)
    assert caught.value.code == 2
    text = capsys.readouterr().err
    assert any(part in text for part in shown.split("|"))
    assert "FieldInfo" not in text


def test_help_shows_every_flag_with_its_description(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read("--help")
    text = " ".join(capsys.readouterr().out.split())
    for part in ("What it does.", "--count INT", "how often", "--thing.width INT|{INT INT}", "a number or two"):
        assert part in text


# Runs' configs


def test_a_run_config_survives_its_file(tmp_path: Path) -> None:
    config = tiny(data={"dataset": ["a/b-v0"]}, learning_rate=3e-4, run={"seed": 3})
    write_config(config, tmp_path)
    assert read_config(tmp_path) == read_config(tmp_path / "config.toml") == config
    assert "head_width" not in (tmp_path / "config.toml").read_text(), "unset options are left out"


def test_a_short_config_is_filled_with_defaults(tmp_path: Path) -> None:
    (tmp_path / "short.toml").write_text('env = "tmaze"\nagent = "bc"\n[env_options]\ncorridor_length = 9\n')
    config = read_config(tmp_path / "short.toml")
    assert config == make_config({"env": "tmaze", "agent": "bc", "env_options": {"corridor_length": 9}})
    assert config.env_options.model_dump()["corridor_length"] == 9
    assert isinstance(config, OfflineRun)
    assert config.training == OfflineRun.model_fields["training"].default


def test_ageing_of_an_older_config_begins_at_the_update_that_it_names(tmp_path: Path) -> None:
    """In older versions `ageing_from` was an update, and is a whole number there."""
    for updates, first in product((1, 400, 999, 10**6), (0, 1, 150, 398, 777)):
        run = f'env = "tmaze"\nagent = "bc"\n[training]\nupdates = {updates}\nageing_from = {first}\n'
        (tmp_path / "config.toml").write_text(run)
        config = read_config(tmp_path)
        assert isinstance(config, OfflineRun)
        assert config.training.first_aged == min(first, updates)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", 'names no env: add env = "..."'),
        ('env = "tmaze"', 'names no agent: add agent = "..."'),
        ('env = "tmaze"\nagent = 3', "names no agent"),
        ('env = "tmase"\nagent = "bc"', "unknown env 'tmase'.*did you mean 'tmaze'"),
        ('env = "tmaze"\nagent = "rte"', "unknown agent 'rte'.*did you mean 'rate'"),
        ('env = "tmaze"\nagent = "bc"\nsede = 1', "unknown option sede=1.*did you mean 'seed'"),
        ('env = "tmaze"\nagent = "bc"\n[training]\nupdate = 1', "unknown option training.update=1.*'updates'"),
        ('env = "tmaze"\nagent = "bc"\n[training]\nupdates = 0', "training.updates=0: .*greater than or equal to 1"),
        ('env = "tmaze"\nagent = "bc"\n[training]\nupdates = "x"', "training.updates='x': .*valid integer"),
        ('env = "tmaze"\nagent = "bc"\n[data]\nfeed = "steams"', "data.feed='steams': .*'streams'"),
        (
            'env = "tmaze"\nagent = "bc"\n[agent_options]\nmemory_tokens = 5',
            "unknown option agent_options.memory_tokens",
        ),
        ('env = "tmaze"\nagent = "bc"\n[env_options]\ncorridor_length = 0', "env_options.corridor_length=0"),
        ('env = "tmaze"\nagent = "bc"\ntraining = 3', "training=3: .*valid dictionary"),
        ('env = "tmaze"\nagent = "bc"\n[training]\ndevices = 3', "devices=3 can't share batch_size=64"),
        ('env = "tmaze"\nagent = "bc"\n[training]\ndepth = 2', "depth=2 is for a truncated gradient"),
        (f'env = "tmaze"\nagent = "bc"\nseed = {2**63}', "seed=9223372036854775808: .*less than"),
        (
            'env = "tmaze"\nagent = "bc"\n[training]\nageing = 2\n[data]\nsegments = 1',
            "ageing=2 comes between segments",
        ),
        (
            'env = "tmaze"\nagent = "bc"\n[training]\nageing = 0\nageing_updates = 9',
            "ageing_updates=9 keeps memories that age",
        ),
        ('env = "tmaze"\nagent = "bc"\n[training]\nageing_from = 1.5', "ageing_from=1.5: .*share of the updates"),
        ("env = tmaze", "isn't valid TOML"),
    ],
)
def test_a_bad_config_file_is_told_in_one_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(text)
    with pytest.raises(UsageError, match=message) as caught:
        read_config(tmp_path)
    assert "\n" not in str(caught.value)


def test_an_unreadable_config_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"config\.toml can't be read \(No such file"):
        read_config(tmp_path)
    (tmp_path / "config.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="isn't valid TOML"):
        read_config(tmp_path)
