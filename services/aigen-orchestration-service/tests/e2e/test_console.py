"""The console as a browser without a script sees it: every page with and without data, and what it
must not show.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest

from creativeflow.services.aigeneration.domain.runbook import INVARIANTS
from creativeflow.services.aigeneration.settings import Settings
from creativeflow.services.aigeneration.storage.migrations import head
from creativeflow.services.aigeneration.web.console.requests import PER_PAGE
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
    """A browser at the console of an open service, whose `user` pays for each thing and has 20
    credits.
    """
    await client.world.grant("user", 2000, "payg")
    return Browser(client.app)


def overview(caller: Caller) -> SnapshotCache:
    found: SnapshotCache = caller.app.state.overview
    return found


async def opened(console: Browser, caller: Caller, path: str = "/console") -> Page:
    """A page as it is now, and not as it was a moment ago."""
    overview(caller).forget()
    page = await console.open(path)
    assert page.status == httpx.codes.OK, page.text
    assert page.inline == []
    return page


# Every page


@pytest.mark.parametrize("path", PAGES)
async def test_a_page_is_whole_when_there_is_nothing(
    console: Browser, client: Caller, path: str
) -> None:
    page = await opened(console, client, path)
    assert "Open: anybody on this machine is an operator" in page.text
    assert page.answer.headers["content-security-policy"].startswith(
        "default-src 'none'; script-src 'self'"
    )


async def test_when_all_is_well_every_light_is_green(console: Browser, client: Caller) -> None:
    await client.completed()
    await client.world.drain()
    page = await opened(console, client)
    await overview(client).count(31)
    page = await opened(console, client)
    assert "All invariants hold" in page.text
    assert "Nothing needs you" in page.text
    assert "No worker is silent" in page.text
    assert "Nothing needs you" in (await opened(console, client, "/console/attention")).text
    assert (
        "Everything is as it must be."
        in (await opened(console, client, "/console/invariants")).text
    )


async def test_what_is_unknown_leads_to_a_page_that_says_so(console: Browser) -> None:
    for path in (f"/console/requests/{NOBODY}", "/console/requests/nonsense", "/console/nowhere"):
        page = await console.open(path)
        assert page.status in {404, 422}
        assert "CreativeFlow" in page.answer.text


async def test_user_text_is_shown_as_text_everywhere(console: Browser, client: Caller) -> None:
    user = "<b>eve</b>"
    await client.world.grant(user, 1000, "payg")
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
        page = await opened(console, client, path)
        assert "<script>alert" not in page.answer.text
        assert "<img src=x" not in page.answer.text
        assert "<b>eve" not in page.answer.text
    assert NASTY in (await opened(console, client, f"/console/requests/{shown['id']}")).text
    assert (
        "<b>eve</b>"
        in (await opened(console, client, "/console/accounts/%3Cb%3Eeve%3C%2Fb%3E")).text
    )


async def test_a_part_of_a_page_can_be_had_alone(console: Browser, client: Caller) -> None:
    shown = await client.with_samples()
    for path, part in (
        ("/console", "figures"),
        ("/console/requests", "table"),
        ("/console/attention", "needs"),
        ("/console/queue", "waiting"),
        (f"/console/requests/{shown['id']}", "all"),
    ):
        answer = await console.get(path, headers={"X-Part": part})
        assert (answer.status_code, answer.headers["x-part"]) == (200, part)
        assert "<html" not in answer.text
        assert len(answer.text) > 200


# Now


async def test_the_figures_are_those_of_a_known_hour(console: Browser, client: Caller) -> None:
    world = client.world
    world.clock.set(world.clock().replace(minute=30, second=0, microsecond=0))
    for seconds in (10, 20, 30):  # samples after so long, the final after twice that
        request = await world.submitted()
        job = await world.next_job()
        world.clock.advance(seconds=seconds)
        await world.select(await world.deliver(job))
        final = await world.next_job()
        world.clock.advance(seconds=2 * seconds)
        await world.deliver(final)
        assert (await world.look(request)).terminal
    broken = await world.submitted()
    for _ in range(3):
        await world.fail(await world.next_job())
        world.clock.advance(minutes=1)
    assert (await world.look(broken)).failure is not None
    await world.cancel(await world.submitted())
    hour = (await overview(client).glance()).hour
    assert {name: hour.total(name) for name in ("accepted", "samples", "finals", "completed")} == {
        "accepted": 5,
        "samples": 3,
        "finals": 3,
        "completed": 3,
    }
    assert {
        name: hour.total(name) for name in ("failed", "failed_attempts", "cancelled", "rejected")
    } == {"failed": 1, "failed_attempts": 3, "cancelled": 1, "rejected": 0}
    samples, finals = hour.waits("samples_waits"), hour.waits("final_waits")
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
    assert hour.success == 0.75
    page = await opened(console, client)
    assert "75.0 %" in page.text
    assert "20 s half of them 30 s 95 of 100" in page.text
    assert "5 requests in the last hour" in page.text
    assert "1 requests in the last hour; above them 3 failed attempts" in page.text
    world.clock.advance(hours=1)
    assert "0 requests in the last hour" in (await opened(console, client)).text


async def test_a_rate_is_the_mean_of_the_last_whole_minutes(client: Caller) -> None:
    world = client.world
    await world.grant("user", 2000, "payg")
    world.clock.set(world.clock().replace(second=0, microsecond=0))
    for _ in range(6):
        for _ in range(3):
            await world.submitted()
        world.clock.advance(minutes=1)
    hour = (await overview(client).glance()).hour
    assert hour.rate("accepted") == 3.0
    overview(client).forget()
    await world.submitted()  # in the minute that has only begun
    assert (await overview(client).glance()).hour.rate("accepted") == 3.0
    assert [minute.accepted for minute in (await overview(client).hour()).minutes][-7:] == [
        3,
        3,
        3,
        3,
        3,
        3,
        1,
    ]


async def test_what_is_set_aside_and_owed_is_told(console: Browser, client: Caller) -> None:
    shown = await client.with_samples()
    await client.act(
        shown["id"], "select-sample", selected_sample_id=shown["samples"][0]["asset_id"]
    )
    await client.create()
    await client.create()
    page = await opened(console, client)
    assert "Holds outstanding 3, 1.50 credits" in page.text  # two sample sets and a final
    assert "Messages open 2" in page.text  # the capture and the notification
    await client.world.drain()
    assert "Messages open 0" in (await opened(console, client)).text


async def test_several_viewers_cost_one_question(
    client: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    minutes = client.app.state.figures.minutes

    async def counted(*when: Any) -> Any:
        asked.append(when)
        return await minutes(*when)

    monkeypatch.setattr(overview(client).hour, "_ask", counted)
    for _ in range(5):
        await Browser(client.app).open("/console")
    assert len(asked) == 1
    overview(client).forget()
    await Browser(client.app).open("/console")
    assert len(asked) == 2
    assert (
        asked[1][1] - asked[1][0] < timedelta(minutes=5) < asked[0][1] - asked[0][0]
    )  # the rest is remembered


# Requests


async def test_requests_are_found_by_id_user_project_state_and_time(
    console: Browser, client: Caller
) -> None:
    await client.world.grant("other", 0, "pro")
    ready = await client.completed(project_id="spring")
    failed = await client.world.submitted("other")
    await client.world.fail(await client.world.next_job(), "invalid_input")
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
        page = await opened(console, client, f"/console/requests{query}")
        assert set(re.findall(r"/console/requests/([0-9a-f-]{36})", page.answer.text)) == found, (
            query
        )
    led = await console.open("/console/requests", params={"q": f" {ready['id']} "})
    assert str(led.answer.url).endswith(f"/console/requests/{ready['id']}")
    row = (await opened(console, client, "/console/requests?show=completed")).text
    assert f"Completed {ready['id']} user in spring 1.25 credits" in row


async def test_pages_of_requests_follow_one_another(console: Browser, client: Caller) -> None:
    await client.world.grant("other", 0, "pro")
    made = [str((await client.world.submitted("other")).id) for _ in range(PER_PAGE + 2)]
    first = await opened(console, client, "/console/requests?q=other")
    (older,) = (link for link in first.links if "cursor" in link)
    second = await opened(console, client, older)
    seen = [
        re.findall(r"/console/requests/([0-9a-f-]{36})", page.answer.text)
        for page in (first, second)
    ]
    assert [*seen[0], *seen[1]] == sorted(made, reverse=True)
    assert not any("cursor" in link for link in second.links)


# One request


async def test_one_timeline_tells_state_money_and_messages_in_one_order(
    console: Browser, client: Caller
) -> None:
    shown = await client.completed()
    await client.world.drain()
    page = await opened(console, client, f"/console/requests/{shown['id']}")
    told = [
        " ".join(re.sub(r"<[^>]+>", " ", line).split())
        for line in re.findall(r'<div class="what">\s*<p>(.*?)</p>', page.answer.text, re.DOTALL)
    ]
    assert told == [
        "state: Asked for by open Credits are being asked for",
        "money: 0.25 credits to be set aside for the samples of round 1",
        "money: The credit service has set 0.25 credits aside Waits for its turn",
        "broker: A dispatcher took the job On its way to the broker",
        "broker: The broker has stored the samples job Samples are being made",
        "worker: Samples came: 4 good, 0 failed The user picks",
        "money: 0.25 credits charged for the samples of round 1",
        "money: The credit service is being asked",
        "money: 1.00 credit to be set aside for the final",
        "state: A sample was picked Waits for its turn",
        "broker: A dispatcher took the job On its way to the broker",
        "broker: The broker has stored the final job The final is being made",
        "worker: The final came Completed",
        "money: 1.00 credit charged for the final",
        *told[14:],
    ]
    assert sorted(told[14:]) == [
        "money: The credit service was told to charge",
        "money: The credit service was told to charge",
        "told: The user was told: final_asset_ready",
        "told: The user was told: samples_ready",
    ]
    assert "State 2 Money 8 Broker 4 Callbacks 2 Notifications 2" in page.text
    assert len(page.pictures) == 5
    assert page.actions == ["user"]  # it has ended well: nothing can be done


async def test_evidence_and_gaps_stand_in_the_timeline(console: Browser, client: Caller) -> None:
    await client.world.submitted()
    job = await client.world.next_job()
    client.world.clock.advance(seconds=125)
    await client.world.fail(job)
    await client.report_result(job)
    page = await opened(console, client, f"/console/requests/{job.id}")
    assert "+2 min 5 s" in page.text
    assert "Attempt 1 failed: provider_error" in page.text
    assert "A word of an older job came (samples): kept, not applied, not paid" in page.text


async def test_a_message_that_is_paid_while_the_page_is_read_is_not_missed(
    console: Browser, client: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    request_id = (await client.completed())["id"]
    timeline = client.app.state.queries.timeline

    async def and_then_it_is_paid(*asked: Any) -> Any:
        entries = await timeline(*asked)
        await client.world.drain()
        return entries

    monkeypatch.setattr(client.app.state.queries, "timeline", and_then_it_is_paid)
    page = await opened(console, client, f"/console/requests/{request_id}")
    assert "The user was told: final_asset_ready" not in page.text
    assert "data-refresh-seconds" in page.answer.text
    page = await opened(console, client, f"/console/requests/{request_id}")
    assert "The user was told: final_asset_ready" in page.text
    assert "data-refresh-seconds" not in page.answer.text


async def test_a_free_generation_is_told_as_one(console: Browser, client: Caller) -> None:
    shown = await client.with_samples("freeloader")
    page = await opened(console, client, f"/console/requests/{shown['id']}")
    month = client.world.clock().strftime("%B %Y")
    assert f"A free generation of {month} is used for the samples of round 1" in page.text
    assert f"A free generation of {month} stays used for the samples of round 1" in page.text


# Queue, invariants, settings


async def test_the_queue_is_told_by_user_in_fair_order(make_client: Make) -> None:
    caller = await make_client(lane_window=1, engine_url="local://")
    console = Browser(caller.app)
    await caller.world.grant("heavy", 0, "pro")
    await caller.world.grant("late", 0, "team")
    for _ in range(3):
        await caller.world.submitted("heavy")
    await caller.world.submitted("late")
    await caller.world.next_job()
    page = await opened(console, caller, "/console/queue")
    rows = re.search(r"Lane User Plan .*? (samples .*?) The broker", page.text)
    assert rows, page.text
    assert re.findall(r"samples (\w+) (Pro|Team) (\d) (\d) of (\d+) . (\d)", rows[1]) == [
        ("late", "Team", "1", "0", "1000", "3"),
        ("heavy", "Pro", "2", "1", "1000", "2"),
    ]
    assert "1 of 1 in flight" in page.text
    await caller.world.dispatch()


async def test_every_invariant_is_explained_and_shown(console: Browser, client: Caller) -> None:
    page = await opened(console, client, "/console/invariants?days=7")
    counts = (await client.get(f"{OPERATIONS}/invariants")).json()["counts"]
    assert set(counts) == set(INVARIANTS)
    for name, meaning in INVARIANTS.items():
        assert f"{name} 0 {meaning.means}" in page.text
    assert "for 7 days back" in page.text
    assert (await console.open("/console/invariants?days=0")).status == 422


async def test_a_broken_invariant_turns_the_light(console: Browser, client: Caller) -> None:
    await client.world.database.execute(
        "UPDATE credit_accounts SET balance = balance + 1 WHERE user_id = 'user'"
    )
    page = await opened(console, client, "/console/invariants")
    assert "1 of 12 counts is not 0." in page.text
    assert "balances_off_ledger 1 a balance is not the sum of its entries" in page.text
    overview(client).forget()
    assert "1 invariant is broken balances off ledger" in (await console.open("/console")).text
    await client.world.database.execute(
        "UPDATE credit_accounts SET balance = balance - 1 WHERE user_id = 'user'"
    )


async def test_settings_are_shown_and_secrets_are_not(make_client: Make) -> None:
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
    caller.app.state.settings = Settings(
        _env_file=None,
        **planted,
        public_url="https://planted-name-8:planted-word-9@aigen.example/x?k=planted-10",  # type: ignore[arg-type,call-arg]
        database_url="postgresql://planted-11:planted-12@db.example/x",
        engine_url="amqps://planted-13:planted-14@mq.example",
        notify_url="https://planted-15@notify.example/planted-16",
        max_rounds=7,
    )
    browser = Browser(caller.app)
    sessions = caller.app.state.sessions
    session = sessions.of_key(caller.app.state.gate.key("planted-api-key-3-long"), "user")
    browser.cookies.set(sessions.cookie, sessions.seal(session))
    page = await opened(browser, caller, "/console/settings")
    assert "planted" not in page.answer.text
    for secret in ("callback_secret", "jwt_secret", "api_keys", "credits_api_key"):
        assert f"AIGEN_{secret.upper()} set secret changed" in page.text
    assert "AIGEN_ENGINE_URL amqps://… secret changed" in page.text
    assert "AIGEN_PUBLIC_URL https://aigen.example/x?… changed" in page.text
    assert "AIGEN_MAX_ROUNDS 7 changed Rounds of samples per request." in page.text
    assert "AIGEN_JWKS_URL none default" in page.text
    assert "AIGEN_PRICE_FINAL 1.00 default Credits for a standard final." in page.text
    assert "n8n, through RabbitMQ" in page.text
    assert f"schema {head()}" in page.text
    assert len(re.findall(r"AIGEN_[A-Z0-9_]+", page.text)) >= len(Settings.model_fields)


# Who may come


async def test_the_console_is_for_operators_by_key_or_by_role(make_client: Make) -> None:
    caller = await make_client(
        api_keys="shop:service:the-key-of-the-shop,duty:operator:the-key-of-the-operator"
    )
    gate, sessions = caller.app.state.gate, caller.app.state.sessions
    for key, status in (("the-key-of-the-shop", 403), ("the-key-of-the-operator", 200)):
        browser = Browser(caller.app)
        browser.cookies.set(sessions.cookie, sessions.seal(sessions.of_key(gate.key(key), "user")))
        for path in PAGES:
            page = await browser.open(path)
            assert page.status == status, path
            assert ("/console" in page.links) == (status == 200)


async def test_the_stream_says_that_something_happened(client: Caller) -> None:
    pulse = overview(client).pulse
    pulse._look_seconds = 0.01  # noqa: SLF001 - a test does not wait
    beats = pulse.beats()
    assert await anext(beats) == b"retry: 5000\n\n"
    waiting = asyncio.ensure_future(anext(beats))
    await asyncio.sleep(0.05)
    await client.world.submitted("freeloader")
    assert await asyncio.wait_for(waiting, 5) == b"event: changed\ndata: -\n\n"
    assert pulse.count == 1
    await beats.aclose()
    assert pulse.count == 0


async def test_ids_that_are_written_otherwise_still_lead_there(
    console: Browser, client: Caller
) -> None:
    shown = await client.with_samples()
    led = await console.open("/console/requests", params={"q": UUID(shown["id"]).hex})
    assert str(led.answer.url).endswith(shown["id"])
