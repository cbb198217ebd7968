"""Credits in the local ledger, in the database of the service."""

from collections.abc import Awaitable, Sequence
from datetime import datetime
from typing import TypeVar

from creativeflow.services.aigeneration.domain.errors import StorageUnavailableError
from creativeflow.services.aigeneration.domain.pricing import PLANS, SubscriptionStatus, terms
from creativeflow.services.aigeneration.ports import (
    CreditsConflictError,
    CreditsRefusedError,
    CreditsUnknownError,
    Entitlements,
    HoldStatus,
    Reservation,
)
from creativeflow.services.aigeneration.storage.ledger import Ledger

Result = TypeVar("Result")

_STATUS = {None: HoldStatus.HELD, "capture": HoldStatus.CAPTURED, "release": HoldStatus.RELEASED}


class LocalCredits:
    """The Credits port; a lost connection is an unknown outcome, as with any credit service."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def entitlements(self, user_id: str) -> Entitlements:
        """Return plan and balance of the account."""
        account = await _known(self._ledger.account(user_id))
        status = SubscriptionStatus(account.status)
        return Entitlements(
            plan=terms(PLANS[account.plan], status),
            restricted=status is SubscriptionStatus.SUSPENDED,
            balance=account.balance,
        )

    async def hold(self, asked: Reservation) -> None:
        """Place a hold."""
        if await _known(
            self._ledger.hold(
                asked.key, user_id=asked.user_id, amount=asked.amount, action=asked.action
            )
        ):
            return
        movement = await _known(self._ledger.find(asked.key))
        if movement is None:
            raise CreditsRefusedError
        if movement.resolved or (movement.user_id, movement.amount) != (
            asked.user_id,
            asked.amount,
        ):
            raise CreditsConflictError(asked.key)

    async def capture(self, held: Reservation) -> None:
        """Capture a hold."""
        if await _known(self._ledger.resolve(held.key, "capture")) != "capture":
            raise CreditsConflictError(held.key)

    async def release(self, held: Reservation) -> None:
        """Release a hold, or close its key."""
        await _known(self._ledger.close(held.key))
        if await _known(self._ledger.resolve(held.key, "release")) == "capture":
            raise CreditsConflictError(held.key)

    async def find(self, asked: Reservation) -> HoldStatus:
        """Return the state of the key in the ledger."""
        movement = await _known(self._ledger.find(asked.key))
        return _STATUS[movement.resolved] if movement else HoldStatus.ABSENT

    async def decide(self, asked: Reservation, *, charged: bool) -> None:
        """Do nothing: the ledger always knows the outcome."""

    async def outstanding(self, before: datetime, most: int) -> Sequence[Reservation]:
        """Return the amounts in `held:` accounts."""
        found = await _known(self._ledger.outstanding(before, most))
        return [Reservation(**movement) for movement in found]


async def _known(asked: Awaitable[Result]) -> Result:
    try:
        return await asked
    except StorageUnavailableError as error:
        raise CreditsUnknownError("the ledger does not answer") from error
