"""What else a method has to show of a frame: what its autoencoder sees, its intrinsic reward, its surprise."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from numpy.typing import NDArray
from torch import Tensor, nn

from lightning_rl.losses.surprise import StateStatistics, surprise_minimizing_rewards
from lightning_rl.losses.vae import divergence_of_dimensions
from lightning_rl.modules.exported import PolicyModule
from lightning_rl.modules.impala_vae import ImpalaVAEModule, SurpriseConfig
from lightning_rl.modules.ppo_distill import PPODistillModule

_MOST_SLIDERS = 8
_REACH = 4.0  # standard deviations of the prior

Obs = UInt8[NDArray[Any], "1 H W C"]


@dataclass(frozen=True)
class Sight:
    """What a lens shows of one frame.

    Args:
        images: by their names.
        numbers: likewise.
        memory: what the lens must know at the next frame of the episode.
    """

    images: dict[str, UInt8[NDArray[Any], "H W 3"]] = field(default_factory=dict)
    numbers: dict[str, float] = field(default_factory=dict)
    memory: Any = None


@runtime_checkable
class Lens(Protocol):
    """Looks at the frames of an agent that plays."""

    @property
    def sliders(self) -> Sequence[int]:
        """Numbers of the latent's dimensions that can be moved."""

    def move(self, dimension: int, value: float) -> None:
        """Moves a dimension of the latent before it is decoded.

        Raises:
            ValueError: there is no such slider, or the value is out of its range.
        """

    def look(self, obs: Obs, memory: Any) -> Sight:
        """What is to be shown; `memory` is that of the frame before, None at the first one."""


def lens_of(model: Any) -> Lens | None:
    """The lens of a method; None where it has nothing else to show."""
    if isinstance(model, ImpalaVAEModule):
        return AutoencoderLens(model.vae, precision=model.precision, surprise=model.surprise)
    if isinstance(model, PolicyModule) and (vae := model.autoencoder()) is not None:
        return AutoencoderLens(vae, precision=model.precision)
    return DistillationLens(model) if isinstance(model, PPODistillModule) else None


class DistillationLens:
    """Shows the intrinsic reward that reaching the frame is worth.

    Args:
        model: teacher and student.
    """

    sliders: Sequence[int] = ()

    def __init__(self, model: PPODistillModule) -> None:
        self._model = model

    def move(self, dimension: int, value: float) -> None:
        """Refuses: there is no latent."""
        raise ValueError(f"dimension must be one of an autoencoder's, which this method lacks, found {dimension}")

    def look(self, obs: Obs, memory: Any) -> Sight:
        """The intrinsic reward, by the statistics of training, which looking does not change."""
        frames = torch.from_numpy(obs).to(self._model.device)[None]
        rewards, _ = self._model.intrinsic_rewards(frames, {}, update=False)
        return Sight(numbers={"Intrinsic reward": float(rewards[0, 0])})


@runtime_checkable
class Autoencoder(Protocol):
    """Encodes images, and decodes their latents."""

    def images(self, obs: UInt8[Tensor, "N H W C"]) -> Float32[Tensor, "N K H W"]:
        """The frames as images to encode, 0 to 1."""

    def encode(self, images: Float32[Tensor, "N K H W"]) -> tuple[Float32[Tensor, "N Z"], Float32[Tensor, "N Z"]]:
        """Means and log variances of the latent."""

    def decode(self, latents: Float32[Tensor, "N Z"]) -> Float32[Tensor, "N K H W"]:
        """What `expected` takes."""

    def expected(self, decoded: Float32[Tensor, "N K H W"]) -> Float32[Tensor, "N K H W"]:
        """The images, 0 to 1."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Its weights."""


class AutoencoderLens:
    """Shows what the autoencoder sees and reconstructs, and the value of the surprise reward where there is one.

    Args:
        vae: the autoencoder.
        precision: enters the context in which it computes.
        surprise: options of the surprise reward; None without it.
    """

    def __init__(
        self,
        vae: Autoencoder,
        *,
        precision: Callable[[], AbstractContextManager[Any]],
        surprise: SurpriseConfig | None = None,
    ) -> None:
        self._vae = vae
        self._precision = precision
        self._surprise = surprise
        self._moved: dict[int, float] = {}
        self._sliders: list[int] = []

    @property
    def sliders(self) -> Sequence[int]:
        """The dimensions with the highest divergence at the first frame that was looked at."""
        return self._sliders

    def move(self, dimension: int, value: float) -> None:
        """Adds to a dimension of the latent, in standard deviations of the prior; 0 leaves it as it is."""
        if dimension not in self._sliders:
            raise ValueError(f"dimension must be one of {', '.join(map(str, self._sliders))}, found {dimension}")
        if not abs(value) <= _REACH:
            raise ValueError(f"value must be from −{_REACH:g} to {_REACH:g}, found {value}")
        self._moved[dimension] = value

    @torch.no_grad()
    def look(self, obs: Obs, memory: Any) -> Sight:
        """The encoded image, its reconstruction, and the surprise."""
        vae = self._vae
        with self._precision():
            images = vae.images(torch.from_numpy(obs).to(next(vae.parameters()).device))
            mean, log_variance = (numbers.float() for numbers in vae.encode(images))
            if not self._sliders:
                used = divergence_of_dimensions(mean, log_variance).argsort(descending=True, stable=True)
                self._sliders = used[:_MOST_SLIDERS].tolist()
            latent = mean.clone()
            for dimension, value in self._moved.items():
                latent[:, dimension] += value
            decoded = vae.expected(vae.decode(latent))
        shown = {"autoencoder sees": _picture(images), "reconstruction": _picture(decoded)}
        return self._with_surprise(shown, mean.cpu(), memory)

    def _with_surprise(self, shown: dict[str, Any], mean: Float32[Tensor, "1 Z"], memory: Any) -> Sight:
        if self._surprise is None:
            return Sight(shown)
        if memory is None:
            return Sight(shown, memory=StateStatistics.initial(mean))
        goes_on, options = torch.zeros(1, 1, dtype=torch.bool), self._surprise
        rewards, visited = surprise_minimizing_rewards(mean[None], goes_on, memory, min_std=options.min_deviation)
        return Sight(shown, {"Surprise reward": options.weight * float(rewards[0, 0])}, visited)


def _picture(images: Float32[Tensor, "1 K H W"]) -> UInt8[NDArray[Any], "H W 3"]:
    levels = (images[0].float().cpu() * 255).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    return np.ascontiguousarray(np.broadcast_to(levels[..., -3:], (*levels.shape[:2], 3)))
