"""Recording of episodes while a policy plays them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8
from numpy.typing import NDArray

from lightning_rl.media.videos import tiled, write_video

_COLUMNS, _SCALE, _FRAMES_PER_SECOND, _MAX_FRAMES = 4, 3, 15, 1000
_RGB = 3  # channels of the newest frame, the last ones of a stack

_RecordedStep = tuple[UInt8[NDArray[Any], "B H W C"], Bool[NDArray[Any], "B"]]
"""Frames of all environments, and which of them still play."""


class EpisodeRecorder:
    """A watcher of evaluation that keeps what it sees until it is written as a video.

    The video shows the newest frame that the policy sees, of all environments side by side. An environment is dimmed
    once its episode is over.
    """

    def __init__(self) -> None:
        self._frames: list[_RecordedStep] = []

    def __call__(self, obs: UInt8[NDArray[Any], "B H W C"], playing: Bool[NDArray[Any], "B"]) -> None:
        """Records a step, up to a thousand."""
        if len(self._frames) < _MAX_FRAMES:
            self._frames.append((np.ascontiguousarray(obs[..., -_RGB:]), playing.copy()))

    def write(self, path: Path) -> None:
        """Writes the video, and begins anew."""
        write_video(path, self._tiles(), frames_per_second=_FRAMES_PER_SECOND)
        self._frames = []

    def _tiles(self) -> Iterator[UInt8[NDArray[Any], "H2 W2 C"]]:
        for frames, playing in self._frames:
            yield tiled(frames, columns=_COLUMNS, scale=_SCALE, dimmed=~playing)
