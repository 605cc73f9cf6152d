"""What every request passes: who may ask, what is said when it fails, what is counted and what is logged."""

from __future__ import annotations

import json
import logging
import time
import traceback
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from siamese_verify.serving.page_files import FILES
from siamese_verify.serving.problem import GONE, Problem

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from siamese_verify.serving.api_keys import KeyFile
    from siamese_verify.serving.metrics import Metrics
    from siamese_verify.serving.rate_limit import RateLimit

log = logging.getLogger("siamese_verify.serving")

OPEN = frozenset({*FILES, "/healthz", "/openapi.json"})  # need no key, are not counted against one
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
        metrics: count.
    """

    def __init__(
        self, app: ASGIApp, *, hosts: tuple[str, ...], keys: KeyFile | None, rates: RateLimit, metrics: Metrics
    ) -> None:
        self.app, self.hosts, self.keys, self.rates, self.metrics = app, hosts, keys, rates, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), 0

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
        if self.hosts and host_name(host) not in self.hosts:
            detail = "This server does not answer to the name in Host: use its own, or start it with --allow-host NAME."
            raise Problem(400, "wrong_host", detail)
        client = scope["client"][0] if scope.get("client") else ""
        scope.setdefault("state", {})["asks"] = client
        if scope["path"] in OPEN and scope["method"] in ("GET", "HEAD"):
            return
        foreign = headers.get(b"sec-fetch-site") in ("cross-site", "same-site")
        origin = headers.get(b"origin")
        if scope["method"] in CHANGING and (foreign or (origin is not None and urlsplit_host(origin) != host.lower())):
            raise Problem(403, "wrong_origin", "A page of another origin may not use this server: open its own page.")
        known = self.keys.find(sent_key(headers)) if self.keys else None
        if known:
            scope["state"]["asks"], scope["state"]["key"] = f"key {known.name}", known
        wait = self.rates.wait(f"key {known.name}" if known else client)
        if wait:
            raise Problem(429, "too_many_requests", f"You ask too often: try again in {wait} s.", retry=wait)
        if self.keys and not known:
            detail = "An API key is needed: send it as Authorization: Bearer KEY or X-API-Key: KEY."
            raise Problem(401, "no_key", detail, headers=[CHALLENGE])
        if known and known.expired():
            detail = f"The key {known.name} expired on {known.expires}: ask whoever runs the server for another."
            raise Problem(401, "expired_key", detail, headers=[CHALLENGE])

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


def urlsplit_host(origin: str) -> str:
    """Host and port of an `Origin`, as a browser writes them into `Host`; empty for none, such as `null`."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def log_failure(error: Exception) -> None:
    """Log where something failed, without its message, which may quote what the client sent."""
    places = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)]
    log.error("%s at %s", type(error).__name__, json.dumps(places))
