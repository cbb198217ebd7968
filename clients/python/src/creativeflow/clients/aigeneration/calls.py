"""Calls without the network: what is sent, whether it is tried again, and what an answer means.
Both clients use it.
"""

import json
import random
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from creativeflow.clients.aigeneration.problems import NoAnswerError, ProblemError
from creativeflow.clients.aigeneration.resources import Generation

ROOT = "/api/v1/generation-requests"
_IN_FLIGHT = "idempotency_key_in_flight"


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """How often a call is tried, and how long is waited in between: doubling, with jitter, within
    these seconds.
    """

    tries: int = 5
    first_seconds: float = 0.5
    longest_seconds: float = 8.0

    def pause(self, tried: int, problem: ProblemError | None) -> float | None:
        """Seconds to wait before the next try; None where another try cannot help, or none is
        left.
        """
        if tried >= self.tries or (problem is not None and not _passing(problem)):
            return None
        pause: float = min(self.longest_seconds, self.first_seconds * 2 ** (tried - 1))
        pause *= random.uniform(0.75, 1.25)  # noqa: S311 - jitter, no secret
        return max(pause, problem.retry_after_seconds or 0.0) if problem else pause


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call; one that changes something carries a key from the start, so that every try is the
    same call.
    """

    method: str
    path: str
    body: Mapping[str, Any] | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    key: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        """What goes along."""
        return {"Idempotency-Key": self.key} if self.key else {}


def acting(path: str, body: Mapping[str, Any] | None, key: str | None) -> Call:
    """A call that changes something, under the caller's key or a new one."""
    said = {name: value for name, value in (body or {}).items() if value is not None}
    return Call(
        method="POST", path=f"{ROOT}{path}", body=said or None, key=key or str(uuid.uuid4())
    )


def headers_of(
    api_key: str | None, token: str | None, user_id: str | None, language: str | None
) -> dict[str, str]:
    """Who calls, and in which language problems are told."""
    said = {
        "X-Internal-API-Key": api_key,
        "Authorization": f"Bearer {token}" if token else None,
        "X-User-ID": user_id,
        "Accept-Language": language,
    }
    return {name: value for name, value in said.items() if value}


def problem_of(answer: httpx.Response) -> ProblemError | None:
    """The problem an answer is; None where it is none."""
    if not answer.is_error:
        return None
    try:
        document = answer.json()
    except ValueError:
        document = {}
    after = answer.headers.get("Retry-After", "")
    known = document if isinstance(document, dict) else {}
    return ProblemError(answer.status_code, known, float(after) if after.isdigit() else None)


def document_of(answer: httpx.Response) -> Any:
    """What an answer says.

    Raises:
        NoAnswerError: it is no JSON, so something else answers under this address.
    """
    try:
        return answer.json()
    except ValueError:
        raise NoAnswerError("What answers under this address is not the service.") from None


def of_service(url: str, base_url: httpx.URL) -> bool:
    """Whether an address is the service's own: another port of its host may be somebody else's."""
    asked = httpx.URL(url)
    origin = (base_url.scheme, base_url.host, base_url.port)
    return asked.is_relative_url or (asked.scheme, asked.host, asked.port) == origin


def alive(line: str) -> bool:
    """Whether a line of the live stream shows that it lasts: news, or the comment that comes when
    there are none.
    """
    return line.startswith(("data: ", ":"))


def snapshot(line: str) -> Generation | None:
    """The generation in a line of the live stream; None in all other lines."""
    return (
        Generation.read(json.loads(line.removeprefix("data: ")))
        if line.startswith("data: ")
        else None
    )


def pauses() -> Iterator[float]:
    """Seconds between looks while waiting without a live stream: soon at first, then every two
    seconds.
    """
    pause = 0.1
    while True:
        yield pause
        pause = min(2.0, pause * 1.5)


def _passing(problem: ProblemError) -> bool:
    """Whether the same call may well succeed in a moment; a conflict only where its first try is
    still running.
    """
    if problem.status == httpx.codes.CONFLICT:
        return problem.code == _IN_FLIGHT
    return problem.retryable or problem.status in {
        httpx.codes.TOO_MANY_REQUESTS,
        httpx.codes.BAD_GATEWAY,
    }
