import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import av
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from lightning_rl.errors import UsageError
from lightning_rl.viewer import recordings
from lightning_rl.viewer.serving import Viewer
from tests.viewer.walk import LEFT, RIGHT, ForgetfulModel, RightPolicy, Talk, WalkVectorEnv, any_one, none, table, walk

Started = Callable[..., Viewer]


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Started]:
    viewers: list[Viewer] = []

    def start(**options: Any) -> Viewer:
        scene = options.pop("scene", None) or walk(policy=RightPolicy(), greedy=True)
        viewer = Viewer(lambda: table(scene), recordings=tmp_path / "recordings", **options)
        viewers.append(viewer)
        viewer.start()
        return viewer

    yield start
    for viewer in viewers:
        viewer.close()
    assert [viewer.failure for viewer in viewers] == [None] * len(viewers)
    assert not [thread for thread in threading.enumerate() if thread.name in ("games", "network", "recording")]


def answer(viewer: Viewer, path: str, **headers: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", viewer.port, timeout=30)
    connection.request("GET", path, headers=headers)
    found = connection.getresponse()
    found.read()
    connection.close()
    return found


def steps(window: Talk) -> int:
    """How far the game is; it goes on."""
    before: int = window.until(any_one)["length"]
    frame = window.until(lambda frame: frame["length"] != before)
    return int(frame["length"])


def test_a_window_sees_the_agent_play(started: Started) -> None:
    with Talk(started().link) as window:
        about, _ = window.hear()
        trace, _ = window.hear()
        first = window.until(any_one)
        second = window.until(lambda frame: frame["length"] > first["length"])

    assert about["title"] == "<b>walk</b>"
    assert (trace["type"], trace["number"]) == ("trace", 0)
    assert second["images"] == [[16, 16]]
    assert len(second["bytes"]) == 16 * 16 * 3
    assert second["bytes"] != first["bytes"]
    assert second["probabilities"] == pytest.approx([0.1, 0.1, 0.7, 0.1])
    assert second["values"] == [second["length"] + 1.0]
    assert second["total"] == second["length"]


@pytest.mark.slow
def test_the_rate_is_the_asked_one(started: Started) -> None:
    with Talk(started().link) as window:
        window.say(do="speed", value=2)
        first = window.until(lambda frame: frame["speed"] == 2)
        begun = time.monotonic()
        last = window.until(lambda frame: frame["length"] >= first["length"] + 30)
        seconds = time.monotonic() - begun

    rate = (last["length"] - first["length"]) / seconds
    assert 15 < rate < 33  # 30 are asked for; a busy machine reaches fewer


def test_pause_step_and_rewind_to_the_same_bytes(started: Started) -> None:
    with Talk(started().link) as window:
        window.say(do="pause", value=True)
        shown = [window.until(lambda frame: frame["paused"])]
        for number in range(shown[0]["at"] + 1, shown[0]["at"] + 6):
            window.say(do="step")
            shown.append(window.until(lambda frame, at=number: frame["at"] == at))  # type: ignore[misc]
        window.say(do="seek", at=shown[2]["at"])
        rewound = window.until(lambda frame: frame["at"] == shown[2]["at"])
        window.say(do="step")
        stepped = window.until(lambda frame: frame["at"] == shown[3]["at"])

    assert len({frame["bytes"] for frame in shown}) == 6
    assert rewound["bytes"] == shown[2]["bytes"]
    assert stepped["bytes"] == shown[3]["bytes"]
    assert (rewound["known"], stepped["known"]) == (shown[5]["known"], shown[3]["known"])


def test_who_took_over_plays_and_gives_back(started: Started) -> None:
    link = started().link
    with Talk(link, "one") as one, Talk(link, "two") as two:
        one.say(do="who", player="person")
        one.until(lambda frame: frame["owner"] == "one")
        two.say(do="hold", action=RIGHT)
        one.say(do="hold", action=LEFT)
        held = two.until(lambda frame: frame["action"] == LEFT)
        one.say(do="who", player="agent")
        back = two.until(lambda frame: frame["player"] == "agent" and frame["action"] == RIGHT)

    assert held["windows"] == 2
    assert back["owner"] == ""


def test_a_window_that_connects_again_goes_on_where_it_was(started: Started) -> None:
    link = started().link
    with Talk(link, "one") as one:
        one.say(do="who", player="person")
        one.until(lambda frame: frame["owner"] == "one" and frame["length"] > 2)
    with Talk(link, "other") as other:
        left = other.until(lambda frame: frame["windows"] == 1)
    with Talk(link, "one") as one:
        again = one.until(any_one)

    assert left["paused"]
    assert (again["owner"], again["episode"], again["length"]) == ("one", 0, left["length"])


def test_nothing_is_played_while_no_window_is_open(started: Started) -> None:
    link = started().link
    with Talk(link) as window:
        before = steps(window)
    time.sleep(0.5)
    with Talk(link) as window:
        after = window.until(any_one)["length"]

    assert after <= before + 3


def test_levels(started: Started) -> None:
    with Talk(started().link) as window:
        found = [window.until(any_one)["level"]]
        commands: list[dict[str, Any]] = [
            {"do": "beside", "to": "previous"},
            {"do": "level", "number": 11},
            {"do": "set", "levels": "unseen"},
        ]
        for number, command in enumerate(commands, 1):
            window.say(**command)
            found.append(window.until(lambda frame, n=number: frame["episode"] == n)["level"])  # type: ignore[misc]

    assert found == [3, 7, 11, 8]


def test_a_link_brings_back_level_and_actions(started: Started) -> None:
    with Talk(started().link) as window:
        window.say(do="level", number=5)
        window.until(lambda frame: frame["level"] == 5 and frame["length"] >= 6)
        window.say(do="pause", value=True)
        paused = window.until(lambda frame: frame["paused"])
        window.say(do="link")
        link = window.until(any_one, "link")
        window.say(do="level", number=3)
        window.say(do="replay", game="walk", level=link["level"], actions=link["actions"])
        again = window.until(lambda frame: frame["episode"] == 3 and frame["paused"])

    assert again["bytes"] == paused["bytes"]
    assert [again[key] for key in ("level", "length", "total")] == [paused[key] for key in ("level", "length", "total")]


@pytest.mark.slow
def test_a_recording_keeps_its_size_where_fewer_pictures_are_shown(started: Started) -> None:
    viewer = started(scene=walk(policy=RightPolicy(), greedy=True, world_model=ForgetfulModel()))
    with Talk(viewer.link) as window:
        window.say(do="where", value="both")
        window.until(lambda frame: frame["where"] == "both")
        window.say(do="record", value=True)
        window.until(lambda frame: (frame["recording"] or 0) >= 3)
        window.say(do="grid", number=1)
        window.say(do="where", value="game")
        window.until(lambda frame: frame["where"] == "game" and (frame["recording"] or 0) >= 8)
        window.say(do="record", value=False)
        made = window.until(any_one, "recorded")
    with av.open(made["path"]) as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]

    assert {frame.shape[0] for frame in frames} == {16 * 4}
    assert {frame.shape[1] for frame in frames} == {3 * 16 * 4 + 2 * 2}
    assert frames[0][:, 70:130].max() > 200  # the world model
    assert frames[-1][:, 70:].max() < 30


def test_a_recording_is_an_mp4_of_every_step(started: Started, tmp_path: Path) -> None:
    viewer = started()
    with Talk(viewer.link) as window:
        window.say(do="record", value=True)
        window.until(lambda frame: (frame["recording"] or 0) >= 10)
        window.say(do="record", value=False)
        made = window.until(any_one, "recorded")
        token = urlsplit(viewer.link).query
        served = answer(viewer, f"/recordings/{made['name']}?{token}")

    assert [path.name for path in (tmp_path / "recordings").iterdir()] == [made["name"]]
    assert (served.status, answer(viewer, f"/recordings/{made['name']}").status) == (200, 403)
    assert answer(viewer, f"/recordings/..%2Fsecret?{token}").status == 404
    with av.open(made["path"]) as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert len(frames) >= 10
    assert frames[0].shape == (64, 64, 3)


def test_a_recording_that_is_not_stopped_is_kept_at_the_end(started: Started, tmp_path: Path) -> None:
    viewer = started()
    with Talk(viewer.link) as window:
        window.say(do="record", value=True)
        window.until(lambda frame: (frame["recording"] or 0) >= 3)
        viewer.close()

    [path] = (tmp_path / "recordings").iterdir()
    with av.open(str(path)) as video:
        assert len(list(video.decode(video=0))) >= 3


@pytest.mark.slow
def test_a_slow_window_gets_no_old_frames_and_holds_nobody_up(started: Started) -> None:
    link = started(scene=walk(policy=RightPolicy(), make_game=WideVectorEnv)).link
    with Talk(link, "slow", max_queue=1) as slow, Talk(link, "quick") as quick:
        slow.until(any_one)
        quick.say(do="speed", value=4)
        for _ in range(3):  # 3 MB each second, more than all buffers hold
            quick.until(lambda frame: frame["over"])
            quick.until(lambda frame: not frame["over"])
        quick.say(do="pause", value=True)
        last = quick.until(lambda frame: frame["paused"])
        seen = 0
        while True:
            header, _ = slow.hear()
            seen += 1
            if header["type"] == "frame" and header["paused"]:
                break

    assert header["length"] == last["length"]
    assert seen < 100  # of about 120 that were sent to the other one


class WideVectorEnv(WalkVectorEnv):
    """One with large frames."""

    def _obs(self) -> Any:
        return super()._obs().repeat(20, axis=1).repeat(20, axis=2)


def test_the_page_needs_the_token_and_gives_a_cookie(started: Started) -> None:
    viewer = started()
    with_token = answer(viewer, f"/?token={viewer.access.token}")
    cookie = with_token.headers["Set-Cookie"]

    assert with_token.status == 200
    assert cookie.endswith("; HttpOnly; SameSite=Strict; Path=/")
    assert "default-src 'none'" in with_token.headers["Content-Security-Policy"]
    assert answer(viewer, "/", Cookie=cookie.partition(";")[0]).status == 200
    assert [answer(viewer, path).status for path in ("/", "/?token=", "/?token=x", "/ws")] == [403, 403, 403, 404]
    assert answer(viewer, "/", Cookie=f"{viewer.access.cookie}=x").status == 403
    assert answer(viewer, "/page.css").status == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:1", 200),
        ("127.0.0.1:65000", 200),
        ("[::1]:8265", 200),
        ("evil.example", 400),
        ("evil.example:8265", 400),
        ("localhost.evil.example", 400),
        ("10.0.0.1:8265", 400),
        ("", 400),
    ],
)
def test_another_host_is_refused(host: str, status: int, started: Started) -> None:
    viewer = started()

    assert answer(viewer, f"/?token={viewer.access.token}", Host=host).status == status


@pytest.mark.parametrize(
    "origin", [None, "null", "http://evil.example", "http://127.0.0.1:1", "http://localhost", "file://"]
)
def test_another_origin_is_refused_and_the_game_goes_on(origin: str | None, started: Started) -> None:
    viewer = started()

    with Talk(viewer.link) as window:
        with pytest.raises(InvalidStatus, match="403"), Talk(viewer.link, origin=origin):
            pass
        steps(window)


def test_a_wrong_token_is_refused_and_the_game_goes_on(started: Started) -> None:
    viewer = started()

    with Talk(viewer.link) as window:
        with pytest.raises(InvalidStatus, match="403"), Talk(viewer.link.replace("token=", "token=x")):
            pass
        steps(window)


def test_another_host_of_the_socket_is_refused(started: Started) -> None:
    viewer = started()
    link = viewer.link.replace("127.0.0.1", "evil.example")  # whose name leads here

    with (
        socket.create_connection(("127.0.0.1", viewer.port)) as rebound,
        pytest.raises(InvalidStatus, match="403"),
        Talk(link, sock=rebound),
    ):
        pass


def test_malformed_messages_are_refused_and_the_game_goes_on(started: Started) -> None:
    with Talk(started().link) as window:
        for content in ("", "{}", '{"do": "hold", "action": 99}', '{"do": "level", "number": 9999999999}', b"\xff\0"):
            window.socket.send(content)
            told = window.until(any_one, "error")["text"]
            assert "found" in told
        steps(window)


def test_an_oversized_message_closes_its_window_only(started: Started) -> None:
    link = started().link
    with Talk(link, "good") as good, Talk(link, "bad") as bad:
        bad.socket.send("x" * 70_000)
        with pytest.raises(ConnectionClosed) as closed:
            bad.until(none)
        steps(good)

    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1009


def flood(window: Talk) -> None:
    for _ in range(2000):
        window.say(do="greedy", value=True)
    window.until(none)


def test_a_flood_closes_its_window_only(started: Started) -> None:
    link = started().link
    with Talk(link, "good") as good, Talk(link, "bad") as bad:
        with pytest.raises(ConnectionClosed) as closed:
            flood(bad)
        steps(good)

    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1008


def test_the_first_message_must_be_a_greeting(started: Started) -> None:
    with Talk(started().link, "x" * 100) as window, pytest.raises(ConnectionClosed):
        window.until(none)


@pytest.mark.slow
def test_the_server_ends_a_while_after_the_last_window(started: Started) -> None:
    viewer = started(linger=0.5)
    assert not viewer.ended.wait(1.0)  # no window was open yet
    with Talk(viewer.link) as window:
        steps(window)
        assert not viewer.ended.is_set()

    assert viewer.ended.wait(30)
    assert viewer.failure is None


@pytest.mark.slow
def test_it_stays_open_if_asked_to(started: Started) -> None:
    viewer = started(linger=0.1, keep_open=True)
    with Talk(viewer.link) as window:
        steps(window)

    assert not viewer.ended.wait(1.0)


def test_a_game_that_fails_ends_the_server_and_says_why(started: Started) -> None:
    def fail(level: int) -> Any:
        raise ValueError("no such game")

    viewer = started(scene=walk(make_game=fail))

    assert viewer.ended.wait(30)
    assert str(viewer.failure) == "no such game"
    viewer.failure = None  # as expected


def test_a_busy_port_is_refused_and_a_free_one_named(started: Started) -> None:
    viewer = started()

    with pytest.raises(UsageError, match=rf"port must be free, found {viewer.port}.*; \d+ is free"):
        Viewer(table, port=viewer.port)


def test_an_encoder_that_fails_is_told(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("no encoder")

    monkeypatch.setattr(recordings, "write_video", fails)
    with Talk(started().link) as window:
        window.say(do="record", value=True)

        assert window.until(any_one, "error")["text"] == "The recording failed: no encoder"


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_on_all_addresses_each_address_is_a_name_of_the_server(host: str, started: Started) -> None:
    try:
        viewer = started(host=host)
    except UsageError as error:
        pytest.skip(f"this machine has none of this kind: {error}")
    asked = f"/?token={viewer.access.token}"

    assert answer(viewer, asked, Host="127.0.0.1:8265").status == 200
    assert answer(viewer, asked, Host=socket.gethostname()).status == 200
    assert answer(viewer, asked, Host="10.9.9.9").status == 400


def test_a_host_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def fails(host: str, *_: Any) -> Any:
        asked.append(host)
        raise socket.gaierror("unknown")

    monkeypatch.setattr(socket, "getaddrinfo", fails)

    with pytest.raises(UsageError, match="host: nothing can listen on nowhere: unknown"):
        Viewer(table, host="nowhere")
    assert asked == ["nowhere"]


def test_the_default_port_moves_on(started: Started) -> None:
    first, second = started(), started()

    assert first.port != second.port


def test_only_this_machine_is_listened_to_by_default(started: Started) -> None:
    viewer = started()
    others = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)} - {"127.0.0.1"}

    for address in others - {"127.0.1.1"}:
        with pytest.raises(OSError, match="refused"):
            socket.create_connection((str(address), viewer.port), timeout=5)
    assert json.dumps(viewer.link).startswith('"http://127.0.0.1:')
