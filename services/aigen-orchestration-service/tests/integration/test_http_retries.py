"""The HTTP client does not reuse connections that have been idle, because the server may be closing
them.
"""

import asyncio

from creativeflow.services.aigeneration.bootstrap.adapters import CONNECTIONS
from tests.support.app import ServiceUnderTest


async def test_http_client_connection_is_reused_only_for_a_short_time(
    test_app: ServiceUnderTest,
) -> None:
    came = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal came
        came += 1
        while (await reader.read(10_000)).startswith(b"GET"):
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        for _ in range(2):
            await test_app.service.http.get(url)
        assert came == 1
        assert CONNECTIONS.keepalive_expiry is not None
        await asyncio.sleep(CONNECTIONS.keepalive_expiry + 0.1)
        await test_app.service.http.get(url)
        assert came == 2
        await test_app.service.http.aclose()
