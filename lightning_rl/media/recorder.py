"""Recording of episodes while a policy plays them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8
from numpy.typing import NDArray

from lightning_rl.media.videos import tiled, write_video

_COLUMNS, _SCALE, _FRAMES_PER_SECOND = 4, 3, 15
_RGB = 3  # channels of the newest frame, the last ones of a stack

_RecordedStep = tuple[UInt8[NDArray[Any], "B H W C"], Bool[NDArray[Any], "B"]]
"""Frames of all environments, and which of them still play."""


class EpisodeRecorder:
    """A watcher of evaluation that keeps what it sees until it is written as a video.

    The video shows the newest frame that the policy sees, of all environments side by side. An environment is dimmed
    once its episode is over. Games that were played one after the other are shown side by side.

    Args:
        max_steps: how many of each game are kept.
    """

    def __init__(self, *, max_steps: float = 1000) -> None:
        self._max_steps = max_steps
        self._frames: list[_RecordedStep] = []  # of the game that is played
        self._before: list[list[_RecordedStep]] = []  # of the games before it
        self._is_cut = False

    def __call__(self, obs: UInt8[NDArray[Any], "B H W C"], playing: Bool[NDArray[Any], "B"]) -> None:
        """Records a step."""
        if len(self._frames) < self._max_steps:
            self._frames.append((np.ascontiguousarray(obs[..., -_RGB:]), playing.copy()))
        else:
            self._is_cut = True

    @property
    def is_cut(self) -> bool:
        """Whether the video ends before the longest episode."""
        return self._is_cut

    def next_game(self) -> None:
        """What follows is of another game."""
        self._before, self._frames = [*self._before, self._frames], []

    def write(self, path: Path) -> None:
        """Writes the video, and begins anew."""
        write_video(path, self._tiles(), frames_per_second=_FRAMES_PER_SECOND)
        self._frames, self._before, self._is_cut = [], [], False

    def _tiles(self) -> Iterator[UInt8[NDArray[Any], "H2 W2 C"]]:
        games = [steps for steps in (*self._before, self._frames) if steps]
        for index in range(max(map(len, games), default=0)):
            shown = [steps[min(index, len(steps) - 1)] for steps in games]
            going = [playing & (index < len(steps)) for (_, playing), steps in zip(shown, games, strict=True)]
            frames = np.concatenate([frames for frames, _ in shown])
            yield tiled(frames, columns=min(_COLUMNS, len(frames)), scale=_SCALE, dimmed=~np.concatenate(going))
