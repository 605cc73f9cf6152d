"""HTTP connections that do not wait for a client without an end, and of which one client cannot take all."""

from __future__ import annotations

import asyncio
import socket

from uvicorn.protocols.http.h11_impl import H11Protocol


class Connections:
    """Open connections of a server, by the address of the client.

    When there are too many, a new one takes the place of the one that has been idle for longest, among those of the
    address that has most idle ones. So whoever opens connections without asking anything loses their own, and a health
    check is answered all the same.

    Args:
        most: open at a time.
    """

    def __init__(self, most: int) -> None:
        self.most, self.open = most, 0
        self._idle: dict[str, dict[H11Protocol, None]] = {}  # address -> connections, longest idle first

    def opened(self, connection: H11Protocol) -> None:
        """Count a new connection, and end another one if there is no room."""
        self.open += 1
        if self.open > self.most:
            address = max(self._idle, key=lambda one: len(self._idle[one]), default=None)
            ended = connection if address is None else next(iter(self._idle[address]))
            self.busy(ended)
            ended.transport.abort()

    def closed(self, connection: H11Protocol) -> None:
        """Forget a connection."""
        self.open -= 1
        self.busy(connection)

    def idle(self, connection: H11Protocol) -> None:
        """Note that the server waits for the client."""
        self._idle.setdefault(address_of(connection), {})[connection] = None

    def busy(self, connection: H11Protocol) -> None:
        """Note that the client waits for the server."""
        address = address_of(connection)
        held = self._idle.get(address, {})
        held.pop(connection, None)
        if not held:
            self._idle.pop(address, None)


def address_of(connection: H11Protocol) -> str:
    """IP address at the other end; empty if it is not known."""
    return connection.client[0] if connection.client else ""


def timed_protocol(seconds: float, connections: Connections) -> type[H11Protocol]:
    """Make a protocol that ends connections whose client is slow.

    uvicorn waits for ever for the head of a request, for the rest of a body that was refused already, and for a client
    that does not read its answer: some hundred open connections that move a byte a minute would stop the server.

    Args:
        seconds: for the head of a request, for the rest of a refused body, and to take an answer.
        connections: counts those of all its instances.
    """

    class TimedProtocol(H11Protocol):
        _timer: asyncio.TimerHandle | None = None  # while it is the client's turn to send
        _reading: asyncio.TimerHandle | None = None  # while the client does not take what is sent

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            place = transport.get_extra_info("socket")
            if place is not None:
                # Head and body are two writes: the second would wait 40 ms for the client to acknowledge the first.
                # asyncio sees to it only for sockets that were made with their protocol spelt out.
                place.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            super().connection_made(transport)
            connections.opened(self)
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._watch()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._reading = self.loop.call_later(seconds, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            if self._reading is not None:
                self._reading.cancel()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop()
            if self._reading is not None:
                self._reading.cancel()
            connections.closed(self)
            super().connection_lost(exc)

        def _watch(self) -> None:
            """Start the clock when it is the client's turn, stop it when it is the server's; bytes do not reset it."""
            if self.cycle is not None and not self.cycle.response_complete:
                self._stop()
            elif self._timer is None:
                self._timer = self.loop.call_later(seconds, self.transport.abort)
                connections.idle(self)

        def _stop(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
                connections.busy(self)

    return TimedProtocol
