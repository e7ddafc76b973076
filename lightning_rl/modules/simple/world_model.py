"""How SimPLe's world model learns from windows of real play."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import torch
from jaxtyping import Bool, Float32, Int64, Shaped, UInt8
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
from lightning_rl.types import TensorFields, Windows

COLORS = 3
"""Channels of a frame: what the games show is RGB."""

_Predict = Callable[..., NextFrame]
_OwnFrames = Callable[[Bool[Tensor, "N"]], UInt8[Tensor, "n H W C"]]
"""The model's own frames of some windows."""
_Feed = Callable[[_OwnFrames, UInt8[Tensor, "N H W C"]], UInt8[Tensor, "N H W C"]]
_Losses = Callable[[NextFrame, slice], dict[str, Tensor]]


@dataclass(frozen=True, kw_only=True)
class WorldModelConfig:
    """Size of the world model, and how it learns.

    Args:
        pixels: `softmax`, a distribution over the 256 values of each sub-pixel, or `squared`, the value itself.
        latent: the discrete latent of the stochastic model; null for the deterministic one.
        recurrent_size: channels of the recurrent state; with 0 the model sees the policy's stack instead.
        hidden: channels at full resolution.
        compress_steps: times that height and width are halved.
        filter_double_steps: of them, how many double the channels.
        dropout: in every compressing and expanding step.
        residual_dropout: between them.
        num_targets: frames predicted one after the other in a window.
        batch_size: windows of one update.
        optimizer: `adafactor`, which scales each step by its parameter (the paper's), or `adam`.
        learning_rate: after warming up.
        warm_up: updates over which the learning rate grows to it in a line.
        max_grad_norm: bound on the gradient's norm.
        frame_cutoff: error of a sub-pixel that costs nothing, in the loss's units. With `squared` pixels a predicted
            change of no more is taken for none in the frames that the model shows and goes on from.
        pooling: what rewards and ends are read off: `mean`, as published, or `mean_max`, which sees events of a few
            pixels, too.
        frame_weight: factor on the frames' loss; squared errors are hundreds at first, where a reward costs about one.
        reward_cutoff: nats of reward and end that cost nothing.
        reward_weight: factor on the reward's loss.
        ramp: updates after which the model is fed its own frames, and the latent's bits are discrete; other
            probabilities grow in proportion, as in the released code.
        predict_ends: learn when episodes end, and let imagined ones end there; the paper's never end.

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
    reward_cutoff: float = 0.03
    ramp: int = 40_000
    predict_ends: bool = True

    def __post_init__(self) -> None:
        for name in ("hidden", "compress_steps", "num_targets", "batch_size", "warm_up", "ramp"):
            check_option(f"model.world_model.{name}", getattr(self, name), getattr(self, name) >= 1, "at least 1")
        for name in ("recurrent_size", "filter_double_steps", "frame_cutoff", "reward_cutoff"):
            check_option(f"model.world_model.{name}", getattr(self, name), getattr(self, name) >= 0, "at least 0")
        for name in ("dropout", "residual_dropout"):
            check_option(f"model.world_model.{name}", getattr(self, name), 0 <= getattr(self, name) < 1, "in [0, 1)")
        for name in ("learning_rate", "max_grad_norm", "frame_weight", "reward_weight"):
            check_option(f"model.world_model.{name}", getattr(self, name), getattr(self, name) > 0, "positive")

    @property
    def loss_weights(self) -> dict[str, float]:
        """Factors on the losses: the paper adds them up."""
        weights = {"frames": self.frame_weight, "reward": self.reward_weight}
        # ends that nobody looks at would cost: one in thousands of steps moves all that Adam scales by rare gradients
        extra = {"end": self.predict_ends, "prior": self.latent is not None}
        return weights | {name: 1.0 for name, is_there in extra.items() if is_there}

    def build(self, obs_shape: Sequence[int], num_actions: int, *, num_rewards: int) -> NextFramePredictor:
        """The network, with its random start.

        Args:
            obs_shape: height, width and channels of a stack of frames.
            num_actions: of the game.
            num_rewards: classes of rewards.

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
    """Windows of real play, and the update that they are for."""

    windows: Windows
    update: int

    def __len__(self) -> int:
        return len(self.windows)

    def split(self, micro_batches: MicroBatchConfig) -> Sequence["WorldModelBatch"]:
        """The same windows in consecutive parts."""
        parts = micro_batches.even_parts(len(self), samples_each=self.windows.actions.shape[1])
        return [WorldModelBatch(windows=self.windows.rows(part), update=self.update) for part in parts]


def reward_classes(rewards: Float32[Tensor, "*shape"], values: Float32[Tensor, "R"]) -> Int64[Tensor, "*shape"]:
    """The class whose value is nearest; a reward is never taken for none, however small.

    The paper rounds to −1, 0 and 1, which makes nothing of Procgen's 0.04.
    """
    distances = (rewards.unsqueeze(-1) - values).abs()
    is_something = (rewards != 0).unsqueeze(-1) & (values == 0)
    return distances.masked_fill(is_something, torch.inf).argmin(-1)


def mixing(update: int, ramp: int) -> LatentMixing:
    """The latent's probabilities at an update, which grow until update `ramp`, or half of that.

    Reference:
        tensor2tensor, models/video/basic_stochastic.py and its hyper-parameters
    """
    grown = linear_ramp(update, ramp)
    return LatentMixing(discrete=grown, prior=0.5 * grown, use=0.8 * linear_ramp(update, max(1, ramp // 2)))


def own_frame_probability(update: int, ramp: int) -> float:
    """How often, at an update, the model is fed the frame that it has just predicted, and not the real one.

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
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Losses of the predictions along windows, means over all their steps.

    From the stack on, each frame that the model is fed is its own prediction or the real one. A recurrent model also
    predicts the frames that it is warmed up on. Steps that were not played in the window's episode add nothing to the
    sums, nor does the frame after an episode's end, which nobody could predict.
    """
    along = _remembered_losses if options.recurrent_size else _independent_losses
    mixed = mixing(batch.update, options.ramp)
    predict = partial(model, mixing=mixed, generator=generator)
    feed = partial(_fed, probability=own_frame_probability(batch.update, options.ramp), generator=generator)
    losses = partial(_losses, batch.windows, options, reward_values)
    return along(model, batch.windows, options.num_targets, predict, feed, losses)


def _remembered_losses(
    model: NextFramePredictor, windows: Windows, num_targets: int, predict: _Predict, feed: _Feed, losses: _Losses
) -> dict[str, Tensor]:
    """Step after step, each with the state that the one before left, through which its gradient goes back."""
    warm_up = windows.frames.shape[1] - num_targets - 1
    newest, state, rows = windows.frames[:, 0], None, []
    steps = zip(windows.actions.unbind(1), windows.frames[:, 1:].unbind(1), strict=True)
    for step, (action, target) in enumerate(steps):
        predicted = predict(newest, action, state=state, target=target)
        rows.append(losses(predicted, slice(step, step + 1)))
        own = partial(_likeliest, model, predicted.frames, newest)
        newest, state = target if step < warm_up else feed(own, target), predicted.state
    return {name: torch.stack([row[name] for row in rows]).mean() for name in rows[0]}


def _likeliest(
    model: NextFramePredictor, predictions: Tensor, newest: Tensor, which: Bool[Tensor, "N"]
) -> UInt8[Tensor, "n H W C"]:
    return model.likeliest(predictions[which], newest[which])


def _independent_losses(
    model: NextFramePredictor, windows: Windows, num_targets: int, predict: _Predict, feed: _Feed, losses: _Losses
) -> dict[str, Tensor]:
    """All steps in one batch, which keeps a processor busier than one after the other.

    No gradient goes back through a frame. So those that the model is to be fed are predicted first, without gradient,
    and only in windows that are fed them; dropout and codes are drawn anew then, which leaves the gradient's
    expectation as it was.
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
        cache_enabled=False,  # or torch 2.10 would take weights cast here below, without gradient (its #158232)
    )
    with torch.no_grad(), mixed_precision:
        predicted = predict(stack[which], actions[which], target=target[which])
    return model.likeliest(predicted.frames, stack[which])


def _fed(
    own_frames: _OwnFrames, real: UInt8[Tensor, "N H W C"], *, probability: float, generator: torch.Generator
) -> UInt8[Tensor, "N H W C"]:
    """The real frames, some of them replaced by the model's own."""
    own = torch.rand(len(real), generator=generator, device=generator.device) < probability
    if not own.any():
        return real
    fed = real.clone()
    fed[own] = own_frames(own)
    return fed


def _columns(steps: Shaped[Tensor, "N P *rest"]) -> Shaped[Tensor, "P*N *rest"]:
    """Steps of windows one after the other, all windows of a step together."""
    return steps.transpose(0, 1).flatten(0, 1)


def _losses(
    windows: Windows,
    options: WorldModelConfig,
    reward_values: Float32[Tensor, "R"],
    predicted: NextFrame,
    steps: slice,
) -> dict[str, Tensor]:
    """Of predictions of some steps, those of one step after those of the one before."""
    valid, ended = _columns(windows.valid[:, steps]).float(), _columns(windows.ended[:, steps])
    target = _columns(windows.frames[:, 1:][:, steps])
    if options.pixels == "softmax":
        frames = clipped_frame_cross_entropy(predicted.frames, target, cutoff=options.frame_cutoff)
    else:
        frames = clipped_frame_squared_error(predicted.frames.squeeze(-1), target, cutoff=options.frame_cutoff)
    classes = reward_classes(_columns(windows.rewards[:, steps]), reward_values)
    losses = {
        "frames": frames * ~ended,
        "reward": clipped_cross_entropy(predicted.reward_logits, classes, cutoff=options.reward_cutoff),
    }
    if predicted.end_logits is not None:
        losses["end"] = functional.binary_cross_entropy_with_logits(
            predicted.end_logits, ended.float(), reduction="none"
        )
    if predicted.prior_loss is not None:
        losses["prior"] = predicted.prior_loss * ~ended
    return {name: (valid * loss).mean() for name, loss in losses.items()}
