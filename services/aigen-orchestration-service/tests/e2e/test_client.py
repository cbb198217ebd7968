"""The Python client on a running service: whole generations, and every call of the API."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from creativeflow.clients.aigeneration import (
    AsyncClient,
    Client,
    Generation,
    GenerationEndedError,
    ProblemError,
    Retries,
    WaitTimeoutError,
)
from tests.e2e.journey import Caller
from tests.support.running_system import Parts
from tests.support.webhook_receiver import LOOPBACK, Receiver

QUICK = Retries(max_attempts=4, initial_seconds=0.01, max_seconds=0.02)
SQUARE = "InstagramPost_1x1"
DOCUMENT = Path(__file__).parents[4] / "docs" / "python-client.md"


# On a running service


@pytest.fixture
async def parts(parts: Parts) -> Parts:
    """A serving process that draws by itself."""
    await parts.serve(engine="local://")
    await parts.grant("5.00", "payg")
    return parts


async def test_client_quote_create_stream_select_and_download(parts: Parts) -> None:
    await asyncio.to_thread(_a_whole_life, f"http://127.0.0.1:{parts.ports[0]}")


def _a_whole_life(base_url: str) -> None:
    with Client(base_url, user_id="user") as client:
        quote = client.quote("A lighthouse", SQUARE)
        assert (quote.total, quote.balance) == (Decimal("1.25"), Decimal("5.00"))
        started = client.create(
            "A lighthouse", SQUARE, quote_id=quote.quote_id, idempotency_key="order-1"
        )
        assert (
            client.create(
                "A lighthouse", SQUARE, quote_id=quote.quote_id, idempotency_key="order-1"
            ).id
            == started.id
        )
        seen: list[str] = []
        shown = client.wait(
            started.id, for_samples=True, on_change=lambda found: seen.append(found.status)
        )
        assert len(shown.samples) == 4
        assert seen[-1] == "AWAITING_SELECTION"
        with pytest.raises(WaitTimeoutError):
            client.wait(started.id, timeout_seconds=0.1)
        client.select_sample(
            started.id, shown.samples[2], output_format="webp", quote_id=quote.quote_id
        )
        *_, done = client.stream(started.id)
        assert (done.status, done.cost.total) == ("COMPLETED", Decimal("1.25"))
        assert done.final_asset is not None
        assert client.download(done.final_asset)[8:12] == b"WEBP"
        assert client.wait(started.id).version == done.version
        failed = client.create("A lighthouse [[invalid]]", SQUARE)
        with pytest.raises(GenerationEndedError) as ended:
            client.wait(failed.id, for_samples=True)
        assert ended.value.generation.failure is not None
        assert ended.value.generation.failure.code == "invalid_input"
        again = client.retry(failed.id, updated_prompt="A lighthouse at noon")
        client.wait(again.id, for_samples=True)
        assert client.regenerate(again.id, updated_prompt="A lighthouse at dusk").round == 2
        assert client.cancel(again.id).status == "CANCELLED"
        assert [found.id for found in client.list(page_size=1)] == [again.id, failed.id, started.id]


async def test_async_client_runs_lifecycles_concurrently(parts: Parts) -> None:
    async with AsyncClient(f"http://127.0.0.1:{parts.ports[0]}", user_id="user") as client:

        async def live(number: int) -> Generation:
            started = await client.create(f"A lighthouse {number}", SQUARE)
            shown = await client.wait(started.id, for_samples=True)
            await client.select_sample(started.id, shown.samples[0])
            return await client.wait(started.id)

        ended = await asyncio.gather(*(live(number) for number in range(3)))
        assert [found.status for found in ended] == ["COMPLETED"] * 3
        statuses = [found.status async for found in client.stream(ended[0].id)]
        assert statuses == ["COMPLETED"]
        assert ended[0].final_asset is not None
        assert (await client.download(ended[0].final_asset)).startswith(b"\x89PNG")
        with pytest.raises(ProblemError) as refused:
            await client.create("A lighthouse", "Fax")
        assert (refused.value.code, refused.value.errors[0]["pointer"]) == (
            "invalid_request",
            "/output_format",
        )


async def test_document_examples_run_as_shown(
    parts: Parts,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    given = {"user_id": "ada", "amount": "9.00", "plan": "payg"}
    assert (await parts.call("POST", "/operations/credits/grants", json=given)).is_success
    examples = re.findall(r"^```python\n(.*?)^```$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    for example in examples:
        here = example.replace("http://127.0.0.1:8000", f"http://127.0.0.1:{parts.ports[0]}")
        await asyncio.to_thread(
            exec, here, {"__name__": "example"}
        )  # a document's example is a program
    said = capsys.readouterr().out
    promised = re.findall(r"#\s+prints: (.+)$", "".join(examples), re.MULTILINE)
    assert len(promised) > len(examples)
    assert [line for line in promised if line not in said] == []
    for name in ("lighthouse", "windmill", "bridge", "harbour"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


# Against the application in this process: every call has the response that the client expects


@pytest.fixture
async def paying(client: Caller) -> Caller:
    """The open service, where `user` pays for each action and has 20 credits."""
    await client.test_app.grant("user", 2000, "payg")
    return client


def connected(caller: Caller, **more: Any) -> AsyncClient:
    return AsyncClient(
        "http://aigen", transport=httpx.ASGITransport(app=caller.app), retries=QUICK, **more
    )


async def test_generations_catalogue_and_health(client: Caller) -> None:
    async with connected(client, user_id="user") as calls:
        started = await calls.create("A lighthouse", SQUARE, idempotency_key="k")
        assert (await calls.get(started.id)).actions == ("cancel",)
        assert [found.id async for found in calls.list(status=["PENDING"])] == [started.id]
        assert [found.id async for found in calls.list(created_to=started.created_at)] == []
        assert (await calls.list_events(started.id))[0].event == "submitted"
        with pytest.raises(ProblemError) as refused:
            await calls.cancel(started.id, if_version=started.version + 1)
        assert refused.value.code == "precondition_failed"
        cancelled = await calls.cancel(started.id, if_version=started.version)
        assert (cancelled.ended, cancelled.outcome) == (True, "cancelled")
        assert "png" in (await calls.list_formats()).file_formats
        assert {plan.plan for plan in (await calls.list_prices()).plans} >= {"free", "payg"}
        models = await calls.list_models()
        assert models.default in {model.name for model in models.models}
        assert (await calls.get_problem_type("not_found")).status == 404
        assert (await calls.get_health()).status == "ok"
        assert (await calls.get_readiness()).checks["database"].ok


async def test_webhook_endpoints(make_client: Callable[..., Awaitable[Caller]]) -> None:
    async with Receiver() as receiver:
        caller = await make_client(
            api_keys="shop:service:the-key-of-shop-itself",
            webhook_allowed_networks=",".join(LOOPBACK),
        )
        async with connected(caller, api_key="the-key-of-shop-itself") as calls:
            hooks = calls.webhook_endpoints
            created = await hooks.create(receiver.url, description="the shop")
            with pytest.raises(ProblemError) as refused:
                await hooks.create(receiver.url)
            assert created.id in str(refused.value)
            assert [found.url for found in await hooks.list()] == [receiver.url]
            assert (await hooks.rotate_secret(created.id)).secret != created.secret
            sent = await hooks.test(created.id)
            await caller.test_app.drain()
            (delivery,) = await hooks.list_deliveries(created.id, status="delivered")
            assert (delivery.event_id, delivery.attempts) == (sent.event_id, 1)
            assert (await hooks.redeliver(created.id, sent.event_id)).event_id == sent.event_id
            await caller.test_app.drain()
            assert receiver.types() == ["webhook.test"] * 2
            assert (await hooks.disable(created.id)).disabled_reason == "by_caller"
            assert (await hooks.enable(created.id)).state == "enabled"
            assert (await hooks.get(created.id)).description == "the shop"
            await hooks.delete(created.id)
            assert await hooks.list() == ()


async def test_operations_on_work(paying: Caller) -> None:
    async with connected(paying) as calls:
        operations = calls.operations
        shown = await paying.with_samples()
        paying.test_app.notifier.faults.append("refused")
        await paying.test_app.drain()
        for decide in (operations.replay_outbox_message, operations.drop_outbox_message):
            (message,) = await operations.list_outbox()
            assert (message.parked_reason, message.request_id) == ("simulated", shown["id"])
            assert (await operations.get_queues()).outbox.parked == 1
            assert (await operations.get_invariants(days=1)).counts["messages_parked"] == 1
            paying.test_app.notifier.faults.append("refused")
            await decide(message.id)
            await paying.test_app.drain()
        assert await operations.list_outbox(parked=False) == ()
        paying.test_app.notifier.faults.clear()

        doubtful = (await paying.create(input_prompt="a nude statue of an otter")).json()["id"]
        assert [found.id for found in await operations.list_reviews(limit=5)] == [doubtful]
        assert (await operations.review_generation(doubtful, "accept")).status == "PENDING"
        await paying.test_app.next_job()
        paying.test_app.clock.advance(minutes=10)
        assert [found.id for found in await operations.list_stuck()] == [doubtful]
        failed = await operations.fail_generation(doubtful, "stuck", idempotency_key="f")
        assert (failed.status, failed.failure is not None) == ("FAILED", True)


async def test_operations_on_credits(paying: Caller) -> None:
    test_app = paying.test_app
    async with connected(paying) as calls:
        accounts = calls.accounts
        granted = await accounts.grant_credits("user", Decimal("2.50"), reason="goodwill")
        assert granted.balance == Decimal("22.50")
        assert (granted.entries[0].kind, granted.entries[0].amount) == ("grant", Decimal("2.50"))

        await test_app.service.account_flags.raise_("user", "charge_failed", test_app.clock())
        assert [flag.reason for flag in await accounts.list_flagged()] == ["charge_failed"]
        assert (await accounts.get_statement("user")).restricted
        assert (await accounts.clear_flags("user", "paid")).cleared == 1

        shown = await paying.with_samples()
        await test_app.drain()
        month = f"{test_app.clock():%Y-%m}"
        (record,) = [found async for found in accounts.list_usage(month, user_id="user")]
        assert (record.generation_request_id, record.credits) == (shown["id"], Decimal("0.25"))
        rows = b"".join([chunk async for chunk in accounts.export_usage(month)]).splitlines()
        assert (len(rows), rows[0].startswith(b"at,user_id,")) == (2, True)

        await paying.with_samples("user")
        await test_app.database.execute("DELETE FROM outbox WHERE topic LIKE 'credits.%'")
        await test_app.database.execute("UPDATE holds SET settled_at = $1", test_app.clock())
        test_app.clock.advance(minutes=2)
        report = await accounts.reconcile(hours=1, apply=True)
        assert (report.posted, report.findings[0].mends) == (1, "credits.capture")
        await test_app.drain()
        assert (await accounts.reconcile()).findings == ()

        test_app.credits.faults.extend(["conflict", "conflict"])
        await paying.create()
        test_app.clock.advance(minutes=1)
        await test_app.sweep()
        (parked,) = await accounts.list_parked_holds()
        assert parked.amount == Decimal("0.25")
        assert (await accounts.decide_hold(parked.key, charged=False)).status == "decided"
