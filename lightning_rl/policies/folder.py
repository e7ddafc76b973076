"""Folders of exported policies: written whole, read without executing anything."""

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from lightning_rl.policies.config import PolicyConfig
from lightning_rl.policies.hub import HUB, local_folder
from lightning_rl.policies.policy import ExportedPolicy

WEIGHTS, CONFIG, CARD, VIDEO, ONNX = "policy.safetensors", "config.json", "README.md", "episodes.mp4", "policy.onnx"
AUTOENCODER, WORLD_MODEL = "autoencoder.safetensors", "world_model.safetensors"

_MAX_CONFIG_BYTES = 1_000_000
_MAX_HEADER_BYTES = 1_000_000
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class PolicyContents(NamedTuple):
    """What a policy folder says and holds."""

    config: PolicyConfig
    weights: dict[str, Tensor]
    """By their names in the method's module, as they are stored."""


def is_policy_folder(path: Path) -> bool:
    """Whether a folder is one of an exported policy; of what kind its weights are does not matter."""
    try:
        return path.is_dir() and (path / WEIGHTS).name in {entry.name for entry in path.iterdir()}
    except (OSError, ValueError):
        return False


def load_policy(source: str | Path) -> ExportedPolicy:
    """The policy of a folder, on the CPU.

    Args:
        source: the folder, or `hf://user/name` on the hub.

    Raises:
        ValueError: the folder is damaged, or no exported policy; nothing in it is ever executed.
    """
    on_hub = isinstance(source, str) and source.startswith(HUB)
    contents = read_policy(local_folder(str(source)) if on_hub else Path(source))
    policy = _skeleton(contents.config).to_empty(device="cpu")
    policy.load_state_dict(contents.weights)
    return policy


def read_policy(folder: Path) -> PolicyContents:
    """Config and weights of a folder, checked against each other.

    Raises:
        ValueError: in one line, what is wrong with the folder.
    """
    try:
        if not folder.is_dir():
            makes = "`lightning-rl export --ckpt_path RUN --out DIR` makes one"
            _refuse(f"is no folder; {makes}" if folder.exists() else "is not there")
        config = _config(_content(folder / CONFIG, _MAX_CONFIG_BYTES))
        return PolicyContents(config, _weights(folder / WEIGHTS, config, _skeleton(config).state_dict()))
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder} {' '.join(str(error).split())}") from error


def read_extra(
    folder: Path, name: str, config: PolicyConfig, built: Mapping[str, Tensor], *, optional: Collection[str] = ()
) -> dict[str, Tensor]:
    """The weights of what a folder holds beside the policy, as they are stored.

    Args:
        folder: that of the policy.
        name: of the file.
        config: of the policy.
        built: tensors of the shapes that the weights must have, by name; of the device `meta`, they take no memory.
        optional: names of tensors that may be missing.

    Raises:
        ValueError: in one line, what is wrong with the file.
    """
    try:
        return _weights(folder / name, config, built, optional=optional)
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder} {' '.join(str(error).split())}") from error


def _refuse(reason: str) -> NoReturn:
    raise ValueError(reason)


def _content(path: Path, limit: int) -> bytes:
    """The bytes of a file; pipes, devices and files above the limit are refused before they are read."""
    if not path.is_file():
        _refuse(f"is no policy folder: its {path.name} is {'no file' if path.exists() else 'not there'}")
    if (size := path.stat().st_size) > limit:
        _refuse(f"has a {path.name} of {size} bytes, where at most {limit} can belong to it")
    with path.open("rb") as file:
        return file.read(size)


def _config(content: bytes) -> PolicyConfig:
    def refuse_constant(name: str) -> NoReturn:
        _refuse(f"{name} is no number of JSON")

    try:
        value = json.loads(content.decode(), parse_constant=refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"has a {CONFIG} that is no JSON: {error}") from error
    try:
        return PolicyConfig.from_json(value)
    except ValueError as error:
        raise ValueError(f"has a {CONFIG} that describes no policy: {error}") from error


def _skeleton(config: PolicyConfig) -> ExportedPolicy:
    """The policy without memory for its weights, so that sizes can be compared before any is taken."""
    try:
        with torch.device("meta"):
            return ExportedPolicy(config)
    except (ValueError, RuntimeError, TypeError, OverflowError, ZeroDivisionError) as error:
        first_line = str(error).partition("\n")[0]
        raise ValueError(f"has a {CONFIG} that describes no network: {first_line}") from error


def _weights(
    path: Path, config: PolicyConfig, built: Mapping[str, Tensor], *, optional: Collection[str] = ()
) -> dict[str, Tensor]:
    dtype = _DTYPES[config.dtype]
    size = sum(tensor.numel() for tensor in built.values()) * dtype.itemsize
    content = _content(path, size + _MAX_HEADER_BYTES)
    expected = config.files.get(path.name)
    if expected is not None and hashlib.sha256(content).hexdigest() != expected:
        _refuse(f"is damaged: {path.name} is not the file that {CONFIG} was written with")
    try:
        weights = safetensors.torch.load(content)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"is damaged: {path.name} is no safetensors file ({error})") from error
    for name in sorted((built.keys() - set(optional)) | weights.keys()):
        described = _kind(built[name].to(dtype)) if name in built else "nothing"
        found = _kind(weights[name]) if name in weights else "nothing"
        if found != described:
            _refuse(f"has {name} as {found} in {path.name}, as {described} by {CONFIG}")
        if not weights[name].isfinite().all():
            _refuse(f"has numbers in {name} that are not finite")
    return weights


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def write_tensors(path: Path, tensors: Mapping[str, Tensor], dtype: str) -> str:
    """Writes tensors as safetensors; returns the SHA-256 of the file.

    Args:
        path: the file.
        tensors: by name; those of floating-point numbers are stored in `dtype`.
        dtype: `float32` or `bfloat16`.
    """
    stored = {
        name: (tensor.to(_DTYPES[dtype]) if tensor.is_floating_point() else tensor).cpu().contiguous()
        for name, tensor in tensors.items()
    }
    content = safetensors.torch.save(stored, {"format": "pt"})
    path.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def write_config(path: Path, config: PolicyConfig) -> None:
    """Writes `config.json`."""
    value: dict[str, Any] = config.to_json()
    path.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")
