"""The billing adapter as it is: no idempotency, no refund, no look-up, and ambiguous responses."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import httpx
import pytest

from creativeflow.services.aigeneration.adapters.credits.billing import (
    BillingCredits,
    BillingRoutes,
)
from creativeflow.services.aigeneration.adapters.http.retries import (
    CircuitBreaker,
    CircuitOpenError,
    call_with_retry,
)
from creativeflow.services.aigeneration.domain.pricing import ACTIONS
from creativeflow.services.aigeneration.kit import clock
from creativeflow.services.aigeneration.ports import (
    CreditsRefusedError,
    CreditsUndecidableError,
    CreditsUnknownError,
    HoldStatus,
    Reservation,
)
from creativeflow.services.aigeneration.storage.billing_journal import BillingJournal
from creativeflow.services.aigeneration.storage.database import Database
from tests.support.fake_billing_client import LOOKUP, FakeBilling, billing
from tests.support.simulators import Clock

LATER = timedelta(minutes=5)
DEDUCT = Reservation(key="k", user_id="rich", amount=25, action="sample_generation")


@pytest.fixture
async def fake_billing(database_url: str, faithful_billing: int) -> AsyncIterator[FakeBilling]:
    """The adapter as it is, with a user who has one credit."""
    async with billing(database_url, faithful_billing) as made:
        await made.give("rich", 100, "pro")
        yield made


@pytest.fixture
async def complete(database_url: str, complete_billing: int) -> AsyncIterator[FakeBilling]:
    """The adapter with keys, refunds and look-up."""
    async with billing(database_url, complete_billing, lookup=LOOKUP) as made:
        await made.give("rich", 100, "pro")
        yield made


async def much_later(fake_billing: FakeBilling) -> None:
    """Make calls in doubt older than any call can take."""
    await fake_billing.database.execute(
        "UPDATE billing_journal SET since = since - $1::interval", LATER
    )


# Action types


def test_reservation_of_an_unpriced_action_is_refused() -> None:
    assert set(ACTIONS) == {
        "sample_generation",
        "standard_generation",
        "hd_export",
        "advanced_ai_feature",
    }
    for action in ("sample_set", "", "SAMPLE_GENERATION"):
        with pytest.raises(ValueError, match="not a reservation"):
            Reservation(key="k", user_id="u", amount=25, action=action)
    with pytest.raises(ValueError, match="not a reservation"):
        Reservation(key="k", user_id="u", amount=0, action="hd_export")


async def test_hold_sends_the_exact_amount(fake_billing: FakeBilling) -> None:
    await fake_billing.credits.hold(
        Reservation(key="odd", user_id="rich", amount=17, action="advanced_ai_feature")
    )
    assert await fake_billing.balance("rich") == 83


# Refusals


@pytest.mark.parametrize("polite", [False, True])
async def test_hold_insufficient_is_refused_and_frees_the_key(
    fake_billing: FakeBilling, polite: bool
) -> None:
    await fake_billing.give("poor", 24, "pro", polite=polite)
    asked = Reservation(key="k", user_id="poor", amount=25, action="sample_generation")
    with pytest.raises(CreditsRefusedError):
        await fake_billing.credits.hold(asked)
    assert await fake_billing.credits.find(asked) is HoldStatus.ABSENT
    await fake_billing.give("poor", 25, "pro")
    await fake_billing.credits.hold(asked)
    assert await fake_billing.balance("poor") == 0


async def test_hold_of_an_unknown_user_is_refused(fake_billing: FakeBilling) -> None:
    with pytest.raises(CreditsRefusedError):
        await fake_billing.credits.hold(
            Reservation(key="k", user_id="nobody", amount=25, action="sample_generation")
        )


# Unknown outcomes


@pytest.mark.parametrize("fault", ["error_after", "wrong_body", "silent_after", "drop_after"])
async def test_hold_without_answer_is_not_repeated_and_waits_for_an_operator(
    fake_billing: FakeBilling, fault: str
) -> None:
    await fake_billing.control(faults=[fault])
    with pytest.raises(CreditsUnknownError):
        await fake_billing.credits.hold(DEDUCT)
    await much_later(fake_billing)
    for ask in (
        fake_billing.credits.hold,
        fake_billing.credits.find,
        fake_billing.credits.release,
        fake_billing.credits.hold,
    ):
        with pytest.raises(CreditsUndecidableError):
            await ask(DEDUCT)
    assert (await fake_billing.control())["calls"]["deduct"] == 1
    assert await fake_billing.balance("rich") == 75


async def test_hold_failed_before_the_work_is_not_guessed(fake_billing: FakeBilling) -> None:
    await fake_billing.control(faults=["error_before"])
    with pytest.raises(CreditsUnknownError):
        await fake_billing.credits.hold(DEDUCT)
    await much_later(fake_billing)
    with pytest.raises(CreditsUndecidableError):
        await fake_billing.credits.hold(DEDUCT)
    assert await fake_billing.balance("rich") == 100


@pytest.mark.parametrize("charged", [True, False])
async def test_decide_resolves_a_key_in_doubt(fake_billing: FakeBilling, charged: bool) -> None:
    await fake_billing.control(faults=["error_after" if charged else "error_before"])
    with pytest.raises(CreditsUnknownError):
        await fake_billing.credits.hold(DEDUCT)
    await much_later(fake_billing)
    await fake_billing.credits.decide(DEDUCT, charged=charged)
    await fake_billing.credits.hold(DEDUCT)
    assert await fake_billing.credits.find(DEDUCT) is HoldStatus.HELD
    assert await fake_billing.balance("rich") == 75


async def test_hold_answer_after_the_caller_left_is_recorded(fake_billing: FakeBilling) -> None:
    await fake_billing.control(faults=["slow"])
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await fake_billing.credits.hold(DEDUCT)
    await fake_billing.credits.hold(DEDUCT)
    assert await fake_billing.credits.find(DEDUCT) is HoldStatus.HELD
    assert (await fake_billing.control())["calls"]["deduct"] == 1
    assert await fake_billing.balance("rich") == 75


async def test_hold_of_a_dead_process_is_in_doubt(fake_billing: FakeBilling) -> None:
    await fake_billing.control(faults=["silent_after"])
    call = asyncio.create_task(fake_billing.credits._hold(DEDUCT))  # noqa: SLF001 - as it ends when its process ends
    await asyncio.sleep(0.3)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    await much_later(fake_billing)
    with pytest.raises(CreditsUndecidableError):
        await fake_billing.credits.hold(DEDUCT)


async def test_hold_not_sent_is_retried(database_url: str, fake_billing: FakeBilling) -> None:
    async with billing(database_url, fake_billing.port) as other:
        nowhere = BillingRoutes(base_url="http://127.0.0.1:9/api/v1")
        async with httpx.AsyncClient(trust_env=False) as http:
            away = BillingCredits(
                http,
                BillingJournal(other.database),
                nowhere,
                api_key="k",
                now=clock.now,
                pause_seconds=0.01,
            )
            with pytest.raises(CreditsUnknownError, match="nothing was deducted"):
                await away.hold(DEDUCT)
        await other.give("rich", 100, "pro")
        await other.credits.hold(DEDUCT)
        assert await other.balance("rich") == 75


async def test_hold_turned_away_did_nothing(fake_billing: FakeBilling) -> None:
    await fake_billing.control(faults=["turned_away"])
    with pytest.raises(CreditsUnknownError, match="nothing was deducted"):
        await fake_billing.credits.hold(DEDUCT)
    await fake_billing.credits.hold(DEDUCT)
    assert await fake_billing.balance("rich") == 75


# Refunds


async def test_release_without_refund_route_waits_for_an_operator(
    fake_billing: FakeBilling,
) -> None:
    await fake_billing.credits.hold(DEDUCT)
    for _ in range(2):
        with pytest.raises(CreditsUndecidableError, match="refund"):
            await fake_billing.credits.release(DEDUCT)
    assert await fake_billing.credits.find(DEDUCT) is HoldStatus.HELD
    assert await fake_billing.balance("rich") == 75


async def test_release_with_refund_path_none_calls_nothing(
    database_url: str, faithful_billing: int
) -> None:
    async with billing(database_url, faithful_billing, refund=None) as fake_billing:
        await fake_billing.give("rich", 100, "pro")
        await fake_billing.credits.hold(DEDUCT)
        with pytest.raises(CreditsUndecidableError, match="no refund route"):
            await fake_billing.credits.release(DEDUCT)
        assert "refund" not in (await fake_billing.control())["calls"]


@pytest.mark.parametrize("fault", ["error_after", "silent_after", "drop_after", "wrong_body"])
async def test_release_without_answer_is_looked_up_and_paid_once(
    complete: FakeBilling, fault: str
) -> None:
    await complete.credits.hold(DEDUCT)
    await complete.control(faults=[fault])
    with pytest.raises(CreditsUnknownError):
        await complete.credits.release(DEDUCT)
    await much_later(complete)
    await complete.credits.release(DEDUCT)
    assert await complete.credits.find(DEDUCT) is HoldStatus.RELEASED
    assert await complete.balance("rich") == 100
    assert (await complete.control())["calls"]["refund"] == 1


# Look-up


@pytest.mark.parametrize(
    "fault", ["error_before", "error_after", "silent_after", "drop_after", "wrong_body", "twice"]
)
async def test_find_with_look_up_resolves_every_doubt(complete: FakeBilling, fault: str) -> None:
    await complete.control(faults=[fault])
    if fault == "twice":
        await complete.credits.hold(DEDUCT)
    else:
        with pytest.raises(CreditsUnknownError):
            await complete.credits.hold(DEDUCT)
    await much_later(complete)
    await complete.credits.hold(DEDUCT)
    assert await complete.credits.find(DEDUCT) is HoldStatus.HELD
    assert await complete.balance("rich") == 75


# Entitlements


@pytest.mark.parametrize(
    ("status", "plan", "restricted"),
    [
        ("Active", "pro", False),
        ("Trial", "pro", False),
        ("Suspended", "pro", True),
        ("Cancelled", "free", False),
        ("Expired", "free", False),
    ],
)
async def test_entitlements_of_every_status_are_known(
    fake_billing: FakeBilling, status: str, plan: str, restricted: bool
) -> None:
    await fake_billing.give("user", 100, "pro", subscription={"status": status})
    found = await fake_billing.credits.entitlements("user")
    assert (found.plan.name, found.restricted, found.balance) == (plan, restricted, 100)


async def test_entitlements_features_change_paid_plans_only(fake_billing: FakeBilling) -> None:
    features = {
        "unlimited_standard_generations": False,
        "brand_kit_access": False,
        "hd_exports": False,
    }
    await fake_billing.give("user", 100, "pro", subscription={"features": features})
    await fake_billing.give(
        "free", 0, "free", subscription={"features": dict.fromkeys(features, True)}
    )
    plan, free = (
        (await fake_billing.credits.entitlements("user")).plan,
        (await fake_billing.credits.entitlements("free")).plan,
    )
    assert (plan.includes_standard, plan.brand_kit, plan.high_resolution) == (False, False, False)
    assert (free.brand_kit, free.high_resolution, free.watermark) == (False, False, True)


async def test_entitlements_plan_names_are_mapped_and_unknown_ones_refused(
    database_url: str, faithful_billing: int
) -> None:
    async with billing(
        database_url, faithful_billing, plan_names={"professional": "pro"}
    ) as fake_billing:
        await fake_billing.give(
            "user", 0, "pro", subscription={"current_plan_name": "Professional"}
        )
        await fake_billing.give("other", 0, "pro", subscription={"current_plan_name": "Diamond"})
        assert (await fake_billing.credits.entitlements("user")).plan.name == "pro"
        with pytest.raises(CreditsUnknownError):
            await fake_billing.credits.entitlements("other")


async def test_entitlements_error_is_unknown_and_404_is_free(fake_billing: FakeBilling) -> None:
    await fake_billing.give("paid", 100, "pro", broken=True)
    with pytest.raises(CreditsUnknownError):
        await fake_billing.credits.entitlements("paid")
    assert (await fake_billing.control())["calls"]["subscription"] == 3
    assert (await fake_billing.credits.entitlements("nobody")).plan.name == "free"


# Circuit breaker


async def test_breaker_after_five_failures_opens_until_a_probe_succeeds(
    database_url: str, faithful_billing: int
) -> None:
    clock = Clock()
    breaker = CircuitBreaker(monotonic=lambda: clock().timestamp())
    async with billing(database_url, faithful_billing, breaker=breaker) as fake_billing:
        await fake_billing.give("rich", 100, "pro")
        await fake_billing.control(down=True)
        for _ in range(3):
            with pytest.raises(CreditsUnknownError):
                await fake_billing.credits.entitlements("rich")
        assert breaker.open
        before = (await fake_billing.control())["calls"]["subscription"]
        with pytest.raises(CreditsUnknownError, match="left alone"):
            await fake_billing.credits.hold(DEDUCT)
        assert (await fake_billing.control(down=False))["calls"] == {"subscription": before}
        clock.advance(seconds=61)
        await fake_billing.credits.hold(DEDUCT)
        assert not breaker.open
        assert await fake_billing.balance("rich") == 75


async def test_breaker_lets_one_probe_through_and_forgets_old_failures() -> None:
    clock = Clock()
    breaker = CircuitBreaker(monotonic=lambda: clock().timestamp())

    async def fail() -> None:
        raise ConnectionError

    async def wait() -> str:
        await gate.wait()
        return "answer"

    async def attempt(ask: Any) -> Any:
        return await breaker.call(ask, failure=ConnectionError)

    for _ in range(4):
        with pytest.raises(ConnectionError):
            await attempt(fail)
    clock.advance(seconds=61)
    with pytest.raises(ConnectionError):
        await attempt(fail)
    assert not breaker.open
    for _ in range(4):
        with pytest.raises(ConnectionError):
            await attempt(fail)
    assert breaker.open

    clock.advance(seconds=61)
    gate = asyncio.Event()
    probe = asyncio.create_task(attempt(wait))
    await asyncio.sleep(0)
    with pytest.raises(CircuitOpenError):
        await attempt(wait)
    gate.set()
    assert await probe == "answer"
    assert not breaker.open


async def test_call_failing_is_tried_three_times() -> None:
    calls = 0

    async def fail() -> None:
        nonlocal calls
        calls += 1
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await call_with_retry(fail, again_after=ConnectionError, first_pause_seconds=0.001)
    assert calls == 3


async def test_logs_and_errors_contain_no_secret(database_url: str) -> None:
    database = Database(database_url)
    async with httpx.AsyncClient(trust_env=False) as http:
        made = BillingCredits(
            http,
            BillingJournal(database),
            BillingRoutes(base_url="http://x"),
            api_key="very-secret",
            now=clock.now,
        )
        assert "very-secret" not in repr(made)
    await database.close()


async def test_release_refunds_the_recorded_deduction(complete: FakeBilling) -> None:
    await complete.credits.hold(DEDUCT)
    await complete.credits.release(
        Reservation(key="k", user_id="rich", amount=99, action="sample_generation")
    )
    assert await complete.balance("rich") == 100
