"""Act by an exported agent: `python act.py [FOLDER]`. It needs onnxruntime, numpy and gymnasium.

Environments of rmt-rl, and episodes that are lives, need rmt-rl too.

The folder holds agent.onnx and agent.json. The environment is the one that the agent was trained in, unless `--env`
names another with the same spaces, e.g. `--env CartPole-v1`. `--option NAME=VALUE` sets one of its options.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import onnxruntime
from gymnasium.envs.registration import EnvSpec


class Actor:
    """An exported agent in one environment."""

    def __init__(self, folder: Path) -> None:
        self.about = json.loads((folder / "agent.json").read_text(encoding="utf-8"))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # a step is too small for more
        self.session = onnxruntime.InferenceSession(
            str(folder / "agent.onnx"), options, providers=["CPUExecutionProvider"]
        )
        self.names = [output.name for output in self.session.get_outputs()]

    def begin(self, target_return: float | None = None) -> None:
        """Begin an episode. The state's numbers mean nothing before its first step."""
        wanted = self.about["target_return"] if target_return is None else target_return
        self.return_to_go = wanted or 0.0
        self.is_start = True
        self.given = {}
        for each in self.about["inputs"]:
            _, *shape = each["shape"]
            self.given[each["name"]] = np.zeros((1, *shape), each["dtype"])

    def act(self, observation: Any) -> Any:
        """Return the likeliest action."""
        self.put("episode_start", self.is_start)
        if "return_to_go" in self.given:
            self.put("return_to_go", self.return_to_go)
        for each in self.about["observation"]:
            self.put(each["input"], part_of(observation, each["part"]))
        outputs = dict(zip(self.names, self.session.run(None, self.given), strict=True))
        for each in self.about["state"]:
            self.given[each["input"]] = outputs[each["output"]]
        self.is_start = False
        action: Any = None
        for each in self.about["action"]:
            value = outputs[each["output"]][0].astype(each["dtype"])
            action = with_part(action, each["part"], value)
        return in_form_of(self.about["action_space"], action)

    def put(self, name: str, value: Any) -> None:
        """Set an input of the next step."""
        self.given[name][0] = value

    def learn_of(self, reward: float) -> None:
        """Lower the return that is still to be reached."""
        self.return_to_go = self.return_to_go - np.float32(reward)


def part_of(value: Any, place: list[Any]) -> Any:
    """Return the part of a dict or tuple that keys and indices lead to."""
    for key in place:
        value = value[key]
    return value


def with_part(value: Any, place: list[Any], part: Any) -> Any:
    """Return nested dictionaries with a part at a place."""
    if not place:
        return part
    first, *rest = place
    value = value or {}
    value[first] = with_part(value.get(first), rest, part)
    return value


def in_form_of(space: dict[str, Any], value: Any) -> Any:
    """Return nested dictionaries as a value of a space: with tuples for its Tuples."""
    if space["type"] == "Dict":
        return {key: in_form_of(part, (value or {}).get(key)) for key, part in space["subspaces"].items()}
    if space["type"] == "Tuple":
        parts = enumerate(space["subspaces"])
        return tuple(in_form_of(part, (value or {}).get(index)) for index, part in parts)
    return int(value) if space["type"] == "Discrete" else value


def play(actor: Actor, env: Any, seed: int, target_return: float | None) -> tuple[float, Any]:
    """Play an episode; return the sum of its rewards, and its success: None if the environment doesn't tell it."""
    observation, info = env.reset(seed=seed)
    actor.begin(target_return)
    total, is_over = 0.0, False
    while not is_over:
        action = actor.act(observation)
        observation, reward, terminated, truncated, info = env.step(action)
        actor.learn_of(float(reward))
        total += float(reward)
        is_over = terminated or truncated
    return total, info.get("is_success")


def make_env(trained_in: dict[str, Any], name: str | None, options: dict[str, Any]) -> Any:
    """Return the environment that the agent was trained in, or another one of this name, with these options."""
    lifetime = options.pop("lifetime", trained_in.get("lifetime"))
    if name is not None:
        env = gymnasium.make(name, **options)
    elif trained_in["spec"]:
        env = gymnasium.make(EnvSpec.from_json(trained_in["spec"]), **options)
    else:
        env = gymnasium.make(trained_in["id"], **(trained_in["options"] | options))
    if not lifetime:  # 0 or None: single episodes
        return env
    from rmt_rl.wrappers import Lifetime

    return Lifetime(env, lifetime)


def option(text: str) -> tuple[str, Any]:
    """Read NAME=VALUE; the value is JSON, or else a text."""
    name, _, value = text.partition("=")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def main() -> None:
    """Play episodes and print their returns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path(__file__).parent, help="folder of agent.onnx")
    parser.add_argument("--env", help="Gymnasium id of the environment")
    parser.add_argument("--option", type=option, action="append", default=[], help="option of the environment")
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--target-return", type=float)
    given = parser.parse_args()
    actor = Actor(given.folder)
    env = make_env(actor.about["environment"], given.env, dict(given.option))
    returns, successes = [], []
    for episode in range(given.episodes):
        total, success = play(actor, env, given.seed + episode, given.target_return)
        returns.append(total)
        successes.append(success)
    print(f"mean return {np.mean(returns):.4g} in {given.episodes} episodes")
    if None not in successes:
        print(f"success rate {np.mean(successes):.2f}")


if __name__ == "__main__":
    main()
