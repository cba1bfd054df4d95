"""Model cards: a README.md with the Hub's YAML front matter, made from a run's files alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from rmt_rl import registry
from rmt_rl.analysis.markdown import bracketed, markdown_table
from rmt_rl.analysis.plot import plot
from rmt_rl.analysis.run_records import EvaluatedSetting, OptionValues, RunRecord, is_number, read_run
from rmt_rl.errors import UsageError
from rmt_rl.files import write_atomically
from rmt_rl.registry import Kind
from rmt_rl.runs.checkpoint import path_of, read_checkpoint
from rmt_rl.runs.huggingface import Repository, import_hub

CARD, CURVES, VIDEO = "README.md", "curves.png", "replay.mp4"
"""The Hub shows a video of this name beside an agent's card."""
TASK = "reinforcement-learning"
_TAGS = (TASK, "deep-reinforcement-learning", "memory", "rmt-rl")
_WAYS = {"seed": "seed of the episodes", "target_return": "target return", "lanes": "environments at once"}


class Facts(NamedTuple):
    """A run as its card describes it.

    Attributes:
        record: the run's options, metrics and evaluations.
        weights: number of the last checkpoint's weights.
        update: update of the last checkpoint.
    """

    record: RunRecord
    weights: int
    update: int

    @property
    def env(self) -> str:
        """Return the environment's name."""
        return str(self.record.settings["env"])

    @property
    def agent(self) -> str:
        """Return the agent's name."""
        return str(self.record.settings["agent"])


def write_card(folder: Path, repository: Repository) -> None:
    """Write `README.md` and, if the run was evaluated, `curves.png` beside a run's files.

    Args:
        folder: the run's files, and its video if there is one.
        repository: where they will be.

    Raises:
        UsageError: a file is damaged or can't be written.
    """
    facts = _facts(folder)
    has_curves = _draw(folder)
    parts = [
        f"---\n{_front_matter(facts)}\n---",
        f"# {facts.agent} in {facts.env}",
        _introduction(facts),
        _usage(repository),
        _results(facts.record),
        f"## Learning curve\n\n![curves]({CURVES})" if has_curves else "",
        f"## An episode\n\n[{VIDEO}]({VIDEO}) shows one." if (folder / VIDEO).exists() else "",
        _training(facts, repository),
    ]
    text = "\n\n".join(part for part in parts if part)
    write_atomically(folder / CARD, f"{text}\n".encode())


def _facts(folder: Path) -> Facts:
    saved = read_checkpoint(path_of(folder))
    weights = sum(tensor.numel() for tensor in saved.group("model").values())
    return Facts(read_run(folder), weights, saved.header.update)


def _draw(folder: Path) -> bool:
    """Draw the curves; return False if there are none, as the run was evaluated neither while it trained nor after."""
    try:
        plot([folder], folder / CURVES)
    except UsageError:
        return False
    return True


def _front_matter(facts: Facts) -> str:
    """Return the metadata as YAML, by which the Hub finds and lists the agent."""
    hub = import_hub()
    results = []
    for evaluation in facts.record.evaluations:
        results += _eval_results(hub, facts, evaluation)
    data = hub.ModelCardData(
        library_name="rmt-rl",
        pipeline_tag=TASK,
        tags=list(dict.fromkeys([*_TAGS, facts.agent, facts.env])),
        model_name=facts.agent,
        eval_results=results or None,
    )
    text: str = data.to_yaml()
    return text


def _eval_results(hub: Any, facts: Facts, evaluation: EvaluatedSetting) -> list[Any]:
    """Return the figures of an evaluation in the Hub's form."""
    setting = _setting_text(evaluation.options)
    figures: dict[str, str | float] = {"mean_reward": _mean_reward(evaluation)}
    if evaluation.success_rate is not None:
        figures["success_rate"] = evaluation.success_rate
    return [
        hub.EvalResult(
            task_type=TASK,
            task_name=TASK,
            dataset_type=facts.env,
            dataset_name=f"{facts.env}, {setting}" if setting else facts.env,
            dataset_config=setting or None,  # else the Hub takes all settings for one
            metric_type=name,
            metric_name=name.replace("_", " "),
            metric_value=value,
        )
        for name, value in figures.items()
    ]


def _mean_reward(evaluation: EvaluatedSetting) -> str:
    """Return the mean return and half its interval, as the Hub's agents write it."""
    if evaluation.return_interval is None:
        return f"{evaluation.mean_return:.2f}"
    low, high = evaluation.return_interval
    return f"{evaluation.mean_return:.2f} +/- {(high - low) / 2:.2f}"


def _introduction(facts: Facts) -> str:
    agent = _summary("agents", facts.agent)
    env = _summary("envs", facts.env)
    unit = facts.record.unit
    return (
        f"| | |\n| --- | --- |\n| agent | `{facts.agent}`{agent} |\n| environment | `{facts.env}`{env} |\n"
        f"| size | {facts.weights:,} weights |\n"
        f"| training | {facts.update:,} {unit}s, seed {facts.record.seed} |"
    )


def _summary(kind: Kind, name: str) -> str:
    """Return the summary of a name in brackets; an empty text if it is of no installed file."""
    if name not in registry.names(kind):
        return ""
    return f": {registry.summary(kind, name)}"


def _usage(repository: Repository) -> str:
    url = f"hf://{repository}"
    return f"""## Use it

    pip install "rmt-rl[hub]"
    rmt-rl evaluate {url}

```python
import rmt_rl

agent = rmt_rl.load("{url}")
action, state = agent.predict(observation)  # then agent.predict(observation, state, episode_start)
print(rmt_rl.evaluate("{url}").mean_return)
```

Weights are safetensors, options TOML and JSON. Loading executes no code of this repository."""


def _results(record: RunRecord) -> str:
    """Return a table of the evaluations, and how they were made."""
    if not record.evaluations:
        return ""
    names = list(dict.fromkeys(name for evaluation in record.evaluations for name in evaluation.options))
    head = [*names, "episodes", "success rate", "mean return"]
    rows = [_row(names, evaluation) for evaluation in record.evaluations]
    return f"## Results\n\n{markdown_table(head, rows, left=0)}\n\n{_how(record)}"


def _row(names: Sequence[str], evaluation: EvaluatedSetting) -> list[str]:
    options = [_option_text(evaluation.options.get(name, "")) for name in names]
    rate = evaluation.success_rate
    success = "" if rate is None else f"{rate:.2f}{bracketed(evaluation.success_interval)}"
    mean = f"{evaluation.mean_return:.2f}{bracketed(evaluation.return_interval)}"
    return [*options, f"{evaluation.episodes:,}", success, mean]


def _option_text(value: object) -> str:
    return f"{value:,}" if is_number(value) else str(value)


def _how(record: RunRecord) -> str:
    made_with = record.evaluations[0].made_with
    ways = [f"{title} {made_with[name]}" for name, title in _WAYS.items() if made_with.get(name) is not None]
    actions = "sampled actions" if made_with.get("deterministic") is False else "likeliest actions"
    listed = ", ".join([f"checkpoint {record.checkpoint}", actions, *ways])
    return f"Brackets: 95% intervals over the episodes, of one training run. Made with {listed}."


def _training(facts: Facts, repository: Repository) -> str:
    options = json.dumps(_own_options(facts.record))
    return f"""## Train it again

    rmt-rl train --config hf://{repository} --seed 1

`config.toml` has all options, `metrics.jsonl` the learning curves, `evaluation.json` every episode of the results.
Options of the environment: `{options}`. This card was written by rmt-rl {version("rmt-rl")}."""


def _own_options(record: RunRecord) -> dict[str, object]:
    prefix = "env_options."
    return {name.removeprefix(prefix): value for name, value in record.settings.items() if name.startswith(prefix)}


def _setting_text(options: OptionValues) -> str:
    return ", ".join(f"{name}={value}" for name, value in options.items())
