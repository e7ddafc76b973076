"""Options of the discrete latent: bits about the next frame that the model cannot predict."""

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, kw_only=True)
class LatentConfig:
    """Sizes and noise of the discrete latent of the next frame.

    Args:
        num_bits: length of the latent.
        bits_per_symbol: bits that the prior predicts at once, as one symbol.
        noise: probability of flipping a bit during training.
        deviation: standard deviation of the Gaussian noise on the logits during training, truncated at two of them.
        channels: channels of the posterior's first convolution; the second has four times as many.
        prior_size: hidden size of the prior's LSTM.
        prior_dropout: probability of dropping an input or output of the LSTM during training.

    Raises:
        ValueError: `num_bits` is not a multiple of `bits_per_symbol`.
    """

    num_bits: int = 128
    bits_per_symbol: int = 8
    noise: float = 0.1
    deviation: float = 0.2
    channels: int = 128
    prior_size: int = 128
    prior_dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.num_bits % self.bits_per_symbol:
            raise ValueError(
                f"num_bits must be a multiple of bits_per_symbol {self.bits_per_symbol}, found {self.num_bits}"
            )


class LatentMixing(NamedTuple):
    """Probabilities of the latent's sources at the current update; by default, the posterior's bits are always used.

    In the paper's code `discrete` grows from 0.01 to 1 over 40 000 steps, `prior` to 0.5 over as many, and `use` to 0.8
    over half as many.
    """

    discrete: float = 1.0  # for each bit, of the sign instead of the tanh
    prior: float = 0.0  # for each bit, of the prior's sample instead of the posterior's bit
    use: float = 1.0  # for each example, of injecting the latent at all
