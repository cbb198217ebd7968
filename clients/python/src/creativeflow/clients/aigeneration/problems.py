"""What a call can fail with: the service says no, does not answer, or a generation ends without its
picture.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from creativeflow.clients.aigeneration.resources import Generation


class GenerationServiceError(Exception):
    """The root of everything this client raises."""


class NoAnswerError(GenerationServiceError):
    """No answer after all tries. With the same idempotency key the call can be made again
    safely.
    """


class ProblemError(GenerationServiceError):
    """The service says no; `code` is one of its problems (docs/problems.md), the text is for a
    person.
    """

    def __init__(
        self, status: int, document: Mapping[str, Any], retry_after_seconds: float | None = None
    ) -> None:
        super().__init__(str(document.get("detail") or f"The service answered {status}."))
        self.status = status
        self.code = str(document.get("code", "unknown"))
        self.title = str(document.get("title", ""))
        self.retryable = bool(document.get("retryable", status >= 500))  # noqa: PLR2004 - what servers answer when at fault
        self.retry_after_seconds = retry_after_seconds
        self.errors: list[dict[str, str]] = list(document.get("errors") or [])


class GenerationEndedError(GenerationServiceError):
    """The generation has ended without what was waited for; `generation.failure` says why, and the
    ways on.
    """

    def __init__(self, generation: "Generation") -> None:
        super().__init__(generation.failure_message or f"The generation is {generation.status}.")
        self.generation = generation


class WaitedTooLongError(GenerationServiceError):
    """The time to wait was over; the generation goes on, and can be waited for again."""

    def __init__(self, generation: "Generation") -> None:
        super().__init__(f"The generation is still {generation.status}.")
        self.generation = generation
