"""Teachers of policy distillation: policies of checkpoints, run folders and policy folders."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float32, UInt8
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from lightning_rl.modules.acting import exponentials
from lightning_rl.modules.base import RLModule
from lightning_rl.modules.exported import Player
from lightning_rl.modules.hyper_parameters import from_plain
from lightning_rl.policies.config import FORMAT_VERSION, RECURRENT, DataConfig, PolicyConfig
from lightning_rl.policies.folder import is_policy_folder, load_policy
from lightning_rl.policies.hub import HUB
from lightning_rl.policies.policy import ExportedPolicy
from lightning_rl.runs import checkpoint_files
from lightning_rl.runs.checkpoint_files import METADATA
from lightning_rl.types import ActorOutput, Draws, RecurrentInputs
from lightning_rl.version import __version__


class Teachers:
    """One teacher for each of several games that share the environments equally, in their order.

    Args:
        teachers: the policies by game.
        precision: the context of each decision, such as the trainer's autocast.
    """

    def __init__(
        self, teachers: dict[str, ExportedPolicy], precision: Callable[[], AbstractContextManager[Any]]
    ) -> None:
        self._policies = list(teachers.values())
        self._players = [Player(policy, precision) for policy in self._policies]
        self._teachers, self._precision = teachers, precision

    def act(
        self,
        obs: UInt8[NDArray[Any], "B H W C"],
        generator: torch.Generator,
        *,
        recurrent_inputs: RecurrentInputs | None = None,
        greedy: bool = False,
    ) -> ActorOutput:
        """Actions, logits and values of each game's own teacher; a state as long as the longest, where one has any."""
        parts = self._parts(recurrent_inputs or RecurrentInputs.initial(len(obs)))
        return self._joined(
            [
                player.act(obs[rows], generator, recurrent_inputs=own, greedy=greedy)
                for player, (rows, own) in zip(self._players, parts, strict=True)
            ]
        )

    def draws(self, num_envs: int, num_actions: int, generator: torch.Generator) -> Draws:
        """The random numbers of a step, as `act` draws them."""
        sizes = [num_envs // len(self._players)] * len(self._players)
        return Draws(exponentials=torch.cat([exponentials(size, num_actions, generator) for size in sizes]))

    def step(self, frames: UInt8[Tensor, "B H W C"], inputs: RecurrentInputs, draws: Draws) -> ActorOutput:
        """What `act` does, on the device alone."""
        outputs = []
        for player, (rows, own) in zip(self._players, self._parts(inputs), strict=True):
            outputs.append(player.step(frames[rows], own, Draws(exponentials=draws.exponentials[rows])))
        return self._joined(outputs)

    def mirror(self) -> "Teachers":
        """A copy for a captured step."""
        mirrored = Teachers(self._teachers, self._precision)
        mirrored._players = [player.mirror() for player in self._players]
        return mirrored

    def _parts(self, inputs: RecurrentInputs) -> list[tuple[slice, RecurrentInputs]]:
        """The rows of each teacher and its inputs."""
        size = len(inputs.starts) // len(self._players)
        parts = [slice(index * size, (index + 1) * size) for index in range(len(self._players))]
        own = [inputs.rows(rows) for rows in parts]
        sizes = [policy.state_size for policy in self._policies]
        return [
            (rows, replace(told, state=told.state[:, :length]))
            for rows, told, length in zip(parts, own, sizes, strict=True)
        ]

    def _joined(self, outputs: list[ActorOutput]) -> ActorOutput:
        longest = max(policy.state_size for policy in self._policies)
        states = [_padded(output, longest) for output in outputs]
        return ActorOutput(
            actions=torch.cat([output.actions for output in outputs]),
            logits=torch.cat([output.logits for output in outputs]),
            values=torch.cat([output.values[:, :1] for output in outputs]),
            state=torch.cat(states) if longest else None,
        )


def _padded(output: ActorOutput, length: int) -> Float32[Tensor, "B L"]:
    if output.state is None:
        return torch.zeros(len(output.actions), length, device=output.actions.device)
    return functional.pad(output.state, (0, length - output.state.shape[1]))


def read_teacher(source: str, key: str) -> ExportedPolicy:
    """The policy at a path, on the CPU; it draws no noise and does not learn.

    Args:
        source: a checkpoint, a run folder, whose `last.ckpt` is meant, a policy folder, or one on the hub.
        key: the option that names it.

    Raises:
        ValueError: there is none, or it cannot be read.
    """
    if not source:
        raise ValueError(f"{key} must be a path, found an empty text")
    path = Path(os.path.expanduser(source))
    try:
        if source.startswith(HUB) or is_policy_folder(path):
            return load_policy(source if source.startswith(HUB) else path)
        return _policy_of(checkpoint_files.read(path / checkpoint_files.LAST if path.is_dir() else path))
    except ValueError as error:
        raise ValueError(f"{key}: {str(error).removeprefix('ckpt_path: ')}") from error
    except (KeyError, RuntimeError, TypeError) as error:  # of a class that is given options of other kinds
        raise ValueError(f"{key}: the module of {source} cannot be built: {' '.join(str(error).split())}") from error


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
    for name, own in policy.state_dict().items():
        if name not in weights or weights[name].shape != own.shape:
            raise ValueError(f"the checkpoint has no weights {name} of {tuple(own.shape)}, as its options say")
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
            own = {name: value for name, value in options.items() if name not in kind.of_learning}
            return kind(**from_plain(kind, own))
    raise ValueError(f"the checkpoint is of method {method}, which is not known here")


def _methods(parent: type[RLModule]) -> list[type[RLModule]]:
    return [child for direct in parent.__subclasses__() for child in (direct, *_methods(direct))]
