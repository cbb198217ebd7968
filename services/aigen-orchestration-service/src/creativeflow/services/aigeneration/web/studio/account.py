"""What somebody has: plan, balance and free generations, beside everything that costs something."""

from dataclasses import dataclass

from fastapi import Request

from creativeflow.services.aigeneration.domain.policy import Policy
from creativeflow.services.aigeneration.domain.pricing import Plan, credits_text
from creativeflow.services.aigeneration.ports import CreditsUnknownError, Entitlements


@dataclass(frozen=True, slots=True, kw_only=True)
class UserAccount:
    """`balance` and `free_left` are None where they say nothing; `plan` is None while the credit
    service is away.
    """

    plan: Plan | None = None
    balance: str | None = None
    free_left: int | None = None
    restricted: bool = False
    top_up_url: str | None = None


async def account_of(request: Request, user_id: str) -> UserAccount:
    """The account of a user as it is known now."""
    state = request.app.state
    policy: Policy = state.policy
    top_up_url = state.settings.web_top_up_url
    try:
        entitled: Entitlements = await state.entitlements(user_id)
    except CreditsUnknownError:
        return UserAccount(top_up_url=top_up_url)
    used = (
        await state.queries.free_used(user_id, state.now())
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


def forget(request: Request, user_id: str) -> None:
    """Look anew next time: something has just been paid for."""
    request.app.state.entitlements.forget(user_id)
