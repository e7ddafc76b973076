"""Weight initializers, each with the source of its constants."""

import math

from torch import nn

from lightning_rl.networks.output_linear import OutputLinear


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
    """Uniform weights within ±gain √(3 / fan-in) and zero biases for every convolution and dense layer, in place.

    With gain 1 a linear layer keeps the scale of its inputs; 1.3 compensates for relu. The fan-in of a transposed
    convolution is counted over its output channels, as in TensorFlow.

    Reference:
        Sussillo & Abbott 2014, Random walk initialization for training very deep feedforward networks,
        https://arxiv.org/abs/1412.6558; tensor2tensor, models/video/basic_deterministic_params.py, for the gain
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            bound = gain * math.sqrt(3 / layer.weight[0].numel())
            nn.init.uniform_(layer.weight, -bound, bound)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def unit_scaling_lstm_(lstm: nn.LSTM, gain: float = 1.3) -> None:
    """Uniform unit scaling of an LSTM's weights, with inputs and hidden state as fan-in, in place.

    Biases are 1 for the forget gate, as in TensorFlow's cell, and 0 otherwise.
    """
    size = lstm.hidden_size
    bound = gain * math.sqrt(3 / (lstm.input_size + size))
    for name, parameter in lstm.named_parameters():
        if name.startswith("weight"):
            nn.init.uniform_(parameter, -bound, bound)
        else:
            nn.init.zeros_(parameter)
        if name.startswith("bias_ih"):
            nn.init.ones_(parameter[size : 2 * size])  # the gates' order is input, forget, cell, output
