"""The rules of Color-Cubes, what updates show, and that the expert needs nothing else."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray

import rmt_rl.envs.color_cubes as task
from rmt_rl.acting.evaluate import evaluate
from rmt_rl.acting.policies import RandomPolicy
from rmt_rl.acting.recording import trajectories
from rmt_rl.acting.rollout import rollout
from rmt_rl.envs.color_cubes import DOWN, LEFT, RIGHT, UP, ColorCubes, ColorCubesVector, Config, Expert, Layout
from rmt_rl.errors import UsageError

UPDATE, COLOURS, PHASE = range(3)
DIFFICULTIES: list[dict[str, Any]] = [{"difficulty": name} for name in ("trivial", "medium", "extreme")]
VARIANTS: list[dict[str, Any]] = [
    *DIFFICULTIES,
    {"difficulty": "extreme", "size": 3, "cubes": 7, "teleport": 0.9, "phases": 12},
    {"size": 2, "cubes": 2, "teleport": 1.0},
    {"size": 6, "cubes": 1, "phases": 3, "max_steps": 25},
]


def cell_of(seen: NDArray[np.float32], part: slice) -> NDArray[np.int64]:
    """Return the number of the one cell that a part of the observations (n, width) shows."""
    found: NDArray[np.int64] = seen[:, part].argmax(1)
    return found


def distance(config: Config, one: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the number of steps between cells."""
    rows, columns = np.divmod(one, config.size), np.divmod(other, config.size)
    steps: NDArray[np.int64] = abs(rows[0] - columns[0]) + abs(rows[1] - columns[1])
    return steps


class Forgetful(Expert):
    """The expert, to which every step is an episode's first."""

    def predict(self, observation: Any, *_: Any, **__: Any) -> Any:
        return super().predict(observation, None)


@pytest.mark.parametrize("options", VARIANTS)
def test_expert_succeeds_in_a_thousand_episodes(options: dict[str, Any]) -> None:
    config = Config(**options)
    if config.max_steps is not None:
        options = options | {"max_steps": None}
    evaluation = evaluate(Expert(config), task, options, 1000, seed=0)
    assert evaluation.success_rate == 1
    assert evaluation.mean_return == config.phase_count


@pytest.mark.parametrize("options", VARIANTS)
def test_expert_knows_every_cube_from_observations_and_takes_shortest_ways(options: dict[str, Any]) -> None:
    """The expert's belief, made of observations alone, is the simulators' state at every step."""
    env = ColorCubesVector(50, **options)
    config, layout, expert = env.config, Layout.of(env.config), Expert(env.config)
    observations, state = env.reset(seed=0)[0], None
    starts, won = np.ones(50, bool), 0
    for _ in range(100):
        actions, state = expert.predict(observations, state, starts)
        live = ~env.ended
        np.testing.assert_array_equal(state[live, :-1], env.cells[live])
        own, goal = cell_of(observations, layout.own), env.cells[np.arange(50), state[:, -1]]
        before = distance(config, own, goal)
        starts = env.ended.copy()
        observations, rewards, _, _, infos = env.step(actions)
        after = distance(config, cell_of(observations, layout.own), goal)
        assert (before - after == 1)[live].all()
        np.testing.assert_array_equal((after == 0)[live], rewards[live] == 1)
        won += infos.get("is_success", np.zeros(1)).sum()
    assert won > 20 or config.max_steps


@pytest.mark.parametrize("options", VARIANTS)
def test_observations_show_the_truth_in_updates_and_nothing_else(options: dict[str, Any]) -> None:
    env = ColorCubesVector(20, **options)
    config, layout = env.config, Layout.of(env.config)
    cells, cubes = config.size**2, config.cube_count
    rng = np.random.default_rng(0)
    seen = env.reset(seed=0)[0]
    begins, found, places = np.ones(20, bool), np.zeros(20, bool), env.cells.copy()
    for _ in range(200):
        update, colours, phase = (seen[:, flag] == 1 for flag in range(3))
        assert (np.sort(env.cells, 1)[:, 1:] != np.sort(env.cells, 1)[:, :-1]).all()
        np.testing.assert_array_equal(seen[:, layout.own].sum(1), 1)
        np.testing.assert_array_equal(seen[:, layout.target].sum(1), phase)
        np.testing.assert_array_equal(seen[:, layout.positions].sum(1), cubes * update)
        np.testing.assert_array_equal(seen[:, layout.colours].sum(1), cubes * colours)
        np.testing.assert_array_equal(phase, begins | found)
        moved = places != env.cells
        assert (moved.sum(1)[~begins] <= 1).all()
        np.testing.assert_array_equal(update, begins | moved.any(1))
        np.testing.assert_array_equal(colours, begins if config.difficulty == "extreme" else update)
        for lane in np.flatnonzero(update):
            np.testing.assert_array_equal(np.flatnonzero(seen[lane, layout.positions]), np.sort(env.cells[lane]))
        maps = seen[:, layout.colours].reshape(20, cubes, cells)
        np.testing.assert_array_equal(maps.argmax(2)[colours], env.cells[colours])
        begins, places = env.ended.copy(), env.cells.copy()
        seen, rewards, terminations, *_ = env.step(rng.integers(4, size=20))
        found = (rewards == 1) & ~terminations


def test_moves_and_edges() -> None:
    env = ColorCubes(size=3, cubes=1, max_steps=1000, phases=500)
    layout = Layout.of(env.config)
    own = int(env.reset(seed=0)[0][layout.own].argmax())
    rng = np.random.default_rng(0)
    for _ in range(200):
        action = rng.integers(4)
        row, column = divmod(own, 3)
        row = min(max(row + {UP: -1, DOWN: 1}.get(int(action), 0), 0), 2)
        column = min(max(column + {LEFT: -1, RIGHT: 1}.get(int(action), 0), 0), 2)
        own = int(env.step(action)[0][layout.own].argmax())
        assert own == row * 3 + column


def test_time_is_up_after_the_longest_way_of_each_phase() -> None:
    assert Config().limit == 40
    assert Config(difficulty="trivial", size=4).limit == 6
    env = ColorCubes(size=3, phases=2)
    env.reset(seed=2)
    ended = [env.step(np.int64(t % 2 * 2))[2:] for t in range(8)]  # to and fro
    assert [truncated for _, truncated, _ in ended] == [False] * 7 + [True]
    assert ended[-1][2] == {"is_success": False}


@pytest.mark.parametrize("options", DIFFICULTIES)
def test_memory_is_needed(options: dict[str, Any]) -> None:
    for policy in (Forgetful(Config(**options)), RandomPolicy(ColorCubes(**options).action_space, 0)):
        success = evaluate(policy, task, options, 1000, seed=0).success_rate
        assert success is not None
        assert success < (0.25 if options["difficulty"] == "trivial" else 0.05)


def test_extreme_needs_what_was_seen_in_earlier_phases() -> None:
    """A player that forgets at each phase's beginning plays Medium as the expert does, and Extreme hardly ever."""

    class OfThisPhase(Expert):
        def predict(self, observation: Any, state: Any = None, episode_start: Any = None, *_: Any, **__: Any) -> Any:
            return super().predict(observation, state, observation[:, PHASE] == 1)

    rates = [evaluate(OfThisPhase(Config(**each)), task, each, 400, seed=0).success_rate for each in DIFFICULTIES]
    assert rates[:2] == [1, 1]
    assert rates[2] is not None
    assert rates[2] < 0.05


def test_stale_positions_fail() -> None:
    """A player that keeps an episode's first map finds a few targets only."""

    class Stale(Expert):
        def predict(self, observation: Any, state: Any = None, episode_start: Any = None, *_: Any, **__: Any) -> Any:
            actions, after = super().predict(observation, state, episode_start)
            if state is not None and episode_start is not None:
                after[:, :-1] = np.where(episode_start[:, None], after[:, :-1], state[:, :-1])
            return actions, after

    success = evaluate(Stale(Config()), task, {}, 400, seed=0).success_rate
    assert success is not None
    assert success < 0.2


def test_luck_is_fair() -> None:
    env = ColorCubesVector(20_000, size=3, cubes=2, teleport=1.0, difficulty="extreme")
    layout = Layout.of(env.config)
    first, _ = env.reset(seed=0)
    own, target = cell_of(first, layout.own), cell_of(first, layout.target)
    cells = env.cells.copy()
    for drawn, values in ((own, 9), (cells[:, 0], 9), (cells[:, 1], 9), (target, 2), (own * 2 + target, 18)):
        counts = np.bincount(drawn, minlength=values)
        assert len(counts) == values
        expected = len(drawn) / values
        assert ((counts - expected) ** 2 / expected).sum() < 50  # chi-squared, at most 17 degrees of freedom: p < 1e-4
    env.step(np.full(20_000, RIGHT))
    moved = env.cells != cells
    assert (moved.sum(1) == 1).all()  # a found target, or the other cube


@pytest.mark.parametrize("options", VARIANTS)
def test_vector_env_equals_single_envs(options: dict[str, Any]) -> None:
    lanes = 3
    native, single = ColorCubesVector(lanes, **options), SyncVectorEnv([lambda: ColorCubes(**options)] * lanes)
    assert native.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    assert native.observation_space == single.observation_space
    assert native.action_space == single.action_space
    expert, rng = Expert(native.config), np.random.default_rng(0)
    for seed in (7, [3, 1, 4], None):
        observations, state, starts = native.reset(seed=seed)[0], None, np.ones(lanes, bool)
        np.testing.assert_array_equal(observations, single.reset(seed=seed)[0])  # type: ignore[arg-type]
        for _ in range(50):
            best, state = expert.predict(observations, state, starts)
            actions = np.where(rng.random(lanes) < 0.2, rng.integers(4, size=lanes), best)
            starts = native.ended.copy()
            got, wanted = native.step(actions), single.step(actions)
            for one, other in zip(got[:4], wanted[:4], strict=True):
                np.testing.assert_array_equal(one, other)
                assert one.dtype == other.dtype
            assert got[4].keys() == wanted[4].keys()
            for key, value in got[4].items():
                np.testing.assert_array_equal(value, wanted[4][key])
            observations = got[0]


def test_a_lane_does_not_depend_on_its_neighbours() -> None:
    few, many = (ColorCubesVector(lanes, difficulty="extreme", teleport=0.4) for lanes in (2, 50))
    np.testing.assert_array_equal(few.reset(seed=3)[0], many.reset(seed=3)[0][:2])
    rng = np.random.default_rng(0)
    for _ in range(200):
        actions = rng.integers(4, size=50)
        np.testing.assert_array_equal(few.step(actions[:2])[0], many.step(actions)[0][:2])


def test_what_a_step_returned_is_the_callers() -> None:
    one, other = (ColorCubesVector(3, teleport=0.5) for _ in range(2))
    rng = np.random.default_rng(0)
    for env in (one, other):
        env.reset(seed=0)
    for _ in range(60):
        actions = rng.integers(4, size=3)
        *got, infos = one.step(actions)
        for mine, theirs in zip(got, other.step(actions), strict=False):
            np.testing.assert_array_equal(mine, theirs)
        for each in [*got, *infos.values()]:
            each[:] = 0


def test_seeds() -> None:
    env = ColorCubesVector(64)
    first = env.reset(seed=0)[0]
    assert (env.reset()[0] != first).any()  # goes on, doesn't repeat
    np.testing.assert_array_equal(env.reset(seed=list(range(64)))[0], first)


def test_expert_predicts_from_dict_observations() -> None:
    env = ColorCubesVector(9)
    observations, _ = env.reset(seed=0)
    expert = Expert(env.config)
    wanted, _ = expert.predict(observations)
    got, state = expert.predict({"observation": observations}, np.zeros((9, 4), np.int64), np.ones(9, bool))
    np.testing.assert_array_equal(got, wanted)
    np.testing.assert_array_equal(state[:, :-1], env.cells)


@pytest.mark.parametrize("options", DIFFICULTIES)
def test_labels_are_told_from_the_data(options: dict[str, Any]) -> None:
    env = ColorCubesVector(8, **options)
    for trajectory in trajectories(rollout(Expert(env.config), env, 20, seed=0), 8):
        seen = np.asarray(trajectory.observations)[:-1]
        decisive, idle = task.decisive(trajectory), task.idle(trajectory)
        whole = (seen[:, COLOURS] == 1) & (seen[:, PHASE] == 1)
        assert whole[0]
        assert not whole[1:].any() or options["difficulty"] == "medium"
        np.testing.assert_array_equal(decisive, ~whole)
        layout = Layout.of(env.config)
        np.testing.assert_array_equal(idle, ~seen[:, layout.positions.start :].any(1))


def test_picture() -> None:
    env = ColorCubes(render_mode="rgb_array", size=4, cubes=3)
    env.reset(seed=0)
    picture = env.render()
    assert picture.dtype == np.uint8
    assert picture.shape == (96, 64, 3)
    middles = picture[8:64:16, 3:64:16].reshape(-1, 3)
    assert len(np.unique(middles, axis=0)) == 4  # the floor and three colours
    with pytest.raises(UsageError, match="render_mode"):
        ColorCubes().render()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"difficulty": "hard"}, r"difficulty='hard': .*expected"),
        ({"size": 1}, r"size=1: .*greater than or equal to 2"),
        ({"cubes": 24}, r"cubes=24: a grid of size=5 has room for 23"),
        ({"difficulty": "trivial", "phases": 2}, r"difficulty=trivial has one cube and one phase"),
        ({"teleport": 1.5}, r"teleport=1.5: .*less than or equal to 1"),
        ({"teleport": float("nan")}, r"teleport=nan: "),
        ({"max_steps": 0}, r"max_steps=0: "),
        ({"cube": 9}, r"unknown option cube=9 \(known: .*did you mean 'cubes'\?"),
        ({"render_mode": "human"}, r"render_mode='human'"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    for build in (lambda: ColorCubes(**options), lambda: ColorCubesVector(2, **options)):
        with pytest.raises(UsageError, match=message) as caught:
            build()
        assert "\n" not in str(caught.value)


def test_misuse() -> None:
    env = ColorCubesVector(2)
    with pytest.raises(ResetNeeded):
        env.step(np.zeros(2, int))
    env.reset(seed=0)
    with pytest.raises(UsageError, match=r"must be 2 integers in 0\.\.3"):
        env.step(np.array([0, 4]))


def test_registered_with_gymnasium() -> None:
    env = gymnasium.make("rmt_rl/ColorCubes-v0", difficulty="extreme", size=8)
    assert isinstance(env.unwrapped, ColorCubes)
    assert env.unwrapped.config.limit == 70
    lanes = gymnasium.make_vec("rmt_rl/ColorCubes-v0", 3, cubes=2)
    assert isinstance(lanes.unwrapped, ColorCubesVector)
    assert lanes.unwrapped.config == Config(cubes=2)
