"""World-model losses of frames and rewards, clipped so that predictions that are good enough get no gradient."""

from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.nn import functional


def clipped_frame_cross_entropy(
    logits: Float[Tensor, "N H W C V"], targets: UInt8[Tensor, "N H W C"], *, cutoff: float = 0.03
) -> Float[Tensor, "N"]:
    """Cross-entropy of each sub-pixel's predicted distribution over values, above a cutoff.

        1/HWC Σ relu(−log softmax(z)_x − C)

    The clip acts on each sub-pixel, before the mean. A confidently predicted background then gets no gradient, which
    leaves all of it to the few pixels that move. A clip of the mean would act only once all pixels are predicted well.
    The gradient is that of the paper's max(loss, C).

    Args:
        logits: z, unnormalized log-probabilities of a sub-pixel's V values.
        targets: x, the true next frame.
        cutoff: C, nats; 0.03 is a probability of 0.97.

    Returns:
        Nats above the cutoff, per sub-pixel, for each frame.

    Reference:
        Kaiser et al. 2019, Model-based reinforcement learning for Atari, section 4 and appendix,
        https://arxiv.org/abs/1903.00374; tensor2tensor, `video_modality_loss_cutoff`, for the number
    """
    nats = clipped_cross_entropy(logits.flatten(0, 3), targets.flatten().long(), cutoff=cutoff)
    return nats.view_as(targets).mean((1, 2, 3))


def clipped_frame_squared_error(
    predictions: Float[Tensor, "N H W C"], targets: UInt8[Tensor, "N H W C"], *, cutoff: float = 10.0
) -> Float[Tensor, "N"]:
    """Squared error of each sub-pixel, above a cutoff.

        1/HWC Σ relu((y − x)² − C)

    The clip acts on each sub-pixel, before the mean, as in `clipped_frame_cross_entropy`.

    Args:
        predictions: y, 0 to 255; values outside this range count with their full error.
        targets: x, the true next frame.
        cutoff: C, squared gray levels; 10 ignores errors of up to 3.

    Returns:
        Squared gray levels above the cutoff, per sub-pixel, for each frame.

    Reference:
        Kaiser et al. 2019, section 4, the L2 loss with C = 10, https://arxiv.org/abs/1903.00374
    """
    return ((predictions - targets).square() - cutoff).relu().mean((1, 2, 3))


def clipped_cross_entropy(
    logits: Float[Tensor, "N R"], classes: Int64[Tensor, "N"], *, cutoff: float = 0.03
) -> Float[Tensor, "N"]:
    """Cross-entropy of a distribution over classes, such as rewards, above a cutoff.

        relu(−log softmax(z)_c − C)

    Args:
        logits: z, unnormalized log-probabilities.
        classes: c, the true class.
        cutoff: C, nats.

    Returns:
        Nats above the cutoff.

    Reference:
        Kaiser et al. 2019, section 4, https://arxiv.org/abs/1903.00374; tensor2tensor, modalities.py, `generic_loss`,
        where rewards share the frames' cutoff
    """
    return (functional.cross_entropy(logits, classes, reduction="none") - cutoff).relu()
