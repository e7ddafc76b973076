"""The pages and the WebSocket, as an ASGI application."""

import asyncio
import contextlib
import time
from importlib.resources import files
from pathlib import Path
from typing import Protocol, runtime_checkable

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from lightning_rl.viewer.access import Access, HostGuard
from lightning_rl.viewer.hub import Hub, Window
from lightning_rl.viewer.messages import MAX_MESSAGE_BYTES, Command, message, parsed

_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_MESSAGES_A_SECOND, _BURST = 120, 240
_MAX_NAME = 64
_MAX_REFUSALS = 20
_POLICY_VIOLATION, _TOO_BIG = 1008, 1009


@runtime_checkable
class Games(Protocol):
    """Takes the commands of the windows."""

    def put(self, window: str, command: Command) -> None:
        """Takes a command, to be followed in the games' own thread."""

    def recording(self, name: str) -> Path | None:
        """The file of a recording that was made here; None where there is none of this name."""


class _Rate:
    """Counts messages: a burst, then so many a second."""

    def __init__(self) -> None:
        self._left = float(_BURST)
        self._at = time.monotonic()

    def is_exceeded(self) -> bool:
        """Whether one more is too many."""
        now = time.monotonic()
        self._left = min(_BURST, self._left + (now - self._at) * _MESSAGES_A_SECOND) - 1
        self._at = now
        return self._left < 0


def application(games: Games, hub: Hub, access: Access) -> Starlette:
    """The application.

    Args:
        games: what is shown.
        hub: the windows that it is shown in.
        access: who may see it.
    """
    pages = _Pages(games, hub, access)
    routes = [
        Route("/", pages.home),
        *(Route(path, pages.part) for path in pages.parts),
        Route("/recordings/{name}", pages.recording),
        WebSocketRoute("/ws", pages.socket),
    ]
    return Starlette(routes=routes, middleware=[Middleware(HostGuard, access=access)])


class _Pages:
    def __init__(self, games: Games, hub: Hub, access: Access) -> None:
        self._games = games
        self._hub = hub
        self._access = access
        folder = files("lightning_rl.viewer") / "page"
        self._index = (folder / "index.html").read_bytes()
        self.parts = {f"/{path.name}": path.read_bytes() for path in folder.iterdir() if _suffix(path.name) in _TYPES}

    async def home(self, request: Request) -> Response:
        if not self._access.has_token(request.scope):
            return PlainTextResponse("Open the link that the command has printed: it holds a token.\n", 403)
        return Response(self._index, media_type="text/html", headers={"Set-Cookie": self._access.set_cookie()})

    async def part(self, request: Request) -> Response:
        path = request.url.path
        return Response(self.parts[path], media_type=_TYPES[_suffix(path)])

    async def recording(self, request: Request) -> Response:
        if not self._access.has_token(request.scope):
            return PlainTextResponse("The token is missing.\n", 403)
        path = self._games.recording(request.path_params["name"])
        if path is None:
            return PlainTextResponse("There is no such recording.\n", 404)
        return FileResponse(path, media_type="video/mp4", filename=path.name)

    async def socket(self, connection: WebSocket) -> None:
        if not (self._access.knows_origin(connection.scope) and self._access.has_token(connection.scope)):
            await connection.close(_POLICY_VIOLATION)
            return
        await connection.accept()
        with contextlib.suppress(WebSocketDisconnect):
            await _talk(connection, self._games, self._hub)


def _suffix(name: str) -> str:
    return Path(name).suffix


async def _talk(connection: WebSocket, games: Games, hub: Hub) -> None:
    """Serves a window until it is closed."""
    try:
        first = parsed(await connection.receive_text())
        if first["do"] != "hello" or not 0 < len(first["window"]) <= _MAX_NAME:
            raise ValueError("the first message must be hello with a name")  # noqa: TRY301
    except (ValueError, KeyError):
        await connection.close(_POLICY_VIOLATION)
        return
    window = Window(first["window"])
    hub.join(window)
    sending = asyncio.create_task(_send(connection, window))
    try:
        games.put(window.name, first)
        await _receive(connection, window, games)
    finally:
        sending.cancel()
        if hub.leave(window):
            games.put(window.name, {"do": "leave"})


async def _receive(connection: WebSocket, window: Window, games: Games) -> None:
    rate, refusals = _Rate(), 0
    while True:
        text = await _text(connection)
        if rate.is_exceeded() or refusals > _MAX_REFUSALS or window.is_lost:
            await connection.close(_POLICY_VIOLATION)
            return
        try:
            games.put(window.name, parsed(text))
        except ValueError as error:
            refusals += 1
            window.put(message({"type": "error", "text": str(error)[:300]}), is_frame=False)


async def _text(connection: WebSocket) -> str:
    """The next message; bytes, which the page never sends, are text that is no command."""
    try:
        text = await connection.receive_text()
    except KeyError:
        return ""
    if len(text) > MAX_MESSAGE_BYTES:
        await connection.close(_TOO_BIG)
        raise WebSocketDisconnect(_TOO_BIG)
    return text


async def _send(connection: WebSocket, window: Window) -> None:
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):
        while not window.is_lost:
            await connection.send_bytes(await window.next())
        await connection.close(_POLICY_VIOLATION)
