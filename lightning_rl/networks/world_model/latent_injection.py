"""Conditioning of the bottleneck on the discrete latent, from the posterior or from the prior."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor, nn

from lightning_rl.networks.world_model.injection import Injection
from lightning_rl.networks.world_model.latent import LatentConfig, LatentMixing
from lightning_rl.networks.world_model.posterior import Posterior
from lightning_rl.networks.world_model.prior import BitPrior


class LatentInjection(nn.Module):
    """Conditions the bottleneck on bits about the next frame, from a posterior that sees it or from a prior.

    There is no KL term: the information is limited by the number of bits and their noise, and the prior is trained to
    predict the posterior's bits.

    Args:
        obs_shape: height, width and channels of the posterior's input, which includes the next frame.
        bottleneck_shape: height, width and channels of the bottleneck.
        num_actions: A.
        hidden: channels of the posterior's first layer.
        config: options of the latent.

    Reference:
        Kaiser et al. 2019, section 4 and figure 2, https://arxiv.org/abs/1903.00374; tensor2tensor,
        models/video/basic_stochastic.py, `NextFrameBasicStochasticDiscrete`
    """

    def __init__(
        self,
        obs_shape: Sequence[int],
        bottleneck_shape: Sequence[int],
        num_actions: int,
        *,
        hidden: int,
        config: LatentConfig,
    ) -> None:
        super().__init__()
        height, width, channels = bottleneck_shape
        self.config = config
        self.posterior = Posterior(obs_shape, num_actions, hidden=hidden, config=config)
        self.prior = BitPrior(height * width * channels, config)
        self.injection = Injection(config.num_bits, channels)

    def forward(
        self,
        bottleneck: Float[Tensor, "N C H W"],
        images: Float[Tensor, "N K H0 W0"],
        actions: Float[Tensor, "N A"],
        mixing: LatentMixing,
        generator: torch.Generator | None,
    ) -> tuple[Float[Tensor, "N C H W"], Float32[Tensor, "N"]]:
        """The bottleneck conditioned on the next frame's latent, and the prior's loss for that latent.

        Args:
            bottleneck: features of the frames seen so far.
            images: the frames seen so far and the next one.
            actions: one-hot.
            mixing: probabilities of the latent's sources; without a generator, all bits are the posterior's.
            generator: turns on noise, mixing and the prior's dropout.
        """
        logits = self.posterior(images, actions)
        features = bottleneck.flatten(1)
        prior_loss = self.prior(features, _signs(logits.detach()), generator)
        if generator is None:
            return self.injection(bottleneck, _signs(logits)), prior_loss
        bits = self._mixed(self._noisy(logits, mixing.discrete, generator), features, mixing.prior, generator)
        used = _random_mask((len(bits), 1, 1, 1), mixing.use, generator, bits.device)
        return torch.where(used, self.injection(bottleneck, bits), bottleneck), prior_loss

    def imagine(
        self,
        bottleneck: Float[Tensor, "N C H W"],
        drawn: torch.Generator | Float32[Tensor, "Q N 1"],
        temperature: float = 1.0,
    ) -> Float[Tensor, "N C H W"]:
        """The bottleneck conditioned on a latent that `drawn` samples from the prior; see `BitPrior.sample`."""
        bits = self.prior.sample(bottleneck.flatten(1), drawn, temperature)
        injected: Tensor = self.injection(bottleneck, bits)
        return injected

    def _noisy(
        self, logits: Float32[Tensor, "N B"], discrete: float, generator: torch.Generator
    ) -> Float32[Tensor, "N B"]:
        """The posterior's bits, some of them flipped, and some continuous instead."""
        noise = truncated_normal(logits.shape, generator)
        soft = (logits + self.config.deviation * noise.to(logits.device)).tanh()
        flipped = _random_mask(logits.shape, self.config.noise, generator, logits.device)
        bits = torch.where(flipped, -1.0, 1.0) * straight_through_sign(soft)
        return torch.where(_random_mask(logits.shape, discrete, generator, logits.device), bits, soft)

    def _mixed(
        self,
        bits: Float32[Tensor, "N B"],
        features: Float[Tensor, "N F"],
        probability: float,
        generator: torch.Generator,
    ) -> Float32[Tensor, "N B"]:
        """The bits, some of them replaced by samples of the prior without gradient, as in the paper's code."""
        if probability == 0:  # sampling is slow: one LSTM step per symbol
            return bits
        with torch.no_grad():
            sampled = self.prior.sample(features, generator)
        return torch.where(_random_mask(bits.shape, probability, generator, bits.device), sampled, bits)


def straight_through_sign(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Sign with a straight-through gradient: 1 above zero, else −1, with the gradient of the identity.

    Reference:
        Bengio et al. 2013, Estimating or propagating gradients through stochastic neurons, section 3,
        https://arxiv.org/abs/1308.3432
    """
    return _signs(values) + (values - values.detach())


def _signs(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    return torch.where(values > 0, 1.0, -1.0).to(values.dtype)


def _random_mask(
    shape: Sequence[int], probability: float, generator: torch.Generator, device: torch.device
) -> Bool[Tensor, "..."]:
    """A mask whose elements are true with a probability; the generator may be on another device."""
    return torch.rand(shape, generator=generator, device=generator.device).to(device) < probability


def truncated_normal(shape: Sequence[int], generator: torch.Generator) -> Float32[Tensor, "..."]:
    """Standard normal noise between −2 and 2, on the generator's device.

    On a CPU torch's own, which rejects samples; it would wait for a GPU to tell which.
    """
    noise = torch.empty(tuple(shape), device=generator.device)
    if noise.device.type == "cpu":
        return nn.init.trunc_normal_(noise, a=-2, b=2, generator=generator)
    return inverted_normal(noise.uniform_(-1, 1, generator=generator))


def inverted_normal(uniforms: Float32[Tensor, "*shape"]) -> Float32[Tensor, "*shape"]:
    """Standard normal samples between −2 and 2 from uniform ones between −1 and 1."""
    return (uniforms * math.erf(math.sqrt(2))).erfinv() * math.sqrt(2)
