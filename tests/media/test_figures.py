import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from jaxtyping import UInt8
from numpy.typing import NDArray
from PIL import Image

from lightning_rl.media.figures import draw_image_rows, draw_learning_curve
from lightning_rl.media.videos import tiled, write_video
from lightning_rl.runs.metrics_csv import MetricsCSV


def colored(color: tuple[int, int, int], *, height: int, width: int) -> UInt8[NDArray[Any], "H W 3"]:
    return np.full((height, width, 3), color, dtype=np.uint8)


def decoded(path: Path) -> list[UInt8[NDArray[Any], "H W 3"]]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def boxes(path: Path) -> list[bytes]:
    """Names of the top-level boxes of an mp4, in order."""
    data, position, names = path.read_bytes(), 0, []
    while position < len(data):
        names.append(data[position + 4 : position + 8])
        position += int.from_bytes(data[position : position + 4], "big")
    return names


def test_a_video_decodes_to_the_frames_it_was_made_of(tmp_path: Path) -> None:
    red, green, blue = (colored(color, height=48, width=64) for color in ((220, 20, 20), (20, 180, 20), (20, 20, 200)))
    frames = np.stack([red] * 7 + [green] * 5 + [blue] * 3)
    path = write_video(tmp_path / "media" / "episodes.mp4", frames, frames_per_second=10)
    video = decoded(path)
    assert len(video) == 15
    for frame, original in zip(video, frames, strict=True):
        assert frame.shape == (48, 64, 3)
        # 8-bit YCbCr with halved color resolution: a few levels off on flat colors
        np.testing.assert_allclose(frame.astype(int), original.astype(int), atol=8)
    assert os.listdir(path.parent) == ["episodes.mp4"]


def test_a_video_is_h264_yuv420p_with_its_index_in_front(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", np.zeros((9, 16, 16, 3), np.uint8), frames_per_second=12)
    with av.open(str(path)) as container:
        (stream,) = container.streams.video
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == 12
        assert stream.frames == 9
    names = boxes(path)
    assert names.index(b"moov") < names.index(b"mdat")


def test_odd_sizes_are_padded_with_their_edge(tmp_path: Path) -> None:
    frame = colored((200, 200, 200), height=33, width=21)
    (seen,) = decoded(write_video(tmp_path / "a.mp4", [frame]))
    assert seen.shape == (34, 22, 3)
    assert seen[33].min() > 190  # white like its neighbor, up to coding error; black would be below 30
    assert seen[:, 21].min() > 190


def test_frames_may_come_from_a_generator(tmp_path: Path) -> None:
    def episode() -> Iterator[UInt8[NDArray[Any], "H W 3"]]:
        for level in range(0, 250, 10):
            yield colored((level, level, level), height=32, width=32)

    video = decoded(write_video(tmp_path / "a.mp4", episode()))
    # grays survive up to coding error
    np.testing.assert_allclose([frame.mean() for frame in video], range(0, 250, 10), atol=4)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([], "must have at least one frame, found none"),
        (
            [colored((0, 0, 0), height=8, width=8), colored((0, 0, 0), height=8, width=10)],
            r"frame 1 .* found \(8, 10\)",
        ),
    ],
)
def test_a_failed_video_leaves_the_earlier_file(
    tmp_path: Path, frames: list[UInt8[NDArray[Any], "H W 3"]], message: str
) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"earlier")
    with pytest.raises(ValueError, match=message):
        write_video(path, frames)
    assert path.read_bytes() == b"earlier"
    assert os.listdir(tmp_path) == ["a.mp4"]


def test_frames_are_tiled_row_by_row_with_gaps_and_dimmed_where_asked() -> None:
    frames = np.arange(1, 6, dtype=np.uint8)[:, None, None, None] * np.full((5, 2, 3, 1), 30, np.uint8)
    picture = tiled(frames, columns=3, scale=2, dimmed=np.array([False, True, False, False, True]))
    assert picture.shape == (2 * 4 + 2, 3 * 6 + 2 * 2, 1)
    expected = np.zeros_like(picture)
    for tile, value in enumerate([30, 20, 90, 120, 50]):
        top, left = tile // 3 * 6, tile % 3 * 8
        expected[top : top + 4, left : left + 6] = value
    np.testing.assert_array_equal(picture, expected)


def test_enlarging_repeats_pixels() -> None:
    frame = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    picture = tiled(frame, columns=1, scale=3, dimmed=np.array([False]))
    np.testing.assert_array_equal(picture, np.kron(frame[0], np.ones((3, 3, 1), np.uint8)))


@pytest.mark.slow
def test_the_learning_curve_includes_validation_returns(tmp_path: Path) -> None:
    metrics_csv, png = tmp_path / "metrics.csv", tmp_path / "media" / "curve.png"
    logger = MetricsCSV(metrics_csv)
    for step in range(5):
        logger.log_metrics({"env_steps": step * 16384, "episode/return": step / 2})
    assert draw_learning_curve(metrics_csv, png, title="PPO on starpilot")
    training_only = np.asarray(Image.open(png)).copy()
    logger.log_metrics({"env_steps": 81920, "validation/return": 1.0, "validation/train_levels_return": 2.0})
    assert draw_learning_curve(metrics_csv, png, title="PPO on starpilot")
    with_validation = np.asarray(Image.open(png))
    assert training_only.shape == with_validation.shape
    assert number_of_colors(with_validation) > number_of_colors(training_only)
    assert os.listdir(png.parent) == ["curve.png"]


def test_rows_of_images_are_drawn_in_order_with_exact_pixels(tmp_path: Path) -> None:
    png = tmp_path / "media" / "rows.png"
    colored_row = np.random.default_rng(0).integers(200, size=(2, 6, 9, 3), dtype=np.uint8)
    gray_row = np.random.default_rng(1).integers(200, size=(2, 6, 9, 1), dtype=np.uint8)

    draw_image_rows(png, [("", colored_row), ("", gray_row)], scale=4, title="")

    with Image.open(png) as image:
        picture = np.asarray(image.convert("RGB"))
    rows, columns = np.nonzero((picture < 255).all(-1))
    shown = picture[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    expected = np.full((2 * 6 + 2, 2 * 9 + 2, 3), 255, np.uint8)
    for row, images in enumerate((colored_row, gray_row)):
        for column, image_pixels in enumerate(images):
            expected[row * 8 : row * 8 + 6, column * 11 : column * 11 + 9] = image_pixels
    np.testing.assert_array_equal(shown, np.kron(expected, np.ones((4, 4, 1), np.uint8)))
    assert os.listdir(png.parent) == ["rows.png"]


@pytest.mark.parametrize(
    ("label", "columns", "title", "place"),
    [
        ("dimension 12: 0.04 nats", [], "", "left"),
        ("", ["-3", "3"], "", "below"),
        ("", [], "title", "above"),
        ("", [], "", "nowhere"),
    ],
)
def test_labels_are_drawn_beside_the_images_and_not_cut_off(
    label: str, columns: list[str], title: str, place: str, tmp_path: Path
) -> None:
    white = np.full((2, 40, 40, 1), 255, np.uint8)

    draw_image_rows(tmp_path / "a.png", [(label, white)], columns=columns, title=title, scale=2)

    with Image.open(tmp_path / "a.png") as picture:
        dark = np.asarray(picture.convert("L")) < 255
    assert not np.concatenate([dark[0], dark[-1], dark[:, 0], dark[:, -1]]).any()  # no text is cut off
    height, width = dark.shape
    images = {"above": 30, "left": width - 12 - 2 * 82, "below": 24}
    written = {
        "above": dark[: images["above"]].any(),
        "left": dark[:, : images["left"] - 1].any() and not title,
        "below": dark[height - images["below"] :].any(),
    }
    assert [where for where, any_text in written.items() if any_text] == ([] if place == "nowhere" else [place])


def number_of_colors(picture: UInt8[NDArray[Any], "H W C"]) -> int:
    return len(np.unique(picture.reshape(-1, picture.shape[-1]), axis=0))


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [{"env_steps": 1, "episode/return": 1.0}],
        [{"env_steps": 1, "loss/policy": 1.0}, {"env_steps": 2, "loss/policy": 1.0}],
        [{"env_steps": 1, "episode/return": float("nan")}, {"env_steps": 2, "episode/return": 1.0}],
    ],
    ids=["no file", "one row", "no return", "one finite return"],
)
def test_no_learning_curve_is_drawn_from_fewer_than_two_points(tmp_path: Path, rows: list[dict[str, float]]) -> None:
    logger = MetricsCSV(tmp_path / "metrics.csv")
    for row in rows:
        logger.log_metrics(row)
    assert not draw_learning_curve(tmp_path / "metrics.csv", tmp_path / "curve.png", title="")
    assert not (tmp_path / "curve.png").exists()
