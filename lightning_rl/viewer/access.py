"""Who may see the page: a random token, and hosts and origins that no page of another site can have."""

import hashlib
import hmac
import ipaddress
import socket
from collections.abc import Sequence
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.datastructures import MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
_ANY_ADDRESS = ("0.0.0.0", "::")

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors {ancestors}"
)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address or a name."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Access:
    """What a request must bring.

    Args:
        token: in the query, or in the cookie that the page then gets.
        host: that the server was asked to listen on.
        frames: sites whose pages may show this one inside them.
    """

    def __init__(self, token: str, host: str, *, frames: Sequence[str] = ()) -> None:
        self.token = token
        self.cookie = f"lightning_rl_{hashlib.sha256(token.encode()).hexdigest()[:12]}"
        """Its name differs from server to server: cookies know no ports."""
        self.policy = POLICY.format(ancestors=" ".join(frames) or "'none'")
        self._hosts = {*_LOOPBACK, f"[{host}]" if ":" in host else host.lower()}
        self._is_any = host in _ANY_ADDRESS
        if self._is_any:
            self._hosts.add(socket.gethostname().lower())

    def knows_host(self, scope: Scope) -> bool:
        """Whether the request was sent to a name of this server, with any port, since a tunnel changes that.

        A page of another site that lets its own name lead here (DNS rebinding) still sends that name.
        """
        name = _name(_header(scope, b"host"))
        if name in self._hosts:
            return True
        own = (scope.get("server") or ("", 0))[0]  # an address is no name that could lead elsewhere
        own = own.removeprefix("::ffff:") if "." in own else own  # one of IPv4 that has come by IPv6
        return self._is_any and name == (f"[{own}]" if ":" in own else own)

    def knows_origin(self, scope: Scope) -> bool:
        """Whether a page of this server asks, and none of another site."""
        return _header(scope, b"origin") in {f"{scheme}://{_header(scope, b'host')}" for scheme in ("http", "https")}

    def has_token(self, scope: Scope) -> bool:
        """Whether the request has the token."""
        given = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("token", [""])[-1]
        try:
            cookies = SimpleCookie(_header(scope, b"cookie"))
        except CookieError:
            cookies = SimpleCookie()
        kept = cookies[self.cookie].value if self.cookie in cookies else ""
        expected = self.token.encode()
        return any(hmac.compare_digest(found.encode(), expected) for found in (given, kept))

    def set_cookie(self) -> str:
        """The header that lets a browser keep the token."""
        return f"{self.cookie}={self.token}; HttpOnly; SameSite=Strict; Path=/"


def _header(scope: Scope, name: bytes) -> str:
    found = [value.decode("latin-1") for key, value in scope["headers"] if key == name]
    return found[0] if len(found) == 1 else ""


def _name(host: str) -> str:
    """The name of `name:port`."""
    name, sign, port = host.lower().rpartition(":")
    return name if sign and port.isdigit() else host.lower()


class HostGuard:
    """Refuses requests that were sent to another host, and sets what browsers are to keep to.

    Args:
        app: answers the others.
        access: knows the hosts.
    """

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""

        async def with_headers(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = self._access.policy
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "no-referrer"
                headers["Cache-Control"] = "no-store"
            await send(message)

        if self._access.knows_host(scope):
            await self._app(scope, receive, with_headers)
            return
        refusal = PlainTextResponse("This server does not go by that name.\n", status_code=400)
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await refusal(scope, receive, with_headers)
