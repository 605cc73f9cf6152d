"""Checks on every request before its body is read: host, origin, rate limit, API key and its scopes."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import time
import traceback
from collections.abc import Collection
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader, HTTPBearer

from siamese_verify.serving.api_keys import SCOPES
from siamese_verify.serving.page_files import VERIFY_PAGES
from siamese_verify.serving.problems import CLIENT_CLOSED, Problem, shutting_down

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from siamese_verify.serving.api_keys import Key, KeyFile
    from siamese_verify.serving.fair_share import RateLimit
    from siamese_verify.serving.service import Metrics, Service
    from siamese_verify.serving.settings import Settings

log = logging.getLogger("siamese_verify.serving")

PROBES = frozenset({"/healthz", "/readyz"})  # asked by orchestrators, by any name or address of the server
OPEN = frozenset({*VERIFY_PAGES, *PROBES, "/openapi.json"})
CHANGING = frozenset({"POST", "PUT", "PATCH", "DELETE"})
METHODS = CHANGING | {"GET", "HEAD", "OPTIONS"}
SUBSCRIBER_BITS = 64  # of an IPv6 address: a subscriber chooses the others
CHALLENGE = 'Bearer realm="siamese-verify"'
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
# `Guard` reads the key; these describe in OpenAPI where it is sent.
BEARER = HTTPBearer(scheme_name="bearer", auto_error=False, description="An API key, where the server needs one")
HEADER = APIKeyHeader(name="X-API-Key", scheme_name="header", auto_error=False, description="The same in a header")


def requires(scope: str | None = None) -> list[Any]:
    """Dependencies of a route that needs a scope; None for a route that any key may use."""

    async def check(request: Request) -> None:
        if scope is not None and not has_scope(request, scope):
            raise missing_scope(request, scope, f"may not {SCOPES[scope]}")

    scopes = [scope] if scope else []
    return [Security(BEARER, scopes=scopes), Security(HEADER, scopes=scopes), Depends(check)]


def has_scope(request: Request, scope: str) -> bool:
    """Whether a request has a scope; without keys every request has all, but `scores` only if the server allows it."""
    service: Service = request.app.state.service
    if not service.key_needed:
        return scope != "scores" or service.settings.allow_scores
    key = _key_of(request)
    return key is not None and scope in key.scopes


def missing_scope(request: Request, scope: str, action: str) -> Problem:
    """Response to a request without a scope.

    Args:
        request: the request.
        scope: scope that it needs.
        action: what it needs it for, as the end of a sentence about the key or the client.
    """
    key = _key_of(request)
    if key is None:
        detail = f"A client {action}: the server must be started with --allow-{scope}."
        return Problem(403, "missing_scope", detail, scope=scope)
    detail = f"The key {key.name} {action}: ask the operator of the server for a key with the scope {scope}."
    challenge = f'{CHALLENGE}, error="insufficient_scope", scope="{scope}"'
    return Problem(403, "missing_scope", detail, scope=scope, headers=[("WWW-Authenticate", challenge)])


def _key_of(request: Request) -> Key | None:
    key: Key | None = getattr(request.state, "key", None)
    return key


class Guard:
    """ASGI middleware around the whole application.

    Args:
        app: the application.
        settings: hosts that are answered, and the root path; paths may come with it or without.
        keys: accepted API keys; None if none is needed.
        rates: rate limit of clients.
        metrics: count requests.
        open_paths: that need no key, and count against no rate.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        settings: Settings,
        keys: KeyFile | None,
        rates: RateLimit,
        metrics: Metrics,
        open_paths: Collection[str] = OPEN,
    ) -> None:
        self.app, self.keys, self.rates, self.metrics, self.open_paths = app, keys, rates, metrics, open_paths
        self.hosts, self.root_path = settings.allowed_hosts, settings.root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), 0
        # Routes answer GET only; the HTTP server sends the headers of GET without its body.
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        inner = {**scope, "root_path": self.root_path, "method": method}

        async def guarded_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                present = {name.lower() for name, _ in message.get("headers", [])}
                added = encoded(SECURITY_HEADERS.items())
                message["headers"] = [*message.get("headers", []), *(one for one in added if one[0] not in present)]
            await send(message)

        try:
            try:
                self._check(inner)
                await self.app(inner, receive, guarded_send)
            except Problem as problem:
                await self._respond(problem, status, guarded_send)
            except asyncio.CancelledError:  # shutdown, after `shutdown_seconds`
                await self._respond(shutting_down(), status, guarded_send)
                raise
            except Exception as error:
                log_failure(error)
                detail = "The server has a bug, which its log describes: try again, or tell its operator."
                await self._respond(Problem(500, "internal", detail), status, guarded_send)
        finally:
            self._record(inner, scope["method"], status or CLIENT_CLOSED, time.perf_counter() - start)

    def _check(self, scope: Scope) -> None:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get(b"host", "")
        path: str = scope["path"]
        if path.startswith(f"{self.root_path}/"):
            path = path.removeprefix(self.root_path)
        if self.hosts and host_name(host) not in self.hosts and path not in PROBES:
            detail = (
                "The server is not known by the name in Host: use the address that it printed; `siamese-verify serve` "
                "allows others by --allow-host NAME."
            )
            raise Problem(400, "wrong_host", detail)
        address = subscriber(scope["client"][0] if scope.get("client") else "")
        state = scope.setdefault("state", {})
        state["client"] = address
        if path in self.open_paths and scope["method"] == "GET":
            return
        if scope["method"] in CHANGING and is_foreign(headers, host):
            way_out = "open its own page, or let the proxy before it pass on Host"
            raise Problem(403, "wrong_origin", f"A page of another origin may not use this server: {way_out}.")
        key = self.keys.find(sent_key(headers)) if self.keys else None
        if key:
            state.update(client=f"key {key.name}", key=key)
        if wait := self.rates.take(state["client"]):
            raise Problem(429, "too_many_requests", f"The rate limit is exceeded: try again in {wait} s.", retry=wait)
        if self.keys and not key:
            detail = "An API key is needed: send it as Authorization: Bearer KEY or X-API-Key: KEY."
            raise Problem(401, "no_key", detail, headers=[("WWW-Authenticate", CHALLENGE)])
        if key and key.expired():
            detail = f"The key {key.name} expired on {key.expires}: ask the operator of the server for another."
            raise Problem(401, "expired_key", detail, headers=[("WWW-Authenticate", CHALLENGE)])

    async def _respond(self, problem: Problem, status: int, send: Send) -> None:
        self.metrics.refusals.labels(problem.reason).inc()
        if problem.status == CLIENT_CLOSED:
            return
        if status:  # the response has started and can only be cut off
            raise ConnectionError("The response was cut off.") from None
        body = problem.body()
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body))), *problem.headers]
        await send({"type": "http.response.start", "status": problem.status, "headers": encoded(headers)})
        await send({"type": "http.response.body", "body": body})

    def _record(self, scope: Scope, method: str, status: int, seconds: float) -> None:
        """Count and log a request by its route: the path may hold a person's name, and the query anything."""
        route = getattr(scope.get("route"), "path", "") or "(none)"
        self.metrics.requests.labels(route, str(status)).inc()
        self.metrics.seconds.labels(route).observe(seconds)
        client = scope.get("state", {}).get("client", "")
        log.info(
            "%s %s %d %.0f ms, %s", method if method in METHODS else "(other)", route, status, 1000 * seconds, client
        )


def encoded(headers: Any) -> list[tuple[bytes, bytes]]:
    """Headers as ASGI has them."""
    return [(name.lower().encode(), value.encode()) for name, value in headers]


def sent_key(headers: dict[bytes, str]) -> str:
    """API key of a request, empty without one."""
    scheme, _, key = headers.get(b"authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else headers.get(b"x-api-key", "")


def host_name(host: str) -> str:
    """`Host` in lower case without its port."""
    name, colon, port = host.lower().rpartition(":")
    return name if colon and port.isdigit() else host.lower()


def subscriber(address: str) -> str:
    """Address that limits count: the whole address, or in IPv6, where a client has many, its network."""
    try:
        known = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(known, ipaddress.IPv6Address) and not known.is_loopback:
        if known.ipv4_mapped:
            return str(known.ipv4_mapped)
        return str(ipaddress.ip_network((known, SUBSCRIBER_BITS), strict=False))
    return address


def is_foreign(headers: dict[bytes, str], host: str) -> bool:
    """Whether a page of another origin sent a request.

    Browsers say so in Sec-Fetch-Site, which no page can change, but not over plain HTTP to other machines: there the
    Origin that they send is compared with Host. Clients that are not browsers send neither.
    """
    site, origin = headers.get(b"sec-fetch-site"), headers.get(b"origin")
    if site is not None:
        return site not in ("same-origin", "none")
    if origin is None:
        return False
    scheme = origin.partition(":")[0]  # a proxy with TLS may talk to the server without
    place = host_and_port(origin)
    return not place[0] or place != host_and_port(f"{scheme}://{host}")


def host_and_port(origin: str) -> tuple[str, int | None]:
    """Host and port of an origin, in lower case; an empty host for an invalid one such as `null`."""
    try:
        parts = urlsplit(origin)
        return (parts.hostname or "", parts.port or {"http": 80, "https": 443}.get(parts.scheme))
    except ValueError:
        return "", None


def log_failure(error: Exception) -> None:
    """Log where something failed, without its message, which may quote what the client sent."""
    places = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)]
    log.error("%s at %s", type(error).__name__, json.dumps(places))
