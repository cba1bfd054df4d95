"""Recipes: tuned options of an environment, which training uses by default.

A recipe is one TOML file, `rmt_rl/recipes/ENV.toml`. Its sections `[training]`, `[data]`, `[evaluation]` and
`[agent_options]` hold for every agent that learns from segments. Tables such as `[agents.rate.agent_options]` or
`[agents.ppo.online]` hold for one agent, of whatever kind, and come before the shared sections. `source` names the
experiment that backs the values.

A plug-in package declares the package that holds its file `ENV.toml` as an entry point `ENV` in the group
`rmt_rl.recipes`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

from pydantic import Field, JsonValue, field_validator

from rmt_rl import registry
from rmt_rl.agent import AgentConfig
from rmt_rl.config import Frozen, validated
from rmt_rl.errors import UsageError, nearest
from rmt_rl.plugins import declared, import_installed
from rmt_rl.reading import read_toml
from rmt_rl.runs.options import (
    DataConfig,
    EvaluationConfig,
    OfflineRun,
    RunConfig,
    TrainingConfig,
    learner_class,
    run_config_class,
)

DEFAULT = "default"
NONE = "none"
HOME = Path(__file__).parents[1] / "recipes"
GROUP = "rmt_rl.recipes"
CHOICE = "tuned options to begin with: default (those of the environment, if it has some), none, the name of another "
CHOICE += "environment's, or a file.toml; single options override them"
_PREFIXES = {"agent_options": "agent.", "env_options": "env."}  # of flags
_COLLECTING = "collect_"  # begins the names of options by which an expert collects

Sections: TypeAlias = Mapping[str, Mapping[str, Any]]
"""Options by the section of a run's config that they are in."""


class RecipeFile(Frozen):
    """The content of a recipe's file."""

    source: str = Field("", description="folder of the experiment that backs the recipe")
    training: TrainingConfig = TrainingConfig()
    data: DataConfig = DataConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    agent_options: AgentConfig = AgentConfig()
    agents: dict[str, dict[str, dict[str, JsonValue]]] = Field(
        {}, description="tables of single agents, such as [agents.rate.agent_options]"
    )

    learners: dict[str, dict[str, dict[str, JsonValue]]] = Field(
        {}, description="tables of learners that aren't the agents' own, such as [learners.ppo.online]"
    )

    @field_validator("agents")
    @classmethod
    def _known(cls, agents: dict[str, Any]) -> dict[str, Any]:
        known = registry.names("agents")
        for name in agents:
            if name not in known and ":" not in name:
                raise UsageError(f"[agents.{name}]: unknown agent{nearest(name, known)}; see rmt-rl list")
        return agents

    def sections_of(self, agent: str, learner: str | None = None) -> dict[str, dict[str, Any]]:
        """Return the options that hold for an agent and, if it isn't the agent's own, a learner; by section."""
        learns_from_segments = issubclass(learner_class(agent, learner).Run, OfflineRun)
        sections = self._shared() if learns_from_segments else {}
        is_other = learner is not None and not learns_from_segments
        tables = self.learners.get(learner or "", {}) if is_other else self.agents.get(agent, {})
        for name, own in tables.items():
            sections[name] = sections.get(name, {}) | own
        return sections

    def _shared(self) -> dict[str, dict[str, Any]]:
        return self.model_dump(exclude_unset=True, exclude={"source", "agents", "learners"})


class _Option(NamedTuple):
    """One option and its value."""

    section: str
    name: str
    value: object

    @property
    def flag(self) -> str:
        """Return the option as it is typed."""
        return _flag(_PREFIXES.get(self.section, "") + self.name, self.value)

    def is_in(self, config: RunConfig) -> bool:
        """Return True if a config has this value."""
        own: object = getattr(getattr(config, self.section), self.name)
        return own == self.value


class Recipe(NamedTuple):
    """A recipe as it holds for one agent.

    Attributes:
        name: the environment's name, or the file; `""` for no recipe.
        source: the experiment that backs it.
        sections: its options.
    """

    name: str = ""
    source: str = ""
    sections: Sections = MappingProxyType({})

    @property
    def title(self) -> str:
        """Return the recipe's name and source in one phrase; `""` for no recipe, or one without options."""
        if not self.sections:
            return ""
        return f"recipe {self.name} ({self.source})" if self.source else f"recipe {self.name}"

    def without_collecting(self) -> Recipe:
        """Return the recipe for data that exist: without the options of collecting."""
        sections = {}
        for section, options in self.sections.items():
            kept = {name: value for name, value in options.items() if not name.startswith(_COLLECTING)}
            if kept:
                sections[section] = kept
        return self._replace(sections=sections)

    def flags(self, config: RunConfig) -> list[str]:
        """Return the options that a run has from this recipe, as flags; without those that equal the defaults."""
        plain = _config(config.env, config.agent, config.learner, {})
        return [option.flag for option in self._options(config) if option.is_in(config) and not option.is_in(plain)]

    def missing(self, config: RunConfig) -> list[str]:
        """Return the options of this recipe that a run has otherwise, as flags; but for those of collecting."""
        options = self.without_collecting()._options(config)
        return [option.flag for option in options if not option.is_in(config)]

    def _options(self, config: RunConfig) -> list[_Option]:
        """Return the options one by one, for a run with this environment and agent."""
        tuned = _config(config.env, config.agent, config.learner, self.sections)
        options = []
        for section, names in self.sections.items():
            for name in names:
                value = getattr(getattr(tuned, section), name)
                options.append(_Option(section, name, value))
        return options


NO_RECIPE = Recipe()


def recipe_names() -> list[str]:
    """Return the names of all recipes, which are those of environments, sorted."""
    return sorted(_places())


def find_recipe(env: str, agent: str, choice: str = DEFAULT, learner: str | None = None) -> Recipe:
    """Return the recipe to train an agent with; an empty one if the environment has none.

    Args:
        env: the environment's name.
        agent: the agent's name.
        choice: `"default"` for the environment's own recipe, `"none"`, the name of a recipe, or a TOML file.
        learner: the learner's name, if it isn't the agent's own.

    Raises:
        UsageError: there is no such recipe or file, or its options don't fit the agent.
    """
    if choice == NONE:
        return NO_RECIPE
    if choice.endswith(".toml"):
        return _for_agent(env, agent, learner, choice, Path(choice))
    places = _places()
    name = env if choice == DEFAULT else choice
    if name in places:
        return _for_agent(env, agent, learner, name, _file(name, places[name]))
    if choice == DEFAULT:
        return NO_RECIPE
    known = ", ".join(places)
    raise UsageError(f"recipe={choice!r} is none of {known}, nor default, none or a file.toml{nearest(name, places)}")


def _for_agent(env: str, agent: str, learner: str | None, name: str, file: Path) -> Recipe:
    """Return the recipe in a file as it holds for an agent, which its options must fit."""
    values = read_toml(file, "recipe")
    try:
        content = validated(RecipeFile, values)
        sections = content.sections_of(agent, learner)
        _config(env, agent, learner, sections)
    except UsageError as error:
        raise UsageError(f"recipe {name}: {error}") from error
    return Recipe(name, content.source, sections)


def _config(env: str, agent: str, learner: str | None, sections: Sections) -> RunConfig:
    names = {"env": env, "agent": agent, "learner": learner}
    return validated(run_config_class(env, agent, learner), {**names, **sections})


def _places() -> dict[str, tuple[str, ...]]:
    """Return the packages that declare each recipe, by its name; none for a file of this package, which hides them."""
    places: dict[str, tuple[str, ...]] = {}
    for each in declared(GROUP):
        places[each.name] = (*places.get(each.name, ()), each.module)
    return places | {file.stem: () for file in HOME.glob("*.toml")}


def _file(name: str, packages: tuple[str, ...]) -> Path:
    """Return the file of a recipe.

    Raises:
        UsageError: several packages declare it.
    """
    if not packages:
        return HOME / f"{name}.toml"
    if len(packages) > 1:
        listed = ", ".join(packages)
        raise UsageError(f"recipe {name!r} is declared by several packages ({listed}): name a file.toml, or none")
    folders = list(import_installed(packages[0]).__path__)
    return Path(folders[0]) / f"{name}.toml"


def _flag(name: str, value: object) -> str:
    """Return an option as it is typed."""
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{flag}" if value else _negated(flag)
    values = value if isinstance(value, tuple) else (value,)
    return " ".join([f"--{flag}", *map(str, values)])


def _negated(flag: str) -> str:
    *section, name = flag.split(".")
    return "--" + ".".join([*section, f"no-{name}"])
