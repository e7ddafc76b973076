"""Several dense layers of the same input, computed as one."""

from torch import nn


class StackedLinear(nn.Linear):
    """Dense layers whose outputs stand one after the other; initial weights and Adafactor treat each on its own.

    Args:
        in_features: I, inputs of all of them.
        out_features: outputs of each.
        count: number of layers.
    """

    def __init__(self, in_features: int, out_features: int, *, count: int) -> None:
        super().__init__(in_features, count * out_features)
        self.count = count
