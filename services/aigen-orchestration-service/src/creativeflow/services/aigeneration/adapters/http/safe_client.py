"""SSRF-safe HTTP client: resolves, validates and pins the IP address on every attempt."""

import asyncio
import email.utils
import re
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urljoin

import httpx

from creativeflow.services.aigeneration.domain.outbound_urls import (
    Address,
    Place,
    Rules,
    UnfitAddressError,
    read_url,
)
from creativeflow.services.aigeneration.domain.webhooks import (
    RETRY_AFTER_MAX,
    Attempt,
    DeliveryError,
)
from creativeflow.services.aigeneration.kit.disk import write

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Returns the addresses of a name, best first; raises OSError if there are none."""

_LOOKUPS = 8
_ADDRESSES_TRIED = 3
_LOOKUP_SECONDS = 5.0
_REDIRECTS = 3
_GET_HEADERS = {
    "Accept": "image/*",
    "Accept-Encoding": "identity",
    "User-Agent": "creativeflow-aigen",
}


class DiskError(Exception):
    """A download cannot be written to the disk."""


class _TooLargeError(Exception):
    """A body is larger than its limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """The result of a download; without `trouble` and `too_large` the file is complete."""

    status: int | None = None
    trouble: DeliveryError | None = None
    too_large: bool = False


class SafeHttp:
    """Calls without proxies, cookies or reused connections; a POST follows no redirect.

    A name is resolved once per attempt, and every address is validated; the connection goes to one
    of them, while certificate and Host are those of the name. A name that resolves differently at
    the next attempt gains nothing.
    """

    def __init__(
        self,
        rules: Rules,
        *,
        timeout_seconds: float,
        resolve: Resolve | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._rules = rules
        self._timeout_seconds = timeout_seconds
        self._threads = ThreadPoolExecutor(_LOOKUPS, thread_name_prefix="lookup")
        self._resolve = resolve or self._look_up
        self._transport = httpx.AsyncHTTPTransport(
            verify=tls or httpx.create_ssl_context(),
            trust_env=False,
            retries=0,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
        )

    async def close(self) -> None:
        """Close connections and threads."""
        await self._transport.aclose()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def check(self, url: str) -> None:
        """Check that a URL may be called now.

        Raises:
            UnfitAddressError: it may not, or its name cannot be resolved.
        """
        try:
            async with asyncio.timeout(_LOOKUP_SECONDS):
                await self._fit(read_url(url))
        except (OSError, TimeoutError, UnicodeError):
            raise UnfitAddressError(
                "host_not_allowed",
                "This host name leads nowhere. Check its spelling; if it is new, try again later.",
            ) from None

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Attempt:
        """Make one attempt, bounded in time as a whole; the body of the response is never read."""
        began = time.perf_counter()
        status, retry_after = None, None

        async def send() -> None:
            nonlocal status, retry_after
            async with self._answer("POST", read_url(url), headers, body) as answer:
                status, retry_after = answer.status_code, _retry_after(answer)

        trouble = await self._classify_failure(send)
        if status is not None:
            trouble = _trouble(status)
        spent = round((time.perf_counter() - began) * 1000)
        return Attempt(status=status, trouble=trouble, duration_ms=spent, retry_after=retry_after)

    async def download(
        self, url: str, target: Path, *, bytes_max: int, own: bool = False
    ) -> Download:
        """GET a file, bounded in total time and in bytes; every redirect is validated like the URL.

        The body is requested uncompressed and written as received, never decompressed. `own` marks
        a URL configured by the operator, which may be private; its redirects may not.
        """
        result = Download()

        async def get() -> None:
            nonlocal result
            result = await self._download(url, target, bytes_max, own=own)

        trouble = await self._classify_failure(get)
        return Download(trouble=trouble) if trouble else result

    async def _download(self, url: str, target: Path, bytes_max: int, *, own: bool) -> Download:
        for _ in range(_REDIRECTS + 1):
            async with self._answer("GET", read_url(url), _GET_HEADERS, b"", own=own) as answer:
                location = answer.headers.get("location", "")
                if answer.status_code // 100 == 3 and location:  # noqa: PLR2004 - redirects
                    url, own = urljoin(url, location), False
                    continue
                if answer.status_code // 100 != 2:  # noqa: PLR2004 - success
                    return Download(status=answer.status_code, trouble=_trouble(answer.status_code))
                try:
                    await write(target, _bounded(answer, bytes_max))
                except _TooLargeError:
                    return Download(status=answer.status_code, too_large=True)
                except OSError as error:  # errors of the connection are httpx errors
                    raise DiskError(type(error).__name__) from error
                return Download(status=answer.status_code)
        return Download(trouble=DeliveryError.REDIRECTED)

    async def _classify_failure(self, call: Callable[[], Awaitable[None]]) -> DeliveryError | None:
        """Return why a call failed; None if it did not."""
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await call()
        except TimeoutError:
            return DeliveryError.TIMEOUT
        except (UnfitAddressError, httpx.InvalidURL):
            return DeliveryError.ADDRESS_REFUSED
        except httpx.TransportError as error:
            return _transport_trouble(error)
        except (OSError, UnicodeError):
            return DeliveryError.UNKNOWN_HOST
        return None

    @asynccontextmanager
    async def _answer(
        self,
        method: str,
        place: Place,
        headers: Mapping[str, str],
        body: bytes,
        *,
        own: bool = False,
    ) -> AsyncIterator[httpx.Response]:
        addresses = await self._fit(place, own=own)
        for left, address in zip(range(len(addresses) - 1, -1, -1), addresses, strict=True):
            request = httpx.Request(
                method,
                httpx.URL(
                    scheme=place.scheme,
                    host=str(address),
                    port=place.port,
                    raw_path=place.target.encode(),
                ),
                headers={**headers, "Host": place.host_header, "Connection": "close"},
                content=body,
                extensions={"sni_hostname": place.host},
            )
            try:
                answer = await self._transport.handle_async_request(request)
            except httpx.ConnectError:
                if left:
                    continue
                raise
            try:
                yield answer
            finally:
                await answer.aclose()
            return
        raise AssertionError("a fit place has at least one address")

    async def _fit(self, place: Place, *, own: bool = False) -> list[Address]:
        """Return the addresses of a place after validating all of them."""
        literal = place.literal
        names = [str(literal)] if literal else await self._resolve(place.host, place.port)
        addresses = [ip_address(name.partition("%")[0]) for name in names]
        if not addresses:
            raise OSError(place.host)
        if not own:
            for address in addresses:
                self._rules.check(place, address)
        return addresses[:_ADDRESSES_TRIED]

    async def _look_up(self, host: str, port: int) -> Sequence[str]:
        """Resolve in separate threads: slow name servers must not delay other look-ups of the
        process.
        """
        found = await asyncio.get_running_loop().run_in_executor(
            self._threads, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        )
        return list(dict.fromkeys(str(entry[4][0]) for entry in found))


async def _bounded(answer: httpx.Response, bytes_max: int) -> AsyncIterator[bytes]:
    taken = 0
    async for piece in answer.aiter_raw():
        taken += len(piece)
        if taken > bytes_max:
            raise _TooLargeError
        yield piece


def _trouble(status: int) -> DeliveryError | None:
    match status // 100:
        case 2:
            return None
        case 3:
            return DeliveryError.REDIRECTED
    return DeliveryError.GONE if status == httpx.codes.GONE else DeliveryError.BAD_STATUS


def _transport_trouble(error: httpx.TransportError) -> DeliveryError:
    if isinstance(error, httpx.TimeoutException):
        return DeliveryError.TIMEOUT
    if isinstance(error, httpx.ConnectError):
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, ssl.SSLError):
                return DeliveryError.TLS_FAILED
            cause = cause.__cause__ or cause.__context__
        return DeliveryError.UNREACHABLE
    return DeliveryError.BAD_ANSWER


def _retry_after(answer: httpx.Response) -> timedelta | None:
    """Return the bounded delay of Retry-After; None without a valid header."""
    if answer.status_code not in {httpx.codes.TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE}:
        return None
    value = answer.headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]{1,9}", value):
        return min(timedelta(seconds=int(value)), RETRY_AFTER_MAX)
    try:
        wait = email.utils.parsedate_to_datetime(value) - datetime.now(UTC)
    except (ValueError, TypeError):
        return None
    return min(max(wait, timedelta()), RETRY_AFTER_MAX)
