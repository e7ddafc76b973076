"""Layer normalization over the channels of images, fused with its neighboring operations for CPUs in bfloat16."""

from typing import Any, cast, no_type_check

import numpy as np
import torch
from jaxtyping import Float
from numba import njit
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from lightning_rl.cpu.jit import jit, to_bits, to_float


class ChannelNorm(nn.LayerNorm):
    """Layer normalization of rectified images over channels, at each position separately.

        LayerNorm(relu(x) + s) + t

    `torch.nn.GroupNorm` and `InstanceNorm2d` also normalize over positions; the latter makes a 1×1 image all zeros.

    On a CPU in bfloat16 one compiled loop computes everything, since torch's `layer_norm` is slow for few channels and
    each operator around it reads and writes the images again. `_plain` is the reference, and is used everywhere else.

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
        """The normalized images, in the precision of the input.

        Args:
            images: x.
            skipped: s, in the same precision; None for none.
            signal: t, which gets no gradient; None for none.
        """
        if images.device.type == "cpu" and images.dtype == torch.bfloat16:
            arguments = (images, skipped, signal, self.weight, self.bias, self.eps)
            normalized: Tensor = cast(Any, _FusedChannelNorm).apply(*arguments)
            return normalized
        return self._plain(images, skipped, signal)

    def _plain(self, images: Tensor, skipped: Tensor | None, signal: Tensor | None) -> Tensor:
        """The same by torch's own operators."""
        images = images.relu() if skipped is None else images.relu() + skipped
        with torch.autocast(images.device.type, enabled=False):
            weight, bias = self.weight.to(images.dtype), self.bias.to(images.dtype)
            normalized = functional.layer_norm(
                images.permute(0, 2, 3, 1), self.normalized_shape, weight, bias, self.eps
            ).permute(0, 3, 1, 2)
        return normalized if signal is None else normalized + signal.to(images.dtype)


class _FusedChannelNorm(torch.autograd.Function):
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
        zeros = images.new_zeros(1, channels)
        images = _rows(images)
        skipped = zeros if skipped is None else _rows(skipped.to(images.dtype))
        added = zeros if signal is None else signal.to(images.dtype).permute(1, 2, 0).flatten(0, 1).contiguous()
        normalized = torch.empty_like(images)
        parameters = weight.detach().float().numpy(), bias.detach().float().numpy(), np.float32(epsilon)
        _normalize(_bits(images), _bits(skipped), _bits(added), *parameters, _bits(normalized))
        ctx.save_for_backward(images, skipped, weight)
        return normalized.view(count, height, width, channels).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable  # a second derivative would be taken as zero
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        images, skipped, weight = ctx.saved_tensors
        count, channels, height, width = grad_outputs[0].shape
        gradients = _rows(grad_outputs[0].to(images.dtype))
        grad_images, grad_skipped = torch.empty_like(images), torch.empty_like(images)
        grad_weight, grad_bias = np.zeros(channels, np.float32), np.zeros(channels, np.float32)
        parameters = weight.detach().float().numpy(), np.float32(ctx.epsilon)
        inputs = _bits(images), _bits(skipped), _bits(gradients)
        _normalize_backward(*inputs, *parameters, _bits(grad_images), _bits(grad_skipped), grad_weight, grad_bias)
        shaped = [part.view(count, height, width, channels).permute(0, 3, 1, 2) for part in (grad_images, grad_skipped)]
        grad_parameters = [torch.from_numpy(part).to(weight.dtype) for part in (grad_weight, grad_bias)]
        return shaped[0], shaped[1] if ctx.has_skipped else None, None, *grad_parameters, None


def _rows(images: Tensor) -> Tensor:
    """The channels of each position as a row; a view if the images are channels_last."""
    return images.permute(0, 2, 3, 1).flatten(0, 2).contiguous()


def _bits(rows: Tensor) -> NDArray[np.int16]:
    bits: NDArray[np.int16] = rows.view(torch.int16).numpy()
    return bits


# The functions below are compiled. Each loop over channels writes only one array: with several, the compiler would have
# to assume that they overlap, and would not vectorize the loop.
_ZERO, _ONE = np.float32(0), np.float32(1)


@njit(inline="always")
@no_type_check
def _add_skipped(images: Any, skipped: Any, n: Any, s: Any, sums: Any) -> Any:
    """Writes relu(x) + s of one position to `sums` and returns the total over channels."""
    total = _ZERO
    for c in range(len(sums)):
        number = to_float(images[n, c])
        number = (_ZERO if number < _ZERO else number) + to_float(skipped[s, c])
        sums[c] = number
        total += number
    return total


@jit(reorder=True)
@no_type_check
def _normalize(images: Any, skipped: Any, signal: Any, weight: Any, bias: Any, epsilon: Any, normalized: Any) -> None:
    count, channels = images.shape
    inverse_count = _ONE / np.float32(channels)
    sums = np.empty(channels, np.float32)
    s, t = 0, 0
    for n in range(count):
        mean = _add_skipped(images, skipped, n, s, sums) * inverse_count
        squares = _ZERO
        for c in range(channels):
            squares += (sums[c] - mean) * (sums[c] - mean)
        scale = _ONE / np.sqrt(np.float32(squares * inverse_count + epsilon))
        for c in range(channels):
            normalized[n, c] = to_bits((sums[c] - mean) * scale * weight[c] + bias[c] + to_float(signal[t, c]))
        s = s + 1 if s + 1 < len(skipped) else 0
        t = t + 1 if t + 1 < len(signal) else 0


@jit(reorder=True)
@no_type_check
def _normalize_backward(
    images: Any,
    skipped: Any,
    gradients: Any,
    weight: Any,
    epsilon: Any,
    grad_images: Any,
    grad_skipped: Any,
    grad_weight: Any,
    grad_bias: Any,
) -> None:
    count, channels = images.shape
    inverse_count = _ONE / np.float32(channels)
    sums = np.empty(channels, np.float32)
    s = 0
    for n in range(count):
        mean = _add_skipped(images, skipped, n, s, sums) * inverse_count
        squares, slope, product = _ZERO, _ZERO, _ZERO
        for c in range(channels):
            centered = sums[c] - mean
            squares += centered * centered
            gradient = to_float(gradients[n, c]) * weight[c]
            slope += gradient
            product += gradient * centered
        scale = _ONE / np.sqrt(np.float32(squares * inverse_count + epsilon))
        slope *= inverse_count
        product *= inverse_count * scale * scale
        for c in range(channels):
            grad_bias[c] += to_float(gradients[n, c])
        for c in range(channels):
            grad_weight[c] += to_float(gradients[n, c]) * ((sums[c] - mean) * scale)
        for c in range(channels):
            gradient = to_float(gradients[n, c]) * weight[c]
            grad_skipped[n, c] = to_bits(scale * (gradient - slope - (sums[c] - mean) * product))
        for c in range(channels):
            grad_images[n, c] = grad_skipped[n, c] if images[n, c] > 0 else 0
        s = s + 1 if s + 1 < len(skipped) else 0
