"""The residual convolutional network of IMPALA, from rendered frames to features."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from einops import rearrange, reduce
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

from lightning_rl.cpu.max_pool import MaxPool
from lightning_rl.errors import check_option
from lightning_rl.networks.memory_format import channels_last

Pooling = Literal["flatten", "average"]


@dataclass(frozen=True, kw_only=True)
class CNNShape:
    """Size of a network with an IMPALA CNN, and how the CNN's last features are pooled.

    Args:
        width: factor on the channels of each stack.
        pooling: `flatten` keeps every position; `average` takes the mean over positions.
        pooling_size: with `average`, rows and columns of parts that are averaged separately; 1 for the whole image.
        channels: output channels of each stack, before `width`; None for those of the published network.
        hidden: outputs of the dense layer that follows; None for those of the published network.

    Raises:
        ValueError: a value outside its range.

    Reference:
        Trumpp et al. 2025, Impoola, https://arxiv.org/abs/2503.05546, for the average
    """

    width: int = 1
    pooling: Pooling = "flatten"
    pooling_size: int = 1
    channels: tuple[int, ...] | None = None
    hidden: int | None = None

    def __post_init__(self) -> None:
        check_option("model.width", self.width, self.width >= 1, "at least 1")
        check_option("model.pooling_size", self.pooling_size, self.pooling_size >= 1, "at least 1")
        channels = self.channels
        known = channels is None or (len(channels) > 0 and min(channels) >= 1)
        check_option("model.channels", channels, known, "null or numbers of at least 1")
        check_option("model.hidden", self.hidden, self.hidden is None or self.hidden >= 1, "null or at least 1")


PUBLISHED_SHAPE = CNNShape()


class ResidualBlock(nn.Module):
    """Residual block of two 3×3 convolutions.

        x + conv(relu(conv(relu(x))))

    With `rectified_skip` the skip connection carries relu(x), as in Rullo's published network.
    """

    def __init__(self, channels: int, *, rectified_skip: bool) -> None:
        super().__init__()
        self.rectified_skip = rectified_skip
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, images: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C H W"]:
        """The block's output, in the input's shape."""
        rectified = images.relu()
        residual: Tensor = self.second(self.first(rectified).relu())
        return residual + (rectified if self.rectified_skip else images)


class ImpalaCNN(nn.Module):
    """IMPALA's CNN: stacks of a 3×3 convolution, a max-pool that halves the size and two residual blocks; then relu.

    The max-pool pads one pixel on all sides, where TensorFlow's `SAME` pads only right and bottom; shapes are equal.
    Frames that cannot be halved evenly in every stack are padded with zeros at the bottom and on the right.

    Args:
        obs_shape: height, width and channels of a frame; height and width at least 2 to the number of stacks.
        channels: output channels of each stack at width 1, where `shape` does not say.
        shape: width, and how the features are pooled.
        rectified_skip: skip connections carry relu(x), as in Rullo's code, instead of x.

    Attributes:
        num_features: length of the feature vector.

    Raises:
        ValueError: the frame is too small for the stacks, or its features cannot be divided into the parts.

    Reference:
        Espeholt et al. 2018, IMPALA, figure 3 right, https://arxiv.org/abs/1802.01561;
        deepmind/scalable_agent, experiment.py
    """

    def __init__(
        self,
        obs_shape: Sequence[int],
        *,
        channels: Sequence[int] = (16, 32, 32),
        shape: CNNShape = PUBLISHED_SHAPE,
        rectified_skip: bool = False,
    ) -> None:
        super().__init__()
        rows, columns, in_channels = obs_shape
        channels = [shape.width * number for number in shape.channels or channels]
        shrink = 2 ** len(channels)
        if min(rows, columns) < shrink:
            raise ValueError(f"obs_shape: height and width must be at least {shrink}, found {rows}×{columns}")
        self._padding = (0, -columns % shrink, 0, -rows % shrink)  # left, right, top, bottom
        stacks: list[nn.Module] = []
        for before, after in zip((in_channels, *channels), channels, strict=False):
            stacks += [
                nn.Conv2d(before, after, 3, padding=1),
                MaxPool(),
                ResidualBlock(after, rectified_skip=rectified_skip),
                ResidualBlock(after, rectified_skip=rectified_skip),
            ]
        # frames come as NHWC, and convolutions on CPUs and tensor cores are several times faster in channels_last
        self.stacks = channels_last(nn.Sequential(*stacks))
        rows, columns = -(-rows // shrink), -(-columns // shrink)
        self._parts = (rows, columns) if shape.pooling == "flatten" else (shape.pooling_size, shape.pooling_size)
        if rows % self._parts[0] or columns % self._parts[1]:
            allowed = f"a divisor of {rows} rows and {columns} columns of features"
            raise ValueError(f"model.pooling_size must be {allowed}, found {shape.pooling_size}")
        self.num_features = channels[-1] * self._parts[0] * self._parts[1]

    def forward(self, obs: UInt8[Tensor, "N H W C"]) -> Float[Tensor, "N D"]:
        """Features of frames with values 0..255."""
        return self.encode(rearrange(obs, "n h w c -> n c h w").float().div_(255))

    def encode(self, images: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D"]:
        """Features of images that are already scaled."""
        if any(self._padding):
            images = functional.pad(images, self._padding)
        features: Tensor = self.stacks(images).relu()
        if self._parts == tuple(features.shape[2:]):
            return features.flatten(1)
        return reduce(features, "n c (a h) (b w) -> n (c a b)", "mean", a=self._parts[0], b=self._parts[1])
