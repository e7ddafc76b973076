"""Weight initializers, each with the source of its constants."""

import math

from torch import nn

from lightning_rl.networks.output_linear import OutputLinear
from lightning_rl.networks.stacked_linear import StackedLinear


def glorot_(module: nn.Module) -> None:
    """Glorot-uniform weights and zero biases for every convolution and dense layer in `module`, in place.

    Reference:
        The default of `tf.layers`, which OpenAI's IMPALA CNN keeps: openai/baselines, common/models.py,
        `build_impala_cnn`
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def orthogonal_linear(in_features: int, out_features: int, gain: float) -> OutputLinear:
    """An output layer with orthogonal weights of norm `gain` and zero bias.

    Reference:
        openai/baselines, a2c/utils.py, `ortho_init` and `fc`
    """
    layer = OutputLinear(in_features, out_features)
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


def uniform_unit_scaling_(module: nn.Module, gain: float = 1.3) -> None:
    """Uniform weights and zero biases for every convolution and dense layer, in place.

        W ~ U(−b, b),   b = √(3 gain / ((fan-in + fan-out) / 2))

    Stacked layers count on their own.

    Reference:
        tensor2tensor, utils/optimize.py, `uniform_unit_scaling`; models/video/basic_deterministic_params.py, for the
        gain
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            count = layer.count if isinstance(layer, StackedLinear) else 1
            positions = layer.weight[0, 0].numel()
            fans = (len(layer.weight) // count * positions, layer.weight.shape[1] * positions)
            bound = _bound(gain, fans)
            nn.init.uniform_(layer.weight, -bound, bound)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def unit_scaling_lstm_(lstm: nn.LSTM, gain: float = 1.3) -> None:
    """Uniform unit scaling of an LSTM's weights, those for inputs and hidden state as one matrix, in place.

    The bias is 0. TensorFlow's cell adds a constant 1 to its forget gate, which is the hidden state's bias here.
    """
    size = lstm.hidden_size
    bound = _bound(gain, (lstm.input_size + size, 4 * size))
    for name, parameter in lstm.named_parameters():
        if name.startswith("weight"):
            nn.init.uniform_(parameter, -bound, bound)
        else:
            nn.init.zeros_(parameter)
        if name.startswith("bias_hh"):
            nn.init.ones_(parameter[size : 2 * size])  # the gates' order is input, forget, cell, output
            parameter.requires_grad_(False)


def _bound(gain: float, fans: tuple[int, int]) -> float:
    return math.sqrt(3 * gain / (sum(fans) / 2))
