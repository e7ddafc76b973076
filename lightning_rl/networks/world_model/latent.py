"""What a model cannot know of the next frame, as bits: sizes, noise, and where bits come from while it learns."""

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, kw_only=True)
class LatentConfig:
    """Sizes and noise of the latent code of a next frame.

    Args:
        num_bits: length of the code.
        bits_per_symbol: how many bits the prior predicts at once, as one of 2 to their number symbols.
        noise: probability that a bit is flipped while learning.
        deviation: of the normal noise, cut at two deviations, on the logits of the bits while learning.
        channels: of the first convolution over the frames and the one to come; the second has four times as many.
        prior_size: units of the prior's LSTM.
        prior_dropout: probability of dropping an input or output of the LSTM while learning.

    Raises:
        ValueError: the bits are not a whole number of symbols.
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
    """Probabilities at the current step of the learning; the defaults are where bits are what they will be in use.

    They ramp up in the paper's code: `discrete` from 0.01 to 1 over 40 000 steps, `prior` to 0.5 over as many, `use` to
    0.8 over half as many.
    """

    discrete: float = 1.0  # of a bit rather than the tanh that it is the sign of, for each bit
    prior: float = 0.0  # of a bit that the prior guessed rather than the one seen, for each bit
    use: float = 1.0  # of a code rather than none, for each example
