"""What every request passes: who may ask, what is said when it fails, what is counted and what is logged."""

from __future__ import annotations

import asyncio
import json
import logging
import time
import traceback
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from siamese_verify.serving.page_files import FILES
from siamese_verify.serving.problem import GONE, Problem, ending
from siamese_verify.serving.proxies import subscriber

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from siamese_verify.serving.api_keys import KeyFile
    from siamese_verify.serving.metrics import Metrics
    from siamese_verify.serving.proxies import Proxies
    from siamese_verify.serving.rate_limit import RateLimit

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
