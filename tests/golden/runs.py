"""Make the golden runs and print their hashes as JSON.

Each run is a command that users type, so it stays the same while the code behind it moves. The hashes cover weights,
optimiser, carried state, metrics (without times), evaluation and inspection. They may change only where a change of the
numbers is meant; the commit then says why.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from rmt_rl import RecurrentMemoryTransformer, RecurrentMemoryTransformerWrapper
from rmt_rl.cli import main as rmt_rl

COMMON = "--updates 12 --log-every 3 --save-every 4 --eval-every 4 --eval-episodes 4 --warmup 2 --accelerator cpu"
DATA = "--collect-episodes 40 --batch-size 8 --bucket-batches 2 --env.corridor-length 1 10"
SMALL = "--agent.width 16 --agent.segment-length 4"
LAYERED = f"{SMALL} --agent.heads 2 --agent.layers 1"
OFFLINE = {
    "rate": f"rate {LAYERED}",
    "rate-ageing-over-updates": f"rate {LAYERED} --ageing 2 --ageing-from 0.17 --ageing-updates 3",
    "rate-streams": f"rate {LAYERED} --feed streams --segments 2",
    "rate-windows-burn-in": f"rate {LAYERED} --feed windows --segments 1 --burn-in 2",
    "rate-curriculum": f"rate {LAYERED} --curriculum 0.05",
    "rate-curriculum-streams": f"rate {LAYERED} --feed streams --segments 2 --curriculum 0.02",
    "rate-replay-dropout": f"rate {LAYERED} --gradient replay --agent.dropout 0.1",
    "rate-truncated": f"rate {LAYERED} --gradient truncated --depth 2 --agent.cached 6",
    "titans_mal": f"titans_mal {LAYERED} --agent.heads 2",
    "titans_mac": f"titans_mac {LAYERED} --agent.heads 2",
    "elmur": f"elmur {LAYERED}",
    "armt": f"armt {LAYERED}",
    "gtrxl": f"gtrxl {LAYERED}",
    "dlstm": f"dlstm {SMALL} --agent.layers 1",
    "bc": f"bc {SMALL}",
    "rate-standardised": f"rate {LAYERED} --standardise",
}
PPO = "train CartPole-v1 ppo --total-timesteps 64 --agent.n-steps 16 --agent.batch-size 8 --agent.n-epochs 2 --n-envs 2"
LONG_CONTEXT = "detect --memory tokens --width 16 --heads 2 --layers 1 --lanes 6 --segment 32 --memory-tokens 2"
LONG_CONTEXT += " --tokens 20000 --segments 2 --threshold 0.05 --out long"
MODEL = {"num_tokens": 16, "depth": 1, "num_memory_tokens": 2, "seq_len": 8, "heads": 2, "dim_head": 8}
Values = dict[str, Any]


def golden_runs() -> dict[str, str]:
    """Make every run in the current folder; return their hashes by name."""
    hashes = {"probe": hash_of(probe())}
    for name, options in OFFLINE.items():
        unscaled = "" if "--standardise" in options else "--no-standardise"  # most runs are older than scales
        unaged = "" if "--ageing" in options else "--ageing 0"
        command(f"train tmaze {options} {unscaled} {unaged} {DATA} {COMMON} --recipe none --out {name}")
        hashes[name] = hash_of(run_content(Path(name)))
    command(f"{PPO} --eval-every 32 --eval-episodes 2 --out ppo")
    hashes["ppo"] = hash_of(run_content(Path("ppo")))
    command("evaluate rate --vary corridor_length=5,20 --episodes 8 --seed 1000")
    hashes["evaluate"] = hash_of(without_times(json.loads(Path("rate/evaluation.json").read_text())))
    command("inspect rate --segments 20 --episodes 8 --memories 4")
    hashes["inspect"] = hash_of(json.loads(Path("rate/inspection.json").read_text()))
    for memory in ("tokens", "titans_mal", "armt"):
        hashes[f"language-{memory}"] = hash_of(language_model(memory))
    run = long_context()
    hashes["long-context-text"] = hash_of(text())
    hashes["long-context-streams"] = hash_of(tensors(run / "last.safetensors"))
    hashes["long-context-metrics"] = hash_of(logged(run))
    return hashes


def command(text: str) -> None:
    """Run an `rmt-rl` command in this process; what it prints is shown only if it fails."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        status = rmt_rl(text.split())
    if status:
        raise SystemExit(f"rmt-rl {text}\n{output.getvalue()}")


def run_content(run: Path) -> Values:
    """The tensors and metrics of a run's folder."""
    content: Values = {name: tensors(run / f"{name}.safetensors") for name in ("last", "best")}
    return content | {"metrics": logged(run)}


def logged(run: Path) -> list[Values]:
    """The metrics of a run's folder, line by line."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [without_times(json.loads(line)) for line in lines]


def tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file by their names."""
    with safe_open(path, "pt") as file:
        return {key: file.get_tensor(key) for key in sorted(file.keys())}


def without_times(value: Any) -> Any:
    """The same JSON value without wall-clock times."""
    if isinstance(value, list):
        return [without_times(each) for each in value]
    if not isinstance(value, dict):
        return value
    timed = {key for key in value if key.startswith("time/") or key in ("seconds", "cpu_seconds")}
    return {key: without_times(each) for key, each in value.items() if key not in timed}


def language_model(memory: str) -> Values:
    """Train a token model for a few updates with replayed gradients, then let it write."""
    torch.manual_seed(0)
    model = RecurrentMemoryTransformerWrapper(
        RecurrentMemoryTransformer(16, memory=memory, **MODEL)  # type: ignore[arg-type]  # names from a list above
    )
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    losses = []
    for update in range(4):
        tokens = torch.randint(0, 16, (4, 40), generator=torch.Generator().manual_seed(update))
        optimizer.zero_grad()
        loss = model(tokens, memory_replay_backprop=True)
        optimizer.step()
        losses.append(float(loss))
    written = model.generate(torch.zeros(1, 3, dtype=torch.long), length=20, temperature=0.0)
    return {"weights": model.state_dict(), "losses": losses, "written": written}


def long_context() -> Path:
    """Train a run of the long-context experiment, a curriculum that leads to streams; return its folder."""
    from experiments.long_context.train import main as train

    with contextlib.redirect_stdout(io.StringIO()):
        train(LONG_CONTEXT.split())
    return Path("long")


def text() -> Values:
    """The text that the long-context run reads: Python's documentation, which versions differ in."""
    from experiments.long_context.texts import paragraphs

    return {"train": paragraphs("train"), "test": paragraphs("test")}


def probe() -> Values:
    """Basic operations, by which a machine that rounds differently is told."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 64, generator=generator)
    torch.manual_seed(0)
    lstm = nn.LSTM(64, 64, batch_first=True)
    q = x.view(4, 4, 16, 16)
    attended = nn.functional.scaled_dot_product_attention(q, q, q, is_causal=True)
    names = ("exp", "tanh", "sigmoid", "sin", "cos", "log1p")
    values = {name: getattr(torch, name)(x.abs()) for name in names}
    gelu = nn.functional.gelu(x)
    return values | {"matmul": x @ x, "softmax": x.softmax(1), "lstm": lstm(x[None])[0], "sdpa": attended, "gelu": gelu}


def hash_of(content: Any) -> str:
    """A SHA-256 of nested values and tensors, the first 16 digits."""
    digest = hashlib.sha256()
    _feed(digest, content)
    return digest.hexdigest()[:16]


def _feed(digest: Any, content: Any) -> None:
    if isinstance(content, Mapping):
        for key in sorted(content):
            digest.update(str(key).encode())
            _feed(digest, content[key])
    elif isinstance(content, Tensor):
        digest.update(f"{content.dtype}{tuple(content.shape)}".encode())
        digest.update(content.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    else:
        digest.update(json.dumps(content).encode())


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        os.environ["MINARI_DATASETS_PATH"] = str(Path(folder, "data"))
        found = golden_runs()
    json.dump(found, sys.stdout, indent=1)
    print()
