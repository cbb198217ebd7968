"""The ports to other systems: Credits, PromptCheck, Engine, Notifier. Each has at least two
adapters.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Protocol

from creativeflow.services.aigeneration.domain.moderation import ModerationResult
from creativeflow.services.aigeneration.domain.pricing import ACTIONS, Plan
from creativeflow.services.aigeneration.domain.reconciliation import HoldStatus
from creativeflow.services.aigeneration.domain.request import GenerationRequest

__all__ = [
    "Credits",
    "CreditsConflictError",
    "CreditsRefusedError",
    "CreditsUndecidableError",
    "CreditsUnknownError",
    "Engine",
    "Entitlements",
    "HoldStatus",
    "Notifier",
    "NotifierRefusedError",
    "NotifierUnavailableError",
    "PromptCheck",
    "PromptCheckUnavailableError",
    "Publication",
    "PublicationOutcome",
    "Reservation",
]


class CreditsRefusedError(Exception):
    """The credit service refused: the balance does not cover the amount, and nothing was held."""


class CreditsConflictError(Exception):
    """The key was used with another amount: an internal error that requires a decision."""


class CreditsUnknownError(Exception):
    """No response, or an unreliable one: the operation may or may not have happened. Never a
    refusal.
    """


class CreditsUndecidableError(CreditsUnknownError):
    """The outcome cannot be determined, because the credit service cannot look a key up; an
    operator decides.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Entitlements:
    """The entitlements of a user (REQ-016); `balance` in 1/100 credit, None if unknown.

    `stale`: the credit service does not respond, and these are some minutes old; they suffice for
    free work only.
    """

    plan: Plan
    restricted: bool = False
    balance: int | None = None
    stale: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """The facts of a hold, sent with every operation on its key.

    `amount` in 1/100 credit; `action` is one of the four action types of the price list.
    """

    key: str
    user_id: str
    amount: int
    action: str

    def __post_init__(self) -> None:
        """Check the amount and the action, because a wrong one would not be charged.

        Raises:
            ValueError: the amount is not positive, or the action is not on the price list.
        """
        if self.amount <= 0 or self.action not in ACTIONS:
            raise ValueError(f"not a reservation: {self.amount} for {self.action}")


class Credits(Protocol):
    """A credit service. Every operation is idempotent on its key.

    Any call may raise CreditsUnknownError, or CreditsUndecidableError if a retry cannot help.
    """

    async def entitlements(self, user_id: str) -> Entitlements:
        """Return the user's entitlements."""
        ...

    async def hold(self, asked: Reservation) -> None:
        """Place a hold.

        Raises:
            CreditsRefusedError: the balance is too low; the key can be used again.
            CreditsConflictError: the key has another amount or user, or was released before.
        """
        ...

    async def capture(self, held: Reservation) -> None:
        """Capture the hold. Idempotent.

        Raises:
            CreditsConflictError: it was released or never held.
        """
        ...

    async def release(self, held: Reservation) -> None:
        """Release the hold, or close a key without one, so that a late hold is a conflict.
        Idempotent.

        Raises:
            CreditsConflictError: it was captured.
        """
        ...

    async def find(self, asked: Reservation) -> HoldStatus:
        """Return the status of the hold."""
        ...

    async def decide(self, asked: Reservation, *, charged: bool) -> None:
        """Record an operator's decision on a key; ignored by services that can look it up."""
        ...

    async def outstanding(self, before: datetime, most: int) -> Sequence[Reservation] | None:
        """Return the holds older than `before` that are neither captured nor released, oldest
        first; None if the credit service cannot list them.
        """
        ...


class PromptCheckUnavailableError(Exception):
    """The prompt check does not respond."""


class PromptCheck(Protocol):
    """Decides whether a prompt may be used."""

    async def check(self, texts: Sequence[str], locale: str | None) -> ModerationResult:
        """Return the strictest result over all texts; `locale` such as `en-US` is the request's, if
        known.

        Raises:
            PromptCheckUnavailableError: the check does not respond.
        """
        ...


class PublicationOutcome(StrEnum):
    """The outcome of publishing a job."""

    ACCEPTED = "accepted"
    """Stored durably in the queue of the engine."""
    REFUSED = "refused"
    """Refused, and certainly not stored."""
    UNKNOWN = "unknown"
    """Unknown: the same job must be published again, never a new one."""


@dataclass(frozen=True, slots=True)
class Publication:
    """The outcome for one job, with the reason if it was not accepted."""

    outcome: PublicationOutcome
    reason: str = ""


class Engine(Protocol):
    """Makes pictures."""

    @property
    def ready(self) -> bool:
        """Return whether jobs can be published now; until then they wait in the fair queue."""
        ...

    async def publish(self, jobs: Sequence[GenerationRequest]) -> Sequence[Publication]:
        """Publish the current job of each request; return one publication per request, in order.

        Does not raise if the broker is unavailable. The same job may be published again.
        """
        ...


class NotifierRefusedError(Exception):
    """The receiver refuses the notification permanently; an operator decides."""


class NotifierUnavailableError(Exception):
    """The receiver is unavailable; the notification is sent again later.

    `retry_after` is set if an attempt costs nothing, such as on a connection known to be down.
    """

    def __init__(self, reason: str, retry_after: timedelta | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class Notifier(Protocol):
    """Notifies users, at least once; receivers recognise repetitions by `event_id`."""

    async def send(self, notification: Mapping[str, Any]) -> None:
        """Send one notification; docs/notifications.md lists its fields.

        Raises:
            NotifierRefusedError: it can never be accepted.
            NotifierUnavailableError: it can be sent again later.
        """
        ...
