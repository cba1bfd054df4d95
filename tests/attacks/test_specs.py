"""Arguments in received specs that would run a program, import a module or read a file."""

from __future__ import annotations

import importlib
import json
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import gymnasium
import pytest

from rmt_rl.cli import main
from rmt_rl.errors import UsageError
from rmt_rl.gymnasium_task import ClassTask, GymnasiumTask
from rmt_rl.registry import load_task, task_of_spec, trust_specs
from tests.attacks import replicas
from tests.attacks.replicas import ID, Doom
from tests.attacks.scene import Scene

Values = dict[str, Any]


def spec_of(identity: str, **changed: Any) -> str:
    """Return the registered spec as a file has it, with other fields; arguments are added to the registered ones."""
    values = json.loads(gymnasium.spec(identity).to_json())
    values["kwargs"] |= changed.pop("kwargs", {})
    return json.dumps(values | changed)


def wrapper(entry_point: Any, kwargs: Any = None, name: str = "Wrapper") -> Values:
    return {"name": name, "entry_point": entry_point, "kwargs": {} if kwargs is None else kwargs}


REFUSED: list[Values] = [
    {"vizdoom_path": "./payload.py"},
    {"vizdoom_path": "payload"},
    {"xml_file": "other.xml"},
    {"xml_file": "../level.xml"},
    {"plugin_dir": "plugins"},
    {"plugin_dir": ["plugins"]},
    {"wad": "../../evil.wad"},
    {"wad": "~/evil"},
    {"wad": "file:evil"},
    {"wad": "$HOME"},
    {"wad": "-exec evil"},
    {"wad": "basic +exec evil"},
    {"wad": "C:\\evil"},
    {"wad": "evil\x00"},
    {"wad": "evil\n"},
    {"config": {"other_vehicles_type": "payload.Payload"}},
    {"config": {"deep": [{"other_vehicles_type": "payload.Payload"}]}},
    {"config": {"vizdoom_path": "payload"}},
    {"config": {"script": "payload"}},
    {"obstacle_type": "os"},
    {"obstacle_type": "tests.attacks.replicas.Obedient"},
    {"obstacle_type": 5},
    {"unknown": "text"},
    {"entry_point": "payload:Payload"},
    {"size": "payload"},
    {"maze_map": [[1, "../r"], [0, 1]]},
    {"seeds": "https://evil.example/x"},
]


@pytest.mark.parametrize("kwargs", REFUSED, ids=map(str, REFUSED))
def test_an_argument_that_names_code_or_a_place(scene: Scene, kwargs: Values) -> None:
    task = GymnasiumTask(ID)
    with pytest.raises(UsageError, match=f"{ID} gets .* from a file. .* add --trust-spec"):
        task.make(spec=spec_of(ID, kwargs=kwargs))


ACCEPTED: list[Values] = [
    {},
    {"size": 5, "render_mode": "rgb_array"},
    {"vizdoom_path": "doom", "xml_file": "level.xml", "wad": "maps/../basic.wad"},
    {"wad": "map 01"},
    {"wad": "v1.0"},
    {"reward_type": "dense"},
    {"maze_map": [[1, "r", "g"], [0, 1, 1]]},
    {"config": {"observation": {"type": "Kinematics", "vehicles_count": 5}, "rate": 0.5, "offscreen": True}},
    {"config": {"other_vehicles_type": "tests.attacks.replicas.Vehicle"}},
    {"seeds": [1, 2, None]},
    {"plugin_dir": None},
]


@pytest.mark.parametrize("kwargs", ACCEPTED, ids=map(str, ACCEPTED))
def test_values_are_accepted(scene: Scene, kwargs: Values) -> None:
    env = GymnasiumTask(ID).make(spec=spec_of(ID, kwargs=kwargs))
    assert isinstance(env.unwrapped, Doom)


def test_a_screen_is_left_closed(scene: Scene) -> None:
    env = GymnasiumTask(ID).make(spec=spec_of(ID, kwargs={"render_mode": "human"}))
    assert env.render_mode is None


@pytest.mark.parametrize(
    "fields",
    [
        {"max_episode_steps": "9"},
        {"max_episode_steps": -1},
        {"max_episode_steps": True},
        {"max_episode_steps": [9]},
        {"kwargs": {"size": 1}, "entry_point": "payload:Payload"},
        {"entry_point": "subprocess:Popen"},
        {"id": "Payload-v0", "entry_point": "payload:Payload"},
        {"additional_wrappers": {"payload": 1}},
        {"additional_wrappers": ["payload:Payload"]},
        {"namespace": "payload"},
        {"unknown_field": 1},
    ],
    ids=str,
)
def test_a_field_of_a_spec(scene: Scene, fields: Values) -> None:
    with pytest.raises(UsageError, match="spec"):
        GymnasiumTask(ID).make(spec=spec_of(ID, **fields))


def test_arguments_that_are_no_object(scene: Scene) -> None:
    text = json.dumps(json.loads(spec_of(ID)) | {"kwargs": ["payload"]})
    with pytest.raises(UsageError, match=r"kwargs=\['payload'\]; it must be an object"):
        GymnasiumTask(ID).make(spec=text)


def test_a_vector_entry_point_is_that_of_the_registered_spec(scene: Scene) -> None:
    env = GymnasiumTask(ID).make(spec=spec_of(ID, vector_entry_point="payload:Payload", reward_threshold="payload"))
    assert env.spec is not None
    assert env.spec.vector_entry_point is None


TRANSFORM = "gymnasium.wrappers.transform_observation:TransformObservation"
CONVERT = "gymnasium.wrappers.array_conversion:ArrayConversion"
RECORD = "gymnasium.wrappers.rendering:RecordVideo"
VECTOR = "gymnasium.wrappers.vector.vectorize_observation:VectorizeTransformObservation"
WRAPPERS = [
    wrapper("payload:Payload"),
    wrapper("os:system", {"command": "touch ran"}),
    wrapper(TRANSFORM, {"func": "payload.Payload", "observation_space": None}),
    wrapper(TRANSFORM, {"func": 5, "observation_space": None}),
    wrapper(CONVERT, {"env_xp": "payload", "target_xp": "payload"}),
    wrapper(VECTOR, {"wrapper": "payload.Payload"}),
    wrapper("gymnasium.wrappers.rendering:os"),
    wrapper("gymnasium.wrappers.rendering:deepcopy", {"x": 1}),
    wrapper("gymnasium.wrappers.array_conversion:module_name_to_namespace", {"name": "payload"}),
    wrapper("gymnasium.wrappers.common:gym"),
    wrapper("gymnasium.wrappers.payload:Payload"),
    wrapper("gymnasium.wrappers/../payload:Payload"),
    wrapper("rmt_rl.wrappers:UsageError", {"message": "x"}),
    wrapper("minigrid.wrappers:reduce"),
    wrapper(5),
    wrapper(None),
    wrapper("gymnasium.wrappers.common:TimeLimit", "payload"),
    wrapper("gymnasium.wrappers.common:TimeLimit", ["payload"]),
]


@pytest.mark.parametrize("each", WRAPPERS, ids=lambda each: f"{each['entry_point']} {each['kwargs']}")
def test_a_wrapper(scene: Scene, each: Values) -> None:
    with pytest.raises(UsageError):
        GymnasiumTask(ID).make(spec=spec_of(ID, additional_wrappers=[each]))


def test_a_wrapper_that_records_is_left_out(scene: Scene) -> None:
    record = wrapper(RECORD, {"video_folder": "../elsewhere"})
    with closing(GymnasiumTask(ID).make(spec=spec_of(ID, additional_wrappers=[record]))) as env:
        assert "RecordVideo" not in str(env)
        env.reset(seed=0)
    assert not list(Path.cwd().parent.rglob("*.mp4"))


def test_wrappers_with_values_are_made(scene: Scene) -> None:
    wrappers = [
        wrapper("gymnasium.wrappers.stateful_observation:FrameStackObservation", {"stack_size": 2}),
        wrapper("gymnasium.wrappers.transform_observation:DtypeObservation", {"dtype": "float64"}),
        wrapper("rmt_rl.wrappers:ReturnToGo", {"target_return": 3.0}),
    ]
    env = GymnasiumTask(ID).make(spec=spec_of(ID, additional_wrappers=wrappers))
    assert env.observation_space["observation"].shape == (2, 2)  # type: ignore[index]


def test_a_data_set_s_spec_on_the_command_line(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    evil = spec_of(ID, kwargs={"vizdoom_path": "./payload.py"})
    dataset = scene.in_metadata("CartPole", env_spec=evil)
    command = ["train", "--dataset", dataset, "bc", "--updates", "1", "--out", "again"]
    assert main(command) == 2
    assert "gets vizdoom_path='./payload.py' from a file" in capsys.readouterr().err
    assert not Path("again").exists()


def test_a_config_s_spec_on_the_command_line(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    scene.in_config("env", value=ID)
    scene.in_config("env_options", value={"spec": spec_of(ID, kwargs={"xml_file": "/etc/passwd"})})
    for command in ("evaluate run", "train --config run --out again"):
        assert main(command.split()) == 2
        assert "gets xml_file='/etc/passwd' from a file" in capsys.readouterr().err, command


def test_the_user_s_word_lifts_the_rule_for_one_command(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    scene.in_config("env", value=ID)
    scene.in_config("env_options", value={"spec": spec_of(ID, kwargs={"xml_file": "own.xml"})})
    assert main(["evaluate", "run", "--trust-spec"]) == 2
    assert "observation_space" in capsys.readouterr().err or Path("ran").exists()
    assert Path("ran").read_text() == "read own.xml"
    Path("ran").unlink()
    assert main(["evaluate", "run"]) == 2
    assert not Path("ran").exists()


def test_the_user_s_word_in_python(scene: Scene) -> None:
    trust_specs()
    GymnasiumTask(ID).make(spec=spec_of(ID, kwargs={"xml_file": "own.xml"})).close()
    Path("ran").unlink()
    trust_specs(False)
    with pytest.raises(UsageError):
        GymnasiumTask(ID).make(spec=spec_of(ID, kwargs={"xml_file": "own.xml"}))


def test_our_environments_check_their_own_options(scene: Scene) -> None:
    spec = gymnasium.envs.registration.EnvSpec.from_json(spec_of("rmt_rl/TMaze-v0", max_episode_steps=3))
    spec.kwargs = {"corridor_length": "../x"}
    name, options = task_of_spec(spec)
    with pytest.raises(UsageError, match=r"corridor_length='\.\./x'"):
        load_task(name).make(**options)


def test_a_class_that_something_else_imported(scene: Scene) -> None:
    task = ClassTask(Doom, replicas.__name__, "Doom")
    with pytest.raises(UsageError, match=r"gets vizdoom_path='\./payload.py' from a file"):
        task.make(vizdoom_path="./payload.py")
    task.make(size=4).close()


VIZDOOM = [
    {"vizdoom_path": "./payload.py"},
    {"scenario_config_file": "../../evil.cfg"},
    {"config_file": "evil.cfg"},
    {"game_args": "+exec evil"},
    {"doom_map": "map01; exec evil"},
    {"set_vizdoom_path": "payload"},
]


@pytest.mark.parametrize("kwargs", VIZDOOM, ids=map(str, VIZDOOM))
def test_vizdoom(scene: Scene, kwargs: Values) -> None:
    pytest.importorskip("vizdoom")
    importlib.import_module("vizdoom.gymnasium_wrapper")
    with pytest.raises(UsageError, match="from a file"):
        GymnasiumTask("VizdoomBasic-v1").make(spec=spec_of("VizdoomBasic-v1", kwargs=kwargs))


@pytest.mark.parametrize(
    "kwargs", [{"xml_file": "/etc/passwd"}, {"xml_file": "evil.xml"}, {"default_camera_config": "x/y"}]
)
def test_mujoco(scene: Scene, kwargs: Values) -> None:
    pytest.importorskip("mujoco")
    with pytest.raises(UsageError, match="from a file"):
        GymnasiumTask("Hopper-v5").make(spec=spec_of("Hopper-v5", kwargs=kwargs))


@pytest.mark.parametrize("kwargs", [{"game": "../../rom"}, {"obs_type": "/etc/passwd"}, {"rom_file": "x"}])
def test_ale(scene: Scene, kwargs: Values) -> None:
    pytest.importorskip("ale_py")
    with pytest.raises(UsageError, match="from a file"):
        GymnasiumTask("ale_py:ALE/Pong-v5").make(spec=spec_of("ALE/Pong-v5", kwargs=kwargs))


@pytest.mark.parametrize("kwargs", [{"obstacle_type": "os"}, {"wfc_config": "../x"}, {"mission_space": "payload.X"}])
def test_minigrid(scene: Scene, kwargs: Values) -> None:
    identity = "MiniGrid-LavaGapS5-v0"
    importlib.import_module("minigrid")
    with pytest.raises(UsageError, match="from a file"):
        GymnasiumTask(identity).make(spec=spec_of(identity, kwargs=kwargs))


def test_a_task_that_is_a_class_checks_its_own_options(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    (scene.here / "my_level.py").write_text(
        "from rmt_rl.config import Frozen\nfrom tests.attacks.replicas import Doom\n"
        "class Config(Frozen):\n    level: str = 'a'\n"
        "class Level:\n    ID = 'Attacked/Level-v0'\n    Config = Config\n"
        "    make = staticmethod(lambda render_mode=None, level='a': Doom(render_mode=render_mode))\n"
    )
    monkeypatch.delitem(gymnasium.registry, "Attacked/Level-v0", raising=False)
    monkeypatch.delitem(sys.modules, "my_level", raising=False)
    importlib.import_module("my_level")
    load_task("my_level:Level")
    task = GymnasiumTask("Attacked/Level-v0")
    task.make(spec=spec_of("Attacked/Level-v0", kwargs={"level": "levels/1"}, max_episode_steps=3)).close()
    with pytest.raises(UsageError, match="unknown option path="):
        task.make(spec=spec_of("Attacked/Level-v0", kwargs={"path": "x"}, max_episode_steps=3))
