"""Quality of a world model: metrics on held-out play, and videos beside the game."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float32, UInt8
from numpy.typing import NDArray
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import WandbLogger
from torch import Tensor
from torch.nn import functional

from lightning_rl.callbacks.media_output import going_on_without
from lightning_rl.data.replay import ReplayBuffer
from lightning_rl.distributed.collectives import all_reduce_mean
from lightning_rl.media.figures import draw_image_rows
from lightning_rl.media.videos import captioned, tiled, write_video
from lightning_rl.modules.iteration_metrics import data_of
from lightning_rl.modules.simple.module import SimPLeModule
from lightning_rl.modules.simple.world_model import reward_classes
from lightning_rl.runs.wandb_run import log_media
from lightning_rl.types import Windows

_ROLLOUT_LENGTH, _NUM_SHOWN = 50, 4
_HORIZONS = (12, 50)  # numbers of steps over which the paper sums rewards
_CHUNK = 64  # windows at a time
_DRAWN_STEPS = (0, 1, 2, 5, 10, 20, 30, 40, 50)
_SCALE, _FRAMES_PER_SECOND = 3, 10


class Imagination(NamedTuple):
    """A world model's frames and rewards for the first frames and the actions of real play."""

    frames: UInt8[Tensor, "N P H W C"]
    rewards: Float32[Tensor, "N P"]
    expected_rewards: Float32[Tensor, "N P"]


def imagination(module: SimPLeModule, windows: Windows, generator: torch.Generator) -> Imagination:
    """Imagines windows of real play from their first frames and all their actions; rewards are the likeliest ones."""
    first = module.num_frames
    rewards = torch.empty_like(windows.rewards[:, first - 1 :])
    imagined = Imagination(torch.empty_like(windows.frames[:, first:]), rewards, torch.empty_like(rewards))
    simulator = module.simulator()
    for start in range(0, len(windows), _CHUNK):
        rows = slice(start, start + _CHUNK)
        stack = rearrange(windows.frames[rows, :first], "n k h w c -> n h w (k c)")
        state = simulator.begin(stack)
        for number, actions in enumerate(windows.actions[rows, first - 1 :].unbind(1)):
            step = simulator.imagine(stack, actions, generator, state).to(torch.device("cpu"))
            stack = torch.cat([stack[..., step.frames.shape[-1] :], step.frames], dim=-1)
            state = step.state
            imagined.frames[rows, number], imagined.rewards[rows, number] = step.frames, step.rewards
            imagined.expected_rewards[rows, number] = step.expected_rewards
    return imagined


def world_model_metrics(
    module: SimPLeModule,
    replay: ReplayBuffer,
    *,
    num_steps: int = 512,
    num_rollouts: int = 64,
    seed: int = 0,
) -> dict[str, float]:
    """The metrics `world_model/*` on held-out play.

    Frame errors are mean squared differences of sub-pixels in 0..255; `copy_frame_error` is that of predicting no
    change. Reward accuracies are balanced: means over the classes that occur, so that always predicting the most
    frequent class scores one over their number. Frames that open another episode are not counted. Summed rewards are
    compared over 50 steps of one episode only; without so long an episode, their accuracies are left out.

    Args:
        module: the world model.
        replay: real play, some of it held out.
        num_steps: number of single steps to predict.
        num_rollouts: number of rollouts of 50 steps to imagine.
        seed: seed for drawing them.

    Returns:
        The metrics by key.
    """
    generator = torch.Generator().manual_seed(seed)
    windows = replay.sample(num_steps, num_targets=1, generator=generator, held_out=True)
    imagined = imagination(module, windows, generator)
    metrics = _frame_errors(windows, imagined, module.num_frames) | _reward_accuracies(windows, imagined, module)
    del windows, imagined  # frees memory before as many frames are drawn again
    rollouts = replay.sample_whole(num_rollouts, num_targets=_ROLLOUT_LENGTH, generator=generator)
    if rollouts is None:
        return metrics
    imagined = imagination(module, rollouts, generator)
    accuracies = {horizon: summed_reward_accuracy(rollouts, imagined, module, horizon) for horizon in _HORIZONS}
    return metrics | {f"world_model/reward_accuracy_{horizon}": share for horizon, share in accuracies.items()}


def _frame_errors(windows: Windows, imagined: Imagination, num_frames: int) -> dict[str, float]:
    counts = ~windows.ended[:, num_frames - 1]
    before, after = (windows.frames[counts, number] for number in (num_frames - 1, num_frames))
    errors = {"frame_error": imagined.frames[counts, 0], "copy_frame_error": before}
    return {f"world_model/{name}": _squared_error(frames, after) for name, frames in errors.items()}


def _squared_error(one: UInt8[Tensor, "N H W C"], other: UInt8[Tensor, "N H W C"]) -> float:
    """Mean over sub-pixels, computed frame by frame, because all frames as floats would take four times the memory."""
    errors = [float(functional.mse_loss(frame.float(), its.float())) for frame, its in zip(one, other, strict=True)]
    return float(torch.tensor(errors).mean())


def _reward_accuracies(windows: Windows, imagined: Imagination, module: SimPLeModule) -> dict[str, float]:
    values = module.reward_values.cpu()
    real = reward_classes(windows.rewards[:, module.num_frames - 1], values)
    said = reward_classes(imagined.rewards[:, 0], values)
    classes = real.unique()
    recalls = torch.stack([(said[real == number] == number).double().mean() for number in classes])
    return {
        "world_model/reward_accuracy": float(recalls.mean()),
        "world_model/majority_reward_accuracy": 1 / len(classes),
    }


def summed_reward_accuracy(windows: Windows, imagined: Imagination, module: SimPLeModule, num_steps: int) -> float:
    """Share of rollouts, none cut short, whose summed imagined reward is right after so many steps.

    Reference:
        tensor2tensor, rl/rl_utils.py, `evaluate_world_model`
    """
    first = module.num_frames - 1
    given, said = (
        rewards.double().sum(1)
        for rewards in (windows.rewards[:, first : first + num_steps], imagined.rewards[:, :num_steps])
    )
    return float(torch.isclose(said, given, atol=1e-6).double().mean())


class WorldModelReport(Callback):
    """Logs `world_model/*` each time the world model has learned, and shows imagined beside real play.

    `media/imagined_<env steps>.mp4` shows four windows of held-out play, each beside what the model imagines from the
    same first frames and actions, with the rewards so far. `media/imagined.png` shows steps of the one in which most
    moves: a game may stand still for a while before it begins. Both are also logged to W&B. Random numbers come from a
    generator of its own, so training is not affected.

    Args:
        run_dir: the run folder.
        title: title of the picture.
    """

    def __init__(self, run_dir: Path, *, title: str) -> None:
        self._media = run_dir / "media"
        self._title = title

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measures the world model if it has just finished learning."""
        if not isinstance(pl_module, SimPLeModule) or not pl_module.world_model_is_trained:
            return
        data = data_of(trainer)
        replay = data.collector.replay
        if not isinstance(replay, ReplayBuffer) or not replay.num_held_out:
            return
        # not of all ranks need the episodes be long enough
        pl_module.log_dict(all_reduce_mean(world_model_metrics(pl_module, replay)), sync_dist=True)
        if trainer.is_global_zero:
            self._show(trainer, pl_module, replay, data.env_steps)

    def _show(self, trainer: Trainer, module: SimPLeModule, replay: ReplayBuffer, env_steps: int) -> None:
        generator = torch.Generator().manual_seed(1)
        windows = replay.sample(_NUM_SHOWN, num_targets=_ROLLOUT_LENGTH, generator=generator, held_out=True)
        imagined = imagination(module, windows, generator)
        video = self._media / f"imagined_{env_steps}.mp4"
        picture = self._media / "imagined.png"
        videos, pictures = [], []
        with going_on_without(video):
            write_video(video, pairs(windows, imagined, module.num_frames), frames_per_second=_FRAMES_PER_SECOND)
            videos.append(video)
        drawn = liveliest(windows, module.num_frames)
        shown = [step for step in _DRAWN_STEPS if step <= int(windows.valid[drawn, module.num_frames - 1 :].sum())]
        real = windows.frames[drawn, module.num_frames - 1 :]
        imagined_frames = torch.cat([real[:1], imagined.frames[drawn]])
        with going_on_without(picture):
            draw_image_rows(
                picture,
                [("game", real[shown].numpy()), ("world model", imagined_frames[shown].numpy())],
                columns=[f"step {step}" for step in shown],
                title=f"{self._title}: held-out play and the world model's, same start and actions",
            )
            pictures.append(picture)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                log_media(logger, env_steps=env_steps, videos=videos, pictures=pictures)


def liveliest(windows: Windows, num_frames: int) -> int:
    """The window whose frames of one episode differ most from the one before them, summed over its steps."""
    first = num_frames - 1
    counts = (windows.valid & ~windows.ended)[:, first:]  # the frame after an end opens another episode
    changes = torch.zeros(counts.shape)
    for step in range(counts.shape[1]):
        before, after = (windows.frames[:, first + step + later].float() for later in (0, 1))
        changes[:, step] = (after - before).abs().mean((1, 2, 3))
    return int((changes * counts).sum(1).argmax())


def pairs(windows: Windows, imagined: Imagination, num_frames: int) -> Iterator[UInt8[NDArray[Any], "H2 W2 3"]]:
    """Frames of a video: real play beside imagined play, with the rewards so far.

    Both are darkened once the real episode is over.
    """
    real = windows.frames[:, num_frames:]
    valid = windows.valid[:, num_frames - 1 :]
    sums = [(rewards * valid).cumsum(1) for rewards in (windows.rewards[:, num_frames - 1 :], imagined.rewards)]
    for step in range(real.shape[1]):
        both = torch.stack([real[:, step], imagined.frames[:, step]], 1).flatten(0, 1)
        rewards = torch.stack([total[:, step] for total in sums], 1).flatten().tolist()
        names = ["game", "world model"] * len(real)
        captions = [f"{name} {reward:+g}" for name, reward in zip(names, rewards, strict=True)]
        over = (~valid[:, step]).repeat_interleave(2).numpy()
        yield tiled(captioned(both.numpy(), captions, scale=_SCALE), columns=4, scale=1, dimmed=over)
