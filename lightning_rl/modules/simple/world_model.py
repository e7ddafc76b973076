"""Training of SimPLe's world model on windows of real play."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float32, Int64, Shaped, UInt8
from torch import Tensor
from torch.nn import functional

from lightning_rl.cpu.micro_batches import MicroBatchConfig
from lightning_rl.errors import check_option
from lightning_rl.losses.world_model import (
    clipped_cross_entropy,
    clipped_frame_cross_entropy,
    clipped_frame_squared_error,
)
from lightning_rl.modules.simple.ramps import exponential_ramp, linear_ramp
from lightning_rl.networks.world_model.latent import LatentConfig, LatentMixing
from lightning_rl.networks.world_model.next_frame import NextFrame, NextFramePredictor, Pooling
from lightning_rl.types import TensorFields, Windows, moved

COLORS = 3
"""Channels of an RGB frame."""

REWARD_CUTOFF = 0.03
"""The paper's: nats of the reward loss below which nothing is learned, a probability of 0.97."""

_Predict = Callable[..., NextFrame]
_OwnFrames = Callable[[Int64[Tensor, "n"]], UInt8[Tensor, "n H W C"]]
"""Returns the frames that the model predicts for some windows."""
_Feed = Callable[[_OwnFrames, UInt8[Tensor, "N H W C"]], UInt8[Tensor, "N H W C"]]
_Losses = Callable[[NextFrame, slice], dict[str, Tensor]]


@dataclass(frozen=True, kw_only=True)
class WorldModelConfig:
    """Options of the world model: its size, and how it learns.

    Args:
        pixels: what is predicted for each sub-pixel: `softmax`, a distribution over its 256 values, or `squared`, its
            value.
        latent: the discrete latent of the stochastic model; null for the deterministic model.
        recurrent_size: channels of the recurrent state; with 0 the model sees the policy's stack of frames instead.
        hidden: channels at full resolution.
        compress_steps: how often height and width are halved.
        filter_double_steps: how many of these steps double the channels.
        dropout: dropout in every compressing and expanding step.
        residual_dropout: dropout between them.
        num_targets: frames that are predicted one after the other in a window.
        batch_size: windows of one update.
        optimizer: `adafactor` (the paper) or `adam`.
        learning_rate: learning rate after the warm-up.
        warm_up: updates over which the learning rate grows linearly.
        max_grad_norm: bound on the gradient's norm.
        frame_cutoff: loss of a sub-pixel below which nothing is learned. With `squared` pixels, predicted changes below
            it are treated as zero when imagining; otherwise small errors accumulate and colors drift.
        pooling: how features are pooled for the reward and end heads: `mean` (published), or `mean_max`, which also
            sees events of a few pixels.
        frame_weight: factor on the frame loss; squared errors start in the hundreds, reward losses near one.
        reward_cutoff: reward loss, in nats, below which nothing is learned; null for 0.03, the paper's, or for 0 where
            imagined steps pay expected rewards. Ends have no cutoff.
        reward_weight: factor on the reward loss.
        ramp: updates until the model is always fed its own frames and the latent's bits are discrete; other
            probabilities grow in proportion, as in the published code.
        predict_ends: learn when episodes end, and end imagined episodes there; the paper's never end.

    Raises:
        ValueError: a value outside its range.

    Reference:
        tensor2tensor, models/video/basic_stochastic.py, `next_frame_basic_stochastic_discrete`, and
        rl/trainer_model_based_params.py
    """

    pixels: Literal["softmax", "squared"] = "softmax"
    latent: LatentConfig | None = field(default_factory=LatentConfig)
    recurrent_size: int = 64
    hidden: int = 96
    compress_steps: int = 6
    filter_double_steps: int = 3
    dropout: float = 0.15
    residual_dropout: float = 0.5
    num_targets: int = 6
    batch_size: int = 4
    optimizer: Literal["adafactor", "adam"] = "adafactor"
    learning_rate: float = 2e-3
    warm_up: int = 2000
    max_grad_norm: float = 1.0
    frame_cutoff: float = 0.03
    pooling: Pooling = "mean"
    frame_weight: float = 1.0
    reward_weight: float = 1.0
    reward_cutoff: float | None = None
    ramp: int = 40_000
    predict_ends: bool = True

    def __post_init__(self) -> None:
        for name in ("hidden", "compress_steps", "num_targets", "batch_size", "warm_up", "ramp"):
            check_option(f"model.world_model.{name}", getattr(self, name), getattr(self, name) >= 1, "at least 1")
        for name in ("recurrent_size", "filter_double_steps", "frame_cutoff"):
            check_option(f"model.world_model.{name}", getattr(self, name), getattr(self, name) >= 0, "at least 0")
        cutoff = self.reward_cutoff
        check_option("model.world_model.reward_cutoff", cutoff, cutoff is None or cutoff >= 0, "at least 0, or null")
        for name in ("dropout", "residual_dropout"):
            check_option(f"model.world_model.{name}", getattr(self, name), 0 <= getattr(self, name) < 1, "in [0, 1)")
        for name in ("learning_rate", "max_grad_norm", "frame_weight", "reward_weight"):
            check_option(f"model.world_model.{name}", getattr(self, name), getattr(self, name) > 0, "positive")

    @property
    def loss_weights(self) -> dict[str, float]:
        """Weights of the losses."""
        weights = {"frames": self.frame_weight, "reward": self.reward_weight}
        # no end head is trained when ends are unused: its rare, large gradients would disturb Adam's statistics
        extra = {"end": self.predict_ends, "prior": self.latent is not None}
        return weights | {name: 1.0 for name, is_there in extra.items() if is_there}

    @property
    def changed_since_recipe_1(self) -> list[str]:
        """What of this model learned in another way by recipe 1."""
        changed = {
            "Adafactor": self.optimizer == "adafactor",
            "the latent's posterior": self.latent is not None,
            "the recurrent model's frame loss": self.recurrent_size > 0,
        }
        return [name for name, concerns in changed.items() if concerns]

    def build(self, obs_shape: Sequence[int], num_actions: int, *, num_rewards: int) -> NextFramePredictor:
        """Builds the network with random initial weights.

        Args:
            obs_shape: height, width and channels of a stack of frames.
            num_actions: number of actions.
            num_rewards: number of reward classes.

        Raises:
            ValueError: frames that are not RGB, or too small for so many compressing steps.
        """
        height, width, channels = obs_shape
        check_option(
            "model.obs_shape", tuple(obs_shape), channels % COLORS == 0, "height, width and channels of RGB frames"
        )
        return NextFramePredictor(
            (height, width, COLORS),
            num_actions,
            num_rewards,
            num_frames=channels // COLORS,
            hidden=self.hidden,
            compress_steps=self.compress_steps,
            filter_double_steps=self.filter_double_steps,
            dropout=self.dropout,
            residual_dropout=self.residual_dropout,
            pixels=self.pixels,
            latent=self.latent,
            recurrent_size=self.recurrent_size,
            pooling=self.pooling,
            predict_ends=self.predict_ends,
            tolerance=math.sqrt(self.frame_cutoff),
        )


@dataclass(frozen=True, kw_only=True)
class WorldModelBatch(TensorFields):
    """Windows of real play, and the number of the update that they are for."""

    windows: Windows
    update: int

    def __len__(self) -> int:
        return len(self.windows)

    def split(self, micro_batches: MicroBatchConfig) -> Sequence["WorldModelBatch"]:
        """The windows in consecutive parts."""
        parts = micro_batches.even_parts(len(self), samples_each=self.windows.actions.shape[1])
        return [WorldModelBatch(windows=self.windows.rows(part), update=self.update) for part in parts]


def reward_classes(rewards: Float32[Tensor, "*shape"], values: Float32[Tensor, "R"]) -> Int64[Tensor, "*shape"]:
    """The class with the nearest value; a reward is never assigned to the class of zero, however small it is.

    The paper rounds to −1, 0 and 1, which would turn Procgen's 0.04 into zero.
    """
    distances = (rewards.unsqueeze(-1) - values).abs()
    is_something = (rewards != 0).unsqueeze(-1) & (values == 0)
    return distances.masked_fill(is_something, torch.inf).argmin(-1)


def mixing(update: int, ramp: int) -> LatentMixing:
    """Probabilities of the latent's bits at an update; they grow until update `ramp`, or half of it.

    Reference:
        tensor2tensor, models/video/basic_stochastic.py and its hyper-parameters
    """
    grown = linear_ramp(update, ramp)
    return LatentMixing(discrete=grown, prior=0.5 * grown, use=0.8 * linear_ramp(update, max(1, ramp // 2)))


def own_frame_probability(update: int, ramp: int) -> float:
    """Probability, at an update, of feeding the model its own predicted frame instead of the real one.

    Reference:
        tensor2tensor, models/video/base.py, scheduled sampling `prob_inverse_lin`
    """
    return exponential_ramp(update, max(1, ramp // 4)) * linear_ramp(update, ramp)


def window_losses(
    model: NextFramePredictor,
    batch: WorldModelBatch,
    options: WorldModelConfig,
    *,
    reward_values: Float32[Tensor, "R"],
    reward_cutoff: float,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Losses of the predictions along windows, means over all target frames, those that are masked counted as zeros.

    After the first stack, each frame that the model is fed is its own prediction or the real frame. A recurrent model
    also predicts its warm-up frames: their mean frame loss is added to that of the targets, and the prior's loss is a
    mean over both. Steps outside the window's episode are masked, and so is the frame after an episode's end, which
    cannot be predicted.

    Reference:
        tensor2tensor, models/video/base.py, for the means of a recurrent model
    """
    along = _remembered_losses if options.recurrent_size else _independent_losses
    mixed = mixing(batch.update, options.ramp)
    predict = partial(model, mixing=mixed, generator=generator)
    # whose frames are the model's is drawn on the CPU, since how many they are would have to be read from a GPU
    draws = generator if generator.device.type == "cpu" else torch.Generator().manual_seed(generator.initial_seed())
    feed = partial(_fed, probability=own_frame_probability(batch.update, options.ramp), generator=draws)
    losses = partial(_losses, batch.windows, options, reward_values, reward_cutoff)
    return along(model, batch.windows, options.num_targets, predict, feed, losses)


def _remembered_losses(
    model: NextFramePredictor, windows: Windows, num_targets: int, predict: _Predict, feed: _Feed, losses: _Losses
) -> dict[str, Tensor]:
    """Losses of a recurrent model, step by step; gradients flow back through its state."""
    warm_up = windows.frames.shape[1] - num_targets - 1
    newest, state, rows = windows.frames[:, 0], None, []
    steps = zip(windows.actions.unbind(1), windows.frames[:, 1:].unbind(1), strict=True)
    for step, (action, target) in enumerate(steps):
        predicted = predict(newest, action, state=state, target=target)
        rows.append(losses(predicted, slice(step, step + 1)))
        own = partial(_likeliest, model, predicted.frames, newest)
        newest, state = target if step < warm_up else feed(own, target), predicted.state
    averaged = dict.fromkeys(rows[0], rows[warm_up:]) | ({"prior": rows} if "prior" in rows[0] else {})
    means = {name: _mean(name, its) for name, its in averaged.items()}
    return means | ({"frames": means["frames"] + _mean("frames", rows[:warm_up])} if warm_up else {})


def _mean(name: str, rows: Sequence[dict[str, Tensor]]) -> Tensor:
    return torch.stack([row[name] for row in rows]).mean()


def _likeliest(
    model: NextFramePredictor, predictions: Tensor, newest: Tensor, which: Int64[Tensor, "n"]
) -> UInt8[Tensor, "n H W C"]:
    return model.likeliest(predictions[which], newest[which])


def _independent_losses(
    model: NextFramePredictor, windows: Windows, num_targets: int, predict: _Predict, feed: _Feed, losses: _Losses
) -> dict[str, Tensor]:
    """Losses of a model without state: all steps in one batch, which is faster than one after the other.

    No gradient flows through a frame, so the frames that the model is fed are predicted first, without gradient and
    only for the windows that need them. Dropout and latents are then sampled again for the batch, which does not
    change the expected gradient.
    """
    num_frames = windows.frames.shape[1] - num_targets
    seen = list(windows.frames[:, :num_frames].unbind(1))
    for step in range(num_frames - 1, windows.actions.shape[1] - 1):
        stack, target = torch.cat(seen[-num_frames:], dim=-1), windows.frames[:, step + 1]
        own = partial(_own_frames, model, predict, stack, windows.actions[:, step], target)
        seen.append(feed(own, target))
    stacks = torch.cat([torch.cat(seen[first : first + num_frames], dim=-1) for first in range(num_targets)])
    steps = slice(num_frames - 1, None)
    predicted = predict(stacks, _columns(windows.actions[:, steps]), target=_columns(windows.frames[:, num_frames:]))
    return losses(predicted, steps)


def _own_frames(
    model: NextFramePredictor, predict: _Predict, stack: Tensor, actions: Tensor, target: Tensor, which: Tensor
) -> UInt8[Tensor, "n H W C"]:
    kind = stack.device.type
    mixed_precision = torch.autocast(
        kind,
        dtype=torch.get_autocast_dtype(kind),
        enabled=torch.is_autocast_enabled(kind),
        cache_enabled=False,  # or torch 2.10 would reuse these casts, which have no gradient, below (pytorch#158232)
    )
    with torch.no_grad(), mixed_precision:
        predicted = predict(stack[which], actions[which], target=target[which])
    return model.likeliest(predicted.frames, stack[which])


def _fed(
    own_frames: _OwnFrames, real: UInt8[Tensor, "N H W C"], *, probability: float, generator: torch.Generator
) -> UInt8[Tensor, "N H W C"]:
    """The real frames, some of them replaced by the model's predictions."""
    own = (torch.rand(len(real), generator=generator) < probability).nonzero().squeeze(1)
    if not len(own):
        return real
    own = moved(own, real.device)
    return real.index_copy(0, own, own_frames(own))


def _columns(steps: Shaped[Tensor, "N P *rest"]) -> Shaped[Tensor, "P*N *rest"]:
    """Steps of windows as one batch, with all windows of a step together."""
    return steps.transpose(0, 1).flatten(0, 1)


def _losses(
    windows: Windows,
    options: WorldModelConfig,
    reward_values: Float32[Tensor, "R"],
    reward_cutoff: float,
    predicted: NextFrame,
    steps: slice,
) -> dict[str, Tensor]:
    """Losses of predictions of some steps, in the order of `_columns`."""
    valid, ended = _columns(windows.valid[:, steps]).float(), _columns(windows.ended[:, steps])
    target = _columns(windows.frames[:, 1:][:, steps])
    if options.pixels == "softmax":
        frames = clipped_frame_cross_entropy(predicted.frames, target, cutoff=options.frame_cutoff)
    else:
        frames = clipped_frame_squared_error(predicted.frames.squeeze(-1), target, cutoff=options.frame_cutoff)
    classes = reward_classes(_columns(windows.rewards[:, steps]), reward_values)
    losses = {
        "frames": frames * ~ended,
        "reward": clipped_cross_entropy(predicted.reward_logits, classes, cutoff=reward_cutoff),
    }
    if predicted.end_logits is not None:
        losses["end"] = functional.binary_cross_entropy_with_logits(
            predicted.end_logits, ended.float(), reduction="none"
        )
    if predicted.prior_loss is not None:
        losses["prior"] = predicted.prior_loss * ~ended
    return {name: (valid * loss).mean() for name, loss in losses.items()}
