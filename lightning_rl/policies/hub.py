"""Policies on the Hugging Face hub, by the optional package huggingface_hub."""

import re
from importlib import import_module
from pathlib import Path
from typing import Any

HUB = "hf://"
_FILES = ["config.json", "policy.safetensors", "autoencoder.safetensors", "world_model.safetensors"]
"""What loading and `play` need; nothing else of a repository is fetched."""


def _client() -> Any:
    try:
        return import_module("huggingface_hub")
    except ImportError as error:
        raise ValueError(f"{HUB} needs the package huggingface_hub: pip install 'lightning_rl[hub]'") from error


def repository(source: str) -> str:
    """`user/name` of a hub string.

    Raises:
        ValueError: it is none.
    """
    name = source.removeprefix(HUB)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name) is None or ".." in name:
        raise ValueError(f"a policy on the hub must be {HUB}user/name, found {source}")
    return name


def local_folder(source: str) -> Path:
    """A local copy of a policy on the hub: its config and its weights.

    Raises:
        ValueError: there is no such repository, it cannot be reached, or huggingface_hub is missing.
    """
    name, client = repository(source), _client()
    try:
        return Path(client.snapshot_download(name, allow_patterns=_FILES))
    except _failures(client) as error:
        raise ValueError(f"{source} could not be fetched: {_first_line(error)}") from error


def push(folder: Path, name: str) -> str:
    """Uploads a policy folder as a model repository, which is made if it is not there.

    Args:
        folder: the policy folder.
        name: `user/name`.

    Returns:
        The address of the repository.

    Raises:
        ValueError: the hub refuses it or cannot be reached, or huggingface_hub is missing.
    """
    name, client = repository(name), _client()
    try:
        api = client.HfApi()
        address = str(api.create_repo(name, exist_ok=True))
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="Add the policy")
    except _failures(client) as error:
        raise ValueError(f"push: {name} could not be uploaded: {_first_line(error)}") from error
    return address


def _failures(client: Any) -> tuple[type[Exception], ...]:
    """What huggingface_hub raises where the hub cannot be reached or refuses; its errors have no common class."""
    own = [kind for kind in vars(client.errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    return (OSError, ValueError, *own)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
