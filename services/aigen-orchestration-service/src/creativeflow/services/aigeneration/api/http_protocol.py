"""HTTP/1.1 with limits: uvicorn's parser, bounded in the size, number and time of header lines."""

import asyncio
from http import HTTPStatus
from typing import Any

import structlog
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

log = structlog.get_logger(__name__)

HEAD_BYTES_MAX = 32 * 1024
"""Maximum consecutive bytes outside bodies: request line and header lines, trailers, chunk
extensions.
"""
HEADERS_MAX = 100
HEAD_SECONDS = 15.0
"""Time limit of a connection for its first request head, and for each one begun after it."""


STREAM = "aigen.stream"
"""The key of a scope whose response is an event stream."""


class BoundedHttpProtocol(HttpToolsProtocol):
    """Answers 431 and closes if a head is too large, 408 if it takes too long.

    The parser buffers a line until it ends and copies it for each piece that arrives: without a
    limit, one connection that never ends its head blocks the event loop and fills the memory.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._unbounded_bytes = self._head_bytes = 0
        self._bounded = False
        self._in_head, self._head_begun = True, False
        self._too_large = False
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timer of the first head."""
        super().connection_made(transport)
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer."""
        self._stop_timer()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """End the connection when the server stops; an event stream at once, because it has no end
        of its own, and its client connects again.
        """
        if self.cycle is not None and self.cycle.scope.get(STREAM):
            self.transport.close()
        super().shutdown()

    def data_received(self, data: bytes) -> None:
        """Parse received bytes; close the connection if they exceed a limit."""
        if self.transport.is_closing():
            return
        self._bounded = False
        super().data_received(data)
        if self.transport.is_closing():
            return
        self._unbounded_bytes = 0 if self._bounded else self._unbounded_bytes + len(data)
        if self._too_large or self._unbounded_bytes > HEAD_BYTES_MAX:
            self._refuse(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "Send fewer or shorter headers."
            )
        elif self._head_begun and self._head_timer is None:
            self._start_timer()

    def on_message_begin(self) -> None:
        """Start a head."""
        self._in_head = self._head_begun = True
        self._head_bytes = 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Store a header line; trailers are dropped."""
        if not self._in_head:
            return
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > HEAD_BYTES_MAX or len(self.headers) >= HEADERS_MAX:
            self._too_large = True
        elif not self._too_large:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Pass the request on unless its head is too large; nothing after such a head is
        answered.
        """
        self._in_head = self._head_begun = False
        self._bounded = True
        self._stop_timer()
        self._too_large = self._too_large or len(self.url) > HEAD_BYTES_MAX
        if not self._too_large:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Pass on a part of the body; the application limits its size."""
        self._bounded = True
        if not self._too_large:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """End the request; the next bytes are the next head."""
        self._in_head = self._bounded = True
        if not self._too_large:
            super().on_message_complete()

    def _start_timer(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._late)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _late(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing() and self._in_head:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, "Send the whole head of the request at once.")

    def _refuse(self, status: HTTPStatus, detail: str) -> None:
        log.warning("http_head_refused", status=int(status), headers=len(self.headers or ()))
        body = b'{"type":"about:blank","title":"%b","status":%d,"detail":"%b"}' % (
            status.phrase.encode(),
            status,
            detail.encode(),
        )
        head = (
            b"HTTP/1.1 %d %b\r\ncontent-type: application/problem+json\r\ncontent-length: %d\r\n"
            b"connection: close\r\n\r\n"
        )
        self.transport.write(head % (status, status.phrase.encode(), len(body)) + body)
        self.transport.close()
