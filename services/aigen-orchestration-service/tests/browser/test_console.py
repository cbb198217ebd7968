"""The console in Chromium against a running service: operator journeys and live updates."""

import asyncio
from collections.abc import Awaitable, Callable

import asyncpg
import pytest
from playwright.async_api import Locator, Page, expect

from tests.support.studio_browser import Visit, find_accessibility_violations, tab_to, wait_until

StartVisit = Callable[..., Awaitable[Visit]]
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


async def create_failed_request(visit: Visit, database: str) -> str:
    """Create a failed request with a parked notification; return its id."""
    await visit.submit_brief(f"{PROMPT} [[down]]")
    await visit.wait_for_state("FAILED")
    request_id = visit.request_id
    connection = await asyncpg.connect(database)
    await connection.execute(_PARK, request_id)
    await connection.close()
    return request_id


def locate_item(page: Page, request_id: str) -> Locator:
    """Locate the attention item of this request."""
    return page.locator(".item").filter(
        has=page.locator(f'a[href="/console/requests/{request_id}"]')
    )


async def open_console_request(visit: Visit) -> Page:
    """Open the console's page of the request on the studio page."""
    return await visit.open(f"/console/requests/{visit.request_id}")


async def test_operator_journey_replays_message_and_fails_stuck_request(
    visit: Visit, studio_database: str
) -> None:
    request_id = await create_failed_request(visit, studio_database)
    page = await visit.open("/console")
    await expect(page.locator(".health-card.warn")).to_contain_text("parked message")
    await page.click(".subnav >> text=Attention")
    parked = locate_item(page, request_id)
    await expect(parked).to_contain_text(
        "The notification service did not accept “generation_failed”"
    )
    await parked.locator("summary", has_text="Replay").click()
    await expect(parked.locator(".confirm-form:visible")).to_contain_text("No effect on credits")
    await parked.locator("button:has-text('Replay message')").click()
    await expect(page.locator(".notice.good")).to_contain_text("due now")
    await expect(locate_item(page, request_id)).to_have_count(0)
    await page.goto(f"{visit.address}/console/requests/{request_id}")
    await expect(page.locator(".lines")).to_contain_text(
        "Parked message notification.send replayed by open"
    )
    await expect(page.locator(".lines .line").last).to_contain_text(
        "User notified: generation_failed"
    )

    await visit.submit_brief(f"{PROMPT} [[slow]]")
    await visit.wait_for_state("PROCESSING_SAMPLES")
    slow = visit.request_id
    await page.goto(f"{visit.address}/console/requests")
    await page.fill("#q", visit.user_id)
    await page.click("button:has-text('Search')")
    await expect(page.locator(".row")).to_have_count(2)
    await page.click(f'a[href="/console/requests/{slow}"]')
    await page.click("summary:has-text('Fail and release')")
    await expect(page.locator(".confirm-form:visible")).to_contain_text(
        "0.25 credits on hold will be released"
    )
    await page.fill("#reason", "the provider is down")
    await page.click("button:has-text('Fail request')")
    await visit.wait_for_state("FAILED")
    await expect(page.locator(".lines")).to_contain_text("Failed by open: the provider is down")
    await wait_until(lambda: has_balance(visit, "10.00"))


async def has_balance(visit: Visit, balance: str) -> bool:
    return await visit.balance() == balance


async def test_timeline_live_update_keeps_disclosures_input_and_filters(visit: Visit) -> None:
    await visit.submit_brief(f"{PROMPT} [[slow]]")
    page = await open_console_request(visit)
    before = await page.locator(".line").count()
    await page.locator(".line summary").first.click()
    await page.locator("label.chip", has_text="Credits").click()
    await page.click("summary:has-text('Fail and release')")
    await page.fill("#reason", "half a thought")
    await visit.wait_for_state("AWAITING_SELECTION")
    assert await page.locator(".line").count() > before
    await expect(page.locator(".line pre").first).to_be_visible()
    assert await page.input_value("#reason") == "half a thought"
    await expect(page.locator(".kind-credits").first).to_be_hidden()
    await page.locator("label.chip", has_text="Credits").click()
    await expect(page.locator(".kind-credits").first).to_be_visible()
    await expect(page.locator(".sample-previews img")).to_have_count(4)
    await expect(page.locator(".lines")).to_contain_text("User notified: samples_ready")


async def test_overview_on_change_updates_figures(visit: Visit) -> None:
    page = await visit.open("/console")
    before = await page.locator(".metric").first.inner_text()
    other = await visit.open_window()
    await other.goto(f"{visit.address}/studio")
    await other.fill("#input_prompt", PROMPT)
    await other.click(".submit")
    await expect(page.locator(".metric").first).not_to_have_text(before, use_inner_text=True)


async def test_console_keyboard_only_is_operable(visit: Visit) -> None:
    await visit.submit_brief(f"{PROMPT} [[slow]]")
    await visit.wait_for_state("PROCESSING_SAMPLES")
    page = await open_console_request(visit)
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
    await visit.wait_for_state("FAILED")
    await tab_to(page, "#kind-broker")
    await page.keyboard.press("Space")
    await expect(page.locator(".kind-broker").first).to_be_hidden()


async def test_console_without_javascript_is_operable(
    start_visit: StartVisit, studio_database: str
) -> None:
    visit = await start_visit(java_script_enabled=False)
    await visit.grant("10.00")
    page = await visit.submit_brief(f"{PROMPT} [[down]]")

    async def has_failed() -> bool:
        await asyncio.sleep(0.2)  # Chromium drops a navigation that starts during another
        await page.goto(page.url)
        return await page.locator('[data-state="FAILED"]').count() == 1

    await wait_until(has_failed)
    request_id = visit.request_id
    connection = await asyncpg.connect(studio_database)
    await connection.execute(_PARK, request_id)
    await connection.close()
    await visit.open(f"/console/requests/{request_id}")
    await page.locator("label.chip", has_text="Worker").click()
    await expect(page.locator(".kind-worker").first).to_be_hidden()
    await page.locator("summary", has_text="Drop").click()
    await page.click("button:has-text('Drop message')")
    await expect(page.locator(".notice.good")).to_contain_text("Message dropped")
    await expect(page.locator(".lines")).to_contain_text("dropped by open")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_console_pages_have_no_accessibility_violations(
    start_visit: StartVisit, studio_database: str, scheme: str
) -> None:
    visit = await start_visit(color_scheme=scheme, reduced_motion="reduce")
    await visit.grant("10.00")
    await visit.submit_brief("a nude statue of an otter")
    request_id = await create_failed_request(visit, studio_database)
    violations = {}
    for path in (*PAGES, f"/console/accounts/{visit.user_id}", f"/console/requests/{request_id}"):
        page = await visit.open(path)
        await page.evaluate(
            "for (const one of document.querySelectorAll('main details')) one.open = true"
        )
        violations[path] = await find_accessibility_violations(page)
    assert violations == {path: [] for path in violations}
    drop = page.locator(f"#drop-{await get_message_number(page)}")
    await drop.locator("button:has-text('Drop message')").click()
    await expect(page.locator(".notice.good")).to_be_visible()


async def get_message_number(page: Page) -> str:
    """Return the number of the first outbox message on the page."""
    return str(await page.locator(".item").first.get_attribute("id")).removeprefix("message-")


async def test_console_pages_any_width_fit_and_stay_below_weight_limit(
    start_visit: StartVisit,
) -> None:
    weights = {}
    for width in (360, 1920):
        visit = await start_visit(viewport={"width": width, "height": 800})
        await visit.grant("10.00")
        await visit.submit_brief(PROMPT)
        await visit.wait_for_state("AWAITING_SELECTION")
        paths = (
            *PAGES,
            f"/console/accounts/{visit.user_id}",
            f"/console/requests/{visit.request_id}",
        )
        for path in paths:
            visit.log.finished.clear()
            await visit.open(path)
            await asyncio.sleep(0.1)
            weights[path.rpartition("/")[2][:12], width] = await visit.log.weight()
            content_width = await visit.page.evaluate("document.documentElement.scrollWidth")
            assert content_width <= width, f"{path} is {content_width} px wide"
    print(f"\nbytes received: {weights}")  # noqa: T201 - a measurement to read
    assert max(weights.values()) < WEIGHT_MAX
    assert min(weights.values()) > 500
