"""What the model's bottleneck is told of the next frame: seen while it learns, guessed while it imagines."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor, nn

from lightning_rl.networks.world_model.injection import Injection
from lightning_rl.networks.world_model.latent import LatentConfig, LatentMixing
from lightning_rl.networks.world_model.posterior import Posterior
from lightning_rl.networks.world_model.prior import BitPrior


class LatentInjection(nn.Module):
    """Tells the model's bottleneck what the next frame holds: bits of a posterior that sees it, or of a prior.

    There is no divergence between the two: the bits are few and noisy, and the prior follows the posterior.

    Args:
        obs_shape: height, width and channels of the frames that the posterior sees, the one to come among them.
        bottleneck_shape: height, width and channels of the bottleneck.
        num_actions: A.
        hidden: channels that the posterior turns the frames into first.
        config: the code.

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
        """The bottleneck with the code of the frame to come, and what the prior pays for that code.

        Args:
            bottleneck: what is known.
            images: the frames, with the one to come.
            actions: one-hot.
            mixing: where bits come from while learning; without a generator they are the posterior's, all of them.
            generator: switches noise, mixing and the prior's dropout on.
        """
        logits = self.posterior(images, actions)
        features = bottleneck.flatten(1)
        prior_loss = self.prior(features, _signs(logits.detach()), generator)
        if generator is None:
            return self.injection(bottleneck, _signs(logits)), prior_loss
        bits = self._mixed(self._noisy(logits, mixing.discrete, generator), features, mixing.prior, generator)
        used = _chosen((len(bits), 1, 1, 1), mixing.use, generator, bits.device)
        return torch.where(used, self.injection(bottleneck, bits), bottleneck), prior_loss

    def imagined(self, bottleneck: Float[Tensor, "N C H W"], generator: torch.Generator) -> Float[Tensor, "N C H W"]:
        """The bottleneck with a code drawn from the prior."""
        injected: Tensor = self.injection(bottleneck, self.prior.sampled(bottleneck.flatten(1), generator))
        return injected

    def _noisy(
        self, logits: Float32[Tensor, "N B"], discrete: float, generator: torch.Generator
    ) -> Float32[Tensor, "N B"]:
        """The posterior's bits, some flipped, some not yet discrete."""
        noise = torch.empty(logits.shape, device=generator.device)
        nn.init.trunc_normal_(noise, a=-2, b=2, generator=generator)
        soft = (logits + self.config.deviation * noise.to(logits.device)).tanh()
        flipped = _chosen(logits.shape, self.config.noise, generator, logits.device)
        bits = torch.where(flipped, -1.0, 1.0) * straight_through_sign(soft)
        return torch.where(_chosen(logits.shape, discrete, generator, logits.device), bits, soft)

    def _mixed(
        self,
        bits: Float32[Tensor, "N B"],
        features: Float[Tensor, "N F"],
        probability: float,
        generator: torch.Generator,
    ) -> Float32[Tensor, "N B"]:
        """The bits, some of them as the prior guesses them: those pass no gradient, as in the paper's code."""
        if probability == 0:  # sampling takes as many steps of the LSTM as there are symbols
            return bits
        with torch.no_grad():
            guessed = self.prior.sampled(features, generator)
        return torch.where(_chosen(bits.shape, probability, generator, bits.device), guessed, bits)


def straight_through_sign(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """1 above zero, else −1, with the gradient of the identity.

    Reference:
        Bengio et al. 2013, Estimating or propagating gradients through stochastic neurons, section 3,
        https://arxiv.org/abs/1308.3432
    """
    return _signs(values) + (values - values.detach())


def _signs(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    return torch.where(values > 0, 1.0, -1.0).to(values.dtype)


def _chosen(
    shape: Sequence[int], probability: float, generator: torch.Generator, device: torch.device
) -> Bool[Tensor, "..."]:
    """True with a probability, for each element; the generator may live elsewhere."""
    return torch.rand(shape, generator=generator, device=generator.device).to(device) < probability
