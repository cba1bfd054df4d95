"""Escape sequences in received files, which would act on the terminal."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import rmt_rl
from rmt_rl.cli import main
from rmt_rl.errors import UsageError
from rmt_rl.terminal import one_line, plain
from tests.attacks.scene import Scene

SEQUENCES = {
    "clears the screen": "\x1b[2J\x1b[H",
    "sets the title": "\x1b]0;owned\x07",
    "writes the clipboard": "\x1b]52;c;cm0gLXJm\x07",
    "makes a link": "\x1b]8;;https://evil.example\x1b\\",
    "of one byte": "\x9b2J",
    "overwrites the line": "x\rerror: none",
    "goes back": "ok\b\b",
    "writes from right to left": "\u202egpj.exe\u202c",
    "isolates": "\u2066\u2069",
    "is invisible": "\u200b\u2060\ufeff",
    "separates lines": "a\u2028b\x85c\x0bd\x0ce",
    "tags": "\U000e0041",
    "is half a character": "\ud800",
    "hides one in another": "\x1b\x1b[0m[2J",
    "is null": "\x00",
}
ACTIVE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")


@pytest.mark.parametrize("name", SEQUENCES)
def test_a_sequence_is_shown(name: str) -> None:
    text = plain(f"a {SEQUENCES[name]} b")
    assert not ACTIVE.search(text)
    assert "\U000e0041" not in text
    assert not ACTIVE.search(str(UsageError(SEQUENCES[name])))
    assert len(one_line(SEQUENCES[name]).splitlines()) <= 1


def test_other_text_is_left_alone() -> None:
    for text in ("tab\tand\nline", "é ß 中文 עברית 🙂", "", "\\x1b"):
        assert plain(text) == text
    assert plain("\x1b[1;31mred\x1b[0m") == "red"


EVIL = "\x1b]0;owned\x07\x1b[2J\r\u202e"


def shown(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    assert not ACTIVE.search(out + err)
    return out + err


def test_an_evaluation_s_options(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    scene.in_evaluation(options={f"corridor{EVIL}": f"3{EVIL}\nerror: none"})
    assert main(["plot", "run"]) == 0
    text = shown(capsys)
    assert "\\x1b]0;owned\\x07" in text
    assert not [line for line in text.splitlines() if line.startswith("error")]


def test_an_evaluation_s_fields(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    for fields in ({"mean_return": EVIL}, {EVIL: 1}, {"success_interval": [EVIL, 1]}):
        scene.in_evaluation(**fields)
        assert main(["plot", "run"]) in (0, 2)
        shown(capsys)


def test_an_evaluation_s_checkpoint(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    path = scene.run / "evaluation.json"
    record = json.loads(path.read_text()) | {"checkpoint": f"last{EVIL}, update 1"}
    path.write_text(json.dumps(record))
    assert main(["plot", "run"]) == 0
    assert main(["evaluate", "run", "--episodes", "2"]) == 0
    shown(capsys)


@pytest.mark.parametrize("path", [("env",), ("agent",), ("data", "feed"), ("logger",), ("data", "dataset"), (EVIL,)])
def test_a_config_s_values(scene: Scene, path: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    scene.in_config(*path, value=EVIL)
    for command in ("evaluate run --episodes 1", "train --config run --updates 1 --out run", "plot run"):
        main(command.split())
        shown(capsys)


def test_a_config_s_syntax(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    (scene.run / "config.toml").write_text(f"x = {EVIL}")
    for command in ("evaluate run", "plot run"):
        assert main(command.split()) == 2
        shown(capsys)


def test_a_checkpoint_s_header(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    for fields in ({"agent": EVIL}, {"agent_options": {EVIL: EVIL}}, {"observation_space": EVIL}, {EVIL: 1}):
        scene.in_header(**{"agent": "rate"} | fields)
        assert main(["evaluate", "run", "--episodes", "1"]) == 2
        shown(capsys)
        with pytest.raises(UsageError) as caught:
            rmt_rl.load("run")
        assert not ACTIVE.search(str(caught.value))


@pytest.mark.parametrize("field", ["dataset_id", "data_format", "minari_version", "env_spec", "observation_space"])
def test_a_data_set_s_metadata(scene: Scene, field: str, capsys: pytest.CaptureFixture[str]) -> None:
    identity = scene.in_metadata("tmaze", **{field: EVIL})
    main(["train", "tmaze", "bc", "--dataset", identity, "--updates", "1", "--eval-episodes", "0", "--out", "again"])
    shown(capsys)


def test_a_metric_s_name(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    with (scene.run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"update": 3, EVIL: EVIL}) + "\n")
    assert main(["plot", "run"]) == 2
    shown(capsys)


@pytest.mark.parametrize("text", ["$\\frac$", "$\\input{/etc/passwd}$", "$$", "\\$x$ $", "_^{"])
def test_a_formula_in_a_picture(scene: Scene, text: str) -> None:
    scene.in_evaluation(options={f"length {text}": f"three {text}"})
    scene.in_config("agent", value=f"rate {text}")
    assert main(["plot", "run"]) == 0


def test_a_picture_s_settings_in_the_current_folder(scene: Scene) -> None:
    (scene.here / "matplotlibrc").write_text("text.usetex: True\nbackend: module://payload\n")
    code = "import rmt_rl.analysis.figures as f; assert not f.rcParams['text.usetex']; f.new_figure(1, 1)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_nothing_else_prints() -> None:
    """The terminal has one door: `rmt_rl.terminal`. Progress bars, by rich, hold numbers and what the user typed."""
    package = Path(rmt_rl.__file__).parent
    printing = []
    sources = [*package.rglob("*.py"), *(package / "envs").glob("*.py"), *(package / "agents").glob("*.py")]
    for path in sources:
        if path.name in ("terminal.py", "act.py"):  # act.py is an example to copy from, without this package
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Name(id="print"), lineno=line):
                    printing.append(f"{path.relative_to(package)}:{line}")
    assert not printing
