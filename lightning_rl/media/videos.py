"""Videos for people: mp4s of episodes, frames in a grid or under a caption."""

import itertools
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from einops import rearrange
from jaxtyping import Bool, UInt8
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from lightning_rl.runs.atomic_files import atomic_write

GAP = 2  # pixels between two tiles


_CAPTION_HEIGHT = 14  # of the font that Pillow has by itself


def write_video(path: Path, frames: Iterable[UInt8[NDArray[Any], "H W 3"]], *, frames_per_second: int = 15) -> Path:
    """Encodes frames as an mp4 that every player and browser shows: H.264, yuv420p, index in front.

    One frame at a time is held in memory. The file appears whole or not at all. H.264 wants even sizes; an odd one
    gets its last row or column of pixels twice.

    Args:
        path: the mp4; its folder is made.
        frames: rGB, 0..255, all of one size; an array `[T H W 3]` is such a sequence.
        frames_per_second: 15 is the rate at which Procgen's own videos play.

    Returns:
        `path`.

    Raises:
        ValueError: there are no frames, or they differ in size.
    """
    remaining = iter(frames)
    first = next(remaining, None)
    if first is None:
        raise ValueError(f"{path}: a video must have at least one frame, found none")
    with atomic_write(path) as file:  # by its name: PyAV reads the file again to put the index in front
        _encode(Path(file.name), itertools.chain([first], remaining), _even(first).shape[:2], frames_per_second)
    return path


def tiled(
    frames: UInt8[NDArray[Any], "B H W C"], *, columns: int, scale: int, dimmed: Bool[NDArray[Any], "B"]
) -> UInt8[NDArray[Any], "H2 W2 C"]:
    """One picture of many environments: a grid, row by row, enlarged without smoothing, on black.

    Args:
        frames: what each environment shows.
        columns: environments side by side.
        scale: pixels of the picture per pixel of a frame, each way.
        dimmed: environments to darken to a third, those whose episode is over.

    Returns:
        The picture, with gaps between its tiles and none around them.
    """
    shown = np.where(dimmed[:, None, None, None], frames // 3, frames)
    enlarged = shown.repeat(scale, axis=1).repeat(scale, axis=2)
    vacant = -len(frames) % columns
    padded = np.pad(enlarged, ((0, vacant), (0, GAP), (0, GAP), (0, 0)))
    grid = rearrange(padded, "(rows columns) h w c -> (rows h) (columns w) c", columns=columns)
    return np.ascontiguousarray(grid[:-GAP, :-GAP])


def captioned(
    frames: UInt8[NDArray[Any], "N H W 3"], captions: Sequence[str], *, scale: int
) -> UInt8[NDArray[Any], "N H2 W2 3"]:
    """Frames, enlarged without smoothing, each with a line of white text above it.

    Args:
        frames: rGB, 0..255.
        captions: what to write above each.
        scale: pixels of the picture per pixel of a frame, each way.
    """
    enlarged = frames.repeat(scale, axis=1).repeat(scale, axis=2)
    pictures = np.pad(enlarged, ((0, 0), (_CAPTION_HEIGHT, 0), (0, 0), (0, 0)))
    for picture, caption in zip(pictures, captions, strict=True):
        strip = Image.new("L", (picture.shape[1], _CAPTION_HEIGHT))
        ImageDraw.Draw(strip).text((2, 1), caption, fill=255)
        picture[:_CAPTION_HEIGHT] = np.asarray(strip)[..., None]
    return pictures


def _encode(path: Path, frames: Iterable[UInt8[NDArray[Any], "H W 3"]], size: tuple[int, ...], rate: int) -> None:
    """Writes the frames, each made even, to `path`."""
    height, width = size
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(rate), options={"crf": "18", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number, frame in enumerate(frames):
            image = _even(frame)
            if image.shape[:2] != size:
                raise ValueError(f"frame {number} is {image.shape[:2]}, the first one was {size}; a video has one size")
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))


def _even(frame: UInt8[NDArray[Any], "H W 3"]) -> UInt8[NDArray[Any], "H2 W2 3"]:
    """The frame, with its last row or column repeated where there is an odd number of them."""
    height, width, _ = frame.shape
    return np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
