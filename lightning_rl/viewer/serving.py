"""Runs the server: its port, its threads, and when it ends."""

import asyncio
import secrets
import socket
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import uvicorn

from lightning_rl.errors import UsageError
from lightning_rl.viewer.access import Access
from lightning_rl.viewer.games_thread import GamesThread
from lightning_rl.viewer.hub import Hub
from lightning_rl.viewer.messages import MAX_MESSAGE_BYTES
from lightning_rl.viewer.server import application
from lightning_rl.viewer.table import Table

DEFAULT_PORT = 8265
LINGER_SECONDS = 60.0
"""How long after the last window was closed the server ends."""

_PORTS_TRIED = 100
_LAST_PORT = 65_535
_END_SECONDS = 3.0
_SEND_BUFFER_BYTES = 65_536  # what a slow window has not read must not wait in the kernel


def listening(host: str, port: int | None) -> socket.socket:
    """A socket that listens on a port, or on the first free one from the default on.

    Raises:
        UsageError: the port that was asked for is none or in use, or nothing can listen there.
    """
    if port is not None and not 0 <= port <= _LAST_PORT:
        raise UsageError(f"port must be from 0 to {_LAST_PORT}, found {port}")
    address = _address(host)
    asked = range(DEFAULT_PORT, DEFAULT_PORT + _PORTS_TRIED) if port is None else (port,)
    for number in asked:
        try:
            return _bound(address, number)
        except OSError as error:
            last = error
    if port is None:
        raise UsageError(f"host: nothing can listen on {host}: {last}") from last
    try:
        with _bound(address, 0) as free:
            other = free.getsockname()[1]
    except OSError as error:
        raise UsageError(f"host: nothing can listen on {host}: {error}") from error
    raise UsageError(f"port must be free, found {port}, which is taken ({last}); {other} is free") from last


def _address(host: str) -> str:
    """The address of a host, which is looked up once; an empty one would mean all that there are."""
    name = host.strip("[]")
    family = socket.AF_INET6 if ":" in name else socket.AF_INET
    try:
        found = socket.getaddrinfo(name, None, family, socket.SOCK_STREAM) if name else []
    except (OSError, UnicodeError) as error:
        raise UsageError(f"host: nothing can listen on {host}: {error}") from error
    if not found:
        raise UsageError(f"host must be an address of this machine, found {host!r}")
    return str(found[0][4][0])


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that was just left is free at once
        found.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        found.bind((host, port))
        found.listen(64)
    except BaseException:
        found.close()
        raise
    return found


class Viewer:
    """A server and the game that it shows, each in a thread of its own.

    Args:
        make_table: loads what is played, in the games' thread.
        host: address to listen on.
        port: likewise; None for the first free one.
        recordings: folder for them.
        keep_open: do not end when the last window has been closed for a while.
        linger: how many seconds that is.
        frames: sites whose pages may show this one inside them.

    Attributes:
        link: opens the page; it holds the token.
        ended: is set once there is a reason to end.
        failure: why the game could not go on, if it could not.

    Raises:
        UsageError: nothing can listen there.
    """

    def __init__(
        self,
        make_table: Callable[[], Table],
        *,
        host: str = "127.0.0.1",
        port: int | None = None,
        recordings: Path = Path("recordings"),
        keep_open: bool = False,
        linger: float = LINGER_SECONDS,
        frames: Sequence[str] = (),
    ) -> None:
        self._socket = listening(host, port)
        host = host.strip("[]")
        self.access = Access(secrets.token_urlsafe(24), host, frames=frames)
        self.ended = threading.Event()
        self.failure: BaseException | None = None
        self._linger = None if keep_open else linger
        self._timer: asyncio.TimerHandle | None = None
        self._hub = Hub(self._count_windows)
        self._games = GamesThread(make_table, self._hub, recordings, self._fail)
        self._server = uvicorn.Server(
            uvicorn.Config(
                application(self._games, self._hub, self.access),
                ws="websockets-sansio",
                ws_max_size=MAX_MESSAGE_BYTES,
                ws_per_message_deflate=False,
                lifespan="off",
                log_config=None,
                log_level="critical",
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=1,
            )
        )
        self._network = threading.Thread(target=self._serve, name="network", daemon=True)
        self.port: int = self._socket.getsockname()[1]
        shown = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(host, host).strip("[]")
        shown = f"[{shown}]" if ":" in shown else shown
        self.link = f"http://{shown}:{self.port}/?token={self.access.token}"

    def start(self) -> None:
        """Starts both threads; the page can be opened from now on."""
        self._games.start()
        self._network.start()

    def close(self) -> None:
        """Ends both threads; a recording is finished."""
        self._games.stop()
        self._server.should_exit = True
        self._games.join(_END_SECONDS)
        self._network.join(_END_SECONDS)
        self._socket.close()

    def _serve(self) -> None:
        async def serve() -> None:
            self._hub.bind(asyncio.get_running_loop())
            await self._server.serve(sockets=[self._socket])

        try:
            asyncio.run(serve())
        except BaseException as error:  # raised again by the main thread
            self.failure = error
        finally:
            self.ended.set()

    def _fail(self, error: BaseException) -> None:
        self.failure = error
        self.ended.set()

    def _count_windows(self, count: int) -> None:
        """Ends the server a while after the last window was closed."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if count == 0 and self._linger is not None:
            self._timer = asyncio.get_running_loop().call_later(self._linger, self.ended.set)
