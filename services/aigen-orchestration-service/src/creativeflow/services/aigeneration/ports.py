"""Other people's systems in our words: Credits, Engine, Notifier. Each has at least two
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
    """The credit service says no: the money is not there, and nothing was held."""


class CreditsConflictError(Exception):
    """The key was used before with another amount: a fault of ours that must never be guessed
    away.
    """


class CreditsUnknownError(Exception):
    """No answer, or none that can be trusted: the operation may or may not have happened. Never
    "no".
    """


class CreditsUndecidableError(CreditsUnknownError):
    """Unknown for good: the credit service has no way to ask what became of a key. A person must
    look.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Entitlements:
    """What a user may do (REQ-016); `balance` in 1/100 credit, None where the service does not
    tell.

    `stale`: the credit service does not answer, and this is what it said some minutes ago. Good
    enough for what is free, never for what costs.
    """

    plan: Plan
    restricted: bool = False
    balance: int | None = None
    stale: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """What is to be set aside, taken or given back: the same facts travel with every operation on
    one key.

    `amount` in 1/100 credit; `action` is one of the four action types of the price list.
    """

    key: str
    user_id: str
    amount: int
    action: str

    def __post_init__(self) -> None:
        """A reservation of nothing, or for an action nobody prices, would be charged for nothing.

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
        """What the user's plan allows."""
        ...

    async def hold(self, asked: Reservation) -> None:
        """Set the amount aside.

        Raises:
            CreditsRefusedError: it is not there; the key is free again.
            CreditsConflictError: the key stands for another amount or user, or was released before.
        """
        ...

    async def capture(self, held: Reservation) -> None:
        """Take what was held. Again: nothing happens.

        Raises:
            CreditsConflictError: it was released, or never held.
        """
        ...

    async def release(self, held: Reservation) -> None:
        """Give back what was held, or close a key that never held anything: a hold that arrives
        later is a conflict.

        Again: nothing happens.

        Raises:
            CreditsConflictError: it was captured.
        """
        ...

    async def find(self, asked: Reservation) -> HoldStatus:
        """What is known under the key."""
        ...

    async def decide(self, asked: Reservation, *, charged: bool) -> None:
        """A person says what became of a key that could not be asked about; one that can be asked
        knows better.
        """
        ...

    async def outstanding(self, before: datetime, most: int) -> Sequence[Reservation] | None:
        """Holds older than `before` that were neither captured nor released, the oldest first.

        None where the credit service cannot list them.
        """
        ...


class PromptCheckUnavailableError(Exception):
    """The check does not answer."""


class PromptCheck(Protocol):
    """Whatever says whether words may be made into pictures."""

    async def check(self, texts: Sequence[str], locale: str | None) -> ModerationResult:
        """The strictest verdict on all texts; `locale` such as `en-US` is the request's, if it has
        one.

        Raises:
            PromptCheckUnavailableError: it does not answer.
        """
        ...


class PublicationOutcome(StrEnum):
    """What came of handing a job over."""

    ACCEPTED = "accepted"
    """Stored durably by the engine's queue."""
    REFUSED = "refused"
    """Not taken, and surely not there."""
    UNKNOWN = "unknown"
    """It may be there: the same job must be published again, never a new one."""


@dataclass(frozen=True, slots=True)
class Publication:
    """The outcome for one job, with the reason where it was not accepted."""

    outcome: PublicationOutcome
    reason: str = ""


class Engine(Protocol):
    """Whatever makes the pictures."""

    @property
    def ready(self) -> bool:
        """Whether it is worth handing jobs over now; they wait in the fair queue meanwhile."""
        ...

    async def publish(self, jobs: Sequence[GenerationRequest]) -> Sequence[Publication]:
        """Hand over the current job of each request; one publication for each, in order.

        Never raises for a broker that is away. The same job may be published again.
        """
        ...


class NotifierRefusedError(Exception):
    """The receiver will not take it, now or later: a person must look."""


class NotifierUnavailableError(Exception):
    """The receiver does not answer, or not well: the same notification is sent again later.

    `retry_after` is set where trying costs nothing, such as on a connection that is known to be
    down.
    """

    def __init__(self, reason: str, retry_after: timedelta | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class Notifier(Protocol):
    """Whoever tells the user. At least once: receivers recognise repeats by `event_id`."""

    async def send(self, notification: Mapping[str, Any]) -> None:
        """Send one notification (see docs/notifications.md for its fields).

        Raises:
            NotifierRefusedError: it will never be taken as it is.
            NotifierUnavailableError: try again later.
        """
        ...
