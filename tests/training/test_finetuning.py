"""Runs that begin with the agent of another run: what they take over, the critic's warm-up, and the leash."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces

import rmt_rl
from rmt_rl.cli import main
from rmt_rl.nn.heads import HeadName, head
from rmt_rl.runs.checkpoint import load_agent, read_checkpoint
from rmt_rl.runs.folder import read_config
from rmt_rl.training.learners.ppo import PPORun
from rmt_rl.training.loop import train
from rmt_rl.training.ppo.leash import Leash, LeashOptions
from tests.tiny import weights, work_folder
from tests.training.test_ppo import TINY, algorithm, gradients, play

SMALL = "--agent.segment-length 4 --agent.width 16 --agent.layers 1"
OFFLINE = "--recipe none --env.corridor-length 1 10 --updates 3 --eval-episodes 0 --batch-size 8"
ONLINE = f"{TINY.replace('--agent.segment-length 4 --agent.width 16', '')} --total-timesteps 32 --learner ppo"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with work_folder(tmp_path_factory) as folder:
        assert main(f"train tmaze rate {OFFLINE} --collect-episodes 20 {SMALL} --out start".split()) == 0
        yield folder


def test_while_the_critic_warms_up_the_agent_stays_as_it_was(work: Path) -> None:
    assert main(f"train tmaze rate {ONLINE} --init start --value-warmup 16 --out options".split()) == 0
    made: list[int] = []
    train(read_config(Path("options")), Path("warm"), lambda update, _: made.append(update), lambda: bool(made))
    assert made == [16]
    start, warm = load_agent("start"), load_agent("warm")
    assert torch.equal(weights(Path("start")), weights(Path("warm")))
    assert warm.config == start.config
    assert warm.spec == start.spec
    assert warm.spec.standardised
    assert "return_to_go" in warm.tokens
    critic = read_checkpoint(Path("warm/last.safetensors")).group("state")
    assert any(tensor.abs().max() > 0 for tensor in critic.values())


def test_a_run_is_resumed_without_the_run_that_it_began_with(work: Path) -> None:
    shutil.copytree("start", "gone")
    assert main(f"train tmaze rate {ONLINE} --init gone --value-warmup 0 --out tuned".split()) == 0
    config = read_config(Path("tuned"))
    assert config.init == "gone"
    assert config.init_sha256 is not None
    shutil.rmtree("gone")
    before = read_checkpoint(Path("tuned/last.safetensors"))
    file = Path("tuned/config.toml")
    file.write_text(file.read_text().replace("total_timesteps = 32", "total_timesteps = 64"))
    assert main(["train", "--resume", "tuned"]) == 0
    after = read_checkpoint(Path("tuned/last.safetensors"))
    assert not torch.equal(before.group("model")["to_action.weight"], after.group("model")["to_action.weight"])
    of_start = before.group("state").keys() - {"0", "1", "2", "3"}  # which are the critic's
    assert len(of_start) == len(before.group("model"))
    assert all(torch.equal(before.group("state")[name], after.group("state")[name]) for name in of_start)
    assert before.header.progress["origin"] == after.header.progress["origin"]


def test_offline_training_goes_on_from_a_run_with_its_scales(work: Path) -> None:
    options = f"{OFFLINE} --collect-episodes 30 --learning-rate 1e-12 --init start"
    assert main(f"train tmaze rate {options} --out more".split()) == 0
    start, more = load_agent("start"), load_agent("more")
    torch.testing.assert_close(weights(Path("more")), weights(Path("start")), atol=1e-9, rtol=0)
    assert more.spec.return_scale == start.spec.return_scale
    agent = rmt_rl.train(
        "tmaze",
        "rate",
        "from-python",
        env_options={"corridor_length": (1, 10)},
        init="start",
        recipe="none",
        collect_episodes=20,
        updates=1,
        eval_episodes=0,
    )
    assert agent.config == start.config


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("tmaze gtrxl --init start", "init=start is of agent 'rate', not 'gtrxl'"),
        ("tmaze rate --init nowhere", "init=nowhere: checkpoint nowhere/last.safetensors doesn't exist"),
        ("tmaze rate --init zoo:nothing", "zoo:nothing isn't in the zoo"),
        ("tmaze rate --init start --agent.width 32", "agent.width=32, but init=start has 16"),
        ("cartpole_hidden rate --init start", "init=start has observation_space"),
        ("tmaze rate --value-warmup 100001", "value_warmup=100001 leaves no round in which the agent learns"),
        ("tmaze rate --kl-decay 10", "kl_decay=10 has no effect without a leash"),
        ("tmaze rate --kl-coef 1", "kl_coef=1.0 keeps an agent near to its start"),
    ],
)
def test_what_can_not_be_begun_with_is_told(
    options: str, message: str, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(f"train {options} --learner ppo --recipe none --out never".split()) == 2
    assert message in capsys.readouterr().err
    assert not Path("never").exists()


def test_a_config_names_the_weights_that_its_run_began_with(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(f"train tmaze rate {ONLINE} --init start --out first".split()) == 0
    file = Path("other.toml")
    text = Path("first/config.toml").read_text()
    file.write_text(text.replace('init = "start"', 'init = "first"'))
    assert main(["train", "--config", "other.toml", "--out", "second"]) == 2
    assert "init=first has other weights than init_sha256=" in capsys.readouterr().err
    Path("first/config.toml").write_text(text.replace('init = "start"', 'init = "zoo:tmaze-rate"'))
    assert main(["train", "--resume", "first"]) == 2
    assert "was started with init=start" in capsys.readouterr().err


def test_a_run_without_a_checkpoint_begins_again_with_the_same_weights(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(f"train tmaze rate {ONLINE} --init start --out early".split()) == 0
    assert main(f"train tmaze rate {OFFLINE} --collect-episodes 20 {SMALL} --seed 1 --out other".split()) == 0
    Path("early/last.safetensors").unlink()
    file = Path("early/config.toml")
    file.write_text(file.read_text().replace('init = "start"', 'init = "other"'))
    assert main(["train", "--resume", "early"]) == 2
    assert "init=other has other weights than init_sha256=" in capsys.readouterr().err


def test_the_critic_warms_up_for_a_tenth_of_a_short_run(work: Path) -> None:
    assert main(f"train tmaze rate {ONLINE} --init start --out short".split()) == 0
    assert not torch.equal(weights(Path("start")), weights(Path("short")))
    config = read_config(Path("short"))
    assert isinstance(config, PPORun)
    found = {}
    for steps in (32, 330, 1_000_000):
        online = config.online.model_copy(update={"total_timesteps": steps})
        found[steps] = config.model_copy(update={"online": online}).value_warmup
    assert found == {32: 0, 330: 32, 1_000_000: 10_000}


def test_agents_of_stable_baselines3_go_on_with_other_options_of_learning(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = "train tmaze ppo --total-timesteps 32 --n-envs 2 --agent.n-steps 8 --agent.batch-size 16 --eval-episodes 0"
    assert main(f"{tiny} --out sb3".split()) == 0
    assert main(f"{tiny} --init sb3 --agent.learning-rate 1e-12 --out slow".split()) == 0
    assert load_agent("slow").config.model_dump()["learning_rate"] == 1e-12
    before, after = (read_checkpoint(Path(name, "last.safetensors")).group("model") for name in ("sb3", "slow"))
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor, atol=1e-6, rtol=0)
    assert main(f"{tiny} --init sb3 --agent.net-arch 8 --out never".split()) == 2
    assert "agent.net_arch=(8,), but init=sb3 has None" in capsys.readouterr().err


def leashed(agent: str, weight: float) -> Leash:
    """Return PPO's leash of an agent that is new."""
    made = algorithm(agent, burn_in=1)
    return Leash(made.policy.agent, 4, "32-true", LeashOptions(weight, 0, 10**9))


@pytest.mark.parametrize("agent", ["rate", "gtrxl", "dlstm", "ddt"])
def test_the_leash_sees_what_is_played_as_the_agent_did_at_its_start(agent: str) -> None:
    made = algorithm(agent, burn_in=1)
    made.leash = leashed(agent, 1.0)
    for _ in range(3):
        play(made)
        made.policy.set_training_mode(False)
        for samples in made.rollout_buffer.get(20):
            made.policy.evaluate_actions(samples.observations, samples.actions)  # type: ignore[arg-type]
    assert made.policy.divergences == pytest.approx([0.0] * len(made.policy.divergences), abs=1e-6)


def test_the_leash_adds_the_gradient_of_its_divergence() -> None:
    found = {}
    for weight in (1e-9, 1.0, 2.0):
        made = algorithm()
        made.leash, made.max_grad_norm = leashed("rate", weight), 1e9
        with torch.no_grad():
            made.policy.agent.to_action.bias.add_(torch.arange(4.0))
        play(made)
        found[weight] = torch.cat([gradient.flatten() for gradient in gradients(made)])
        assert made.policy.divergences[0] > 0.1
    without, once, twice = found.values()
    assert (once - without).abs().max() > 1e-3
    torch.testing.assert_close(twice - without, 2 * (once - without), atol=1e-6, rtol=1e-3)


def test_the_weight_falls_after_the_warm_up() -> None:
    options = LeashOptions(0.4, 100, 200)
    assert [options.at(step) for step in (0, 100, 200, 300, 999)] == pytest.approx([0.4, 0.4, 0.2, 0, 0])


BOX = spaces.Box(-1, 1, (2,))
ACTIONS: list[tuple[spaces.Space[object], HeadName]] = [
    (spaces.Discrete(3, start=2), "auto"),
    (spaces.MultiDiscrete([2, 4]), "auto"),
    (BOX, "bins"),
    (BOX, "gaussian"),
    (BOX, "mixture"),
    (spaces.Dict({"a": spaces.Discrete(3), "b": BOX}), "gaussian"),
    (spaces.Tuple([spaces.Discrete(3), BOX]), "mixture"),
]


@pytest.mark.parametrize(("space", "family"), ACTIONS)
def test_divergences_are_those_of_samples(space: spaces.Space[object], family: HeadName) -> None:
    of_actions = head(space, family=family)
    generator = torch.Generator().manual_seed(0)
    one, other = torch.randn(2, of_actions.size, generator=generator).expand(20_000, 2, -1).unbind(1)
    chosen = of_actions.choose(one, generator)
    estimate = of_actions.chosen_loss(other, chosen) - of_actions.chosen_loss(one, chosen)
    exact = of_actions.divergence(one, other)
    if family == "mixture":
        assert exact is None
        assert estimate.mean() > 0
        return
    assert exact is not None
    assert float(exact[0]) == pytest.approx(float(estimate.mean()), abs=5 * float(estimate.std()) / 20_000**0.5)
    entropy = of_actions.entropy(one)
    assert entropy is not None
    losses = of_actions.chosen_loss(one, chosen)
    assert float(entropy[0]) == pytest.approx(float(losses.mean()), abs=0.05)


def test_probabilities_are_of_what_was_drawn_not_of_what_bounds_left_of_it() -> None:
    of_actions = head(BOX, family="gaussian")
    far = torch.tensor([[3.0, -3.0, 0.0, 0.0]])
    chosen = of_actions.choose(far, torch.Generator().manual_seed(0))
    np.testing.assert_array_equal(of_actions.values(chosen.numpy()), [[1, -1]])
    normal = torch.distributions.Normal(far[:, :2], 1.0)
    torch.testing.assert_close(of_actions.chosen_loss(far, chosen), -normal.log_prob(chosen).sum(-1))
