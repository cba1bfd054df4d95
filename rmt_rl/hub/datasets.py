"""Push Minari data sets to the Hugging Face Hub, by Minari's own remote, from where Minari downloads them.

The repository's name is the first part of the data set's id: `tmaze/expert-40-seed0-v0` lies in `OWNER/tmaze`.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from minari.namespace import NAMESPACE_METADATA_FILENAME, create_namespace, list_local_namespaces
from minari.storage.remotes import get_cloud_storage

from rmt_rl.data.opening import open_dataset
from rmt_rl.errors import UsageError
from rmt_rl.runs.huggingface import SCHEME, Repository, explained, import_hub, parse_repository, require_token

_KIND = "dataset"


def push_dataset(dataset_id: str, owner: str) -> str:
    """Push a data set, and those that it combines; return the address of its page.

    Args:
        dataset_id: the id of a local data set.
        owner: a user or organisation; or `owner/name` with the first part of the id as name.

    Raises:
        UsageError: there is no such data set or token, the name is another one, or the Hub refuses the files or can't
            be reached.
    """
    dataset = open_dataset(dataset_id)
    repository = _repository(dataset_id, owner)
    require_token()
    hub = import_hub()
    api = hub.HfApi()
    storage = get_cloud_storage(f"{SCHEME}://{repository.owner}")
    for pushed in [dataset_id, *dataset.spec.combined_datasets]:
        place = _repository(pushed, repository.owner)
        with explained(str(place), "written to"):
            _push_namespaces(pushed, place, storage, api)
            storage.upload_dataset(pushed)
    return f"{api.endpoint}/datasets/{repository}"


def _repository(dataset_id: str, owner: str) -> Repository:
    """Return the repository of a data set.

    Raises:
        UsageError: the owner is written with another repository's name.
    """
    name, _, _ = dataset_id.partition("/")
    text = owner if "/" in owner else f"{owner}/{name}"
    repository = parse_repository(text)
    if repository.name != name:
        raise UsageError(
            f"{owner}: Minari keeps {dataset_id} in a repository named {name!r}; write {repository.owner}, or "
            f"{repository.owner}/{name}"
        )
    return repository


def _push_namespaces(dataset_id: str, repository: Repository, storage: Any, api: Any) -> None:
    """Make the data set's namespaces known in the repository, without which Minari lists none of its data sets.

    Namespaces that are there stay as they are: their files list the data sets that were pushed before.
    """
    namespaces = [str(parent) for parent in PurePosixPath(dataset_id).parents][:-1]
    for namespace in reversed(namespaces):
        below = PurePosixPath(namespace).relative_to(repository.name)
        file = (below / NAMESPACE_METADATA_FILENAME).as_posix()
        if api.file_exists(str(repository), file, repo_type=_KIND):
            continue
        if namespace not in list_local_namespaces():
            create_namespace(namespace)
        storage.upload_namespace(namespace)
