import json
from pathlib import Path

import av
import numpy as np
import pytest

from lightning_rl.cli.program import main
from tests.support.runs import fit
from tests.support.shared_runs import SharedRuns


def test_episodes_are_shown_side_by_side_and_dimmed_once_over(tmp_path: Path, runs: SharedRuns) -> None:
    checkpoint = ["--ckpt_path", str(runs.finished("ppo") / "last.ckpt"), "--run_dir", str(tmp_path)]
    assert main(["predict", *checkpoint, "--data.predict_episodes", "2"]) == 0

    lengths = json.loads((tmp_path / "media" / "episodes.json").read_text())["lengths"]
    with av.open(str(tmp_path / "media" / "episodes.mp4")) as video:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)])
    assert len(frames) == max(lengths)
    assert frames.shape[1:] == (192, 2 * 194 - 2, 3)
    short = int(np.argmin(lengths))
    tile = frames[:, :, short * 194 : short * 194 + 192].mean((1, 2, 3))
    assert lengths[short] < max(lengths)
    assert tile[lengths[short] :].max() < tile[: lengths[short]].min() / 2


def test_what_fit_cannot_show_is_told_and_what_predict_cannot_is_an_error(tmp_path: Path) -> None:
    names = ("episodes.mp4", "learning_curve.png")
    for name in names:  # no file takes the place of a folder
        (tmp_path / "media" / name).mkdir(parents=True)

    with pytest.warns(UserWarning, match="was not written") as told:
        fit(tmp_path, iterations=2)

    assert [str(warning.message).split(" was")[0] for warning in told] == [str(tmp_path / "media" / n) for n in names]
    with pytest.raises(IsADirectoryError):
        main(["predict", "--ckpt_path", str(tmp_path / "last.ckpt"), "--data.predict_episodes", "2"])
