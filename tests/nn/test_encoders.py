"""Encoders of observations by name: shapes, batches, layouts of images, errors, earlier versions, a user's own."""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import rmt_rl
from rmt_rl.agent import AgentSpec
from rmt_rl.cli import main
from rmt_rl.config import validated
from rmt_rl.errors import UsageError
from rmt_rl.nn.images import is_image
from rmt_rl.nn.space_encoder import observation_encoder
from rmt_rl.nn.vectors import Vector
from rmt_rl.registry import agent_class, import_named, names
from rmt_rl.runs.checkpoint import path_of, read_checkpoint
from rmt_rl.trees import leaves, map_space
from tests.random_spaces import Space, draw_batch, observation_spaces

WIDTH = 6
LARGE = spaces.Box(0, 255, (36, 40, 3), np.uint8)
TINY = spaces.Box(0, 255, (3, 7, 7), np.uint8)
VECTOR = spaces.Box(-1, 1, (2, 3))
FOR_IMAGES = ("nature", "impala")
TRAIN = "train tmaze bc --agent.width 8 --agent.segment-length 4 --updates 2 --collect-episodes 8 --batch-size 4"
QUICK = "--env.corridor-length 1 5 --eval-episodes 2 --eval-every 2 --accelerator cpu --logger jsonl --out run"


def tensors(space: Space, lead: tuple[int, ...]) -> Any:
    """Return random values of a space with leading dimensions, as segments hold them."""
    rows = draw_batch(space, int(np.prod(lead)))

    def leaf(place: tuple[int | str, ...], part: Space) -> Tensor:
        array = rows
        for key in place:
            array = array[key]
        dtype = np.uint8 if is_image(part) else np.bool_ if part.dtype == np.bool_ else np.float32
        whole = dtype if isinstance(part, spaces.Box) else np.int64
        return torch.from_numpy(np.array(array).astype(whole).reshape(*lead, *(part.shape or ())))

    return map_space(leaf, space)


@given(observation_spaces(largest=1000), st.sampled_from(["auto", "linear", "mlp", "small"]))
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
def test_every_space_has_an_encoder_of_each_general_name(space: Space, name: str) -> None:
    encode = observation_encoder(space, WIDTH, name)
    for lead in ((2,), (2, 3)):
        tokens = encode(tensors(space, lead))
        assert tokens.shape == (*lead, WIDTH)
        assert tokens.isfinite().all()


@given(
    name=st.sampled_from(["auto", *FOR_IMAGES, "small", "linear", "mlp"]),
    size=st.tuples(st.integers(36, 50), st.integers(36, 50)),
    channels=st.sampled_from([1, 3, 4]),
    lead=st.sampled_from([(), (1,), (2, 3), (2, 1, 2)]),
)
@settings(max_examples=30, deadline=None, derandomize=True, database=None)
def test_images_of_any_layout_and_batch(name: str, size: tuple[int, int], channels: int, lead: tuple[int, ...]) -> None:
    """Channels first and last give the same tokens, one by one and in batches, and all weights get gradients."""
    last = spaces.Box(0, 255, (*size, channels), np.uint8)
    first = spaces.Box(0, 255, (channels, *size), np.uint8)
    pixels = torch.randint(0, 256, (*lead, *size, channels), dtype=torch.uint8)
    encode = observation_encoder(last, WIDTH, name)
    tokens = encode(pixels)
    assert tokens.shape == (*lead, WIDTH)
    alone = [encode(image) for image in pixels.reshape(-1, *last.shape)]
    torch.testing.assert_close(tokens.reshape(-1, WIDTH), torch.stack(alone), rtol=1e-4, atol=1e-5)
    tokens.square().sum().backward()
    assert all(weights.grad is not None for weights in encode.parameters())
    if name not in ("linear", "mlp"):
        other = observation_encoder(first, WIDTH, name)
        other.load_state_dict(encode.state_dict())
        torch.testing.assert_close(other(pixels.movedim(-1, -3)), tokens, rtol=1e-4, atol=1e-5)


def test_the_default_is_a_real_net_for_large_images_alone() -> None:
    parts: dict[str, Space] = {"large": LARGE, "tiny": TINY, "vector": VECTOR, "category": spaces.Discrete(3)}
    encode = observation_encoder(spaces.Dict(parts), WIDTH, "auto")
    kinds = [type(part).__name__ for part in encode.parts]  # type: ignore[union-attr]
    assert dict(zip(sorted(parts), kinds, strict=True)) == {
        "category": "Categories",
        "large": "Nature",
        "tiny": "SmallImage",
        "vector": "Vector",
    }


def test_parts_that_the_choice_does_not_fit_get_the_default() -> None:
    space = spaces.Tuple((TINY, LARGE, VECTOR))
    for name, expected in (("nature", ["SmallImage", "Nature", "Vector"]), ("impala", ["Impala", "Impala", "Vector"])):
        encode = observation_encoder(space, WIDTH, name)
        assert [type(part).__name__ for part in encode.parts] == expected  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("space", "name", "message"),
    [
        (
            TINY,
            "nature",
            "encoder='nature' is for uint8 images of at least 36 x 36 pixels .small and impala take smaller",
        ),
        (VECTOR, "impala", r"encoder='impala' is for uint8 images, but the observation space is Box\(-1.0, 1.0"),
        (spaces.Dict(a=VECTOR, b=TINY), "nature", "choose another one of rmt-rl list"),
    ],
)
def test_a_choice_that_fits_nothing_is_refused(space: Space, name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        observation_encoder(space, WIDTH, name)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(UsageError, match=r"unknown encoder 'natur' \(known: auto, .*did you mean 'nature'"):
        validated(agent_class("rate").Config, {"encoder": "natur"})


def test_every_agent_takes_a_choice() -> None:
    for agent in ("rate", "bc", "dlstm"):
        cls = agent_class(agent)
        options = validated(cls.Config, {"encoder": "nature", "width": 8, "segment_length": 2})
        made: Any = cls(options, AgentSpec(LARGE, spaces.Discrete(2)))
        assert type(made.encoders["observation"]).__name__ == "Nature"
        action, _ = made.predict(LARGE.sample())
        assert action in (0, 1)


# A user's own


class Scaled(nn.Module):
    """Lazy: its weights are made by the first values."""

    def __init__(self, space: Space, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(-len(space.shape or (1,))), nn.LazyLinear(width))

    def forward(self, value: Tensor) -> Tensor:
        out: Tensor = self.net(value.float())
        return out


def too_narrow(space: Space, width: int) -> nn.Module:
    return Vector(space, width - 1)


def of_others(space: Space, width: int) -> nn.Module:
    return nn.Linear(99, width)


def of_nothing() -> nn.Module:
    return nn.Linear(1, 1)


def no_module(space: Space, width: int) -> str:
    return "a net"


@pytest.fixture
def own() -> str:
    import_named(f"{__name__}:Scaled")
    return __name__


def test_a_module_of_the_user_encodes(own: str) -> None:
    for space in (VECTOR, LARGE, spaces.Dict(a=VECTOR, b=TINY)):
        encode = observation_encoder(space, WIDTH, f"{own}:Scaled")
        assert encode(tensors(space, (2, 3))).shape == (2, 3, WIDTH)
        count = len(list(leaves(space)))
        assert sum(isinstance(each, Scaled) for each in encode.modules()) == count
        assert encode.training


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("too_narrow", r"values of shape \(2, 3, 2, 3\) became \(2, 3, 5\) instead of \(2, 3, 6\)"),
        ("of_others", "its forward fails on torch.float32 values of shape"),
        ("no_module", "gave 'a net'; return a torch.nn.Module"),
        ("of_nothing", r"can't be made from a space and a width=6 .of_nothing.. takes 0 positional"),
        ("absent", "has no 'absent'"),
        ("WIDTH", "is 6, but must be a class of torch.nn.Module"),
    ],
)
def test_what_is_no_encoder_is_told(own: str, name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        observation_encoder(VECTOR, WIDTH, f"{own}:{name}")


def test_a_run_with_a_module_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The name imports the module where the user types it, and nowhere else."""
    text = "from torch import nn\nclass Own(nn.Linear):\n    def __init__(self, space, width):\n"
    text += "        super().__init__(space.shape[0], width)\n"
    (tmp_path / "own_encoder_on_trial.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "data"))
    name = "own_encoder_on_trial:Own"
    assert main([*TRAIN.split(), *QUICK.split(), "--agent.encoder", name]) == 0
    assert rmt_rl.load("run").config.encoder == name
    sys.modules.pop("own_encoder_on_trial")
    monkeypatch.setattr("rmt_rl.plugins._named", set())
    capsys.readouterr()
    assert main(["evaluate", "run", "--episodes", "2"]) == 2
    assert "module 'own_encoder_on_trial' isn't imported, and a name in a file imports none" in capsys.readouterr().err
    assert main(["evaluate", "run", "--episodes", "2", "--import", "own_encoder_on_trial"]) == 0


# Earlier versions


def test_runs_of_earlier_versions_are_used_and_resumed_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "data"))
    assert main([*TRAIN.split(), *QUICK.split(), "--agent.encoder", "small"]) == 0
    file = path_of(Path("run"))
    header = read_checkpoint(file).header.model_dump()
    del header["agent_options"]["encoder"]
    save_file(load_file(file), file, {"rmt_rl": json.dumps(header)})
    config = tomllib.loads(Path("run/config.toml").read_text())
    del config["agent_options"]["encoder"]
    config["training"]["updates"] = 3
    Path("run/config.toml").write_text(tomli_w.dumps(config))
    assert rmt_rl.load("run").config.encoder == "small"
    assert main(["train", "--resume", "run"]) == 0
    assert read_checkpoint(file).header.update == 3
    assert rmt_rl.load("run").config.encoder == "small"


def test_small_is_the_encoder_of_earlier_versions() -> None:
    """The names and shapes of its weights are those in their checkpoints."""
    space = spaces.Dict(image=LARGE, vector=VECTOR, category=spaces.Discrete(3))
    shapes = {name: tuple(weights.shape) for name, weights in observation_encoder(space, 4, "small").named_parameters()}
    assert shapes == {
        "parts.0.embedding.weight": (3, 4),
        "parts.1.convolutions.0.weight": (16, 3, 5, 5),
        "parts.1.convolutions.0.bias": (16,),
        "parts.1.convolutions.2.weight": (32, 16, 3, 3),
        "parts.1.convolutions.2.bias": (32,),
        "parts.1.convolutions.4.weight": (32, 32, 3, 3),
        "parts.1.convolutions.4.bias": (32,),
        "parts.1.convolutions.8.weight": (4, 512),
        "parts.1.convolutions.8.bias": (4,),
        "parts.2.linear.weight": (4, 6),
        "parts.2.linear.bias": (4,),
    }


def test_the_names_are_those_of_the_files() -> None:
    assert names("encoders") == ["auto", "impala", "linear", "mlp", "nature", "small"]
