"""All that the page of `play` offers, over its WebSocket, on a run of every kind of method and on a game alone."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import pytest

from lightning_rl.cli import play
from lightning_rl.viewer.serving import Viewer
from tests.support.methods import RUNNING_STD
from tests.support.shared_runs import SharedRuns
from tests.viewer.walk import Talk, any_one

pytestmark = pytest.mark.slow

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "PPO": ("ppo", {}),
    "distillation": ("ppo_distill", RUNNING_STD),
    "IMPALA and VAE": ("impala_vae", {}),
    "SimPLe": ("simple_cpu", {"data__num_envs": 16, "data__num_steps": 2}),
    "Atari": ("ppo_atari", {"iterations": 1, "trainer__check_val_every_n_epoch": 1}),
    "a game alone": ("", {}),
}


@pytest.fixture(params=KINDS, scope="module")
def viewer(
    request: pytest.FixtureRequest, runs: SharedRuns, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Viewer]:
    config, options = KINDS[request.param]
    args = ["--ckpt_path", str(runs.finished(config, **options))] if config else ["--game", "dodgeball"]
    shown = play.table(*play.parser().parse_known_args(args))
    found = Viewer(lambda: shown, recordings=tmp_path_factory.mktemp("recordings"), keep_open=True)
    found.start()
    yield found
    found.close()
    assert found.failure is None


@pytest.fixture
def window(viewer: Viewer) -> Iterator[Talk]:
    with Talk(viewer.link) as found:
        yield found
        found.say(do="who", player="random")
        found.say(do="pause", value=False)


@pytest.fixture
def about(window: Talk) -> dict[str, Any]:
    found = window.until(any_one, "hello")  # frames for other windows may come before
    window.say(do="pause", value=False)
    return found


def test_who_plays(window: Talk, about: dict[str, Any]) -> None:
    last = len(about["actions"]) - 1
    window.say(do="who", player="person")
    window.say(do="hold", action=last)
    held = window.until(lambda frame: frame["player"] == "person" and frame["action"] == last)
    window.say(do="who", player="random")
    given_back = window.until(lambda frame: frame["player"] == "random" and frame["action"] not in (None, last))

    assert (held["owner"], given_back["owner"]) == ("window", "")
    if about["agent"]:
        window.say(do="who", player="agent")
        window.say(do="greedy", value=True)
        chosen: list[bool] = []
        while len(chosen) < 3:
            before = window.until(lambda frame: frame["player"] == "agent" and frame["greedy"] and not frame["over"])
            after = window.until(lambda frame, at=before["at"]: frame["at"] != at)  # type: ignore[misc]
            if (after["episode"], after["length"]) == (before["episode"], before["length"] + 1):
                best = max(before["probabilities"])
                chosen.append(before["probabilities"][after["action"]] == best)
        assert all(chosen)
        window.say(do="greedy", value=False)


def test_what_it_thinks(window: Talk, about: dict[str, Any]) -> None:
    if about["agent"]:
        window.say(do="who", player="agent")
    window.say(do="pause", value=True)
    window.say(do="level", number=7)
    for _ in range(3):
        window.say(do="step")
    frame = window.until(lambda frame: frame["paused"] and frame["level"] == 7 and frame["length"] == 3)
    window.say(do="trace")
    trace = window.until(any_one, "trace")

    assert {"reward", "total", "length"} <= frame.keys()
    if not about["agent"]:
        assert (frame["probabilities"], frame["values"]) == (None, None)
        return
    assert sum(frame["probabilities"]) == pytest.approx(1, abs=1e-5)
    assert len(frame["probabilities"]) == len(about["actions"])
    assert trace["values"][frame["length"]] == pytest.approx(frame["values"][0])
    if about["method"].startswith("ppo_distill"):
        assert "Intrinsic reward" in frame["numbers"]
        assert len(frame["values"]) == 2
    if about["method"] == "impala_vae":
        assert frame["labels"] == ["game", "autoencoder sees", "reconstruction"]
        window.say(do="latent", dimension=about["sliders"][0], value="4")
        moved = window.until(any_one)
        while moved["bytes"] == frame["bytes"]:
            moved = window.until(any_one)
        assert moved["at"] == frame["at"]


def test_time(window: Talk, about: dict[str, Any]) -> None:
    window.until(lambda frame: frame["at"] > 5)
    window.say(do="pause", value=True)
    paused = window.until(lambda frame: frame["paused"])
    window.say(do="step")
    window.until(lambda frame: frame["at"] == paused["at"] + 1)
    window.say(do="seek", at=paused["at"])
    rewound = window.until(lambda frame: frame["at"] == paused["at"])
    window.say(do="restart")
    restarted = window.until(lambda frame: frame["length"] == 0)
    for speed in (0.25, 4, 0, 1):
        window.say(do="speed", value=speed)
        window.until(lambda frame, speed=speed: frame["speed"] == speed)  # type: ignore[misc]

    assert rewound["bytes"] == paused["bytes"]
    assert restarted["level"] == paused["level"]


def test_levels(window: Talk, about: dict[str, Any]) -> None:
    window.say(do="pause", value=True)
    window.say(do="level", number=7)
    first = window.until(lambda frame: frame["level"] == 7 and frame["length"] == 0)
    window.say(do="beside", to="next")
    window.until(lambda frame: frame["level"] == 8)
    window.say(do="beside", to="previous")
    again = window.until(lambda frame: frame["level"] == 7 and frame["length"] == 0)
    assert first["bytes"] == again["bytes"]
    if about["training_levels"] is not None:
        window.say(do="set", levels="unseen")
        unseen = window.until(lambda frame: frame["set"] == "unseen" and frame["length"] == 0)
        assert unseen["level"] == sum(about["training_levels"])
    window.say(do="pause", value=False)
    window.say(do="grid", number=4)
    several = window.until(lambda frame: frame["count"] == 4 and frame["length"] > 2)
    window.say(do="grid", number=1)
    alone = window.until(lambda frame: frame["count"] == 1)
    assert len(several["images"]) == 4
    assert len(alone["images"]) in (1, 3)


def test_where(window: Talk, about: dict[str, Any]) -> None:
    if not about["world_model"]:
        window.say(do="where", value="both")
        assert "where must be game" in window.until(any_one, "error")["text"]
        return
    window.say(do="where", value="both")
    beside = window.until(lambda frame: frame["where"] == "both" and "Difference" in frame["numbers"])
    window.say(do="real_frame")
    alone = window.until(lambda frame: frame["where"] == "model")
    window.say(do="where", value="game")
    window.until(lambda frame: frame["where"] == "game")

    assert beside["labels"] == ["game", "world model", "difference"]
    assert (alone["labels"], alone["numbers"]["Began at"]) == (["world model"], "a real frame")


def test_keep(window: Talk, about: dict[str, Any], viewer: Viewer) -> None:
    window.say(do="record", value=True)
    window.until(lambda frame: (frame["recording"] or 0) >= 3)
    window.say(do="record", value=False)
    made = window.until(any_one, "recorded")
    with av.open(made["path"]) as video:
        assert len(list(video.decode(video=0))) >= 3
    window.say(do="level", number=3)
    window.until(lambda frame: frame["level"] == 3 and frame["length"] > 3)
    window.say(do="pause", value=True)
    paused = window.until(lambda frame: frame["paused"])
    window.say(do="link")
    link = window.until(any_one, "link")
    window.say(do="replay", **{key: link[key] for key in ("game", "level", "actions")})
    again = window.until(lambda frame: frame["episode"] > paused["episode"] and frame["paused"])

    assert Path(made["path"]).name == made["name"]
    assert (again["length"], again["total"]) == (paused["length"], paused["total"])
    if paused["labels"] == ["game"]:
        assert again["bytes"] == paused["bytes"]
