"""Prior of the discrete latent, which does not see the next frame."""

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn
from torch.nn import functional

from lightning_rl.networks.dropout import dropout
from lightning_rl.networks.init import unit_scaling_lstm_
from lightning_rl.networks.output_linear import OutputLinear
from lightning_rl.networks.stacked_linear import StackedLinear
from lightning_rl.networks.world_model.latent import LatentConfig

_ONE = 2.0**40
"""Probabilities are summed as integer multiples of 1/_ONE: on a GPU, torch sums floats in no fixed order."""


class BitPrior(nn.Module):
    """An LSTM that predicts the latent symbol by symbol from the bottleneck.

    Dense layers of the features give its initial state and first input. It runs in float32 even under mixed precision.

    Args:
        num_features: F.
        config: options of the latent.

    Reference:
        tensor2tensor, layers/discretization.py, `predict_bits_with_lstm`
    """

    powers: Tensor

    def __init__(self, num_features: int, config: LatentConfig) -> None:
        super().__init__()
        size, num_values = config.prior_size, 2**config.bits_per_symbol
        self.config = config
        self.num_features = num_features
        self.start = StackedLinear(num_features, size, count=3)
        self.embed = nn.Linear(num_values, size)
        self.lstm = nn.LSTM(size, size, batch_first=True)
        unit_scaling_lstm_(self.lstm)
        self.logits = OutputLinear(size, num_values)
        self.register_buffer("powers", 2 ** torch.arange(config.bits_per_symbol), persistent=False)

    def forward(
        self,
        features: Float[Tensor, "N {self.num_features}"],
        bits: Float32[Tensor, "N {self.config.num_bits}"],
        generator: torch.Generator | None = None,
    ) -> Float32[Tensor, "N"]:
        """Cross-entropy of the latent under the prior, in nats, averaged over symbols; the bits get no gradient.

        Args:
            features: the flattened bottleneck.
            bits: the latent, 1 and −1.
            generator: turns on dropout.
        """
        symbols = self.symbols(bits)
        with torch.autocast(features.device.type, enabled=False):
            first, state = self._initial(features)
            later = dropout(self._embedded(symbols[:, :-1]), self.config.prior_dropout, generator)
            outputs, _ = self.lstm(torch.cat([first, later], dim=1), state)
            logits = self.logits(dropout(outputs, self.config.prior_dropout, generator))
            # one row per symbol, since torch has no deterministic GPU kernel for more dimensions
            nats = functional.cross_entropy(logits.flatten(0, 1), symbols.flatten(), reduction="none")
        return nats.view_as(symbols).mean(1)

    def sample(
        self,
        features: Float[Tensor, "N {self.num_features}"],
        drawn: torch.Generator | Float32[Tensor, "Q N 1"],
        temperature: float = 1.0,
    ) -> Float32[Tensor, "N {self.config.num_bits}"]:
        """A sampled latent, 1 and −1, from one uniform number per symbol.

        Args:
            features: the flattened bottleneck.
            drawn: the numbers, or the generator that draws them, which may be on another device.
            temperature: probabilities p are those of p^(1 / temperature).
        """
        uniforms = drawn if isinstance(drawn, Tensor) else self.uniforms(len(features), drawn)
        symbols = []
        with torch.autocast(features.device.type, enabled=False):
            inputs, state = self._initial(features)
            for uniform in uniforms.to(features.device):
                outputs, state = self.lstm(inputs, state)
                probabilities = (self.logits(outputs.squeeze(1)) / temperature).softmax(-1)
                cumulative = (probabilities * _ONE).long().cumsum(-1)
                # the last sum is left out: it is one up to rounding
                symbols.append((cumulative[:, :-1] <= (uniform * _ONE).long()).sum(-1))
                inputs = self._embedded(symbols[-1].unsqueeze(1))
        return self.bits(torch.stack(symbols, dim=1))

    def uniforms(self, number: int, generator: torch.Generator) -> Float32[Tensor, "Q N 1"]:
        """Uniform numbers for so many latents, on the generator's device."""
        num_symbols = self.config.num_bits // self.config.bits_per_symbol
        return torch.rand((num_symbols, number, 1), generator=generator, device=generator.device)

    def symbols(self, bits: Float32[Tensor, "N {self.config.num_bits}"]) -> Int64[Tensor, "N S"]:
        """The symbols of a latent: each is a group of bits, the lowest first."""
        groups: Tensor = bits.unflatten(1, (-1, self.config.bits_per_symbol)) > 0
        return (groups * self.powers).sum(-1)

    def bits(self, symbols: Int64[Tensor, "N S"]) -> Float32[Tensor, "N {self.config.num_bits}"]:
        """The latent with these symbols."""
        return torch.where((symbols.unsqueeze(-1) & self.powers) > 0, 1.0, -1.0).flatten(1)

    def _embedded(self, symbols: Int64[Tensor, "N S"]) -> Float32[Tensor, "N S {self.config.prior_size}"]:
        embedded: Tensor = functional.embedding(symbols, self.embed.weight.T) + self.embed.bias
        return embedded

    def _initial(
        self, features: Float[Tensor, "N {self.num_features}"]
    ) -> tuple[Float32[Tensor, "N 1 P"], tuple[Float32[Tensor, "1 N P"], Float32[Tensor, "1 N P"]]]:
        """The LSTM's first input and initial state."""
        first, hidden, cell = self.start(features.float()).chunk(3, dim=1)
        return first.unsqueeze(1), (hidden.unsqueeze(0).contiguous(), cell.unsqueeze(0).contiguous())
