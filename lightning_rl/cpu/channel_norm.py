"""Layer normalisation of every position of an image, and what stands before and after it."""

from typing import Any, cast, no_type_check

import numpy as np
import torch
from jaxtyping import Float
from numba import njit
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from lightning_rl.cpu.compiled import compiled, to_bits, to_float


class ChannelNorm(nn.LayerNorm):
    """Normalises each position of rectified images over its channels alone, so that one of a pixel has a normal form.

        LayerNorm(relu(x) + s) + t

    `torch.nn.GroupNorm` and `InstanceNorm2d` normalise over positions, and leave nothing of a 1×1 image. torch's
    `layer_norm` of few channels is slow on a CPU, and the operators around it read and write each image once more: in
    bfloat16 all are one loop here.

    Args:
        channels: C.

    Reference:
        Ba et al. 2016, Layer normalization, https://arxiv.org/abs/1607.06450; tensor2tensor, common_layers.py,
        `layer_norm`, for ε
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(
        self,
        images: Float[Tensor, "N {self.normalized_shape[0]} H W"],
        skipped: Float[Tensor, "N C H W"] | None = None,
        signal: Float[Tensor, "C H W"] | None = None,
    ) -> Float[Tensor, "N C H W"]:
        """The normalised images, in their own precision.

        Args:
            images: x.
            skipped: s, of the same precision; nothing where it is null.
            signal: t, without a gradient; nothing where it is null.
        """
        if images.device.type == "cpu" and images.dtype == torch.bfloat16:
            arguments = (images, skipped, signal, self.weight, self.bias, self.eps)
            normalised: Tensor = cast(Any, _NormalisedOnCPU).apply(*arguments)
            return normalised
        images = images.relu() if skipped is None else images.relu() + skipped
        with torch.autocast(images.device.type, enabled=False):
            weight, bias = self.weight.to(images.dtype), self.bias.to(images.dtype)
            positions = functional.layer_norm(
                images.permute(0, 2, 3, 1), self.normalized_shape, weight, bias, self.eps
            ).permute(0, 3, 1, 2)
        return positions if signal is None else positions + signal.to(images.dtype)


class _NormalisedOnCPU(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        images: Tensor,
        skipped: Tensor | None,
        signal: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        epsilon: float,
    ) -> Tensor:
        count, channels, height, width = images.shape
        ctx.epsilon = epsilon
        ctx.has_skipped = skipped is not None
        nothing = images.new_zeros(1, channels)
        images = _positions(images)
        skipped = nothing if skipped is None else _positions(skipped.to(images.dtype))
        added = nothing if signal is None else signal.to(images.dtype).permute(1, 2, 0).flatten(0, 1).contiguous()
        normalised = torch.empty_like(images)
        numbers = weight.detach().float().numpy(), bias.detach().float().numpy(), np.float32(epsilon)
        _normalise(_bits(images), _bits(skipped), _bits(added), *numbers, _bits(normalised))
        ctx.save_for_backward(images, skipped, weight)
        return normalised.view(count, height, width, channels).permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        images, skipped, weight = ctx.saved_tensors
        count, channels, height, width = grad_outputs[0].shape
        gradients = _positions(grad_outputs[0].to(images.dtype))
        of_images, of_sums = torch.empty_like(images), torch.empty_like(images)
        of_weight, of_bias = np.zeros(channels, np.float32), np.zeros(channels, np.float32)
        numbers = weight.detach().float().numpy(), np.float32(ctx.epsilon)
        given = _bits(images), _bits(skipped), _bits(gradients)
        _differentiate(*given, *numbers, _bits(of_images), _bits(of_sums), of_weight, of_bias)
        shaped = [part.view(count, height, width, channels).permute(0, 3, 1, 2) for part in (of_images, of_sums)]
        of_weights = [torch.from_numpy(part).to(weight.dtype) for part in (of_weight, of_bias)]
        return shaped[0], shaped[1] if ctx.has_skipped else None, None, *of_weights, None


def _positions(images: Tensor) -> Tensor:
    """A row for each position; of channels_last images a view."""
    return images.permute(0, 2, 3, 1).flatten(0, 2).contiguous()


def _bits(rows: Tensor) -> NDArray[np.int16]:
    bits: NDArray[np.int16] = rows.view(torch.int16).numpy()
    return bits


# What follows is compiled. Loops are over the channels of a position, and those that write are many: where one reads
# and writes several arrays, the compiler must take them for overlapping, and uses no vector instructions.
_ZERO, _ONE = np.float32(0), np.float32(1)


@njit(inline="always")
@no_type_check
def _summed(images: Any, skipped: Any, n: Any, s: Any, sums: Any) -> Any:
    """Writes what is normalised of a position, and returns its sum over channels."""
    total = _ZERO
    for c in range(len(sums)):
        number = to_float(images[n, c])
        number = (_ZERO if number < _ZERO else number) + to_float(skipped[s, c])
        sums[c] = number
        total += number
    return total


@compiled(reorder=True)
@no_type_check
def _normalise(images: Any, skipped: Any, signal: Any, weight: Any, bias: Any, epsilon: Any, normalised: Any) -> None:
    count, channels = images.shape
    share = _ONE / np.float32(channels)
    sums = np.empty(channels, np.float32)
    s, t = 0, 0
    for n in range(count):
        mean = _summed(images, skipped, n, s, sums) * share
        squares = _ZERO
        for c in range(channels):
            squares += (sums[c] - mean) * (sums[c] - mean)
        scale = _ONE / np.sqrt(np.float32(squares * share + epsilon))
        for c in range(channels):
            normalised[n, c] = to_bits((sums[c] - mean) * scale * weight[c] + bias[c] + to_float(signal[t, c]))
        s = s + 1 if s + 1 < len(skipped) else 0
        t = t + 1 if t + 1 < len(signal) else 0


@compiled(reorder=True)
@no_type_check
def _differentiate(
    images: Any,
    skipped: Any,
    gradients: Any,
    weight: Any,
    epsilon: Any,
    of_images: Any,
    of_sums: Any,
    of_weight: Any,
    of_bias: Any,
) -> None:
    count, channels = images.shape
    share = _ONE / np.float32(channels)
    sums = np.empty(channels, np.float32)
    s = 0
    for n in range(count):
        mean = _summed(images, skipped, n, s, sums) * share
        squares, slope, product = _ZERO, _ZERO, _ZERO
        for c in range(channels):
            centred = sums[c] - mean
            squares += centred * centred
            gradient = to_float(gradients[n, c]) * weight[c]
            slope += gradient
            product += gradient * centred
        scale = _ONE / np.sqrt(np.float32(squares * share + epsilon))
        slope *= share
        product *= share * scale * scale
        for c in range(channels):
            of_bias[c] += to_float(gradients[n, c])
        for c in range(channels):
            of_weight[c] += to_float(gradients[n, c]) * ((sums[c] - mean) * scale)
        for c in range(channels):
            gradient = to_float(gradients[n, c]) * weight[c]
            of_sums[n, c] = to_bits(scale * (gradient - slope - (sums[c] - mean) * product))
        for c in range(channels):
            of_images[n, c] = of_sums[n, c] if images[n, c] > 0 else 0
        s = s + 1 if s + 1 < len(skipped) else 0
