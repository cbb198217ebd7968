"""Credits in our own database: the Credits port on the local ledger."""

from collections.abc import Awaitable
from typing import TypeVar

from creativeflow.services.aigeneration.domain.errors import StorageUnavailableError
from creativeflow.services.aigeneration.domain.prices import PLANS
from creativeflow.services.aigeneration.ports import (
    CreditsConflictError,
    CreditsRefusedError,
    CreditsUnknownError,
    Entitlements,
    HoldStatus,
)
from creativeflow.services.aigeneration.storage.ledger import Ledger

Answer = TypeVar("Answer")

_STATUS = {None: HoldStatus.HELD, "capture": HoldStatus.CAPTURED, "release": HoldStatus.RELEASED}


class LocalCredits:
    """The Credits port; a lost connection is an unknown outcome, as with any other credit service."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def entitlements(self, user_id: str) -> Entitlements:
        """The plan and balance of the account."""
        account = await _known(self._ledger.account(user_id))
        return Entitlements(plan=PLANS[account.plan], restricted=account.restricted, balance=account.balance)

    async def hold(self, key: str, *, user_id: str, amount: int, action: str) -> None:
        """Set the amount aside."""
        if await _known(self._ledger.hold(key, user_id=user_id, amount=amount, action=action)):
            return
        movement = await _known(self._ledger.find(key))
        if movement is None:
            raise CreditsRefusedError
        if movement.resolved or (movement.user_id, movement.amount) != (user_id, amount):
            raise CreditsConflictError(key)

    async def capture(self, key: str) -> None:
        """Take what is held."""
        if await self._resolve(key, "capture") is not HoldStatus.CAPTURED:
            raise CreditsConflictError(key)

    async def release(self, key: str) -> None:
        """Give back what is held."""
        if await self._resolve(key, "release") is HoldStatus.CAPTURED:
            raise CreditsConflictError(key)

    async def find(self, key: str) -> HoldStatus:
        """What the ledger says of the key."""
        movement = await _known(self._ledger.find(key))
        return _STATUS[movement.resolved] if movement else HoldStatus.ABSENT

    async def _resolve(self, key: str, kind: str) -> HoldStatus:
        await _known(self._ledger.resolve(key, kind))
        return await self.find(key)


async def _known(asked: Awaitable[Answer]) -> Answer:
    try:
        return await asked
    except StorageUnavailableError as error:
        raise CreditsUnknownError("the ledger does not answer") from error
