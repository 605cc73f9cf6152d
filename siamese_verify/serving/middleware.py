"""What a request's API key allows, checked before its body is read, and described in the API's description."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import math
import re
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader, HTTPBearer

from siamese_verify.serving.api_keys import SCOPES
from siamese_verify.serving.page_files import FILES
from siamese_verify.serving.problems import GONE, Problem, ending

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from siamese_verify.serving.api_keys import Key
    from siamese_verify.serving.service import Service

# `Guard` reads the key: these only describe where it is sent.
BEARER = HTTPBearer(scheme_name="bearer", auto_error=False, description="An API key, where the server needs one")
HEADER = APIKeyHeader(name="X-API-Key", scheme_name="header", auto_error=False, description="The same in a header")


def needs(scope: str | None = None) -> list[Any]:
    """Make the dependencies of a route that needs a scope; None for a route that any key opens."""

    async def check(request: Request) -> None:
        if scope is not None and not allows(request, scope):
            raise missing(request, scope, f"may not {SCOPES[scope]}")

    scopes = [scope] if scope else []
    return [Security(BEARER, scopes=scopes), Security(HEADER, scopes=scopes), Depends(check)]


def allows(request: Request, scope: str) -> bool:
    """Say whether a request may do what a scope stands for; a server without keys allows all but `scores` by itself."""
    service: Service = request.app.state.service
    if not service.key_needed:
        return scope != "scores" or service.settings.allow_scores
    key = key_of(request)
    return key is not None and scope in key.scopes


def missing(request: Request, scope: str, what: str) -> Problem:
    """Say which scope is missing.

    Args:
        request: that may not.
        scope: it would need.
        what: it may not do, as the end of a sentence about the key or the client.
    """
    key = key_of(request)
    if key is None:
        return Problem(
            403, "missing_scope", f"A client {what}: the server has to be started with --allow-{scope}.", scope=scope
        )
    detail = f"The key {key.name} {what}: it lacks the scope {scope}, which whoever runs the server can give."
    challenge = f'Bearer realm="siamese-verify", error="insufficient_scope", scope="{scope}"'
    return Problem(403, "missing_scope", detail, scope=scope, headers=[("WWW-Authenticate", challenge)])


def key_of(request: Request) -> Key | None:
    """The key that `Guard` found a request to bring."""
    key: Key | None = getattr(request.state, "key", None)
    return key


MOST_CLIENTS = 10_000  # remembered at a time; who was silent longest is forgotten, and then starts with a full bucket


class RateLimit:
    """A token bucket for each client.

    Args:
        rate: tokens a second; 0 for no limit.
        burst: tokens that a bucket holds.
        clock: seconds that only grow.
    """

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate, self.burst, self.clock = rate, burst, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # client -> tokens, when

    def wait(self, client: str) -> int:
        """Take one token of a client's.

        Returns:
            0 if there was one, else the whole seconds until there is.
        """
        if not self.rate:
            return 0
        now = self.clock()
        tokens, then = self._buckets.pop(client, (float(self.burst), now))
        tokens = min(self.burst, tokens + (now - then) * self.rate)
        allowed = tokens >= 1
        self._buckets[client] = (tokens - allowed, now)
        if len(self._buckets) > MOST_CLIENTS:
            self._buckets.popitem(last=False)
        return 0 if allowed else max(1, math.ceil((1 - tokens) / self.rate))


Address = ipaddress.IPv4Address | ipaddress.IPv6Address
PAIR = re.compile(r'(?:^|;)\s*(for|host|proto)=("(?:[^"\\]|\\.)*"|[^;,\s"]+)', re.IGNORECASE)
ELEMENT = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*")+')
SUBSCRIBER = 64  # bits of an IPv6 address that one subscriber has: the others are theirs to choose


class Proxies:
    """Proxies before the server that are believed.

    Args:
        networks: addresses and networks of theirs.
        header: `x-forwarded` for X-Forwarded-For, -Host and -Proto, `forwarded` for Forwarded of RFC 7239. Only the one
            is read: a proxy passes on whatever a client writes into the other.
    """

    def __init__(self, networks: Sequence[str] = (), header: str = "x-forwarded") -> None:
        self.networks = [ipaddress.ip_network(network) for network in networks]
        self.header = header

    def seen_through(self, scope: Scope) -> Scope:
        """Put what trusted proxies say of a request into its client, scheme and Host.

        The client is the last address in the list of hops that is no trusted proxy: what stands before it was written
        by the client itself, or by others.
        """
        given = scope["client"][0] if scope.get("client") else ""
        address = parsed(given)
        if address is None or not self._trusts(address):
            return scope
        hops, host, scheme = self._forwarded(scope) if self.header == "forwarded" else self._x_forwarded(scope)
        for hop in reversed(hops):
            named = parsed(hop)
            if named is None:
                break
            address = named
            if not self._trusts(address):
                break
        headers = [(name, value) for name, value in scope["headers"] if not (host and name == b"host")]
        if host:
            headers.append((b"host", host.encode("latin-1")))
        scheme = scheme.lower() if scheme.lower() in ("http", "https") else scope["scheme"]
        return {**scope, "client": (str(address), 0), "headers": headers, "scheme": scheme}

    def _trusts(self, address: Address) -> bool:
        return any(address in network for network in self.networks)

    def _x_forwarded(self, scope: Scope) -> tuple[list[str], str, str]:
        """Hops in their order, and host and scheme as the nearest proxy says."""

        def listed(name: bytes) -> list[str]:
            return [part.strip() for part in values(scope, name).split(",") if part.strip()]

        host, scheme = listed(b"x-forwarded-host"), listed(b"x-forwarded-proto")
        return listed(b"x-forwarded-for"), host[-1] if host else "", scheme[-1] if scheme else ""

    def _forwarded(self, scope: Scope) -> tuple[list[str], str, str]:
        elements = [
            {name.lower(): re.sub(r"\\(.)", r"\1", value.strip('"')) for name, value in PAIR.findall(element.strip())}
            for element in ELEMENT.findall(values(scope, b"forwarded"))
        ]
        last = elements[-1] if elements else {}
        return [element.get("for", "") for element in elements], last.get("host", ""), last.get("proto", "")


def values(scope: Scope, name: bytes) -> str:
    """All values of a header, as one."""
    return ",".join(value.decode("latin-1") for known, value in scope["headers"] if known == name)


def parsed(hop: str) -> Address | None:
    """Read an address, with or without a port; None for anything else, such as `unknown`."""
    match = re.fullmatch(r"\[([^\]]+)\](?::\d+)?|(\d+\.\d+\.\d+\.\d+)(?::\d+)?|([0-9a-f:.]+)", hop, re.ASCII | re.I)
    try:
        address = ipaddress.ip_address(next(part for part in match.groups() if part)) if match else None
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, ipaddress.IPv6Address) else address


def subscriber(address: str) -> str:
    """Whose limits an address uses up: its own, or in IPv6, where one client has many addresses, its network's."""
    known = parsed(address)
    if isinstance(known, ipaddress.IPv6Address) and not known.is_loopback:
        return str(ipaddress.ip_network((known, SUBSCRIBER), strict=False))
    return str(known or address)


class HeadRequests:
    """ASGI middleware that answers HEAD with the headers of GET and without its body.

    Args:
        app: that answers GET.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return

        async def send_head(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        scope["method"] = "GET"
        try:
            await self.app(scope, receive, send_head)
        finally:
            scope["method"] = "HEAD"  # for the log


if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from siamese_verify.serving.api_keys import KeyFile
    from siamese_verify.serving.metrics import Metrics

log = logging.getLogger("siamese_verify.serving")

OPEN = frozenset({*FILES, "/healthz", "/readyz", "/openapi.json"})  # need no key, are not counted against one
PROBES = frozenset({"/healthz", "/readyz"})  # asked by whoever runs the server, by any name or address it has
CHANGING = frozenset({"POST", "PUT", "PATCH", "DELETE"})
POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
CHALLENGE = ("WWW-Authenticate", 'Bearer realm="siamese-verify"')
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Guard:
    """ASGI middleware around the whole application.

    Args:
        app: what answers.
        hosts: names that `Host` may have; empty for any.
        keys: that open the API; None for an open one.
        rates: of clients.
        proxies: that are believed.
        root_path: under which a proxy offers the server; paths may come with or without it.
        metrics: count.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        hosts: tuple[str, ...],
        keys: KeyFile | None,
        rates: RateLimit,
        metrics: Metrics,
        proxies: Proxies,
        root_path: str = "",
    ) -> None:
        self.app, self.hosts, self.keys, self.rates, self.metrics = app, hosts, keys, rates, metrics
        self.proxies, self.root_path = proxies, root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), 0
        scope = self.proxies.seen_through({**scope, "root_path": self.root_path})

        async def guarded_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                given = {name.lower() for name, _ in message.get("headers", [])}
                added = [
                    (n.lower().encode(), v.encode()) for n, v in HEADERS.items() if n.lower().encode() not in given
                ]
                message = {**message, "headers": [*message.get("headers", []), *added]}
            await send(message)

        try:
            try:
                self._admit(scope)
                await self.app(scope, receive, guarded_send)
            except Problem as problem:
                await self._refuse(problem, status, guarded_send)
            except asyncio.CancelledError:  # the server is told to end, and waited long enough
                await self._refuse(ending(), status, guarded_send)
                raise
            except Exception as error:
                log_failure(error)
                detail = "The server made a mistake, which is in its log: try again, or tell whoever runs it."
                await self._refuse(Problem(500, "internal", detail), status, guarded_send)
        finally:
            self._record(scope, status or GONE, time.perf_counter() - began)

    def _admit(self, scope: Scope) -> None:
        """Let a request through.

        Raises:
            Problem: it may not pass.
        """
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get(b"host", "")
        if self.hosts and host_name(host) not in self.hosts and self._route(scope) not in PROBES:
            detail = "This server does not answer to the name in Host: use its own, or start it with --allow-host NAME."
            raise Problem(400, "wrong_host", detail)
        client = subscriber(scope["client"][0] if scope.get("client") else "")
        scope.setdefault("state", {}).update(client=client, asks=client)
        if self._route(scope) in OPEN and scope["method"] in ("GET", "HEAD"):
            return
        if scope["method"] in CHANGING and foreign(headers, host):
            way = "open its own page, or have the proxy before it pass on Host"
            raise Problem(403, "wrong_origin", f"A page of another origin may not use this server: {way}.")
        known = self.keys.find(sent_key(headers)) if self.keys else None
        if known:
            scope["state"].update(client=f"key {known.name}", asks=f"key {known.name}", key=known)
        wait = self.rates.wait(scope["state"]["client"])
        if wait:
            raise Problem(429, "too_many_requests", f"You ask too often: try again in {wait} s.", retry=wait)
        if self.keys and not known:
            detail = "An API key is needed: send it as Authorization: Bearer KEY or X-API-Key: KEY."
            raise Problem(401, "no_key", detail, headers=[CHALLENGE])
        if known and known.expired():
            detail = f"The key {known.name} expired on {known.expires}: ask whoever runs the server for another."
            raise Problem(401, "expired_key", detail, headers=[CHALLENGE])

    def _route(self, scope: Scope) -> str:
        """The path without the root path."""
        path: str = scope["path"]
        return path.removeprefix(self.root_path) if path.startswith(f"{self.root_path}/") else path

    async def _refuse(self, problem: Problem, status: int, send: Send) -> None:
        self.metrics.refusals.labels(problem.reason).inc()
        if problem.status == GONE:
            return
        if status:  # the answer has begun: all that can be done is to break it off
            raise ConnectionError("The answer was broken off.") from None
        body = problem.body()
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body))), *problem.headers]
        encoded = [(name.lower().encode(), value.encode()) for name, value in headers]
        await send({"type": "http.response.start", "status": problem.status, "headers": encoded})
        await send({"type": "http.response.body", "body": body})

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        """Count and log a request by its route: the path itself may hold somebody's name, the query anything."""
        route = getattr(scope.get("route"), "path", "") or "(none)"
        self.metrics.requests.labels(route, str(status)).inc()
        self.metrics.seconds.labels(route).observe(seconds)
        method = scope["method"] if scope["method"] in (*CHANGING, "GET", "HEAD", "OPTIONS") else "(other)"
        log.info("%s %s %d %.0f ms, %s", method, route, status, 1000 * seconds, scope.get("state", {}).get("asks", ""))


def sent_key(headers: dict[bytes, str]) -> str:
    """The key that a request brings, empty without one."""
    scheme, _, key = headers.get(b"authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else headers.get(b"x-api-key", "")


def host_name(host: str) -> str:
    """A `Host` without its port, lower case."""
    name, colon, port = host.lower().rpartition(":")
    return name if colon and port.isdigit() else host.lower()


def foreign(headers: dict[bytes, str], host: str) -> bool:
    """Say whether a page of another origin sent a request.

    A browser says so itself, and no page can make it lie, but it says nothing over plain HTTP to other machines: there
    the origin that it names is compared with the Host it asked for. What is no browser names no origin.
    """
    site, origin = headers.get(b"sec-fetch-site"), headers.get(b"origin")
    if site is not None:
        return site not in ("same-origin", "none")
    if origin is None:
        return False
    scheme = origin.partition(":")[0]  # a proxy with TLS may ask the server without
    there = place_of(origin)
    return not there[0] or there != place_of(f"{scheme}://{host}")


def place_of(origin: str) -> tuple[str, int | None]:
    """Host and port of an origin, lower case; empty for none, such as `null`."""
    try:
        parts = urlsplit(origin)
        return (parts.hostname or "", parts.port or {"http": 80, "https": 443}.get(parts.scheme))
    except ValueError:
        return "", None


def log_failure(error: Exception) -> None:
    """Log where something failed, without its message, which may quote what the client sent."""
    places = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)]
    log.error("%s at %s", type(error).__name__, json.dumps(places))
