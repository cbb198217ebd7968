"""An operator at the console: a real Chromium, a real service, and what has gone wrong in it."""

import asyncio
from collections.abc import Awaitable, Callable

import asyncpg
import pytest
from playwright.async_api import Locator, Page, expect

from tests.support.studio_browser import Visit, axe, eventually, tab_to

Visiting = Callable[..., Awaitable[Visit]]
PROMPT = "A lighthouse at dawn"
WEIGHT_MAX = 150_000
PAGES = (
    "/console",
    "/console/requests",
    "/console/attention",
    "/console/accounts",
    "/console/queue",
    "/console/invariants",
    "/console/settings",
)

_PARK = """
WITH message AS (
    INSERT INTO outbox (request_id, topic, body, due_at, parked_reason, created_at)
    SELECT id, 'notification.send', jsonb_build_object('event_id', gen_random_uuid(), 'event_type',
        'generation_failed',
           'user_id', user_id, 'correlation_id', '', 'data', '{}'::jsonb, 'at', now()), now(),
               'it said 404', now()
    FROM generation_requests WHERE id = $1::text::uuid RETURNING request_id)
INSERT INTO generation_events (request_id, event, data, at)
SELECT request_id, 'message_parked', '{"topic": "notification.send", "reason": "it said 404"}',
    now() FROM message"""


async def failed(visit: Visit, database: str) -> str:
    """A request that failed, and whose user could not be told; its id."""
    await visit.ask(f"{PROMPT} [[down]]")
    await visit.until("FAILED")
    request_id = visit.request_id
    connection = await asyncpg.connect(database)
    await connection.execute(_PARK, request_id)
    await connection.close()
    return request_id


def card(page: Page, request_id: str) -> Locator:
    """What needs somebody because of this request."""
    return page.locator(".need").filter(
        has=page.locator(f'a[href="/console/requests/{request_id}"]')
    )


async def timeline(visit: Visit) -> Page:
    """The console's page of the request that the studio shows."""
    return await visit.open(f"/console/requests/{visit.request_id}")


async def test_a_failed_job_is_seen_its_message_replayed_and_a_request_released(
    visit: Visit, studio_database: str
) -> None:
    request_id = await failed(visit, studio_database)
    page = await visit.open("/console")
    await expect(page.locator(".lamp.warn")).to_contain_text("parked message")
    await page.click(".rooms >> text=Attention")
    parked = card(page, request_id)
    await expect(parked).to_contain_text(
        "The notification service did not take “generation_failed”"
    )
    await parked.locator("summary", has_text="Replay").click()
    await expect(parked.locator(".asked:visible")).to_contain_text("No money moves")
    await parked.locator("text=Yes, try it again").click()
    await expect(page.locator(".notice.good")).to_contain_text("due now")
    await expect(card(page, request_id)).to_have_count(0)
    await page.goto(f"{visit.address}/console/requests/{request_id}")
    await expect(page.locator(".lines")).to_contain_text(
        "open replays the parked message notification.send"
    )
    await expect(page.locator(".lines .line").last).to_contain_text(
        "The user was told: generation_failed"
    )

    await visit.ask(f"{PROMPT} [[slow]]")
    await visit.until("PROCESSING_SAMPLES")
    slow = visit.request_id
    await page.goto(f"{visit.address}/console/requests")
    await page.fill("#q", visit.user_id)
    await page.click("text=Find")
    await expect(page.locator(".row")).to_have_count(2)
    await page.click(f'a[href="/console/requests/{slow}"]')
    await page.click("summary:has-text('Fail and release')")
    await expect(page.locator(".asked:visible")).to_contain_text(
        "0.25 credits that are set aside go back to the user"
    )
    await page.fill("#reason", "the provider is down")
    await page.click("text=Yes, end it as failed")
    await visit.until("FAILED")
    await expect(page.locator(".lines")).to_contain_text("open ended it: the provider is down")
    await eventually(lambda: _has(visit, "10.00"))


async def _has(visit: Visit, balance: str) -> bool:
    return await visit.balance() == balance


async def test_the_timeline_grows_and_what_was_opened_stays_open(visit: Visit) -> None:
    await visit.ask(f"{PROMPT} [[slow]]")
    page = await timeline(visit)
    before = await page.locator(".line").count()
    await page.locator(".line summary").first.click()
    await page.locator("label.chip", has_text="Money").click()
    await page.click("summary:has-text('Fail and release')")
    await page.fill("#reason", "half a thought")
    await visit.until("AWAITING_SELECTION")
    assert await page.locator(".line").count() > before
    await expect(page.locator(".line pre").first).to_be_visible()
    assert await page.input_value("#reason") == "half a thought"
    await expect(page.locator(".kind-money").first).to_be_hidden()
    await page.locator("label.chip", has_text="Money").click()
    await expect(page.locator(".kind-money").first).to_be_visible()
    await expect(page.locator(".four img")).to_have_count(4)
    await expect(page.locator(".lines")).to_contain_text("The user was told: samples_ready")


async def test_the_first_page_looks_again_when_something_happens(visit: Visit) -> None:
    page = await visit.open("/console")
    said = await page.locator(".tile-figure").first.inner_text()
    other = await visit.window()
    await other.goto(f"{visit.address}/studio")
    await other.fill("#input_prompt", PROMPT)
    await other.click(".go")
    await expect(page.locator(".tile-figure").first).not_to_have_text(said, use_inner_text=True)


async def test_with_the_keyboard_alone(visit: Visit) -> None:
    await visit.ask(f"{PROMPT} [[slow]]")
    await visit.until("PROCESSING_SAMPLES")
    page = await timeline(visit)
    await page.keyboard.press("Tab")
    await expect(page.locator(".skip")).to_be_focused()
    await page.keyboard.press("Enter")
    await tab_to(page, "#fail > summary")
    await page.keyboard.press("Enter")
    await page.keyboard.press("Tab")
    await expect(page.locator("#reason")).to_be_focused()
    await page.keyboard.type("by hand")
    await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")
    await visit.until("FAILED")
    await tab_to(page, "#kind-broker")
    await page.keyboard.press("Space")
    await expect(page.locator(".kind-broker").first).to_be_hidden()


async def test_without_a_script(visiting: Visiting, studio_database: str) -> None:
    visit = await visiting(java_script_enabled=False)
    await visit.grant("10.00")
    page = await visit.ask(f"{PROMPT} [[down]]")

    async def ended() -> bool:
        await asyncio.sleep(
            0.2
        )  # Chromium loses a page that is asked to load again while it still does
        await page.goto(page.url)
        return await page.locator('[data-state="FAILED"]').count() == 1

    await eventually(ended)
    request_id = visit.request_id
    connection = await asyncpg.connect(studio_database)
    await connection.execute(_PARK, request_id)
    await connection.close()
    await visit.open(f"/console/requests/{request_id}")
    await page.locator("label.chip", has_text="Callbacks").click()
    await expect(page.locator(".kind-worker").first).to_be_hidden()
    await page.locator("summary", has_text="Drop").click()
    await page.click("text=Yes, give it up")
    await expect(page.locator(".notice.good")).to_contain_text("given up for good")
    await expect(page.locator(".lines")).to_contain_text("open gave up the parked message")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_nobody_is_shut_out(visiting: Visiting, studio_database: str, scheme: str) -> None:
    visit = await visiting(color_scheme=scheme, reduced_motion="reduce")
    await visit.grant("10.00")
    await visit.ask("a nude statue of an otter")
    request_id = await failed(visit, studio_database)
    found = {}
    for path in (*PAGES, f"/console/accounts/{visit.user_id}", f"/console/requests/{request_id}"):
        page = await visit.open(path)
        await page.evaluate(
            "for (const one of document.querySelectorAll('main details')) one.open = true"
        )
        found[path] = await axe(page)
    assert found == {path: [] for path in found}
    await page.locator("#drop-" + (await message_of(page))).locator("text=Yes, give it up").click()
    await expect(page.locator(".notice.good")).to_be_visible()


async def message_of(page: Page) -> str:
    """The number of the message on the page."""
    return str(await page.locator(".need").first.get_attribute("data-key")).removeprefix("message-")


async def test_pages_are_light_and_fit_a_phone_and_a_wide_screen(visiting: Visiting) -> None:
    weights = {}
    for width in (360, 1920):
        visit = await visiting(viewport={"width": width, "height": 800})
        await visit.grant("10.00")
        await visit.ask(PROMPT)
        await visit.until("AWAITING_SELECTION")
        paths = (
            *PAGES,
            f"/console/accounts/{visit.user_id}",
            f"/console/requests/{visit.request_id}",
        )
        for path in paths:
            visit.seen.finished.clear()
            await visit.open(path)
            await asyncio.sleep(0.1)
            weights[path.rpartition("/")[2][:12], width] = await visit.seen.weight()
            wide = await visit.page.evaluate("document.documentElement.scrollWidth")
            assert wide <= width, f"{path} is {wide} px wide"
    print(f"\nbytes over the wire: {weights}")  # noqa: T201 - the figure is what is asked for
    assert max(weights.values()) < WEIGHT_MAX
    assert min(weights.values()) > 500
