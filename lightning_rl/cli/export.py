"""`lightning-rl export`: a run's agent as a folder that is loaded without Lightning."""

import argparse
import json
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jsonargparse import Namespace

from lightning_rl.cli.command import RunCLI
from lightning_rl.cli.config_files import values, with_run_config
from lightning_rl.cli.error_messages import say
from lightning_rl.cli.training_command import training_command
from lightning_rl.data.datamodule import RolloutDataModule
from lightning_rl.errors import UsageError, UsageParser, check_option
from lightning_rl.media.recorder import EpisodeRecorder
from lightning_rl.modules.base import RLModule
from lightning_rl.modules.hyper_parameters import as_plain
from lightning_rl.modules.impala_vae import ImpalaVAEModule
from lightning_rl.modules.simple.module import SimPLeModule
from lightning_rl.policies import folder, hub
from lightning_rl.policies.autoencoder import own_weights
from lightning_rl.policies.card import model_card
from lightning_rl.policies.config import FORMAT_VERSION, RECURRENT, DataConfig, Judging, PolicyConfig, Preprocessing
from lightning_rl.policies.onnx_model import onnx_model
from lightning_rl.policies.policy import ExportedPolicy
from lightning_rl.runs import checkpoint_files
from lightning_rl.runs.paths import users_path
from lightning_rl.state import validate_state
from lightning_rl.version import __version__

_ON_THE_CPU = {"accelerator": "cpu", "precision": "32-true", "devices": 1, "strategy": "auto"}
"""How a checkpoint is loaded, whatever it was trained on."""
_FULL_PRECISION = {"None": "32-true", "32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed"}
_LEVEL_SET = {"episodes": int, "return_mean": float, "return_variance": float, "return_ci95": list[float]}


def parser() -> argparse.ArgumentParser:
    """The options of `export` beside those of `test`, which say what the checkpoint is and how it is judged."""
    options = UsageParser(
        prog="lightning-rl export",
        allow_abbrev=False,
        description="Writes the agent of a checkpoint as a policy folder.",
        epilog="--ckpt_path names the checkpoint or its run folder; --config and options of `test` are taken, too.",
    )
    options.add_argument("--out", required=True, metavar="DIR", help="The policy folder to write.")
    options.add_argument("--episodes", type=int, metavar="N", help="Play a video of N episodes; not that of the run.")
    options.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="How weights are stored.")
    for name, told in (
        ("onnx", "Write policy.onnx, too."),
        ("autoencoder", "Write the whole autoencoder, too."),
        ("world_model", "Write the world model, too."),
        ("overwrite", "Replace an earlier export in DIR."),
    ):
        options.add_argument(f"--{name}", action="store_true", help=told)
    options.add_argument("--push", metavar="USER/NAME", help="Upload the folder to the Hugging Face hub.")
    return options


class Checkpoint(RunCLI):
    """The module and the games of a checkpoint, on the CPU, with its weights."""

    keeps_results = False
    model: RLModule
    datamodule: RolloutDataModule
    trained_with: Namespace

    def before_instantiate_classes(self) -> None:
        """Keeps what the run was trained with, since exporting needs no GPU."""
        config = self.config[self.subcommand]
        self.trained_with = config.trainer.clone()
        for key, value in _ON_THE_CPU.items():
            config.trainer[key] = value
        super().before_instantiate_classes()

    def _check(self, saved: dict[str, Any], checkpoint: Path) -> None:
        super()._check(saved, checkpoint)
        self.model.load_state_dict(saved["state_dict"])
        if (games := saved.get(type(self.datamodule).__qualname__)) is not None:
            self.datamodule.load_state_dict(games)


def load_checkpoint(args: list[str]) -> Checkpoint:
    """The module and the games of a checkpoint.

    Args:
        args: options of `test`.

    Raises:
        UsageError: an option or the checkpoint is wrong.
        ValueError: likewise.
    """
    run = Checkpoint(with_run_config(["test", *args]))
    for remark in run.location.remarks:
        say(remark)
    return run


def main(args: list[str]) -> int:
    """Exports a policy.

    Args:
        args: what follows `export` on the command line.

    Returns:
        The exit status.

    Raises:
        UsageError: an option or the checkpoint is wrong; nothing was written.
        ValueError: likewise.
    """
    options, rest = parser().parse_known_args(args)
    if not (checkpoint := values(rest, "--ckpt_path")):
        raise UsageError("ckpt_path: export needs a checkpoint, found none; give --ckpt_path FILE")
    if folder.is_policy_folder(Path(checkpoint[-1]).expanduser()):
        raise UsageError(f"ckpt_path: {checkpoint[-1]} is exported already; give a checkpoint")
    out = options.out = Path(users_path("out", options.out) or "")
    _check_target(out, overwrite=options.overwrite)
    if options.episodes is not None:
        check_option("episodes", options.episodes, options.episodes >= 1, "at least 1")
    name = options.push and hub.repository(options.push)
    if not values(rest, "--run_dir"):
        rest = [*rest, "--run_dir", str(out.absolute().parent)]  # so that a run may be on a disk that is only read
    run = load_checkpoint(rest)
    write_whole(out, lambda partial: _write(partial, run, options))
    sys.stdout.write(f"policy     {out}\nnext:      lightning-rl test --ckpt_path {shlex.quote(str(out))}\n")
    if name is not None:
        sys.stdout.write(f"pushed to  {hub.push(out, name)}\n")
    return 0


def _check_target(out: Path, *, overwrite: bool) -> None:
    if not out.exists() and not out.is_symlink():
        return
    if not overwrite:
        raise UsageError(f"out: {out} exists already; give another folder, or --overwrite to replace an earlier export")
    if not folder.is_policy_folder(out) or not (out / folder.CONFIG).is_file():
        raise UsageError(f"out: {out} is not an earlier export, and is not replaced; give another folder")


def write_whole(out: Path, write: Callable[[Path], None]) -> None:
    """Writes a folder beside its place and renames it, so that no part of one is ever there."""
    partial, old = (out.with_name(f".{out.name}.{kind}") for kind in ("partial", "old"))
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        write(partial)
        shutil.rmtree(old, ignore_errors=True)
        if out.exists():
            out.rename(old)
        partial.rename(out)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if old.exists() and not out.exists():
            old.rename(out)


def _write(out: Path, run: Checkpoint, options: argparse.Namespace) -> None:
    """Writes all files of the policy folder."""
    model, name = run.model, options.out.absolute().name
    policy = ExportedPolicy(_description(run, options.dtype))
    weights, own = model.state_dict(), policy.state_dict()
    if other := [name for name, tensor in own.items() if name not in weights or weights[name].shape != tensor.shape]:
        raise UsageError(f"model: {type(model).__name__} has no weights {other[0]}, as its network_config says")
    policy.load_state_dict({name: weights[name] for name in own})
    _check_equal(policy, model)
    files = {folder.WEIGHTS: folder.write_tensors(out / folder.WEIGHTS, policy.state_dict(), options.dtype)}
    extras = {}
    if options.autoencoder:
        extras["autoencoder"] = _write_autoencoder(out, model, options.dtype, files)
    if options.world_model:
        extras["world_model"] = _write_world_model(out, model, options.dtype, files)
    config = PolicyConfig(**(vars(policy.config) | {"files": files} | extras))
    folder.write_config(out / folder.CONFIG, config)
    if options.onnx:
        (out / folder.ONNX).write_bytes(onnx_model(folder.load_policy(out)))
    _write_video(out / folder.VIDEO, run, episodes=options.episodes)
    measured = _results(run)
    command = training_command(_resolved(run))
    card = model_card(config, name, results=measured.levels, greedy=measured.greedy, command=command)
    (out / folder.CARD).write_text(card, encoding="utf-8")


def _resolved(run: Checkpoint) -> dict[str, Any]:
    """The config that the run was started with, without the command line's overrides of how it is judged."""
    config = run.resolved()
    return config | {"trainer": config["trainer"] | {key: run.trained_with[key] for key in _ON_THE_CPU}}


def _description(run: Checkpoint, dtype: str) -> PolicyConfig:
    model, data, trainer = run.model, run.datamodule, run.trained_with
    config = _resolved(run)
    class_path, games = run.played_games()
    game = run.game if len(data.game_names) == 1 else list(data.game_names)
    network, micro_batches = model.network_config(), model.micro_batches
    precision = str(trainer.precision)
    return PolicyConfig(
        format_version=FORMAT_VERSION,
        lightning_rl_version=__version__,
        method=run.method,
        game=game,
        distribution_mode=data.distribution_mode,
        env_steps=data.env_steps,
        network=network,
        recurrent=network.name == RECURRENT,
        obs_shape=data.obs_shape,
        num_actions=data.num_actions,
        action_meanings=list(data.action_meanings or map(str, range(data.num_actions))),
        dtype=dtype,
        preprocessing=Preprocessing(
            frame_stack=data.frame_stack,
            previous_rewards="clipped" if games.get("reward_clipping") else "raw",
        ),
        data=DataConfig(class_path=class_path, init_args=games),
        judging=Judging(
            seed_everything=config["seed_everything"],
            greedy=model.greedy,
            precision=_FULL_PRECISION.get(precision, precision),
            accelerator=str(trainer.accelerator),
            num_threads=None if micro_batches is None else micro_batches.num_threads,
        ),
    )


def _check_equal(policy: ExportedPolicy, model: RLModule) -> None:
    """Refuses a method that acts otherwise than its network alone."""
    generator = torch.Generator().manual_seed(0)
    obs = torch.randint(256, (2, *policy.config.obs_shape), generator=generator, dtype=torch.uint8)
    if not torch.equal(policy(obs).logits, model.act(obs.numpy(), generator, greedy=True).logits):
        raise UsageError(f"model: {type(model).__name__} acts otherwise than its network alone, and cannot be exported")


def _write_autoencoder(out: Path, model: RLModule, dtype: str, files: dict[str, str]) -> dict[str, Any]:
    if not isinstance(model, ImpalaVAEModule):
        raise UsageError(f"autoencoder: {type(model).__name__} has none")
    files[folder.AUTOENCODER] = folder.write_tensors(out / folder.AUTOENCODER, own_weights(model.vae), dtype)
    return {"latent_size": model.vae_config.latent_size, "images": model.vae_config.images}


def _write_world_model(out: Path, model: RLModule, dtype: str, files: dict[str, str]) -> dict[str, Any]:
    if not isinstance(model, SimPLeModule):
        raise UsageError(f"world_model: {type(model).__name__} has none")
    files[folder.WORLD_MODEL] = folder.write_tensors(out / folder.WORLD_MODEL, model.world_model.state_dict(), dtype)
    options: dict[str, Any] = as_plain(model.options)
    return options | {"reward_values": model.reward_values.tolist()}


def _write_video(path: Path, run: Checkpoint, *, episodes: int | None) -> None:
    """Copies the video that the end of the run has left, where no number of episodes is asked for, or plays one."""
    checkpoint = run.checkpoint or Path()
    own = checkpoint.parent / "media" / path.name
    is_of_fit = own.is_file() and not own.with_suffix(".json").exists()  # `predict` plays whatever it is asked to
    if episodes is None and checkpoint.name == checkpoint_files.LAST and is_of_fit:
        shutil.copyfile(own, path)
        return
    run.datamodule.predict_episodes = episodes or run.datamodule.predict_episodes
    recorder = EpisodeRecorder()
    for of_a_game in run.datamodule.shown(run.model, greedy=run.model.greedy, watcher=recorder):
        list(of_a_game)
        recorder.next_game()
    recorder.write(path)


class _Results(NamedTuple):
    """Level sets by game, and whether actions were the likeliest, though the agent is judged otherwise."""

    levels: dict[str, Any] | None = None
    greedy: bool = False


def _results(run: Checkpoint) -> _Results:
    """What the test.json beside the checkpoint has, where that is of the same weights and games."""
    checkpoint = run.checkpoint or Path()
    path = checkpoint.with_name("test.json")
    if not path.is_file():
        return _Results()
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        validate_state(report, {"checkpoint": str, "env_steps": int})
        games = report.get("games", {run.game: report})
        validate_state(games, dict[str, dict[str, Any]], "games")
        for found in games.values():
            validate_state(found, {"level_sets": dict[str, dict[str, Any]]})
            for name, row in found["level_sets"].items():
                validate_state(row, _LEVEL_SET, f"level_sets.{name}")
    except ValueError as error:
        raise UsageError(f"{path} is no report of `test`: {error}; remove it, or give `test` again") from error
    weights = report["env_steps"] == run.datamodule.env_steps and Path(report["checkpoint"]).name == checkpoint.name
    weights &= report.get("run_id", run.location.trained_by) == run.location.trained_by
    played = {"game": run.game, "distribution_mode": run.datamodule.distribution_mode}
    if not weights or any(report.get(key, value) != value for key, value in played.items()):
        return _Results()
    levels = {game: found["level_sets"] for game, found in games.items()}
    return _Results(levels, greedy=report.get("greedy") is True and not run.model.greedy)
