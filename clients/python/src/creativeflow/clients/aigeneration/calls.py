"""Calls without I/O: requests, retry decisions, and the interpretation of responses."""

import json
import random
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import httpx

from creativeflow.clients.aigeneration.errors import (
    ApiConnectionError,
    GenerationServiceError,
    ProblemError,
)
from creativeflow.clients.aigeneration.resources.generations import Generation

Failure = httpx.RequestError | ProblemError
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call of the API; `path` is the template of the API description.

    A call that is not `repeatable` is retried only if it cannot have taken effect. Statuses in
    `accept` are responses, not problems.
    """

    method: str
    path: str
    path_parameters: Mapping[str, str | int] = field(default_factory=dict)
    query: Mapping[str, Any] = field(default_factory=dict)
    body: Mapping[str, Any] | None = None
    idempotency_key: str | None = None
    if_version: int | None = None
    last_event_id: int | None = None
    repeatable: bool = True
    accept: frozenset[int] = frozenset()

    @property
    def url(self) -> str:
        """The path with quoted parameters.

        Raises:
            ValueError: a parameter is empty or a dot segment, and would address something else.
        """
        return self.path.format(
            **{name: _segment(value) for name, value in self.path_parameters.items()}
        )

    @property
    def headers(self) -> dict[str, str]:
        """The headers of this call."""
        headers = {
            "Idempotency-Key": self.idempotency_key,
            "If-Match": None if self.if_version is None else f'"{self.if_version}"',
            "Last-Event-ID": None if self.last_event_id is None else str(self.last_event_id),
        }
        return {name: value for name, value in headers.items() if value is not None}

    @property
    def parameters(self) -> dict[str, Any]:
        """The query parameters that are set."""
        return _without_none(self.query)

    @property
    def content(self) -> dict[str, Any] | None:
        """The fields of the body that are set."""
        return None if self.body is None else _without_none(self.body)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """Retry policy: exponential delays with jitter, between `initial_seconds` and `max_seconds`.

    `Retry-After` of the service is honoured.
    """

    max_attempts: int = 5
    initial_seconds: float = 0.5
    max_seconds: float = 8.0

    def delay(self, attempts: int, failure: Failure | None, *, repeatable: bool) -> float | None:
        """Return the seconds before the next attempt; None if there is to be none."""
        if attempts >= self.max_attempts or not _may_retry(failure, repeatable=repeatable):
            return None
        delay: float = min(self.max_seconds, self.initial_seconds * 2 ** (attempts - 1))
        delay *= random.uniform(0.75, 1.25)  # noqa: S311 - jitter, no secret
        retry_after = failure.retry_after_seconds if isinstance(failure, ProblemError) else None
        return max(delay, retry_after or 0.0)


def new_key() -> str:
    """Return a new idempotency key."""
    return str(uuid.uuid4())


def client_headers(
    api_key: str | None, token: str | None, user_id: str | None, language: str | None
) -> list[tuple[bytes, bytes]]:
    """Return the headers of every call in UTF-8: credentials, user and language of problems."""
    headers = {
        "X-Internal-API-Key": api_key,
        "Authorization": f"Bearer {token}" if token else None,
        "X-User-ID": user_id,
        "Accept-Language": language,
    }
    return [(name.encode(), value.encode()) for name, value in headers.items() if value]


def read_problem(response: httpx.Response, accept: frozenset[int]) -> ProblemError | None:
    """Return the problem that a response is; None if it is none."""
    if not response.is_error or response.status_code in accept:
        return None
    try:
        document = response.json()
    except ValueError:
        document = {}
    after = response.headers.get("Retry-After", "")
    known = document if isinstance(document, dict) else {}
    return ProblemError(response.status_code, known, float(after) if after.isdigit() else None)


def read_json(response: httpx.Response) -> Any:
    """Return the document of a response; None for 204.

    Raises:
        ApiConnectionError: it is not JSON.
    """
    if response.status_code == httpx.codes.NO_CONTENT:
        return None
    try:
        return response.json()
    except ValueError:
        raise ApiConnectionError("The server at this address is not the service.") from None


def read_event(line: bytes) -> Generation | None:
    """Return the generation in a line of an event stream; None for other lines."""
    if not line.startswith(b"data:"):
        return None
    try:
        document = json.loads(line.removeprefix(b"data:"))
    except ValueError:
        raise ApiConnectionError("An event of the stream is not JSON.") from None
    return Generation.parse(document)


def shows_life(line: bytes) -> bool:
    """Return whether a line of an event stream is data or a keep-alive comment."""
    return line.startswith((b"data:", b":"))


def to_error(failure: Failure | None) -> GenerationServiceError:
    """Return the exception for the last failure; None is a stream that was closed early."""
    if isinstance(failure, ProblemError):
        return failure
    if failure is None:
        return ApiConnectionError("The service closes the stream before the generation has ended.")
    return ApiConnectionError("The service does not answer.")


def is_same_origin(url: str, base_url: httpx.URL) -> bool:
    """Return whether a URL belongs to the service; another port can be another server."""
    target = httpx.URL(url)
    origin = (base_url.scheme, base_url.host, base_url.port)
    return target.is_relative_url or (target.scheme, target.host, target.port) == origin


def poll_intervals() -> Iterator[float]:
    """Yield the seconds between two polls: from 0.1 up to 2."""
    interval = 0.1
    while True:
        yield interval
        interval = min(2.0, interval * 1.5)


def _may_retry(failure: Failure | None, *, repeatable: bool) -> bool:
    if isinstance(failure, httpx.UnsupportedProtocol | httpx.DecodingError):
        return False
    if not isinstance(failure, ProblemError):
        return repeatable or isinstance(failure, _NOT_SENT)
    if failure.status == httpx.codes.TOO_MANY_REQUESTS:
        return True
    if failure.status == httpx.codes.CONFLICT:
        return failure.code == "idempotency_key_in_flight"
    return repeatable and (failure.retryable or failure.status == httpx.codes.BAD_GATEWAY)


def _segment(value: str | int) -> str:
    if value in {"", ".", ".."}:
        raise ValueError(f"{value!r} is not an id")
    return quote(str(value), safe="")


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
