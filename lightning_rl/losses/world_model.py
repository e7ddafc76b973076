"""What a predicted frame and a predicted reward pay, with nothing to gain from being surer than sure enough."""

from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.nn import functional


def clipped_frame_cross_entropy(
    logits: Float[Tensor, "N H W C V"], targets: UInt8[Tensor, "N H W C"], *, cutoff: float = 0.03
) -> Float[Tensor, "N"]:
    """Cross-entropy of each sub-pixel's distribution over its values, where it is above the cutoff.

        1/HWC Σ relu(−log softmax(z)_x − C)

    The clip is on each sub-pixel, before the mean: a background that is nearly sure pulls at the network no more, and
    what moves, a few pixels, is left with all of the gradient. A clip on the mean would do nothing until all is sure.
    Its gradient is that of the paper's max(loss, C).

    Args:
        logits: z, unnormalised log-probabilities of a sub-pixel's V values.
        targets: x, the frame that came.
        cutoff: C, nats; 0.03 is a probability of 0.97.

    Returns:
        Nats per sub-pixel above the cutoff, of each frame.

    Reference:
        Kaiser et al. 2019, Model-based reinforcement learning for Atari, section 4 and appendix,
        https://arxiv.org/abs/1903.00374; tensor2tensor, `video_modality_loss_cutoff`, for the number
    """
    nats = clipped_cross_entropy(logits.flatten(0, 3), targets.flatten().long(), cutoff=cutoff)
    return nats.view_as(targets).mean((1, 2, 3))


def clipped_frame_squared_error(
    predictions: Float[Tensor, "N H W C"], targets: UInt8[Tensor, "N H W C"], *, cutoff: float = 10.0
) -> Float[Tensor, "N"]:
    """Squared error of each sub-pixel, where it is above the cutoff.

        1/HWC Σ relu((y − x)² − C)

    The clip is on each sub-pixel, before the mean, as in `clipped_frame_cross_entropy`.

    Args:
        predictions: y, 0 to 255; beyond is allowed and pays.
        targets: x, the frame that came.
        cutoff: C, squared grey levels; 10 forgives errors of 3.

    Returns:
        Squared grey levels per sub-pixel above the cutoff, of each frame.

    Reference:
        Kaiser et al. 2019, section 4, the L2 loss with C = 10, https://arxiv.org/abs/1903.00374
    """
    return ((predictions - targets).square() - cutoff).relu().mean((1, 2, 3))


def clipped_cross_entropy(
    logits: Float[Tensor, "N R"], classes: Int64[Tensor, "N"], *, cutoff: float = 0.03
) -> Float[Tensor, "N"]:
    """Cross-entropy of a distribution over classes, such as rewards, where it is above the cutoff.

        relu(−log softmax(z)_c − C)

    Args:
        logits: z, unnormalised log-probabilities.
        classes: c, the class that came.
        cutoff: C, nats.

    Returns:
        Nats above the cutoff.

    Reference:
        Kaiser et al. 2019, section 4, https://arxiv.org/abs/1903.00374; tensor2tensor, modalities.py, `generic_loss`,
        where rewards share the frames' cutoff
    """
    return (functional.cross_entropy(logits, classes, reduction="none") - cutoff).relu()
