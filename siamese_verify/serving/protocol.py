"""HTTP connections that do not wait for a client without an end."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


def timed_protocol(seconds: float) -> type[H11Protocol]:
    """Make a protocol that ends connections whose client is slow.

    uvicorn waits for ever for the head of a request, and for the rest of a body that was refused already: some hundred
    open connections that send a byte a minute would stop the server.

    Args:
        seconds: for the head of a request, and for the rest of a refused body.
    """

    class TimedProtocol(H11Protocol):
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            place = transport.get_extra_info("socket")
            if place is not None:
                # Head and body are two writes: the second would wait 40 ms for the client to acknowledge the first.
                # asyncio sees to it only for sockets that were made with their protocol spelt out.
                place.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            super().connection_made(transport)
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self.conn.their_state is h11.SEND_BODY:
                self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop()
            super().connection_lost(exc)

        def _watch(self) -> None:
            """Start the clock when it is the client's turn, stop it when it is the server's; bytes do not reset it."""
            if self.cycle is not None and not self.cycle.response_complete:
                self._stop()
            elif self._timer is None and not self.transport.is_closing():
                self._timer = self.loop.call_later(seconds, self._end)

        def _stop(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _end(self, *_: Any) -> None:
            self._timer = None
            if not self.transport.is_closing():
                self.transport.abort()

    return TimedProtocol
