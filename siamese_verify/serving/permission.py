"""What a request's API key allows, checked before its body is read, and described in the API's description."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader, HTTPBearer

from siamese_verify.serving.api_keys import SCOPES
from siamese_verify.serving.problem import Problem

if TYPE_CHECKING:
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
