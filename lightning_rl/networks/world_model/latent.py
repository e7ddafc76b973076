"""Options of the discrete latent: bits about the next frame that the model cannot predict."""

from dataclasses import dataclass
from typing import NamedTuple

from lightning_rl.errors import check_option

_KEY = "model.world_model.latent"
_MAX_BITS_PER_SYMBOL = 16  # the prior has an output for each of 2^n symbols


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
        ValueError: a value outside its range, or `num_bits` is not a multiple of `bits_per_symbol`.
    """

    num_bits: int = 128
    bits_per_symbol: int = 8
    noise: float = 0.1
    deviation: float = 0.2
    channels: int = 128
    prior_size: int = 128
    prior_dropout: float = 0.1

    def __post_init__(self) -> None:
        for name in ("num_bits", "channels", "prior_size"):
            check_option(f"{_KEY}.{name}", getattr(self, name), getattr(self, name) >= 1, "at least 1")
        symbol, most = self.bits_per_symbol, _MAX_BITS_PER_SYMBOL
        check_option(f"{_KEY}.bits_per_symbol", symbol, 1 <= symbol <= most, f"from 1 to {most}")
        whole = self.num_bits % symbol == 0
        check_option(f"{_KEY}.num_bits", self.num_bits, whole, f"a multiple of bits_per_symbol {symbol}")
        check_option(f"{_KEY}.noise", self.noise, 0 <= self.noise <= 1, "in [0, 1]")
        check_option(f"{_KEY}.deviation", self.deviation, self.deviation >= 0, "at least 0")
        check_option(f"{_KEY}.prior_dropout", self.prior_dropout, 0 <= self.prior_dropout < 1, "in [0, 1)")


class LatentMixing(NamedTuple):
    """Probabilities of the latent's sources at the current update; by default, the posterior's bits are always used.

    In the paper's code `discrete` grows from 0.01 to 1 over 40 000 steps, `prior` to 0.5 over as many, and `use` to 0.8
    over half as many.
    """

    discrete: float = 1.0  # for each bit, of the sign instead of the tanh
    prior: float = 0.0  # for each bit, of the prior's sample instead of the posterior's bit
    use: float = 1.0  # for each example, of injecting the latent at all
