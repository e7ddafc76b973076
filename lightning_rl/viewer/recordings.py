"""Recordings: an mp4 that is written while the game goes on."""

import queue
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray

from lightning_rl.media.videos import tiled, write_video

_SCALE = 4
_WAITING = 64
_MAX_FRAMES = 15 * 60 * 30

Image = UInt8[NDArray[Any], "H W 3"]


class Recording:
    """A video in the making; a thread of its own encodes it.

    Args:
        path: the file, which is there once the recording is finished.
        number: images of a frame; all frames of a video have one size.
        columns: images beside each other.
        frames_per_second: of the video.
    """

    def __init__(self, path: Path, number: int, columns: int, *, frames_per_second: int) -> None:
        self.path = path
        self.count = 0
        self._number = number
        self._columns = columns
        self.error: str | None = None
        self._frames: queue.Queue[Image | None] = queue.Queue(_WAITING)
        self._thread = threading.Thread(target=self._write, args=(frames_per_second,), name="recording")
        self._thread.start()

    @property
    def is_full(self) -> bool:
        """Whether it is as long as a recording may be: half an hour."""
        return self.count >= _MAX_FRAMES or self.error is not None

    def add(self, images: list[Image]) -> None:
        """Adds a frame; images that are missing stay black. Waits where the encoder is behind."""
        height, width = (max(image.shape[axis] for image in images) for axis in (0, 1))
        frame = np.zeros((self._number, height, width, 3), dtype=np.uint8)
        for place, image in zip(frame, images, strict=False):  # what has come later is not recorded
            place[: image.shape[0], : image.shape[1]] = image
        self.count += 1
        self._put(tiled(frame, columns=self._columns, scale=_SCALE, dimmed=np.zeros(self._number, dtype=bool)))

    def finish(self) -> str | None:
        """Ends the video; what went wrong, if anything did."""
        self._put(None)
        self._thread.join()
        return self.error

    def _put(self, frame: Image | None) -> None:
        while self._thread.is_alive():
            try:
                self._frames.put(frame, timeout=0.2)
            except queue.Full:
                continue
            return

    def _write(self, frames_per_second: int) -> None:
        try:
            write_video(self.path, self._taken(), frames_per_second=frames_per_second)
        except Exception as error:  # an encoder's may be of any kind
            self.error = str(error) or type(error).__name__

    def _taken(self) -> Iterator[Image]:
        while (frame := self._frames.get()) is not None:
            yield frame


def new_path(folder: Path, game: str) -> Path:
    """Where the next recording goes."""
    name = "".join(character if character.isalnum() or character in "_-" else "_" for character in game)
    stem = f"{name}_{time.strftime('%Y%m%d_%H%M%S')}"
    paths = (folder / f"{stem}{suffix}.mp4" for suffix in ("", *(f"_{number}" for number in range(2, 1000))))
    return next(path for path in paths if not path.exists())
