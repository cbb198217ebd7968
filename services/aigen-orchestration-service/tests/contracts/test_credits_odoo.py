"""Failures of Odoo: only a clear response counts, and nothing is charged twice."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from pydantic import ValidationError
from structlog.testing import capture_logs

from creativeflow.services.aigeneration.adapters.credits.odoo import OdooCredits, entitled
from creativeflow.services.aigeneration.bootstrap.container import Container
from creativeflow.services.aigeneration.ports import CreditsUnknownError, HoldStatus
from creativeflow.services.aigeneration.settings import Settings, odoo_address
from tests.contracts.credits_suite import Bank
from tests.support.fake_odoo import DATABASE, KEY, LOGIN, TRACEBACK, StandIn
from tests.support.processes import free_port


@pytest.fixture(params=["odoo_18", "odoo_19"])
def generation(request: pytest.FixtureRequest) -> StandIn:
    """Each generation of Odoo."""
    stand_in: StandIn = request.getfixturevalue(request.param)
    return stand_in


@pytest.fixture
async def odoo(generation: StandIn) -> AsyncIterator[StandIn]:
    """A fake Odoo without faults before and after the test."""
    await generation.faults()
    yield generation
    await generation.faults()


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    """The HTTP client."""
    async with httpx.AsyncClient() as made:
        yield made


@pytest.fixture
async def bank(odoo: StandIn, client: httpx.AsyncClient) -> Bank:
    """A user with 100 hundredths, and a short deadline."""
    made = Bank(odoo.credits(client, deadline_seconds=2.5), odoo.give, odoo.balance)
    await made.open()
    return made


@pytest.mark.parametrize("fault", ["error", "pool_full", "serialization", "error_after_work"])
async def test_call_temporary_error_is_retried_and_done_once(
    bank: Bank, odoo: StandIn, fault: str
) -> None:
    await odoo.faults(fault)
    await bank.hold()
    assert await bank.balance() == 75
    assert (await odoo.counts())["creativeflow_hold"] == 2


@pytest.mark.parametrize("fault", ["error", "pool_full", "serialization"])
async def test_call_failing_three_times_is_unknown(bank: Bank, odoo: StandIn, fault: str) -> None:
    await odoo.faults(fault, fault, fault)
    with pytest.raises(CreditsUnknownError):
        await bank.hold()
    assert (await odoo.counts())["creativeflow_hold"] == 3
    assert await bank.balance() == 100


async def test_hold_without_answer_is_unknown_and_found_by_its_key(
    bank: Bank, odoo: StandIn, client: httpx.AsyncClient
) -> None:
    hasty = Bank(odoo.credits(client, deadline_seconds=0.5), odoo.give, odoo.balance)
    hasty.prefix = bank.prefix
    await hasty.credits.entitlements(bank.rich)
    await odoo.faults("timeout_after_work")
    began = time.monotonic()
    with pytest.raises(CreditsUnknownError):
        await hasty.hold()
    assert time.monotonic() - began < 1.5
    assert await bank.credits.find(bank.asked()) is HoldStatus.HELD
    await bank.hold()
    assert await bank.balance() == 75


@pytest.mark.parametrize("fault", ["page", "nothing", "list", "strange", "silent", "refused"])
async def test_call_unreadable_answer_is_unknown(bank: Bank, odoo: StandIn, fault: str) -> None:
    asked = bank.asked()
    now = datetime.now(UTC)
    for call in (
        lambda: bank.credits.hold(asked),
        lambda: bank.credits.capture(asked),
        lambda: bank.credits.release(asked),
        lambda: bank.credits.find(asked),
        lambda: bank.credits.entitlements(bank.rich),
        lambda: bank.credits.outstanding(now, 10),
    ):
        await odoo.faults(*[fault] * 3)
        with pytest.raises(CreditsUnknownError):
            await call()


async def test_release_leaving_the_key_held_is_unknown() -> None:
    class Calls:
        async def __call__(self, *_: object, **__: object) -> dict[str, str]:
            return {"status": "held"}

    bank = Bank(OdooCredits(Calls()), None, None)  # type: ignore[arg-type]
    with pytest.raises(CreditsUnknownError):
        await bank.credits.release(bank.asked())


async def test_call_denied_is_unknown_and_logged(odoo: StandIn, client: httpx.AsyncClient) -> None:
    expired = odoo.credits(client, key="an-expired-key")
    with capture_logs() as logs, pytest.raises(CreditsUnknownError):
        await expired.entitlements("rich")
    assert [entry["event"] for entry in logs] == ["odoo_denies_access"]
    assert "an-expired-key" not in repr(logs)


async def test_sign_in_happens_once_until_access_is_denied(
    odoo: StandIn, client: httpx.AsyncClient
) -> None:
    credits_ = odoo.credits(client, api="jsonrpc")
    await asyncio.gather(*(credits_.entitlements("rich") for _ in range(5)))
    assert (await odoo.counts())["authenticate"] == 1
    await odoo.faults("denied")
    await credits_.entitlements("rich")
    assert await odoo.counts() == {"creativeflow_entitlements": 2, "authenticate": 1}


async def test_logs_contain_no_key_and_no_traceback(bank: Bank, odoo: StandIn) -> None:
    await odoo.faults("refused")
    with capture_logs() as logs, pytest.raises(CreditsUnknownError) as told:
        await bank.hold()
    assert logs
    for secret in (KEY, TRACEBACK):
        assert secret not in repr(logs) + repr(told.value)


async def test_call_odoo_away_is_unknown(client: httpx.AsyncClient) -> None:
    bank = Bank(StandIn(free_port()).credits(client, deadline_seconds=1.0), None, None)  # type: ignore[arg-type]
    with pytest.raises(CreditsUnknownError):
        await bank.hold()


async def test_version_unknown_can_be_set() -> None:
    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"version": "new"})

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as strange:
        with pytest.raises(CreditsUnknownError, match="AIGEN_CREDITS_ODOO_API"):
            await StandIn(1).credits(strange).entitlements("rich")


async def test_call_invalid_json_rpc_is_unknown() -> None:
    async with httpx.AsyncClient(
        transport=httpx.MockTransport(lambda _: httpx.Response(200, json=[]))
    ) as strange:
        with pytest.raises(CreditsUnknownError):
            await StandIn(1).credits(strange, api="jsonrpc").entitlements("rich")


@pytest.mark.parametrize(
    ("plan", "status", "allowed", "restricted"),
    [
        ("pro", "active", "pro", False),
        ("team", "trial", "team", False),
        ("pro", "suspended", "pro", True),
        ("enterprise", "cancelled", "free", False),
        ("payg", "expired", "free", False),
    ],
)
async def test_entitlements_of_every_plan_and_status_are_known(
    bank: Bank, odoo: StandIn, *, plan: str, status: str, allowed: str, restricted: bool
) -> None:
    await odoo.give(bank.rich, 25, plan, status=status)
    found = await bank.credits.entitlements(bank.rich)
    assert (found.plan.name, found.restricted, found.balance) == (allowed, restricted, 125)


def test_entitlements_flagged_is_restricted_and_unknown_plan_refused() -> None:
    assert entitled("pro", "active", restricted=True, balance=0).restricted
    assert entitled("pro", "expired", restricted=True, balance=0).restricted
    with pytest.raises(KeyError):
        entitled("platinum", "active", restricted=False, balance=0)
    with pytest.raises(ValueError, match="paused"):
        entitled("pro", "paused", restricted=False, balance=0)


async def test_container_with_odoo_url_uses_odoo(odoo: StandIn, tmp_path: Path) -> None:
    url = f"{odoo.url.replace('http', 'odoo+http', 1)}/{DATABASE}"
    settings = a_setting(url, credits_login=LOGIN, credits_api_key=KEY).model_copy(
        update={"data_dir": tmp_path}
    )
    service = Container(settings, database_url="postgresql://127.0.0.1:1/none")
    await odoo.give("wired", 25, "team")
    try:
        assert (await service.credits.entitlements("wired")).plan.name == "team"
        assert service.ledger is None
    finally:
        await service.http.aclose()


def a_setting(url: str, **more: str | None) -> Settings:
    given = {"credits_url": url, "credits_login": "bot", "credits_api_key": "key"} | more
    return Settings(_env_file=None, **given)  # type: ignore[call-arg, arg-type]


def test_odoo_address_has_server_and_database() -> None:
    url = a_setting("odoo+https://odoo.example:8443/creative").credits_url
    assert odoo_address(url) == ("https://odoo.example:8443", "creative")


@pytest.mark.parametrize(
    "url",
    [
        "odoo+https://odoo.example",
        "odoo+https://odoo.example/",
        "odoo+https://bot:key@odoo.example/creative",
        "odoo+https://odoo.example/a/b",
        "odoo+ftp://odoo.example/creative",
    ],
)
def test_odoo_address_of_another_shape_is_refused(url: str) -> None:
    with pytest.raises(ValidationError):
        a_setting(url)


@pytest.mark.parametrize("missing", ["credits_login", "credits_api_key"])
def test_settings_odoo_without_login_or_key_are_refused(missing: str) -> None:
    with pytest.raises(ValidationError, match="AIGEN_CREDITS_LOGIN and AIGEN_CREDITS_API_KEY"):
        a_setting("odoo+https://odoo.example/creative", **{missing: None})
