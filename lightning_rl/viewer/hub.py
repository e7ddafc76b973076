"""The open windows: each gets the newest frame that it has time for, and every other message."""

import asyncio
from collections import deque
from collections.abc import Callable

_MAX_WAITING = 64


class Window:
    """What one window is yet to be sent. Used in the network's thread only.

    A frame that the connection had no time for is replaced by the next one. Other messages wait in line; a window that
    leaves too many of them unread is given up. Frames begin after the first other message, which says what is shown:
    one may be under way when a window joins.

    Args:
        name: the page's own, which it keeps when it connects again.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._messages: deque[bytes] = deque()
        self._frame: bytes | None = None
        self._is_told = False  # what is shown
        self._news = asyncio.Event()

    @property
    def is_lost(self) -> bool:
        """Whether too many messages wait."""
        return len(self._messages) > _MAX_WAITING

    def put(self, message: bytes, *, is_frame: bool) -> None:
        """Leaves a message to be sent."""
        if not is_frame:
            self._is_told = True
            self._messages.append(message)
        elif self._is_told:
            self._frame = message
        self._news.set()

    async def next(self) -> bytes:
        """The next message, once there is one."""
        while not self._messages and self._frame is None:
            self._news.clear()
            await self._news.wait()
        if self._messages:
            return self._messages.popleft()
        frame, self._frame = self._frame, None
        return frame or b""


class Hub:
    """All windows; `send` may be called from any thread.

    Args:
        changed: is told the number of windows whenever it changes, in the network's thread.
    """

    def __init__(self, changed: Callable[[int], None]) -> None:
        self._windows: set[Window] = set()
        self._changed = changed
        self._loop: asyncio.AbstractEventLoop | None = None

    def __len__(self) -> int:
        return len(self._windows)

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """Takes the event loop of the network's thread."""
        self._loop = loop

    def join(self, window: Window) -> None:
        """Adds a window."""
        self._windows.add(window)
        self._changed(len(self._windows))

    def leave(self, window: Window) -> bool:
        """Removes a window; whether no other one of its name is left."""
        self._windows.discard(window)
        self._changed(len(self._windows))
        return all(other.name != window.name for other in self._windows)

    def send(self, message: bytes, *, is_frame: bool = False, to: str | None = None) -> None:
        """Sends a message to all windows, or to those of one name."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._put, message, is_frame, to)

    def _put(self, message: bytes, is_frame: bool, to: str | None) -> None:  # asyncio passes positions
        for window in self._windows:
            if to in (None, window.name):
                window.put(message, is_frame=is_frame)
