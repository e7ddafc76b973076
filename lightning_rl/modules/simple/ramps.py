"""Probabilities that grow while a world model learns."""


def linear_ramp(step: int, end: int, *, start: float = 0.01) -> float:
    """From `start` at step 0 in a line to 1 at step `end`, and 1 from there on.

    Reference:
        tensor2tensor, layers/common_layers.py, `inverse_lin_decay`
    """
    return start + (1 - start) * min(step / end, 1.0)


def exponential_ramp(step: int, end: int, *, start: float = 0.01) -> float:
    """From `start` at step 0, growing by the same factor each step, to 1 at step `end`, and 1 from there on.

    Reference:
        tensor2tensor, layers/common_layers.py, `inverse_exp_decay`
    """
    return float(start ** (max(end - step, 0) / end))
