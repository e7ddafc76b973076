"""Videos of episodes as mp4 files, with frames in a grid or under a caption."""

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
_CAPTION_HEIGHT = 14  # pixels, for Pillow's built-in font


def write_video(path: Path, frames: Iterable[UInt8[NDArray[Any], "H W 3"]], *, frames_per_second: int = 15) -> Path:
    """Encodes frames as an mp4 that every player and browser supports: H.264, yuv420p, index in front.

    Only one frame at a time is held in memory, and the file is written atomically. H.264 needs even sizes, so the last
    row or column of an odd size is repeated.

    Args:
        path: output file; its folder is created.
        frames: RGB, 0..255, all of one size; an array `[T H W 3]` also works.
        frames_per_second: the default is the rate of Procgen's own videos.

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
    """One image of many environments' frames: a grid on black, enlarged by nearest-neighbor interpolation.

    Args:
        frames: the current frame of each environment.
        columns: number of frames side by side.
        scale: factor by which frames are enlarged.
        dimmed: environments to darken to a third, such as those whose episode is over.

    Returns:
        The image, with gaps between frames but none around them.
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
    """Frames enlarged by nearest-neighbor interpolation, each with a line of white text above it.

    Args:
        frames: RGB, 0..255.
        captions: text above each frame.
        scale: factor by which frames are enlarged.
    """
    enlarged = frames.repeat(scale, axis=1).repeat(scale, axis=2)
    pictures = np.pad(enlarged, ((0, 0), (_CAPTION_HEIGHT, 0), (0, 0), (0, 0)))
    for picture, caption in zip(pictures, captions, strict=True):
        strip = Image.new("L", (picture.shape[1], _CAPTION_HEIGHT))
        ImageDraw.Draw(strip).text((2, 1), caption, fill=255)
        picture[:_CAPTION_HEIGHT] = np.asarray(strip)[..., None]
    return pictures


def _encode(path: Path, frames: Iterable[UInt8[NDArray[Any], "H W 3"]], size: tuple[int, ...], rate: int) -> None:
    """Encodes the frames, padded to even sizes, to `path`."""
    height, width = size
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(rate), options={"crf": "26", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number, frame in enumerate(frames):
            image = _even(frame)
            if image.shape[:2] != size:
                raise ValueError(f"frame {number} must have the first frame's size {size}, found {image.shape[:2]}")
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))


def _even(frame: UInt8[NDArray[Any], "H W 3"]) -> UInt8[NDArray[Any], "H2 W2 3"]:
    """The frame, with the last row or column repeated if their number is odd."""
    height, width, _ = frame.shape
    return np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
