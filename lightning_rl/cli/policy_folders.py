"""Exported policies on the command line: found, checked, and judged with the options that they bring."""

import os
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from jsonargparse import Namespace

from lightning_rl.cli.config_files import values
from lightning_rl.cli.error_messages import say
from lightning_rl.cli.machine import to_judge_on
from lightning_rl.cli.registry import data_class
from lightning_rl.cli.run_location import RunLocation, checkpoint_at
from lightning_rl.data.continuation import GamesState
from lightning_rl.errors import UsageError
from lightning_rl.modules.exported import PolicyModule
from lightning_rl.policies.config import PolicyConfig
from lightning_rl.policies.folder import WEIGHTS, is_policy_folder, read_policy
from lightning_rl.policies.hub import HUB, local_folder, repository
from lightning_rl.runs.paths import users_path
from lightning_rl.state import to_plain
from lightning_rl.types import State


class AskedPolicy(NamedTuple):
    """The exported policy that a command judges."""

    folder: Path
    name: str
    """Of the folder, or of the repository on the hub."""
    config: PolicyConfig

    @property
    def identity(self) -> str:
        """The name, and what tells it from another policy of that name: the beginning of its weights' digest."""
        return f"{self.name}-{self.config.files.get(WEIGHTS, '')[:8]}"


def policy_folder(source: str) -> Path | None:
    """The folder of an exported policy, fetched where it is on the hub; None for any other path.

    Raises:
        ValueError: it cannot be fetched.
    """
    if source.startswith(HUB):
        return local_folder(source)
    path = Path(os.path.expanduser(source))
    return path if is_policy_folder(path) else None


def asked_policy(args: list[str]) -> AskedPolicy | None:
    """The exported policy that `--ckpt_path` names.

    Raises:
        UsageError: the path is empty, the folder is damaged, or the command cannot judge it.
    """
    given = values(args, "--ckpt_path")
    source = users_path("ckpt_path", given[-1] if given else None)
    if source is None:
        return None
    try:
        folder = policy_folder(source)
        if folder is None:
            return None
        config = read_policy(folder).config
        data_class(config.data.class_path)
    except (UsageError, ValueError) as error:
        raise UsageError(f"ckpt_path: {error}") from error
    if args[0] == "fit":
        raise UsageError(f"ckpt_path: {source} is an exported policy, which holds no run; give it as --policy_from")
    name = repository(source).rpartition("/")[2] if source.startswith(HUB) else folder.resolve().name
    return AskedPolicy(folder, name, config)


def with_policy_config(args: list[str], policy: AskedPolicy) -> list[str]:
    """Adds the policy's own options, which given configs and options override, and the module that plays with it."""
    config, judging = policy.config, policy.config.judging
    games = data_class(config.data.class_path)  # the class itself: a path of a stranger's file is never imported
    trained_on = (judging.accelerator, judging.precision)
    accelerator, precision = to_judge_on(*trained_on)
    if (accelerator, precision) != trained_on:
        say(f"the agent was trained on {' in '.join(trained_on)}, and is judged on {accelerator} in {precision} here")
    brought = {
        "seed_everything": judging.seed_everything,
        "trainer": {"accelerator": accelerator, "precision": precision},
        "data": {"class_path": f"{games.__module__}.{games.__qualname__}", "init_args": dict(config.data.init_args)},
    }
    module = {"policy": str(policy.folder), "greedy": judging.greedy, "num_threads": judging.num_threads}
    player = {"model": {"class_path": f"{PolicyModule.__module__}.{PolicyModule.__qualname__}", "init_args": module}}
    named = [at + 1 for at, (name, _) in enumerate(pairwise([*args, ""])) if name in ("--config", "-c")]
    named += [at for at, arg in enumerate(args) if arg.startswith("--config=")]
    last = max(named, default=0)
    return [args[0], *_config(brought), *args[1 : last + 1], *_config(player), *args[last + 1 :]]


def find_location(
    config: Namespace, policy: AskedPolicy | None, subcommand: str, *, method: str, game: str
) -> RunLocation:
    """Where a command works: with a run, or with the results of an exported policy.

    Args:
        config: options of the command line.
        policy: the exported policy that is judged, if any.
        subcommand: fit, validate, test or predict.
        method: part of a new run's path.
        game: likewise.

    Raises:
        UsageError: the folder cannot be used, or the policy is of another game.
    """
    if policy is None:
        named = {"run_dir": config.run_dir, "ckpt_path": config.ckpt_path, "method": method, "game": game}
        return RunLocation.find(subcommand, **named)
    if policy.config.games != game:
        raise UsageError(f"ckpt_path: {policy.folder} is of game {policy.config.games}, this command of game {game}")
    return RunLocation.of_policy(policy.folder, policy.identity, run_dir=config.run_dir)


def policy_at(source: str) -> tuple[Path, tuple[str, ...]]:
    """The policy folder or checkpoint that `--policy_from` names, and what to tell the user about the choice."""
    folder = policy_folder(source)
    return checkpoint_at(Path(source)) if folder is None else (folder, ())


def trained_for(policy: AskedPolicy) -> State:
    """The state of a data module that has taken the policy's steps and holds no games."""
    return to_plain(GamesState(env_steps=policy.config.env_steps, collectors=[]))


def _config(options: dict[str, Any]) -> list[str]:
    return ["--config", yaml.safe_dump(options)]
