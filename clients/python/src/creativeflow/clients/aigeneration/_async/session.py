"""Send calls, with retries."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from creativeflow.clients.aigeneration.calls import (
    Call,
    Failure,
    Retries,
    is_same_origin,
    read_json,
    read_problem,
    to_error,
)
from creativeflow.clients.aigeneration.errors import ProblemError


class AsyncSession:
    """The connections of a client and its retry policy."""

    def __init__(self, http: httpx.AsyncClient, retries: Retries) -> None:
        self.http = http
        self._retries = retries

    async def request(self, call: Call) -> Any:
        """Send a call and return the JSON of the response; None for 204."""
        return read_json(await self._send(self.http, self._build(call), call))

    async def fetch(self, url: str) -> bytes:
        """Return the content of a URL; credentials are sent to the service's own origin only."""
        call = Call(method="GET", path=url)
        if is_same_origin(url, self.http.base_url):
            return (await self._send(self.http, self.http.build_request("GET", url), call)).content
        async with httpx.AsyncClient(timeout=self.http.timeout) as http:
            return (await self._send(http, http.build_request("GET", url), call)).content

    @asynccontextmanager
    async def open(self, call: Call) -> AsyncIterator[httpx.Response]:
        """Open a streamed response, in one attempt.

        Raises:
            ProblemError: the service refuses the call. httpx.RequestError: no response.
        """
        response = await self.http.send(self._build(call), stream=True)
        try:
            if response.is_error:
                await response.aread()
            if (problem := read_problem(response, call.accept)) is not None:
                raise problem
            yield response
        finally:
            await response.aclose()

    async def stream(self, call: Call) -> AsyncGenerator[bytes, None]:
        """Yield the content of a response in chunks; only failures before the first are retried."""
        attempts, started = 0, False
        while True:
            attempts += 1
            try:
                async with self.open(call) as response:
                    async for chunk in response.aiter_bytes():
                        started = True
                        yield chunk
            except (httpx.RequestError, ProblemError) as error:
                if started:
                    raise to_error(error) from error
                failure: Failure = error
            else:
                return
            await self.back_off(attempts, failure)

    async def back_off(
        self, attempts: int, failure: Failure | None, *, repeatable: bool = True
    ) -> None:
        """Sleep until the next attempt.

        Raises:
            GenerationServiceError: there is to be none.
        """
        delay = self._retries.delay(attempts, failure, repeatable=repeatable)
        if delay is None:
            raise to_error(failure) from failure
        await self.sleep(delay)

    async def sleep(self, seconds: float) -> None:
        """Sleep."""
        await asyncio.sleep(seconds)

    def _build(self, call: Call) -> httpx.Request:
        return self.http.build_request(
            call.method, call.url, params=call.parameters, json=call.content, headers=call.headers
        )

    async def _send(
        self, http: httpx.AsyncClient, request: httpx.Request, call: Call
    ) -> httpx.Response:
        attempts = 0
        while True:
            attempts += 1
            failure: Failure
            try:
                response = await http.send(request)
            except httpx.RequestError as error:
                failure = error
            else:
                if (problem := read_problem(response, call.accept)) is None:
                    return response
                failure = problem
            await self.back_off(attempts, failure, repeatable=call.repeatable)


async def read_lines(chunks: AsyncIterable[bytes]) -> AsyncGenerator[bytes, None]:
    """Yield the lines of a response.

    `aiter_lines` of httpx also breaks lines at separators such as U+2028, which JSON may contain.
    """
    rest = b""
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line.removesuffix(b"\r")
    if rest:
        yield rest
