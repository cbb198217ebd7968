"""Exceptions of the client."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from creativeflow.clients.aigeneration.resources.generations import Generation


class GenerationServiceError(Exception):
    """Base class of the client's exceptions."""


class ApiConnectionError(GenerationServiceError):
    """No valid response after all attempts; whether the call took effect is unknown.

    Repeating a call with the same idempotency key is safe.
    """


class ProblemError(GenerationServiceError):
    """The service refused a call with a problem document (RFC 9457).

    `code` is one of docs/problems.md; the message is for people. `raw` is the document, which can
    have further members.
    """

    def __init__(
        self, status: int, document: Mapping[str, Any], retry_after_seconds: float | None = None
    ) -> None:
        super().__init__(str(document.get("detail") or f"The service answered {status}."))
        self.status = status
        self.code = str(document.get("code", "unknown"))
        self.title = str(document.get("title", ""))
        self.retryable = bool(document.get("retryable", status >= 500))  # noqa: PLR2004 - server errors
        self.retry_after_seconds = retry_after_seconds
        self.errors: list[dict[str, str]] = list(document.get("errors") or [])
        self.raw = document


class GenerationEndedError(GenerationServiceError):
    """The generation ended without the expected result; `generation.failure` has the reason."""

    def __init__(self, generation: "Generation") -> None:
        failure = generation.failure
        super().__init__(failure.message if failure else f"The generation is {generation.status}.")
        self.generation = generation


class WaitTimeoutError(GenerationServiceError):
    """The time to wait is over; the generation continues, and can be waited for again."""

    def __init__(self, generation: "Generation") -> None:
        super().__init__(f"The generation is still {generation.status}.")
        self.generation = generation
