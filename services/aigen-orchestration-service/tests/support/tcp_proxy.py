"""A TCP proxy on loopback that cuts, refuses, stalls and injects traffic."""

import asyncio
import ssl
from types import TracebackType
from typing import Self


class TcpProxy:
    """Forwards between clients and a server; an async context manager.

    With a TLS context, clients use TLS to the proxy, and the server gets plain TCP.
    """

    def __init__(self, host: str, port: int, *, tls: ssl.SSLContext | None = None) -> None:
        self._target = (host, port)
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.StreamWriter] = set()
        self._pipes: set[asyncio.Task[None]] = set()
        self._to_server = asyncio.Event()
        self._to_client = asyncio.Event()
        self.port = 0
        self.accepted = 0

    async def __aenter__(self) -> Self:
        self.resume()
        await self.accept()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.refuse()
        self.cut()
        while self._pipes:
            await asyncio.wait(self._pipes)

    @property
    def open(self) -> int:
        """The number of connected clients."""
        return len(self._clients)

    async def accept(self) -> None:
        """Listen, after refuse() on the same port as before."""
        if self._server is None:
            self._server = await asyncio.start_server(
                self._serve, "127.0.0.1", self.port, ssl=self._tls
            )
            self.port = self._server.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Stop listening, so that new clients are refused; connected ones stay."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def cut(self) -> None:
        """Close all connections at once, without sending buffered data."""
        for task in self._pipes:
            task.cancel()

    def stall(self, *, to_server: bool = True, to_client: bool = True) -> None:
        """Hold back the traffic of these directions until resume(); nothing is lost."""
        if to_server:
            self._to_server.clear()
        if to_client:
            self._to_client.clear()

    def resume(self) -> None:
        """Resume the traffic in both directions."""
        self._to_server.set()
        self._to_client.set()

    def inject_to_clients(self, data: bytes) -> None:
        """Send bytes to every client as if from the server, which must be between two messages."""
        for writer in self._clients:
            writer.write(data)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.current_task()
        assert task is not None
        self._pipes.add(task)
        self._clients.add(writer)
        try:
            await self._connect_through(reader, writer)
            writer.close()
        except (OSError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            self._clients.discard(writer)
            self._pipes.discard(task)

    async def _connect_through(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        server_reader, server_writer = await asyncio.open_connection(*self._target)
        directions = [
            asyncio.create_task(_pipe(reader, server_writer, self._to_server)),
            asyncio.create_task(_pipe(server_reader, writer, self._to_client)),
        ]
        try:
            await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
            server_writer.close()
        except asyncio.CancelledError:
            server_writer.transport.abort()
            raise
        finally:
            for direction in directions:
                direction.cancel()
            await asyncio.gather(*directions, return_exceptions=True)


async def _pipe(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flowing: asyncio.Event
) -> None:
    while data := await reader.read(65536):
        await flowing.wait()
        writer.write(data)
        await writer.drain()
