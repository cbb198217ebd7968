"""The console without JavaScript: every page with and without data, escaping and secrets."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest

from creativeflow.services.aigeneration.domain.runbook import INVARIANTS
from creativeflow.services.aigeneration.settings import Settings
from creativeflow.services.aigeneration.storage.migrations import head
from creativeflow.services.aigeneration.web.console.requests import PAGE_SIZE
from creativeflow.services.aigeneration.web.console.snapshot import SnapshotCache
from tests.e2e.journey import NOBODY, OPERATIONS, Caller
from tests.support.html_client import Browser, Page

PAGES = (
    "/console",
    "/console/requests",
    "/console/attention",
    "/console/accounts",
    "/console/accounts/nobody",
    "/console/queue",
    "/console/invariants",
    "/console/settings",
)
NASTY = "</pre></textarea><script>alert('x')</script>\"'><img src=x onerror=alert(1)>"
Make = Callable[..., Awaitable[Caller]]


@pytest.fixture
async def console(client: Caller) -> Browser:
    """A browser for an open service; `user` is on the payg plan with 20 credits."""
    await client.test_app.grant("user", 2000, "payg")
    return Browser(client.app)


def get_snapshots(caller: Caller) -> SnapshotCache:
    found: SnapshotCache = caller.app.state.web_services.snapshots
    return found


async def open_fresh(console: Browser, caller: Caller, path: str = "/console") -> Page:
    """Open a page without cached values."""
    get_snapshots(caller).invalidate()
    page = await console.open(path)
    assert page.status == httpx.codes.OK, page.text
    assert page.inline == []
    return page


# Every page


@pytest.mark.parametrize("path", PAGES)
async def test_page_without_data_renders_completely(
    console: Browser, client: Caller, path: str
) -> None:
    page = await open_fresh(console, client, path)
    assert "Open: anyone on this machine is an operator" in page.text
    assert page.response.headers["content-security-policy"].startswith(
        "default-src 'none'; script-src 'self'"
    )


async def test_overview_healthy_service_shows_no_problem(console: Browser, client: Caller) -> None:
    await client.completed()
    await client.test_app.drain()
    page = await open_fresh(console, client)
    await get_snapshots(client).check_invariants(31)
    page = await open_fresh(console, client)
    assert "All invariants hold" in page.text
    assert "Nothing needs attention" in page.text
    assert "Workers healthy" in page.text
    assert (
        "Nothing needs attention" in (await open_fresh(console, client, "/console/attention")).text
    )
    assert "All invariants hold." in (await open_fresh(console, client, "/console/invariants")).text


async def test_page_unknown_address_renders_error_page(console: Browser) -> None:
    for path in (f"/console/requests/{NOBODY}", "/console/requests/nonsense", "/console/nowhere"):
        page = await console.open(path)
        assert page.status in {404, 422}
        assert "CreativeFlow" in page.response.text


async def test_pages_user_text_is_escaped(console: Browser, client: Caller) -> None:
    user = "<b>eve</b>"
    await client.test_app.grant(user, 1000, "payg")
    shown = await client.with_samples(user, input_prompt=NASTY, project_id=NASTY[:60])
    await client.create(user, input_prompt=f"a nude statue {NASTY}")
    await client.post(
        f"{OPERATIONS}/generation-requests/{shown['id']}/fail", json={"reason": NASTY}
    )
    for path in (
        "/console",
        "/console/requests",
        f"/console/requests/{shown['id']}",
        "/console/attention",
        "/console/queue",
        "/console/accounts/%3Cb%3Eeve%3C%2Fb%3E",
        "/console/requests?q=%3Cscript%3E",
    ):
        page = await open_fresh(console, client, path)
        assert "<script>alert" not in page.response.text
        assert "<img src=x" not in page.response.text
        assert "<b>eve" not in page.response.text
    assert NASTY in (await open_fresh(console, client, f"/console/requests/{shown['id']}")).text
    assert (
        "<b>eve</b>"
        in (await open_fresh(console, client, "/console/accounts/%3Cb%3Eeve%3C%2Fb%3E")).text
    )


async def test_page_with_part_header_returns_block_only(console: Browser, client: Caller) -> None:
    shown = await client.with_samples()
    for path, part in (
        ("/console", "overview"),
        ("/console/requests", "table"),
        ("/console/attention", "items"),
        ("/console/queue", "queue"),
        (f"/console/requests/{shown['id']}", "request"),
    ):
        response = await console.get(path, headers={"X-Part": part})
        assert (response.status_code, response.headers["x-part"]) == (200, part)
        assert "<html" not in response.text
        assert len(response.text) > 200


# Overview


async def test_overview_known_hour_shows_its_figures(console: Browser, client: Caller) -> None:
    test_app = client.test_app
    test_app.clock.set(test_app.clock().replace(minute=30, second=0, microsecond=0))
    for seconds in (10, 20, 30):  # samples after so long, the final after twice that
        request = await test_app.submitted()
        job = await test_app.next_job()
        test_app.clock.advance(seconds=seconds)
        await test_app.select(await test_app.deliver(job))
        final = await test_app.next_job()
        test_app.clock.advance(seconds=2 * seconds)
        await test_app.deliver(final)
        assert (await test_app.look(request)).terminal
    broken = await test_app.submitted()
    for _ in range(3):
        await test_app.fail(await test_app.next_job())
        test_app.clock.advance(minutes=1)
    assert (await test_app.look(broken)).failure is not None
    await test_app.cancel(await test_app.submitted())
    hour = (await get_snapshots(client).snapshot()).hour
    assert {name: hour.total(name) for name in ("accepted", "samples", "finals", "completed")} == {
        "accepted": 5,
        "samples": 3,
        "finals": 3,
        "completed": 3,
    }
    assert {
        name: hour.total(name) for name in ("failed", "failed_attempts", "cancelled", "rejected")
    } == {"failed": 1, "failed_attempts": 3, "cancelled": 1, "rejected": 0}
    samples, finals = hour.latency("samples_waits"), hour.latency("final_waits")
    assert (samples.count, samples.p50, samples.p95) == (
        3,
        pytest.approx(20, abs=0.1),
        pytest.approx(30, abs=0.1),
    )
    assert (finals.count, finals.p50, finals.p95) == (
        3,
        pytest.approx(40, abs=0.1),
        pytest.approx(60, abs=0.1),
    )
    assert hour.success_rate == 0.75
    page = await open_fresh(console, client)
    assert "75.0 %" in page.text
    assert "20 s p50 30 s p95" in page.text
    assert "5 requests in the last hour" in page.text
    assert "1 requests in the last hour; 3 failed attempts stacked above" in page.text
    test_app.clock.advance(hours=1)
    assert "0 requests in the last hour" in (await open_fresh(console, client)).text


async def test_rate_incomplete_minute_is_not_counted(client: Caller) -> None:
    test_app = client.test_app
    await test_app.grant("user", 2000, "payg")
    test_app.clock.set(test_app.clock().replace(second=0, microsecond=0))
    for _ in range(6):
        for _ in range(3):
            await test_app.submitted()
        test_app.clock.advance(minutes=1)
    hour = (await get_snapshots(client).snapshot()).hour
    assert hour.rate("accepted") == 3.0
    get_snapshots(client).invalidate()
    await test_app.submitted()  # in the incomplete minute
    assert (await get_snapshots(client).snapshot()).hour.rate("accepted") == 3.0
    assert [minute.accepted for minute in (await get_snapshots(client).hour()).minutes][-7:] == [
        3,
        3,
        3,
        3,
        3,
        3,
        1,
    ]


async def test_overview_open_work_shows_holds_and_outbox(console: Browser, client: Caller) -> None:
    shown = await client.with_samples()
    await client.act(
        shown["id"], "select-sample", selected_sample_id=shown["samples"][0]["asset_id"]
    )
    await client.create()
    await client.create()
    page = await open_fresh(console, client)
    assert "Holds open 3, 1.50 credits" in page.text  # two sample sets and a final
    assert "Outbox pending 2" in page.text  # the capture and the notification
    await client.test_app.drain()
    assert "Outbox pending 0" in (await open_fresh(console, client)).text


async def test_overview_several_viewers_share_one_query(
    client: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    queried = []
    minutes = client.app.state.services.statistics.minutes

    async def counted(*when: Any) -> Any:
        queried.append(when)
        return await minutes(*when)

    monkeypatch.setattr(get_snapshots(client).hour, "_load", counted)
    for _ in range(5):
        await Browser(client.app).open("/console")
    assert len(queried) == 1
    get_snapshots(client).invalidate()
    await Browser(client.app).open("/console")
    assert len(queried) == 2
    assert (
        queried[1][1] - queried[1][0] < timedelta(minutes=5) < queried[0][1] - queried[0][0]
    )  # the rest is cached


# Requests


async def test_requests_search_filters_by_id_user_project_state_and_time(
    console: Browser, client: Caller
) -> None:
    await client.test_app.grant("other", 0, "pro")
    ready = await client.completed(project_id="spring")
    failed = await client.test_app.submitted("other")
    await client.test_app.fail(await client.test_app.next_job(), "invalid_input")
    for query, found in (
        ("", {ready["id"], str(failed.id)}),
        ("?q=user", {ready["id"]}),
        ("?q=other", {str(failed.id)}),
        ("?q=spring", {ready["id"]}),
        ("?q=nobody", set()),
        ("?show=failed", {str(failed.id)}),
        ("?show=completed", {ready["id"]}),
        ("?show=working", set()),
        ("?q=user&show=failed", set()),
        ("?since=2000-01-01", {ready["id"], str(failed.id)}),
        ("?until=2000-01-01", set()),
        ("?since=nonsense", {ready["id"], str(failed.id)}),
    ):
        page = await open_fresh(console, client, f"/console/requests{query}")
        assert set(re.findall(r"/console/requests/([0-9a-f-]{36})", page.response.text)) == found, (
            query
        )
    redirected = await console.open("/console/requests", params={"q": f" {ready['id']} "})
    assert str(redirected.response.url).endswith(f"/console/requests/{ready['id']}")
    row = (await open_fresh(console, client, "/console/requests?show=completed")).text
    assert f"Completed {ready['id']} user in spring 1.25 credits" in row


async def test_requests_many_are_paginated(console: Browser, client: Caller) -> None:
    await client.test_app.grant("other", 0, "pro")
    made = [str((await client.test_app.submitted("other")).id) for _ in range(PAGE_SIZE + 2)]
    first = await open_fresh(console, client, "/console/requests?q=other")
    (older,) = (link for link in first.links if "cursor" in link)
    second = await open_fresh(console, client, older)
    seen = [
        re.findall(r"/console/requests/([0-9a-f-]{36})", page.response.text)
        for page in (first, second)
    ]
    assert [*seen[0], *seen[1]] == sorted(made, reverse=True)
    assert not any("cursor" in link for link in second.links)


# One request


async def test_request_completed_timeline_merges_events_holds_and_notifications(
    console: Browser, client: Caller
) -> None:
    shown = await client.completed()
    await client.test_app.drain()
    page = await open_fresh(console, client, f"/console/requests/{shown['id']}")
    lines = [
        " ".join(re.sub(r"<[^>]+>", " ", line).split())
        for line in re.findall(r'<div class="entry">\s*<p>(.*?)</p>', page.response.text, re.DOTALL)
    ]
    assert lines == [
        "state: Submitted by open Placing hold",
        "credits: 0.25 credits held for the samples of round 1",
        "credits: Hold of 0.25 credits placed Queued",
        "broker: Job leased by a dispatcher Dispatching",
        "broker: Samples job confirmed by the broker Generating samples",
        "worker: Samples delivered: 4 good, 0 failed Awaiting selection",
        "credits: 0.25 credits captured for the samples of round 1",
        "credits: Placing hold at the credit service",
        "credits: 1.00 credit held for the final",
        "state: Sample selected Queued",
        "broker: Job leased by a dispatcher Dispatching",
        "broker: Final job confirmed by the broker Generating final",
        "worker: Final delivered Completed",
        "credits: 1.00 credit captured for the final",
        *lines[14:],
    ]
    assert sorted(lines[14:]) == [
        "credits: Hold captured at the credit service",
        "credits: Hold captured at the credit service",
        "notification: User notified: final_asset_ready",
        "notification: User notified: samples_ready",
    ]
    assert "State 2 Credits 8 Broker 4 Worker 2 Notifications 2" in page.text
    assert len(page.images) == 5
    assert page.actions == ["user"]  # completed: no actions


async def test_request_stale_result_and_gap_are_in_timeline(
    console: Browser, client: Caller
) -> None:
    await client.test_app.submitted()
    job = await client.test_app.next_job()
    client.test_app.clock.advance(seconds=125)
    await client.test_app.fail(job)
    await client.report_result(job)
    page = await open_fresh(console, client, f"/console/requests/{job.id}")
    assert "+2 min 5 s" in page.text
    assert "Attempt 1 failed: provider_error" in page.text
    assert "Stale result (samples): recorded, not applied, not charged" in page.text


async def test_request_message_delivered_during_load_is_not_missed(
    console: Browser, client: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    request_id = (await client.completed())["id"]
    timeline = client.app.state.services.queries.timeline

    async def read_then_deliver(*arguments: Any) -> Any:
        entries = await timeline(*arguments)
        await client.test_app.drain()
        return entries

    monkeypatch.setattr(client.app.state.services.queries, "timeline", read_then_deliver)
    page = await open_fresh(console, client, f"/console/requests/{request_id}")
    assert "User notified: final_asset_ready" not in page.text
    assert "data-refresh-seconds" in page.response.text
    page = await open_fresh(console, client, f"/console/requests/{request_id}")
    assert "User notified: final_asset_ready" in page.text
    assert "data-refresh-seconds" not in page.response.text


async def test_request_on_free_plan_shows_free_generation(console: Browser, client: Caller) -> None:
    shown = await client.with_samples("freeloader")
    page = await open_fresh(console, client, f"/console/requests/{shown['id']}")
    month = client.test_app.clock().strftime("%B %Y")
    assert f"Free generation of {month} held for the samples of round 1" in page.text
    assert f"Free generation of {month} used for the samples of round 1" in page.text


# Queue, invariants, settings


async def test_queue_several_users_are_in_dispatch_order(make_client: Make) -> None:
    caller = await make_client(lane_window=1, engine_url="local://")
    console = Browser(caller.app)
    await caller.test_app.grant("heavy", 0, "pro")
    await caller.test_app.grant("late", 0, "team")
    for _ in range(3):
        await caller.test_app.submitted("heavy")
    await caller.test_app.submitted("late")
    await caller.test_app.next_job()
    page = await open_fresh(console, caller, "/console/queue")
    rows = re.search(r"Lane User Plan .*? (samples .*?) Broker queues", page.text)
    assert rows, page.text
    assert re.findall(r"samples (\w+) (Pro|Team) (\d) (\d) of (\d+) . (\d)", rows[1]) == [
        ("late", "Team", "1", "0", "1000", "3"),
        ("heavy", "Pro", "2", "1", "1000", "2"),
    ]
    assert "1 of 1 in flight" in page.text
    await caller.test_app.dispatch()


async def test_invariants_every_count_is_explained(console: Browser, client: Caller) -> None:
    page = await open_fresh(console, client, "/console/invariants?days=7")
    counts = (await client.get(f"{OPERATIONS}/invariants")).json()["counts"]
    assert set(counts) == set(INVARIANTS)
    for name, explanation in INVARIANTS.items():
        assert f"{name} 0 {explanation.means}" in page.text
    assert "within 7 days" in page.text
    assert (await console.open("/console/invariants?days=0")).status == 422


async def test_invariants_violated_count_is_shown_everywhere(
    console: Browser, client: Caller
) -> None:
    await client.test_app.database.execute(
        "UPDATE credit_accounts SET balance = balance + 1 WHERE user_id = 'user'"
    )
    page = await open_fresh(console, client, "/console/invariants")
    assert "1 of 12 invariants violated." in page.text
    assert "balances_off_ledger 1 a balance is not the sum of its entries" in page.text
    get_snapshots(client).invalidate()
    assert "1 invariant violated balances off ledger" in (await console.open("/console")).text
    await client.test_app.database.execute(
        "UPDATE credit_accounts SET balance = balance - 1 WHERE user_id = 'user'"
    )


async def test_settings_with_secrets_shows_no_secret(make_client: Make) -> None:
    planted = {
        "callback_secret": "planted-callback-secret-1",
        "jwt_secret": "planted-jwt-secret-of-enough-length-2",
        "api_keys": "duty:operator:planted-api-key-3-long,shop:service:planted-api-key-4-long",
        "credits_api_key": "planted-credits-key-5",
        "notify_api_key": "planted-notify-key-6",
        "safety_api_key": "planted-safety-key-7",
    }
    caller = await make_client(
        **planted, public_url="https://planted-name-8:planted-word-9@aigen.example/x?k=planted-10"
    )
    settings = Settings(
        _env_file=None,
        **planted,
        public_url="https://planted-name-8:planted-word-9@aigen.example/x?k=planted-10",  # type: ignore[arg-type,call-arg]
        database_url="postgresql://planted-11:planted-12@db.example/x",
        engine_url="amqps://planted-13:planted-14@mq.example",
        notify_url="https://planted-15@notify.example/planted-16",
        max_rounds=7,
    )
    caller.app.state.services = replace(caller.app.state.services, settings=settings)
    browser = Browser(caller.app)
    sessions = caller.app.state.web_services.sessions
    session = sessions.create_from_key(
        caller.app.state.services.authenticator.key("planted-api-key-3-long", ""), "user"
    )
    browser.cookies.set(sessions.cookie, sessions.seal(session))
    page = await open_fresh(browser, caller, "/console/settings")
    assert "planted" not in page.response.text
    for secret in ("callback_secret", "jwt_secret", "api_keys", "credits_api_key"):
        assert f"AIGEN_{secret.upper()} set secret changed" in page.text
    assert "AIGEN_ENGINE_URL amqps://… secret changed" in page.text
    assert "AIGEN_PUBLIC_URL https://aigen.example/x?… changed" in page.text
    assert "AIGEN_MAX_ROUNDS 7 changed Maximum rounds of samples per request." in page.text
    assert "AIGEN_JWKS_URL none default" in page.text
    assert "AIGEN_PRICE_FINAL 1.00 default Credits for a final of standard resolution." in page.text
    assert "n8n, through RabbitMQ" in page.text
    assert f"schema {head()}" in page.text
    assert len(re.findall(r"AIGEN_[A-Z0-9_]+", page.text)) >= len(Settings.model_fields)


# Access


async def test_console_without_operator_role_is_forbidden(make_client: Make) -> None:
    caller = await make_client(
        api_keys="shop:service:the-key-of-the-shop,duty:operator:the-key-of-the-operator"
    )
    gate, sessions = caller.app.state.services.authenticator, caller.app.state.web_services.sessions
    for key, status in (("the-key-of-the-shop", 403), ("the-key-of-the-operator", 200)):
        browser = Browser(caller.app)
        browser.cookies.set(
            sessions.cookie, sessions.seal(sessions.create_from_key(gate.key(key, ""), "user"))
        )
        for path in PAGES:
            page = await browser.open(path)
            assert page.status == status, path
            assert ("/console" in page.links) == (status == 200)


async def test_change_feed_on_change_signals_subscribers(client: Caller) -> None:
    feed = get_snapshots(client).change_feed
    feed._poll_seconds = 0.01  # noqa: SLF001 - a test does not wait
    events = feed.subscribe()
    assert await anext(events) == b"retry: 5000\n\n"
    waiting = asyncio.ensure_future(anext(events))
    await asyncio.sleep(0.05)
    await client.test_app.submitted("freeloader")
    assert await asyncio.wait_for(waiting, 5) == b"event: changed\ndata: -\n\n"
    assert feed.subscriber_count == 1
    await events.aclose()
    assert feed.subscriber_count == 0


async def test_requests_search_accepts_id_without_dashes(console: Browser, client: Caller) -> None:
    shown = await client.with_samples()
    redirected = await console.open("/console/requests", params={"q": UUID(shown["id"]).hex})
    assert str(redirected.response.url).endswith(shown["id"])
