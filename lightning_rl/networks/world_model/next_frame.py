"""SimPLe's world model: predicts the next frame, the reward and the end of the episode."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Float32, Int64, UInt8
from torch import Tensor, nn
from torch.nn import functional

from lightning_rl.networks.init import uniform_unit_scaling_
from lightning_rl.networks.memory_format import channels_last
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
Drawn = torch.Generator | Float32[Tensor, "Q N 1"] | None
"""Uniform numbers, or the generator that draws them; None where nothing is sampled."""


class NextFrame(NamedTuple):
    """The model's prediction of one step."""

    frames: Float32[Tensor, "N H W C V"]
    """Logits of each sub-pixel's 256 values or, with `squared` pixels, the predicted value, about 0 to 255."""
    reward_logits: Float32[Tensor, "N R"]
    end_logits: Float32[Tensor, "N"] | None
    """Logit of the episode ending with this step; None if the model predicts no ends."""
    state: Float32[Tensor, "N S H W"] | None
    """Recurrent state after this step; None if the model has none."""
    prior_loss: Float32[Tensor, "N"] | None
    """Cross-entropy of the next frame's latent under the prior, in nats; None if that frame was not given."""


class Imagined(NamedTuple):
    """An imagined step: the most likely next frame, and probabilities of rewards and of an end."""

    frames: UInt8[Tensor, "N H W C"]
    reward_probabilities: Float32[Tensor, "N R"]
    end_probabilities: Float32[Tensor, "N"]
    state: Float32[Tensor, "N S H W"] | None


class PooledHead(nn.Sequential):
    """Head with a hidden layer of 128 on features pooled from the bottleneck and the decoder's output.

    Args:
        num_features: number of pooled features.
        num_outputs: number of outputs.
    """

    def __init__(self, num_features: int, num_outputs: int) -> None:
        super().__init__(nn.Linear(num_features, 128), nn.ReLU(), OutputLinear(128, num_outputs))

    @property
    def output(self) -> OutputLinear:
        """The last layer."""
        layer = self[-1]
        assert isinstance(layer, OutputLinear)
        return layer

    def initialize(self) -> None:
        """Draws the output layer's weights, which the published code does not scale uniformly as all others.

        Reference:
            tensor2tensor, layers/modalities.py, `symbol_top`
        """
        nn.init.normal_(self.output.weight, std=self.output.in_features**-0.5)


class NextFramePredictor(nn.Module):
    """Predicts the next frame from the action and the last frames, or from the last frame and a recurrent state.

    The network is a convolutional encoder and decoder with skip connections. The action conditions every step of the
    decoder, and a discrete latent conditions the bottleneck. With `recurrent_size` it is the network of the paper's
    code, which sees one frame and a recurrent state. With 0 it is the network of the paper's text, which sees the last
    `num_frames`. The defaults are those of the paper's `next_frame_basic_stochastic_discrete`.

    Two options go beyond the paper. With `predict_ends`, a head like the reward's predicts ends of episodes. With
    `squared` pixels, the network predicts changes in units of 64 gray levels with an output layer that starts near
    zero: its first predictions copy the last frame, and it can be trained at the learning rate of the other losses.

    The recurrent state depends only on frames, neither on dropout nor on latents. Carrying it from step to step thus
    equals re-running a window of four frames at each step, as the paper does.

    Args:
        obs_shape: height, width and channels of one frame.
        num_actions: A.
        num_rewards: R, number of reward classes.
        num_frames: number of frames seen by a model without recurrent state.
        hidden: channels at full size.
        compress_steps: how often the encoder halves the size.
        filter_double_steps: how many of these steps double the channels.
        middle_layers: number of convolutions at the bottleneck.
        dropout: probability of dropping a feature of encoder or decoder during training.
        residual_dropout: the same at the bottleneck.
        pixels: `softmax` predicts a distribution over each sub-pixel's values, `squared` the value itself.
        latent: options of the latent; null for a deterministic model.
        recurrent_size: S, channels of the recurrent state; 0 for none.
        pooling: pool the features for reward and end by means over positions, as published, or by means and maxima. An
            event of a few pixels that changes no score on the screen, as in Procgen, is lost in a mean over thousands.
        predict_ends: predict ends of episodes; otherwise imagined episodes do not end.
        tolerance: with `squared` pixels, the largest predicted change treated as zero; see `most_likely_frames`.

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
        self._initialize()

    def _initialize(self) -> None:
        uniform_unit_scaling_(self)
        embeds = [self.embed] if self.latent is None else [self.embed, self.latent.posterior.embed]
        for embed in embeds:
            if embed.bias is not None:
                nn.init.normal_(embed.bias, std=0.01)  # frames of a single color are all zeros once standardized
        for part in (self.reward, self.end, self.pixels):
            if isinstance(part, PooledHead | PixelValues):
                part.initialize()
        channels_last(self)

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
        """Predicts one step for training.

        Args:
            obs: the last frames, the newest last; only the newest for a recurrent model.
            actions: the actions taken.
            state: recurrent state after the frames before; None at the beginning.
            target: the next frame, which the posterior sees; without it, the latent is sampled from the prior.
            mixing: probabilities of the latent's sources.
            generator: on the model's device; turns on dropout, noise and mixing, and samples the latent.

        Raises:
            ValueError: a latent must be sampled and there is no generator.
        """
        if target is None:
            return self._predict(obs, actions, state, partial(self._prior_latent, drawn=generator), generator)
        images = torch.cat([standardized(obs), standardized(target)], dim=1)
        inject = partial(self._posterior_latent, images=images, mixing=mixing, generator=generator)
        return self._predict(obs, actions, state, inject, generator)

    def predict(
        self,
        obs: UInt8[Tensor, "N H W K"],
        actions: Int64[Tensor, "N"],
        drawn: Drawn,
        *,
        state: Float32[Tensor, "N S H W"] | None = None,
        temperature: float = 1.0,
    ) -> NextFrame:
        """Predicts one step without dropout; `drawn` samples the latent; see `uniforms`.

        Raises:
            ValueError: a latent must be sampled and nothing is drawn.
        """
        inject = partial(self._prior_latent, drawn=drawn, temperature=temperature)
        return self._predict(obs, actions, state, inject, None)

    def imagine(
        self,
        obs: UInt8[Tensor, "N H W K"],
        actions: Int64[Tensor, "N"],
        drawn: Drawn,
        *,
        state: Float32[Tensor, "N S H W"] | None = None,
        temperature: float = 1.0,
    ) -> Imagined:
        """Imagines one step with a latent that `drawn` samples from the prior; see `uniforms`.

        All probabilities p, the latent's among them, are those of p^(1 / temperature).
        """
        predicted = self.predict(obs, actions, drawn, state=state, temperature=temperature)
        ends = predicted.end_logits
        return Imagined(
            frames=self.likeliest(predicted.frames, obs),
            reward_probabilities=(predicted.reward_logits / temperature).softmax(-1),
            end_probabilities=obs.new_zeros(len(obs)).float() if ends is None else (ends / temperature).sigmoid(),
            state=predicted.state,
        )

    def uniforms(self, number: int, generator: torch.Generator) -> Float32[Tensor, "Q N 1"] | None:
        """Numbers that sample the latents of so many frames; None without a latent."""
        return None if self.latent is None else self.latent.prior.uniforms(number, generator)

    def likeliest(
        self, frames: Float32[Tensor, "N H W C V"], obs: UInt8[Tensor, "N H W K"]
    ) -> UInt8[Tensor, "N H W {self.channels}"]:
        """The most likely next frames of a prediction from `obs`."""
        return most_likely_frames(frames, obs[..., -self.channels :], tolerance=self.tolerance)

    def next_state(
        self, obs: UInt8[Tensor, "N H W {self.channels}"], state: Float32[Tensor, "N S H W"] | None = None
    ) -> Float32[Tensor, "N S H W"] | None:
        """Recurrent state after a frame that needs no prediction, such as those before the first imagined step."""
        return self._remember(obs, state)[1]

    def _remember(self, obs: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The network's input, which is frames and the old state, and the next state."""
        images = standardized(obs)
        if self.memory is None:
            return images, None
        if state is None:
            state = images.new_zeros(len(images), self.memory.size, *images.shape[2:])
        inputs = torch.cat([images, state], dim=1)
        return inputs, self.memory(inputs, state)

    def _predict(
        self,
        obs: Tensor,
        actions: Tensor,
        state: Tensor | None,
        inject: LatentSource,
        generator: torch.Generator | None,
    ) -> NextFrame:
        inputs, next_state = self._remember(obs, state)
        action = functional.one_hot(actions, self.num_actions).float()
        images = self.timing(self.embed(inputs))
        skipped = []
        for down in self.downs:
            skipped.append(images)
            images = down(images, generator)
        images, prior_loss = inject(self.action(images, action), action)
        middle = self.pool(images)
        images = self.middle(images, generator)
        for up, skip in zip(self.ups, reversed(skipped), strict=True):
            images = up(images, skip, action, generator)
        features = torch.cat([middle, self.pool(images)], dim=1)
        frames = self.pixels(images, obs[..., -self.channels :])
        end = None if self.end is None else self.end(features).squeeze(1)
        return NextFrame(frames, self.reward(features), end, next_state, prior_loss)

    def _posterior_latent(
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

    def _prior_latent(
        self, bottleneck: Tensor, action: Tensor, *, drawn: Drawn, temperature: float = 1.0
    ) -> tuple[Tensor, Tensor | None]:
        if self.latent is None:
            return bottleneck, None
        if drawn is None:
            raise ValueError("generator must be given to sample the latent, found None")
        return self.latent.imagine(bottleneck, drawn, temperature), None


def _mean(images: Float[Tensor, "N C H W"]) -> Float32[Tensor, "N C"]:
    """Mean over positions; a sum over matrix rows is the fastest for channels_last images."""
    rows = images.permute(0, 2, 3, 1).flatten(1, 2)
    if rows.device.type == "cpu" and rows.dtype == torch.bfloat16:  # `mean` would copy them to float32 first
        sums = rows.new_ones(len(rows), 1, rows.shape[1]) @ rows
        return sums.squeeze(1).float() / rows.shape[1]
    return rows.mean(1, dtype=torch.float32)


def _mean_and_max(images: Float[Tensor, "N C H W"]) -> Float32[Tensor, "N 2*C"]:
    if images.device.type == "cpu":  # amax takes twenty times as long; among equal maxima one gets the gradient
        largest = functional.max_pool2d(images, images.shape[2:]).flatten(1)
    else:
        largest = images.flatten(2).amax(2)
    return torch.cat([_mean(images), largest.float()], dim=1)


def _halved_sizes(height: int, width: int, steps: int) -> list[tuple[int, int]]:
    """Heights and widths after each halving, starting with the full size; odd ones are rounded up."""
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
