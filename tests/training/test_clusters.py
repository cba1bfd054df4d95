"""Training within the jobs of clusters, whose variables tell of tasks that a run knows nothing of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from rmt_rl.errors import UsageError
from rmt_rl.runs.folder import write_config
from rmt_rl.training.loop import resume, train
from tests.tiny import tiny, work_folder

SLURM = {"SLURM_JOB_ID": "1", "SLURM_JOB_NAME": "train", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"}
TORCH = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "nowhere", "MASTER_PORT": "1"}
CLUSTERS = {
    "a script of Slurm": SLURM,
    "an interactive job of Slurm": {**SLURM, "SLURM_JOB_NAME": "bash", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"},
    "srun": {**SLURM, "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "1", "SLURM_NODEID": "0"},
    "torchrun": {**TORCH, "TORCHELASTIC_RUN_ID": "none", "GROUP_RANK": "0", "LOCAL_WORLD_SIZE": "2"},
    "mpirun": {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "1"},
    "LSF": {"LSB_JOBID": "1", "LSB_DJOB_RANKFILE": "none", "JSM_NAMESPACE_LOCAL_RANK": "1", "JSM_NAMESPACE_SIZE": "2"},
    "a leftover rank": {"LOCAL_RANK": "1"},
}


@pytest.fixture(autouse=True, scope="module")
def _data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with work_folder(tmp_path_factory):
        yield


@pytest.mark.parametrize("variables", CLUSTERS.values(), ids=CLUSTERS)
def test_a_run_on_one_device_is_whole_whatever_a_cluster_says(
    variables: Mapping[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    train(tiny("bc", updates=2, evaluation={"eval_episodes": 0}), tmp_path / "run")
    assert (tmp_path / "run" / "config.toml").exists()
    assert (tmp_path / "run" / "last.safetensors").exists()
    with pytest.raises(UsageError, match="holds a run already"):
        train(tiny("bc", updates=2), tmp_path / "run")


@pytest.mark.parametrize("launcher", ["srun", "torchrun", "mpirun"])
def test_data_parallel_training_is_not_started_by_several_tasks(
    launcher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in CLUSTERS[launcher].items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=rf"devices=2: {launcher} has started 2 processes \(\w+=2\); start one"):
        train(tiny("bc", devices=2), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    write_config(tiny("bc", devices=2), tmp_path / "begun")
    with pytest.raises(UsageError, match=f"devices=2: {launcher} has started 2 processes"):
        resume(tmp_path / "begun")
