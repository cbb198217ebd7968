"""The user's account as the studio shows it: plan, balance and free generations."""

from dataclasses import dataclass

from fastapi import Request

from creativeflow.services.aigeneration.api.services import services_of
from creativeflow.services.aigeneration.domain.pricing import Plan, credits_text
from creativeflow.services.aigeneration.ports import CreditsUnknownError


@dataclass(frozen=True, slots=True, kw_only=True)
class UserAccount:
    """An account; `plan` is None while the credit service is down.

    `balance` is None on plans with free generations, `free_left` on all others.
    """

    plan: Plan | None = None
    balance: str | None = None
    free_left: int | None = None
    restricted: bool = False
    top_up_url: str | None = None


async def load_account(request: Request, user_id: str) -> UserAccount:
    """Load the account of a user."""
    services = services_of(request)
    policy = services.policy
    top_up_url = services.settings.web_top_up_url
    try:
        entitled = await services.entitlements(user_id)
    except CreditsUnknownError:
        return UserAccount(top_up_url=top_up_url)
    used = (
        await services.queries.free_used(user_id, services.now())
        if entitled.plan.monthly_generations
        else 0
    )
    return UserAccount(
        plan=entitled.plan,
        restricted=entitled.restricted,
        top_up_url=top_up_url,
        balance=None
        if entitled.balance is None or entitled.plan.monthly_generations
        else credits_text(entitled.balance),
        free_left=max(0, policy.free_generations - used)
        if entitled.plan.monthly_generations
        else None,
    )


def invalidate_account(request: Request, user_id: str) -> None:
    """Discard cached entitlements, after an action that spends credits."""
    services_of(request).entitlements.forget(user_id)
