"""Teachers of policy distillation: policies of checkpoints, run folders and policy folders."""

from pathlib import Path
from typing import Any

from torch import Tensor

from lightning_rl.modules.base import RLModule
from lightning_rl.modules.hyper_parameters import from_plain
from lightning_rl.policies.config import FORMAT_VERSION, RECURRENT, DataConfig, PolicyConfig
from lightning_rl.policies.folder import is_policy_folder, load_policy
from lightning_rl.policies.hub import HUB
from lightning_rl.policies.policy import ExportedPolicy
from lightning_rl.runs import checkpoint_files
from lightning_rl.runs.checkpoint_files import METADATA
from lightning_rl.version import __version__


def read_teacher(source: str) -> ExportedPolicy:
    """The policy at a path, on the CPU; it draws no noise and does not learn.

    Args:
        source: a checkpoint, a run folder, whose `last.ckpt` is meant, a policy folder, or one on the hub.

    Raises:
        ValueError: there is none, or it cannot be read.
    """
    path = Path(source)
    try:
        if source.startswith(HUB) or is_policy_folder(path):
            return load_policy(source)
        return _policy_of(checkpoint_files.read(path / checkpoint_files.LAST if path.is_dir() else path))
    except ValueError as error:
        raise ValueError(f"model.teacher: {str(error).removeprefix('ckpt_path: ')}") from error


def _policy_of(checkpoint: dict[str, Any]) -> ExportedPolicy:
    """The acting part of a checkpoint's module."""
    module = _module_of(checkpoint)
    network = module.network_config()
    policy = ExportedPolicy(
        PolicyConfig(
            format_version=FORMAT_VERSION,
            lightning_rl_version=__version__,
            method=checkpoint[METADATA]["method"],
            game=checkpoint[METADATA]["game"],
            network=network,
            recurrent=network.name == RECURRENT,
            obs_shape=module.hparams["obs_shape"],
            num_actions=module.hparams["num_actions"],
            action_meanings=[str(action) for action in range(module.hparams["num_actions"])],
            data=DataConfig(class_path=""),
        )
    )
    weights: dict[str, Tensor] = checkpoint["state_dict"]
    policy.load_state_dict({name: weights[name] for name in policy.state_dict()})
    return policy


def _module_of(checkpoint: dict[str, Any]) -> RLModule:
    """The module as the checkpoint's run has built it, without the weights.

    Raises:
        ValueError: it is of a method that is not known here, or older than options are saved.
    """
    options = checkpoint.get(RLModule.CHECKPOINT_HYPER_PARAMS_KEY)
    if options is None:
        raise ValueError("the checkpoint holds no options of its module: it is older than they are saved; export it")
    method = checkpoint[METADATA]["method"]
    for kind in _methods(RLModule):  # type: ignore[type-abstract]  # only its subclasses are built
        if kind.learns and kind.method(options) == method:
            return kind(**from_plain(kind, options))
    raise ValueError(f"the checkpoint is of method {method}, which is not known here")


def _methods(parent: type[RLModule]) -> list[type[RLModule]]:
    return [child for direct in parent.__subclasses__() for child in (direct, *_methods(direct))]
