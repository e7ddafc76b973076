"""What a window is sent, and in which order."""

import asyncio

import pytest

from lightning_rl.viewer.hub import Hub, Window


def heard(window: Window, count: int) -> list[bytes]:
    async def listen() -> list[bytes]:
        return [await asyncio.wait_for(window.next(), 5) for _ in range(count)]

    return asyncio.run(listen())


def test_a_window_gets_no_frame_before_it_knows_what_is_shown() -> None:
    window = Window("late")
    window.put(b"under way", is_frame=True)

    with pytest.raises(TimeoutError):
        asyncio.run(asyncio.wait_for(window.next(), 0.05))
    window.put(b"about", is_frame=False)
    window.put(b"first", is_frame=True)

    assert heard(window, 2) == [b"about", b"first"]


def test_a_name_is_gone_with_its_last_window() -> None:
    hub = Hub(lambda _: None)
    old, new, other = Window("me"), Window("me"), Window("you")
    for window in (old, other, new):
        hub.join(window)

    assert [hub.leave(window) for window in (old, other, new)] == [False, True, True]


def test_a_frame_replaces_one_that_waits_and_other_messages_come_before_it() -> None:
    window = Window("slow")
    for content in (b"about", b"one", b"two"):
        window.put(content, is_frame=content != b"about")
    window.put(b"trace", is_frame=False)

    assert heard(window, 3) == [b"about", b"trace", b"two"]
