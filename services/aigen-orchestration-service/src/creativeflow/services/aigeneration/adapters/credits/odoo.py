"""Credits in Odoo: the Credits port on the addon `creativeflow_aigen`."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from creativeflow.services.aigeneration.adapters.credits.odoo_rpc import OdooCalls
from creativeflow.services.aigeneration.domain.pricing import (
    PLANS,
    SubscriptionStatus,
    credits_amount,
    credits_text,
    terms,
)
from creativeflow.services.aigeneration.ports import (
    CreditsConflictError,
    CreditsRefusedError,
    CreditsUnknownError,
    Entitlements,
    HoldStatus,
    Reservation,
)

MODEL = "creativeflow.credits"


class OdooCredits:
    """The Credits port; anything but a clear response of Odoo is an unknown outcome."""

    def __init__(self, calls: OdooCalls) -> None:
        self._calls = calls

    async def entitlements(self, user_id: str) -> Entitlements:
        """Return plan, flag and balance of the account in Odoo."""
        answer = await self._calls("creativeflow_entitlements", user_id=user_id)
        try:
            balance = credits_amount(_text(answer, "balance"))
            return entitled(
                _text(answer, "plan"),
                _text(answer, "status"),
                restricted=answer["restricted"],
                balance=balance,
            )
        except (KeyError, ValueError) as error:
            raise CreditsUnknownError("the entitlements of Odoo cannot be read") from error

    async def hold(self, asked: Reservation) -> None:
        """Place a hold."""
        match _text(await self._calls("creativeflow_hold", **_arguments(asked)), "outcome"):
            case "held":
                return
            case "refused":
                raise CreditsRefusedError
            case "conflict":
                raise CreditsConflictError(asked.key)
            case other:
                raise CreditsUnknownError(f"Odoo answers a hold with {other}")

    async def capture(self, held: Reservation) -> None:
        """Capture a hold."""
        if (
            _status(await self._calls("creativeflow_capture", key=held.key))
            is not HoldStatus.CAPTURED
        ):
            raise CreditsConflictError(held.key)

    async def release(self, held: Reservation) -> None:
        """Release a hold, or close its key."""
        match _status(await self._calls("creativeflow_release", **_arguments(held))):
            case HoldStatus.RELEASED:
                return
            case HoldStatus.CAPTURED:
                raise CreditsConflictError(held.key)
            case other:
                raise CreditsUnknownError(f"Odoo answers a release with {other}")

    async def find(self, asked: Reservation) -> HoldStatus:
        """Return the state of the key in Odoo."""
        return _status(await self._calls("creativeflow_find", key=asked.key))

    async def decide(self, asked: Reservation, *, charged: bool) -> None:
        """Do nothing: Odoo can look every key up."""

    async def outstanding(self, before: datetime, most: int) -> Sequence[Reservation]:
        """Return holds that are open in Odoo."""
        answer = await self._calls(
            "creativeflow_outstanding", before=before.isoformat(), limit=most
        )
        try:
            return [
                Reservation(**{**hold, "amount": credits_amount(hold["amount"])})
                for hold in answer["holds"]
            ]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CreditsUnknownError("the holds of Odoo cannot be read") from error


def entitled(plan: str, status: str, *, restricted: bool, balance: int) -> Entitlements:
    """Return the entitlements of a subscription; `balance` in 1/100 credit.

    Raises:
        KeyError: an unknown plan.
        ValueError: an unknown status.
    """
    known = SubscriptionStatus(status)
    return Entitlements(
        plan=terms(PLANS[plan], known),
        restricted=restricted or known is SubscriptionStatus.SUSPENDED,
        balance=balance,
    )


def _arguments(reservation: Reservation) -> dict[str, str]:
    return {
        "key": reservation.key,
        "user_id": reservation.user_id,
        "amount": credits_text(reservation.amount),
        "action": reservation.action,
    }


def _text(answer: Mapping[str, Any], name: str) -> str:
    value = answer.get(name)
    if not isinstance(value, str):
        raise CreditsUnknownError(f"Odoo's answer has no {name}")
    return value


def _status(answer: Mapping[str, Any]) -> HoldStatus:
    try:
        return HoldStatus(_text(answer, "status"))
    except ValueError as error:
        raise CreditsUnknownError("unknown status in Odoo") from error
