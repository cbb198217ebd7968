"""Use cases of accounts: statements, grants, flags and holds in doubt."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from creativeflow.services.aigeneration.application.generations import GenerationService
from creativeflow.services.aigeneration.domain import errors
from creativeflow.services.aigeneration.domain.pricing import SubscriptionStatus, credits_text
from creativeflow.services.aigeneration.ports import CreditsUnknownError, Entitlements
from creativeflow.services.aigeneration.storage.account_flags import AccountFlags
from creativeflow.services.aigeneration.storage.accounting import Accounting
from creativeflow.services.aigeneration.storage.ledger import Ledger, OperationReusedError
from creativeflow.services.aigeneration.storage.outbox import Outbox

MOVEMENTS = 200


class Remembered(Protocol):
    """Entitlements of users, cached for a short time."""

    async def __call__(self, user_id: str) -> Entitlements:
        """Return the entitlements of the user."""
        ...

    def forget(self, user_id: str) -> None:
        """Discard the cached entitlements of this user."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditGrant:
    """Credits for a user, in 1/100 credit; a negative amount takes credits back."""

    user_id: str
    amount: int
    reason: str
    plan: str | None = None
    status: SubscriptionStatus | None = None


class AccountService:
    """The use cases of accounts; `ledger` is None if credits are kept elsewhere."""

    def __init__(
        self,
        accounting: Accounting,
        account_flags: AccountFlags,
        ledger: Ledger | None,
        outbox: Outbox,
        generations: GenerationService,
        *,
        entitlements: Remembered,
        now: Callable[[], datetime],
        new_id: Callable[[], UUID],
    ) -> None:
        self._accounting = accounting
        self._account_flags = account_flags
        self._ledger = ledger
        self._outbox = outbox
        self._generations = generations
        self._entitlements = entitlements
        self._now = now
        self._new_id = new_id

    @property
    def kept_here(self) -> bool:
        """Whether credits are kept in the local ledger, so that they can be granted."""
        return self._ledger is not None

    async def statement(self, user_id: str, most: int = MOVEMENTS, skip: int = 0) -> dict[str, Any]:
        """Return plan, balance, held credits, open flags and movements, newest first.

        Raises:
            CreditsUnavailableError: the plan is not known now.
        """
        self._entitlements.forget(user_id)
        try:
            entitled = await self._entitlements(user_id)
        except CreditsUnknownError as error:
            raise errors.CreditsUnavailableError(retry_after_seconds=5) from error
        movements = await self._accounting.movements(user_id, most, skip)
        return {
            "plan": entitled.plan.name,
            "balance": None if entitled.balance is None else credits_text(entitled.balance),
            "held": credits_text(await self._accounting.held_amount(user_id)),
            "restricted": entitled.restricted,
            "flags": await self._account_flags.open_flags(100, user_id),
            "entries": [entry | {"amount": credits_text(entry["amount"])} for entry in movements],
        }

    async def grant(self, gift: CreditGrant, operation: str | None) -> bool:
        """Grant credits; idempotent on `operation`: return False if it was granted before.

        Raises:
            NotFoundError: credits are kept elsewhere.
            IdempotencyKeyReusedError: the operation was another grant.
            InvalidRequestError: the account has too few credits to take back.
        """
        if self._ledger is None:
            raise errors.NotFoundError
        try:
            return await self._ledger.grant(
                gift.user_id,
                gift.amount,
                operation=operation or str(self._new_id()),
                reason=gift.reason,
                plan=gift.plan,
                status=gift.status,
            )
        except OperationReusedError:
            raise errors.IdempotencyKeyReusedError from None
        except ValueError as error:
            raise errors.InvalidRequestError.at(
                "/amount", "invalid_grant", f"{error}.".capitalize()
            ) from None
        finally:
            self._entitlements.forget(gift.user_id)

    async def clear(self, user_id: str, *, by: str, note: str) -> int:
        """Clear the flags of an account and record operator and note; return how many were open."""
        cleared = await self._account_flags.clear(user_id, by=by, note=note, now=self._now())
        self._entitlements.forget(user_id)
        return cleared

    async def decide(self, key: str, *, charged: bool, by: str) -> int:
        """Decide a hold in doubt; return how many parked messages of its key are retried.

        Raises:
            NotFoundError: no hold has this key.
            CreditsUnavailableError: the decision could not be recorded.
        """
        await self._generations.decide_hold(key, charged=charged, by=by)
        return await self._outbox.replay_for(key, now=self._now())
