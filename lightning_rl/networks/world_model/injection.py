"""Conditioning of images on a vector, such as an action or a latent."""

from jaxtyping import Float
from torch import Tensor, nn

from lightning_rl.networks.stacked_linear import StackedLinear


class Injection(nn.Module):
    """Scales and shifts each channel of an image, conditioned on a vector c.

        x · σ(W c + w) + V c + v

    Args:
        num_inputs: D, length of c.
        channels: C, channels of the image.

    Reference:
        Kaiser et al. 2019, appendix, https://arxiv.org/abs/1903.00374; tensor2tensor, common_video.py,
        `inject_additional_input`, "multi_additive"
    """

    def __init__(self, num_inputs: int, channels: int) -> None:
        super().__init__()
        self.num_inputs = num_inputs
        self.dense = StackedLinear(num_inputs, channels, count=2)

    def forward(
        self, images: Float[Tensor, "N C H W"], inputs: Float[Tensor, "N {self.num_inputs}"]
    ) -> Float[Tensor, "N C H W"]:
        """The conditioned images, in the same precision."""
        scales, shifts = self.dense(inputs).to(images.dtype)[..., None, None].chunk(2, dim=1)
        injected: Tensor = images * scales.sigmoid() + shifts
        return injected
