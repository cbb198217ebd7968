"""asyncio for pika through its public interface: writes are batched, and a connection can be cut.

pika's own services write every frame with a separate system call, three for each message, and have
no public way to give up on a silent peer.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from pika.adapters.utils.io_services_utils import SocketConnectionMixin, StreamingConnectionMixin
from pika.adapters.utils.nbio_interface import (
    AbstractFileDescriptorServices,
    AbstractIOReference,
    AbstractIOServices,
    AbstractStreamProtocol,
    AbstractStreamTransport,
    AbstractTimerReference,
)

OnDone = Callable[[Any], None]


class LoopServices(
    SocketConnectionMixin,
    StreamingConnectionMixin,
    AbstractIOServices,
    AbstractFileDescriptorServices,
):
    """The running event loop as pika's I/O services; one object for one connection."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._operations: set[_Operation] = set()
        self._transport: BatchingTransport | None = None
        self._cut: Exception | None = None

    def cut(self, reason: str) -> None:
        """End the connection at once, while connecting or open: everything that waits fails.
        Idempotent.

        pika reports the end as that of any other lost connection.
        """
        if self._cut is None:
            self._cut = ConnectionAbortedError(reason)
            for operation in list(self._operations):
                operation.fail(self._cut)
            if self._transport is not None:
                self._transport.abort()

    def lost(self, error: BaseException | None) -> BaseException | None:
        """Return why the transport has ended; `error` is None where this side ended it."""
        self._transport = None
        return self._cut or error

    def link(self, transport: AbstractStreamTransport) -> "BatchingTransport":
        """Return the transport that pika writes to."""
        self._transport = BatchingTransport(transport)
        return self._transport

    def get_native_ioloop(self) -> asyncio.AbstractEventLoop:
        """Return the event loop."""
        return self._loop

    def close(self) -> None:
        """Do nothing: the loop belongs to the service."""

    def run(self) -> None:
        """Do nothing: the loop runs already."""

    def stop(self) -> None:
        """Do nothing: the loop belongs to the service."""

    def add_callback_threadsafe(self, callback: Callable[[], None]) -> None:
        """Call `callback` in the loop's next turn."""
        self._loop.call_soon_threadsafe(callback)

    def call_later(self, delay: float, callback: Callable[[], None]) -> "_Timer":
        """Call `callback` after `delay` seconds; at once when the connection has been cut."""
        return _Timer(self._loop.call_later(0 if self._cut else delay, callback))

    def getaddrinfo(  # noqa: PLR0917 - pika's interface
        self,
        host: str,
        port: int,
        on_done: OnDone,
        family: int = 0,
        socktype: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> "_Operation":
        """Resolve a name; `on_done` gets the addresses or an exception."""
        resolve = partial(
            self._loop.getaddrinfo,
            host,
            port,
            family=family,
            type=socktype,
            proto=proto,
            flags=flags,
        )
        return self._begin(on_done, lambda done: _TaskReference(self._loop, resolve(), done))

    def connect_socket(
        self, sock: socket.socket, resolved_addr: Any, on_done: OnDone
    ) -> "_Operation":
        """Connect a socket; `on_done` gets None or an exception."""
        connect = super().connect_socket
        return self._begin(on_done, lambda done: connect(sock, resolved_addr, done))

    def create_streaming_connection(
        self,
        protocol_factory: Callable[[], AbstractStreamProtocol],
        sock: socket.socket,
        on_done: OnDone,
        ssl_context: ssl.SSLContext | None = None,
        server_hostname: str | None = None,
    ) -> "_Operation":
        """Set up the stream on a connected socket; `on_done` gets transport and protocol."""
        create = super().create_streaming_connection

        def linked(result: Any) -> None:
            if not isinstance(result, BaseException):
                transport, protocol = result
                result = transport, protocol.inner
            on_done(result)

        return self._begin(
            linked,
            lambda done: create(
                lambda: _Protocol(protocol_factory(), self),
                sock,
                done,
                ssl_context,
                server_hostname,
            ),
        )

    def set_reader(self, fd: int, on_readable: Callable[[], None]) -> None:
        """Call `on_readable` whenever there is something to read."""
        self._loop.add_reader(fd, on_readable)

    def remove_reader(self, fd: int) -> bool:
        """Stop watching for something to read."""
        return self._loop.remove_reader(fd)

    def set_writer(self, fd: int, on_writable: Callable[[], None]) -> None:
        """Call `on_writable` whenever there is room to write."""
        self._loop.add_writer(fd, on_writable)

    def remove_writer(self, fd: int) -> bool:
        """Stop watching for room to write."""
        return self._loop.remove_writer(fd)

    def _begin(
        self, on_done: OnDone, start: Callable[[OnDone], AbstractIOReference]
    ) -> "_Operation":
        operation = _Operation(self._loop, self._operations, on_done)
        if self._cut:
            operation.fail(self._cut)
        else:
            operation.begin(start)
        return operation


class BatchingTransport(AbstractStreamTransport):
    """Writes everything of one turn of the loop with one system call."""

    def __init__(self, inner: AbstractStreamTransport) -> None:
        self._inner = inner
        self._loop = asyncio.get_running_loop()
        self._held: list[bytes] = []
        self._aborted = False

    def abort(self) -> None:
        """End the stream without writing the buffered data. Idempotent."""
        if not self._aborted:
            self._aborted = True
            self._held = []
            self._inner.abort()

    def get_protocol(self) -> AbstractStreamProtocol:
        """Return the protocol of the stream."""
        return self._inner.get_protocol()

    def write(self, data: bytes) -> None:
        """Hold data until the loop's next turn."""
        if not self._held:
            self._loop.call_soon(self._flush)
        self._held.append(data)

    def get_write_buffer_size(self) -> int:
        """Return the number of bytes that are not written yet."""
        return sum(map(len, self._held)) + int(self._inner.get_write_buffer_size())

    def end(self) -> None:
        """Discard the buffered data: the stream has ended."""
        self._aborted = True
        self._held = []

    def _flush(self) -> None:
        if self._held:
            data, self._held = b"".join(self._held), []
            self._inner.write(data)


class _Protocol(AbstractStreamProtocol):
    """Between pika's transport and its connection: puts the batching transport in."""

    def __init__(self, inner: AbstractStreamProtocol, services: LoopServices) -> None:
        self.inner = inner
        self._services = services
        self._transport: BatchingTransport | None = None

    def connection_made(self, transport: AbstractStreamTransport) -> None:
        self._transport = self._services.link(transport)
        self.inner.connection_made(self._transport)

    def connection_lost(self, error: BaseException | None) -> None:
        if self._transport is not None:
            self._transport.end()
        self.inner.connection_lost(self._services.lost(error))

    def eof_received(self) -> bool | None:
        answer: bool | None = self.inner.eof_received()
        return answer

    def data_received(self, data: bytes) -> None:
        self.inner.data_received(data)


class _Operation(AbstractIOReference):
    """Something that pika waits for, which can be made to fail."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, running: "set[_Operation]", on_done: OnDone
    ) -> None:
        self._loop = loop
        self._running = running
        self._on_done = on_done
        self._reference: AbstractIOReference | None = None
        self._failing: asyncio.Handle | None = None

    def begin(self, start: Callable[[OnDone], AbstractIOReference]) -> None:
        """Start it."""
        self._running.add(self)
        self._reference = start(self._finish)

    def fail(self, error: Exception) -> None:
        """Cancel it, and report an error in the loop's next turn."""
        self._running.discard(self)
        if self._reference is not None:
            self._reference.cancel()
        self._failing = self._loop.call_soon(self._on_done, error)

    def cancel(self) -> bool:
        """Cancel it without a report; False if it has ended already."""
        self._running.discard(self)
        if self._failing is not None:
            self._failing.cancel()
            return True
        return bool(self._reference is not None and self._reference.cancel())

    def _finish(self, result: Any) -> None:
        self._running.discard(self)
        self._on_done(result)


class _TaskReference(AbstractIOReference):
    """A coroutine as an operation of pika; a cancelled one reports nothing."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], on_done: OnDone
    ) -> None:
        self._task = loop.create_task(work)
        self._on_done = on_done
        self._task.add_done_callback(self._report)

    def cancel(self) -> bool:
        """Cancel the coroutine."""
        return self._task.cancel()

    def _report(self, task: "asyncio.Task[Any]") -> None:
        if not task.cancelled():
            self._on_done(task.exception() or task.result())


class _Timer(AbstractTimerReference):
    """A timer of pika."""

    def __init__(self, handle: asyncio.TimerHandle) -> None:
        self._handle = handle

    def cancel(self) -> None:
        """Cancel the timer."""
        self._handle.cancel()
