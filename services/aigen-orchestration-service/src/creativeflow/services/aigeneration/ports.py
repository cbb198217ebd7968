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
    """The key was used before with another amount: an internal error that must never be resolved
    by a guess.
    """


class CreditsUnknownError(Exception):
    """No response, or an unreliable one: the operation may or may not have happened. Never a
    refusal.
    """


class CreditsUndecidableError(CreditsUnknownError):
    """The outcome cannot be found out: the credit service has no way to look a key up. An
    operator decides.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Entitlements:
    """The entitlements of a user (REQ-016); `balance` in 1/100 credit, None if the service does
    not provide it.

    `stale`: the credit service does not answer, and these are some minutes old. Good enough for
    free work, never for work that costs credits.
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
        """Check the amount and the action: a wrong one would be charged for nothing.

        Raises:
            ValueError: the amount is not positive or the action is not on the price list.
        """
        if self.amount <= 0 or self.action not in ACTIONS:
            raise ValueError(f"not a reservation: {self.amount} for {self.action}")


class Credits(Protocol):
    """A credit service. Every operation is idempotent on its key.

    Any call may raise CreditsUnknownError, and CreditsUndecidableError where asking again will
    never help.
    """

    async def entitlements(self, user_id: str) -> Entitlements:
        """Return the user's entitlements."""
        ...

    async def hold(self, asked: Reservation) -> None:
        """Hold the amount.

        Raises:
            CreditsRefusedError: it is not there; the key is free again.
            CreditsConflictError: the key stands for another amount or user, or was released before.
        """
        ...

    async def capture(self, held: Reservation) -> None:
        """Capture the hold. Idempotent.

        Raises:
            CreditsConflictError: it was released, or never held.
        """
        ...

    async def release(self, held: Reservation) -> None:
        """Release the hold, or close a key that never held anything: a hold that arrives later
        is a conflict. Idempotent.

        Raises:
            CreditsConflictError: it was captured.
        """
        ...

    async def find(self, asked: Reservation) -> HoldStatus:
        """Return the status of the hold."""
        ...

    async def decide(self, asked: Reservation, *, charged: bool) -> None:
        """Record an operator's decision on a key that cannot be looked up; ignored where it can
        be.
        """
        ...

    async def outstanding(self, before: datetime, most: int) -> Sequence[Reservation] | None:
        """Return holds older than `before` that were neither captured nor released, oldest
        first; None where the credit service cannot list them.
        """
        ...


class PromptCheckUnavailableError(Exception):
    """The prompt check does not answer."""


class PromptCheck(Protocol):
    """Decides whether a prompt may be used."""

    async def check(self, texts: Sequence[str], locale: str | None) -> ModerationResult:
        """Return the strictest result over all texts; `locale` such as `en-US` is the request's,
        if it has one.

        Raises:
            PromptCheckUnavailableError: it does not answer.
        """
        ...


class PublicationOutcome(StrEnum):
    """The outcome of publishing a job."""

    ACCEPTED = "accepted"
    """Stored durably by the engine's queue."""
    REFUSED = "refused"
    """Not accepted, and certainly not stored."""
    UNKNOWN = "unknown"
    """It may be stored: the same job must be published again, never a new one."""


@dataclass(frozen=True, slots=True)
class Publication:
    """The outcome for one job, with the reason where it was not accepted."""

    outcome: PublicationOutcome
    reason: str = ""


class Engine(Protocol):
    """Makes the pictures."""

    @property
    def ready(self) -> bool:
        """Return whether jobs should be published now; they wait in the fair queue meanwhile."""
        ...

    async def publish(self, jobs: Sequence[GenerationRequest]) -> Sequence[Publication]:
        """Publish the current job of each request; returns one publication for each, in order.

        Never raises for a broker that is away. The same job may be published again.
        """
        ...


class NotifierRefusedError(Exception):
    """The receiver refuses the notification for good: an operator decides."""


class NotifierUnavailableError(Exception):
    """The receiver is unavailable: the same notification is sent again later.

    `retry_after` is set where an attempt costs nothing, such as on a connection that is known to be
    down.
    """

    def __init__(self, reason: str, retry_after: timedelta | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class Notifier(Protocol):
    """Notifies users. At least once: receivers recognise repetitions by `event_id`."""

    async def send(self, notification: Mapping[str, Any]) -> None:
        """Send one notification (see docs/notifications.md for its fields).

        Raises:
            NotifierRefusedError: it will never be taken as it is.
            NotifierUnavailableError: try again later.
        """
        ...
