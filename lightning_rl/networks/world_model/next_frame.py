"""The world model of SimPLe: frames and an action to the next frame, its reward, and whether the episode ends."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Float32, Int64, UInt8
from torch import Tensor, nn
from torch.nn import functional

from lightning_rl.networks.init import uniform_unit_scaling_
from lightning_rl.networks.output_linear import OutputLinear
from lightning_rl.networks.world_model.encoder_decoder import Down, Middle, Up
from lightning_rl.networks.world_model.injection import Injection
from lightning_rl.networks.world_model.latent import LatentConfig, LatentMixing
from lightning_rl.networks.world_model.latent_injection import LatentInjection
from lightning_rl.networks.world_model.memory import Memory
from lightning_rl.networks.world_model.pixels import PixelLogits, PixelValues, most_likely_frames, standardized
from lightning_rl.networks.world_model.timing_signal import TimingSignal

Pixels = Literal["softmax", "squared"]
Pooling = Literal["mean", "mean_max"]
LatentSource = Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]]


class NextFrame(NamedTuple):
    """What follows one step, as far as the model can tell."""

    frames: Float32[Tensor, "N H W C V"]
    """Logits of a sub-pixel's 256 values or, with `squared` pixels, the one value itself, 0 to 255 and a bit beyond."""
    reward_logits: Float32[Tensor, "N R"]
    end_logits: Float32[Tensor, "N"] | None
    """Of the episode ending with this step, where the model tells."""
    state: Float32[Tensor, "N S H W"] | None
    """What a recurrent model remembers after this step."""
    prior_loss: Float32[Tensor, "N"] | None
    """Nats that the prior pays for the code of the frame to come, where that was seen."""


class Imagined(NamedTuple):
    """A step in the model instead of the game."""

    frames: UInt8[Tensor, "N H W C"]
    reward_probabilities: Float32[Tensor, "N R"]
    end_probabilities: Float32[Tensor, "N"]
    state: Float32[Tensor, "N S H W"] | None


class PooledHead(nn.Sequential):
    """What is read off a whole prediction: a hidden layer of 128 over what is pooled of bottleneck and last image.

    Args:
        num_features: numbers pooled of both.
        num_outputs: how many numbers.
    """

    def __init__(self, num_features: int, num_outputs: int) -> None:
        super().__init__(nn.Linear(num_features, 128), nn.ReLU(), OutputLinear(128, num_outputs))


class NextFramePredictor(nn.Module):
    """Predicts the next frame from four, or from one and a memory, and the action.

    A convolutional encoder and decoder with skips, in which every step of the decoder hears of the action, and the
    bottleneck between them of a discrete latent code. With `recurrent_size` it is the network of the paper's code,
    which sees a frame at a time beside a state. With 0 it is the one of the paper's text, which sees the last
    `num_frames`. The defaults are the paper's `next_frame_basic_stochastic_discrete`.

    Beyond the paper: `predict_ends`, with a head like the reward's. With `squared` pixels the network predicts what
    changes, in units of 64 grey levels, from a head that begins near zero: it starts as a copy of the last frame, and
    learns with the rates of the other losses.

    A state carried from step to step is the state of the window run again: the update hears of frames alone, neither
    of dropout nor of codes, so the paper's simulation, which runs four frames for each step, repeats itself.

    Args:
        obs_shape: height, width and channels of one frame.
        num_actions: A.
        num_rewards: R, classes of rewards.
        num_frames: how many a model without memory sees.
        hidden: channels at full size.
        compress_steps: how often the encoder halves.
        filter_double_steps: how many of those double the channels.
        middle_layers: convolutions at the bottleneck.
        dropout: probability of dropping a feature, in encoder and decoder, while learning.
        residual_dropout: the same at the bottleneck.
        pixels: a distribution over each sub-pixel's values, or the value itself.
        latent: the code; null for a deterministic model.
        recurrent_size: S, channels of the memory; 0 for none.
        pooling: what reward and end are read off: means over positions, as published, or maxima beside them. An event
            of a few pixels that changes no score on the screen, as in Procgen, is lost in a mean over thousands.
        predict_ends: tell whether the episode ends; otherwise no imagined one does.
        tolerance: with `squared` pixels, the largest predicted change that is taken for none; see `most_likely_frames`.

    Raises:
        ValueError: the frame is too small to be halved so often.

    Reference:
        Kaiser et al. 2019, Model-based reinforcement learning for Atari, section 4, https://arxiv.org/abs/1903.00374;
        tensor2tensor, models/video/basic_deterministic.py, `next_frame`, and basic_stochastic.py
    """

    def __init__(
        self,
        obs_shape: Sequence[int],
        num_actions: int,
        num_rewards: int,
        *,
        num_frames: int = 4,
        hidden: int = 96,
        compress_steps: int = 6,
        filter_double_steps: int = 3,
        middle_layers: int = 2,
        dropout: float = 0.15,
        residual_dropout: float = 0.5,
        pixels: Pixels = "softmax",
        latent: LatentConfig | None = LatentConfig(),  # noqa: B008  # frozen
        recurrent_size: int = 64,
        pooling: Pooling = "mean",
        predict_ends: bool = True,
        tolerance: float = 0.0,
    ) -> None:
        super().__init__()
        height, width, channels = obs_shape
        sizes = _halved_sizes(height, width, compress_steps)
        widths = [hidden * 2 ** min(step, filter_double_steps) for step in range(compress_steps + 1)]
        seen = channels if recurrent_size else num_frames * channels
        self.num_actions = num_actions
        self.channels = channels
        self.tolerance = tolerance
        self.memory = Memory(channels, recurrent_size) if recurrent_size else None
        self.embed = nn.Conv2d(seen + recurrent_size, hidden, 1)
        self.timing = TimingSignal(height, width, hidden)
        levels = list(zip(sizes, pairwise(widths), strict=False))
        self.downs = nn.ModuleList(Down(size, between, dropout=dropout) for size, between in levels)
        self.action = Injection(num_actions, widths[-1])
        self.latent = None
        if latent is not None:
            self.latent = LatentInjection(
                (height, width, seen + channels), (*sizes[-1], widths[-1]), num_actions, hidden=hidden, config=latent
            )
        self.middle = Middle(sizes[-1], widths[-1], middle_layers, dropout=residual_dropout)
        self.ups = nn.ModuleList(
            Up(size, (after, before), num_actions, dropout=dropout) for size, (before, after) in reversed(levels)
        )
        self.pixels = (PixelLogits if pixels == "softmax" else PixelValues)(hidden, channels)
        self.pool = _mean if pooling == "mean" else _mean_and_max
        num_pooled = (widths[-1] + hidden) * (1 if pooling == "mean" else 2)
        self.reward = PooledHead(num_pooled, num_rewards)
        self.end = PooledHead(num_pooled, 1) if predict_ends else None
        self._initialise()

    def _initialise(self) -> None:
        uniform_unit_scaling_(self)
        embeds = [self.embed] if self.latent is None else [self.embed, self.latent.posterior.embed]
        for embed in embeds:
            if embed.bias is not None:
                nn.init.normal_(embed.bias, std=0.01)  # for frames of one colour, which are zero once standardised
        uniform_unit_scaling_(self.pixels, self.pixels.gain)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch's stubs

    def forward(
        self,
        obs: UInt8[Tensor, "N H W K"],
        actions: Int64[Tensor, "N"],
        *,
        state: Float32[Tensor, "N S H W"] | None = None,
        target: UInt8[Tensor, "N H W {self.channels}"] | None = None,
        mixing: LatentMixing = LatentMixing(),  # noqa: B008  # a tuple
        generator: torch.Generator | None = None,
    ) -> NextFrame:
        """The prediction of a step, to learn from.

        Args:
            obs: the last frames, the newest last, or only the newest where the model remembers.
            actions: what was done.
            state: what the model remembers of earlier frames; null at the beginning.
            target: the frame to come, which the code is of; without it, the code is drawn from the prior.
            mixing: where bits come from while learning.
            generator: on the model's device; switches dropout, noise and mixing on, and draws the code.

        Raises:
            ValueError: a code is to be drawn and there is no generator.
        """
        if target is None:
            return self._predicted(obs, actions, state, partial(self._imagined_code, generator=generator), generator)
        images = torch.cat([standardized(obs), standardized(target)], dim=1)
        code = partial(self._seen_code, images=images, mixing=mixing, generator=generator)
        return self._predicted(obs, actions, state, code, generator)

    def predicted(
        self,
        obs: UInt8[Tensor, "N H W K"],
        actions: Int64[Tensor, "N"],
        generator: torch.Generator | None,
        *,
        state: Float32[Tensor, "N S H W"] | None = None,
    ) -> NextFrame:
        """The prediction of a step, to act on: nothing is dropped out, and the generator, of any device, draws codes.

        Raises:
            ValueError: a code is to be drawn and there is no generator.
        """
        return self._predicted(obs, actions, state, partial(self._imagined_code, generator=generator), None)

    def imagined(
        self,
        obs: UInt8[Tensor, "N H W K"],
        actions: Int64[Tensor, "N"],
        generator: torch.Generator | None,
        *,
        state: Float32[Tensor, "N S H W"] | None = None,
    ) -> Imagined:
        """The frame that is most likely under the code that the generator draws, and what may come with it."""
        likely = self.predicted(obs, actions, generator, state=state)
        ends = obs.new_zeros(len(obs)).float() if likely.end_logits is None else likely.end_logits.sigmoid()
        return Imagined(
            frames=self.likeliest(likely.frames, obs),
            reward_probabilities=likely.reward_logits.softmax(-1),
            end_probabilities=ends,
            state=likely.state,
        )

    def likeliest(
        self, frames: Float32[Tensor, "N H W C V"], obs: UInt8[Tensor, "N H W K"]
    ) -> UInt8[Tensor, "N H W {self.channels}"]:
        """The likeliest next frame of a prediction from `obs`."""
        return most_likely_frames(frames, obs[..., -self.channels :], tolerance=self.tolerance)

    def remembered(
        self, obs: UInt8[Tensor, "N H W {self.channels}"], state: Float32[Tensor, "N S H W"] | None = None
    ) -> Float32[Tensor, "N S H W"] | None:
        """The state after a frame that nothing is predicted from, such as those before the first imagined step."""
        return self._recalled(obs, state)[1]

    def _recalled(self, obs: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """What the model knows before it predicts, frames beside the old state, and the next state."""
        images = standardized(obs)
        if self.memory is None:
            return images, None
        if state is None:
            state = images.new_zeros(len(images), self.memory.size, *images.shape[2:])
        known = torch.cat([images, state], dim=1)
        return known, self.memory(known, state)

    def _predicted(
        self, obs: Tensor, actions: Tensor, state: Tensor | None, code: LatentSource, generator: torch.Generator | None
    ) -> NextFrame:
        known, next_state = self._recalled(obs, state)
        action = functional.one_hot(actions, self.num_actions).float()
        images = self.timing(self.embed(known))
        skipped = []
        for down in self.downs:
            skipped.append(images)
            images = down(images, generator)
        images, prior_loss = code(self.action(images, action), action)
        middle = self.pool(images)
        images = self.middle(images, generator)
        for up, skip in zip(self.ups, reversed(skipped), strict=True):
            images = up(images, skip, action, generator)
        features = torch.cat([middle, self.pool(images)], dim=1)
        frames = self.pixels(images, obs[..., -self.channels :])
        end = None if self.end is None else self.end(features).squeeze(1)
        return NextFrame(frames, self.reward(features), end, next_state, prior_loss)

    def _seen_code(
        self,
        bottleneck: Tensor,
        action: Tensor,
        *,
        images: Tensor,
        mixing: LatentMixing,
        generator: torch.Generator | None,
    ) -> tuple[Tensor, Tensor | None]:
        if self.latent is None:
            return bottleneck, None
        injected, prior_loss = self.latent(bottleneck, images, action, mixing, generator)
        return injected, prior_loss

    def _imagined_code(
        self, bottleneck: Tensor, action: Tensor, *, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor | None]:
        if self.latent is None:
            return bottleneck, None
        if generator is None:
            raise ValueError("generator: a model with a latent code draws it, found None")
        return self.latent.imagined(bottleneck, generator), None


def _mean(images: Float[Tensor, "N C H W"]) -> Float32[Tensor, "N C"]:
    """Over positions; a sum over the rows of a matrix is the quickest on channels-last images."""
    rows = images.permute(0, 2, 3, 1).flatten(1, 2)
    if rows.device.type == "cpu" and rows.dtype == torch.bfloat16:  # which `mean` would copy to float32 first
        sums = rows.new_ones(len(rows), 1, rows.shape[1]) @ rows
        return sums.squeeze(1).float() / rows.shape[1]
    return rows.mean(1, dtype=torch.float32)


def _mean_and_max(images: Float[Tensor, "N C H W"]) -> Float32[Tensor, "N 2*C"]:
    if images.device.type == "cpu":  # where amax would take twenty times as long; of equal pixels one has the gradient
        largest = functional.max_pool2d(images, images.shape[2:]).flatten(1)
    else:
        largest = images.flatten(2).amax(2)
    return torch.cat([_mean(images), largest.float()], dim=1)


def _halved_sizes(height: int, width: int, steps: int) -> list[tuple[int, int]]:
    """Heights and widths from full size on, odd ones rounded up."""
    most = (min(height, width) - 1).bit_length()
    if steps > most:
        raise ValueError(
            f"compress_steps must be at most {most} for frames of obs_shape {height}×{width}, found {steps}"
        )
    sizes = [(height, width)]
    for _ in range(steps):
        height, width = -(-height // 2), -(-width // 2)
        sizes.append((height, width))
    return sizes
