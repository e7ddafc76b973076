"""The variational autoencoder of Xu & Kaneko."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, Float32, UInt8
from torch import Tensor, nn

from lightning_rl.cpu.sub_pixel import SubPixelConv, SubPixelShuffle, UpConv
from lightning_rl.networks.memory_format import channels_last
from lightning_rl.networks.output_linear import OutputLinear

_LUMINANCE = (299.0, 587.0, 114.0)  # ITU-R BT.601, in thousandths, so that weighted sums of bytes are exact
Images = Literal["binary", "rgb"]


class LatentDistribution(NamedTuple):
    """Diagonal Gaussian distribution of the latent of each image."""

    mean: Float32[Tensor, "N Z"]
    log_variance: Float32[Tensor, "N Z"]

    def sample(self, noise: Float[Tensor, "N Z"]) -> Float32[Tensor, "N Z"]:
        """The sample m + σ ε for standard normal noise ε."""
        return self.mean + (self.log_variance / 2).exp() * noise


def vae_encoder(obs_shape: Sequence[int], *, latent_size: int, images: Images) -> nn.Sequential:
    """The encoder of `VAE`, from images to means and log variances.

    Args:
        obs_shape: height, width and channels of a frame.
        latent_size: Z, length of the latent.
        images: kind of the images that are encoded.
    """
    height, width, channels = obs_shape
    num_features = 32 * _halved(_halved(height)) * _halved(_halved(width))
    encoder = nn.Sequential(
        nn.Conv2d(1 if images == "binary" else channels, 16, 3, stride=2),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        OutputLinear(num_features, 2 * latent_size),
    )
    return channels_last(encoder)


def encoded_images(obs: UInt8[Tensor, "N H W C"], kind: Images) -> Float32[Tensor, "N K H W"]:
    """The frames as images to encode, 0 to 1."""
    if kind == "rgb":
        return rearrange(obs, "n h w c -> n c h w").float().div_(255)
    with torch.autocast(obs.device.type, enabled=False):
        luminance = obs.float() @ _luminance(obs.device)
    return (luminance > 0.5 * 255 * sum(_LUMINANCE)).float().unsqueeze(1)


def _luminance(device: torch.device) -> Float32[Tensor, "3"]:
    # written on the device, since a copy from the CPU would wait for a GPU's queue
    return torch.stack([torch.full((), weight, device=device) for weight in _LUMINANCE])


def latent_distribution(encoder: nn.Module, images: Float32[Tensor, "N K H W"]) -> LatentDistribution:
    """The distribution of the latent of each image."""
    return LatentDistribution(*encoder(images).chunk(2, dim=1))


class VAE(nn.Module):
    """Encoder and decoder of Xu & Kaneko, figure 2.

    The encoder has unpadded 3×3 convolutions of stride 2 with 16 and 32 channels, and one dense layer to means and log
    variances. The decoder has a dense layer to 16 channels at a quarter of the size, transposed 3×3 convolutions with
    32 and 16 channels that double the size, and one that keeps it. The scan of the paper shows neither the padding nor
    the decoder's channels; they are those of the tutorial that it follows.

    `binary` images are the paper's: grayscale, white above one half. This removes much of what Procgen shows; `rgb`
    keeps it.

    Args:
        obs_shape: height, width and channels of a frame; height and width are multiples of 4, channels are 3.
        latent_size: Z, length of the latent.
        images: kind of the images that are encoded and reconstructed.

    Raises:
        ValueError: `obs_shape` has another height, width or number of channels.

    Reference:
        Xu & Kaneko, Combining reinforcement learning and VAE to improve generalization in Procgen Benchmark, figure 2;
        TensorFlow's tutorial "Convolutional Variational Autoencoder"
    """

    def __init__(self, obs_shape: Sequence[int], *, latent_size: int = 64, images: Images = "binary") -> None:
        super().__init__()
        height, width, channels = obs_shape
        if height % 4 or width % 4 or min(height, width) < 8 or channels != 3:
            raise ValueError(
                f"obs_shape: height and width must be multiples of 4 from 8 on, with 3 channels, found {obs_shape}"
            )
        self.latent_size = latent_size
        self._kind = images
        image_channels = 1 if images == "binary" else channels
        self.encoder = vae_encoder(obs_shape, latent_size=latent_size, images=images)
        self.decoder = nn.Sequential(
            nn.Linear(latent_size, 16 * (height // 4) * (width // 4)),
            nn.ReLU(),
            nn.Unflatten(1, (16, height // 4, width // 4)),
            UpConv(16, 32),
            nn.ReLU(),
            SubPixelShuffle(),
            UpConv(32, 16),
            nn.ReLU(),
            SubPixelConv(16, image_channels),
        )
        channels_last(self.decoder)

    def images(self, obs: UInt8[Tensor, "N H W C"]) -> Float32[Tensor, "N K H W"]:
        """The frames as images to encode, 0 to 1."""
        return encoded_images(obs, self._kind)

    def encode(self, images: Float32[Tensor, "N K H W"]) -> LatentDistribution:
        """The distribution of the latent."""
        return latent_distribution(self.encoder, images)

    def decode(self, latents: Float[Tensor, "N Z"]) -> Float32[Tensor, "N K H W"]:
        """Pixel logits of binary images, pixel means of RGB images."""
        decoded: Tensor = self.decoder(latents)
        return decoded.float()

    def expected(self, decoded: Float32[Tensor, "N K H W"]) -> Float32[Tensor, "N K H W"]:
        """The expected image for the output of `decode`, 0 to 1."""
        return decoded.sigmoid() if self._kind == "binary" else decoded.clamp(0, 1)


def _halved(size: int) -> int:
    """Size after an unpadded 3×3 convolution of stride 2."""
    return (size - 1) // 2
