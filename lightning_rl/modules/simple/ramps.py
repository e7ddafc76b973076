"""Probabilities that grow while the world model learns (scheduled sampling)."""


def linear_ramp(step: int, end: int, *, start: float = 0.01) -> float:
    """Grows linearly from `start` at step 0 to 1 at step `end`, and stays 1.

    Reference:
        tensor2tensor, layers/common_layers.py, `inverse_lin_decay`
    """
    return start + (1 - start) * min(step / end, 1.0)


def exponential_ramp(step: int, end: int, *, start: float = 0.01) -> float:
    """Grows exponentially from `start` at step 0 to 1 at step `end`, and stays 1.

    Reference:
        tensor2tensor, layers/common_layers.py, `inverse_exp_decay`
    """
    return float(start ** (max(end - step, 0) / end))
