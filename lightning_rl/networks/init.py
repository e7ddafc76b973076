"""Initialisers, each with the source of its numbers."""

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
    """A last layer with orthogonal weights of norm `gain` and zero bias.

    Reference:
        openai/baselines, a2c/utils.py, `ortho_init` and `fc`
    """
    layer = OutputLinear(in_features, out_features)
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer
