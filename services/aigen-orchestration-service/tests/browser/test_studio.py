"""The studio in Chromium against a running service: user journeys and every final state."""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable

import asyncpg
import httpx
import pytest
from playwright.async_api import Page, expect

from tests.support.studio_browser import Visit, find_accessibility_violations, tab_to, wait_until

StartVisit = Callable[..., Awaitable[Visit]]
PROMPT = "A lighthouse at dawn"
WEIGHT_MAX = 150_000
VISIBLE_SECONDS_MAX = 1.0
"""A loose bound for a busy machine; the measurement is printed. The target is below 0.3 s."""


async def select_sample(visit: Visit, number: int, page: Page | None = None) -> None:
    page = page or visit.page
    await page.locator("label.sample").nth(number).click()
    await page.locator("button.size").first.click()


# Happy path


async def test_studio_whole_journey_downloads_final(visit: Visit) -> None:
    page = await visit.open()
    await expect(page.locator(".submit")).to_contain_text("0.25 credits")
    await page.fill("#input_prompt", f"{PROMPT} [[slow]]")
    await expect(page.locator("[data-counter]")).to_have_text("29 / 4,000")
    await page.check('input[value="PinterestPin_2x3"]', force=True)
    await page.click(".submit")
    counts = set()
    while (count := await page.locator(".sample img").count()) < 4 or not await page.locator(
        ".selection"
    ).count():
        counts.add(count)
        await page.wait_for_timeout(50)
    assert counts == {0}  # shown when the set is delivered and paid for
    assert await page.locator(".sample img").evaluate_all(
        "all => all.every(one => one.naturalHeight === 512)"
    )
    await select_sample(visit, 1)
    await visit.wait_for_state("COMPLETED")
    await expect(page.locator("h1")).to_have_text("Your image is ready")
    async with page.expect_download() as downloading:
        await page.click("text=Download")
    download = await downloading.value
    assert download.suggested_filename == f"creativeflow-{visit.request_id}.png"
    assert (await download.path()).read_bytes().startswith(b"\x89PNG")
    assert await visit.balance() == "8.75"
    await page.click("nav >> text=History")
    await expect(page.locator(".tile")).to_have_count(1)
    await expect(page.locator(".tile .badge")).to_have_text("Ready")


async def test_regenerate_same_and_changed_prompt_shows_new_rounds(visit: Visit) -> None:
    page = await visit.submit_brief(PROMPT)
    await visit.wait_for_state("AWAITING_SELECTION")
    first = await page.locator(".sample img").first.get_attribute("src")
    await page.click("text=Four new samples >> nth=0")
    await expect(page.locator("text=Round 2 of 10")).to_be_visible()
    assert await page.locator(".sample img").first.get_attribute("src") != first
    await page.click("text=Change the prompt")
    await page.fill("#updated_prompt", "A harbour at night")
    await page.locator("#reword button").click()
    await expect(page.locator("text=Round 3 of 10")).to_be_visible()
    await expect(page.locator(".prompt")).to_have_text("A harbour at night")
    assert await visit.balance() == "9.25"


async def test_price_changed_options_updates_price(visit: Visit) -> None:
    page = await visit.open()
    await page.click("summary:has-text('Style')")
    await page.select_option("#model", "advanced")
    await expect(page.locator(".submit")).to_contain_text("1.25 credits")
    await page.check('input[value="Custom"]', force=True)
    await expect(page.locator("[data-price]")).to_contain_text("whole number")
    await page.fill("#width", "600")
    await page.fill("#height", "300")
    await expect(page.locator(".price-list")).to_contain_text("4096")
    await page.fill("#input_prompt", PROMPT)
    await page.click(".submit")
    await visit.wait_for_state("AWAITING_SELECTION")
    assert await visit.balance() == "8.75"


async def test_brief_form_references_and_colours_are_added(visit: Visit) -> None:
    page = await visit.open()
    await page.click("summary:has-text('Style')")
    picture = await visit.page.screenshot(clip={"x": 0, "y": 0, "width": 100, "height": 80})
    files = [{"name": "logo.png", "mimeType": "image/png", "buffer": picture}]
    await page.set_input_files("input[type=file]", files)
    await expect(page.locator(".previews img")).to_have_count(1)
    await page.set_input_files(
        "input[type=file]", [files[0] | {"name": "x.png", "buffer": b"no picture"}]
    )
    await expect(page.locator("[data-upload-error]")).to_contain_text("could not be used")
    await page.fill("#color_scheme", "#0b3954, tomato, nonsense-colour")
    await expect(page.locator(".swatches svg")).to_have_count(2)
    await page.fill("#color_scheme", "#0b3954, tomato")
    await page.fill("#input_prompt", PROMPT)
    await page.click(".submit")
    await expect(page.locator(".about .previews img")).to_have_count(1)
    await expect(page.locator(".dots svg")).to_have_count(2)


# Failures


async def test_submit_insufficient_credits_focuses_refusal(start_visit: StartVisit) -> None:
    visit = await start_visit()
    await visit.grant("0.10")
    page = await visit.submit_brief(PROMPT)
    await expect(page.locator("[data-refusal]")).to_contain_text("Not enough credits")
    await expect(page.locator("[data-refusal]")).to_be_focused()
    assert await page.input_value("#input_prompt") == PROMPT
    assert await visit.balance() == "0.10"


async def test_failed_request_returns_credits_and_can_be_retried(visit: Visit) -> None:
    page = await visit.submit_brief(f"{PROMPT} [[down]]")
    await visit.wait_for_state("FAILED")
    text = await visit.text()
    assert "The AI model is not available right now" in text
    assert "0.25 credits returned. Nothing was charged." in text
    assert await visit.balance() == "10.00"
    await page.click("text=Change the prompt")
    await page.fill("#updated_prompt", PROMPT)
    await page.click("text=Try this prompt")
    await visit.wait_for_state("AWAITING_SELECTION")
    assert await visit.balance() == "9.75"


async def test_rejected_prompt_before_and_after_start_can_be_changed(visit: Visit) -> None:
    page = await visit.submit_brief("a porn poster with an otter")
    await expect(page.locator("[data-refusal]")).to_contain_text("nothing was charged")
    page = await visit.submit_brief(f"{PROMPT} [[rejected]]")
    await visit.wait_for_state("CONTENT_REJECTED")
    await expect(page.locator(".status-header")).to_contain_text("does not accept this prompt")
    await page.fill("#updated_prompt", PROMPT)
    await page.click("text=Try this prompt")
    await visit.wait_for_state("AWAITING_SELECTION")


async def test_cancel_asks_for_confirmation(visit: Visit) -> None:
    page = await visit.submit_brief(f"{PROMPT} [[slow]]")
    await page.click("summary:has-text('Cancel')")
    await page.click("button:has-text('Cancel request')")
    await visit.wait_for_state("CANCELLED")
    assert "0.25 credits returned" in await visit.text()
    assert await visit.balance() == "10.00"


async def test_request_expiring_while_open_shows_expiry(visit: Visit, studio_database: str) -> None:
    await visit.submit_brief(PROMPT)
    await visit.wait_for_state("AWAITING_SELECTION")
    connection = await asyncpg.connect(studio_database)
    await connection.execute(
        "UPDATE generation_requests SET deadline_at = now(), remind_at = NULL WHERE id ="
        " $1::text::uuid",
        visit.request_id,
    )
    await connection.close()
    await visit.wait_for_state("EXPIRED")
    assert "Request expired" in await visit.text()


async def test_select_in_outdated_window_is_refused(visit: Visit) -> None:
    await visit.submit_brief(PROMPT)
    await visit.wait_for_state("AWAITING_SELECTION")
    other = await visit.open_window()
    await other.route("**/stream**", lambda route: route.abort())  # a window without updates
    await other.goto(visit.page.url)
    await select_sample(visit, 0)
    await visit.wait_for_state("COMPLETED")
    await select_sample(visit, 3, other)
    await expect(other.locator("[data-refusal]")).to_be_visible()
    await expect(other.locator("h1")).to_have_text("Your image is ready")
    assert await visit.balance() == "8.75"
    visit.log.problems[:] = [each for each in visit.log.problems if "ERR_FAILED" not in each]


async def test_refused_form_page_stays_live_and_reloadable(visit: Visit) -> None:
    await visit.submit_brief(PROMPT)
    await visit.wait_for_state("AWAITING_SELECTION")
    path = visit.page.url
    await visit.page.evaluate("document.querySelector('#reword [name=version]').value = '1'")
    await visit.page.click("text=Change the prompt")
    await visit.page.locator("#reword button").click()
    await expect(visit.page.locator("[data-refusal]")).to_contain_text("The request has changed")
    assert visit.page.url == path
    await visit.api.post(f"/generation-requests/{visit.request_id}/cancel")
    await visit.wait_for_state("CANCELLED")


async def test_live_page_session_ended_reloads_to_sign_in(visit: Visit) -> None:
    page = await visit.submit_brief(PROMPT)
    await visit.wait_for_state("AWAITING_SELECTION")
    await page.route(
        "**/studio/requests/**", lambda route: route.fulfill(status=401, body="signed out")
    )
    await visit.api.post(f"/generation-requests/{visit.request_id}/cancel")
    await expect(page.locator("body")).to_have_text("signed out")
    visit.log.problems[:] = [each for each in visit.log.problems if "status of 401" not in each]


async def test_submit_concurrently_creates_one_request(visit: Visit) -> None:
    page = await visit.open()
    await page.fill("#input_prompt", PROMPT)
    results = await page.evaluate("""() => {
        const form = document.querySelector("[data-brief-form]");
        const body = () => new URLSearchParams(new FormData(form));
        const send = () => fetch(form.action, {method: "POST", body: body()});
        const sent = [send(), send(), send()];
        return Promise.all(sent.map((each) => each.then(({status, url}) => [status, url])));
    }""")
    assert len({url for status, url in results if status == httpx.codes.OK}) == 1
    assert {status for status, _ in results} <= {httpx.codes.OK, httpx.codes.CONFLICT}
    await page.dblclick(".submit")
    await visit.wait_for_state("AWAITING_SELECTION")
    assert page.url in {url for _, url in results}
    assert await visit.balance() == "9.75"


# Live updates


async def test_live_update_cancelled_request_is_visible_quickly(
    visit: Visit, record_property: Callable[[str, object], None]
) -> None:
    durations = []
    for _ in range(5):
        page = await visit.submit_brief(f"{PROMPT} [[slow]]")
        await visit.wait_for_state("PROCESSING_SAMPLES")
        visible_at = asyncio.create_task(
            page.evaluate("""() => new Promise((resolve) => new MutationObserver(() => {
                    const ended = document.querySelector('[data-state="CANCELLED"]');
                    if (ended) resolve(Date.now() / 1000);
                }).observe(document.body, {subtree: true, childList: true, attributes: true}))""")
        )
        await asyncio.sleep(0.1)
        started = time.time()
        response = await visit.api.post(f"/generation-requests/{visit.request_id}/cancel")
        assert response.status_code == httpx.codes.OK
        durations.append(await visible_at - started)
    record_property("seconds_to_visible", [round(each, 3) for each in durations])
    print(  # noqa: T201 - a measurement to read
        f"\nfrom API call to visible change: median {statistics.median(durations):.3f} s, max"
        f" {max(durations):.3f} s"
    )
    assert statistics.median(durations) < VISIBLE_SECONDS_MAX


async def test_live_update_keeps_focus_typed_text_and_open_disclosure(visit: Visit) -> None:
    page = await visit.submit_brief(PROMPT)
    await visit.wait_for_state("AWAITING_SELECTION")
    await page.click("text=Change the prompt")
    await page.fill("#updated_prompt", "half a thought")
    other = await visit.open_window()
    await other.goto(page.url)
    await page.evaluate(
        "document.querySelector('[data-live]').firstElementChild.dataset.version = 'old'"
    )
    await page.focus("#updated_prompt")
    await page.evaluate("""async () => {
        const { morph } = await import(document.querySelector('script[src*="live.js"]').src);
        const region = document.querySelector('[data-live]');
        const response = await fetch(location.href, {headers: {'X-Part': 'state'}});
        morph(region, await response.text());
    }""")
    await expect(page.locator("#updated_prompt")).to_be_focused()
    await expect(page.locator("#reword")).to_have_attribute("open", "")
    assert await page.input_value("#updated_prompt") == "half a thought"
    assert await page.get_attribute("[data-live] > *", "data-version") != "old"


# Accessibility


async def test_studio_keyboard_only_is_operable(visit: Visit) -> None:
    page = await visit.open()
    await page.keyboard.press("Tab")
    await expect(page.locator(".skip")).to_be_focused()
    await page.keyboard.press("Enter")
    await page.keyboard.press("Tab")
    await expect(page.locator("#input_prompt")).to_be_focused()
    await page.keyboard.type(PROMPT)
    await page.keyboard.press("Tab")
    await page.keyboard.press("ArrowRight")
    await expect(page.locator('input[value="InstagramStory_9x16"]')).to_be_checked()
    await tab_to(page, ".submit")
    await page.keyboard.press("Enter")
    await visit.wait_for_state("AWAITING_SELECTION")
    await tab_to(page, "input[name=sample] >> nth=0")
    await page.keyboard.press("ArrowRight")
    await page.keyboard.press(
        "Enter"
    )  # orders nothing: the focus moves to the buttons with the prices
    await expect(page.locator("input[name=sample] >> nth=1")).to_be_checked()
    await expect(page.locator("button.size >> nth=0")).to_be_focused()
    assert await visit.balance() == "9.75"
    await page.keyboard.press("Enter")
    await visit.wait_for_state("COMPLETED")
    assert await visit.balance() == "8.75"


async def test_studio_without_javascript_is_operable(start_visit: StartVisit) -> None:
    visit = await start_visit(java_script_enabled=False)
    await visit.grant("10.00")
    page = await visit.submit_brief(PROMPT)

    async def shows_state(state: str) -> bool:
        await page.goto(page.url)  # a reload may collide with a navigation in progress
        return await page.locator(f'[data-state="{state}"]').count() == 1

    await wait_until(lambda: shows_state("AWAITING_SELECTION"))
    await page.focus("input[name=sample] >> nth=1")
    await page.keyboard.press("Space")
    async with page.expect_navigation():
        await page.keyboard.press("Enter")  # orders nothing: no price is shown there
    assert await shows_state("AWAITING_SELECTION")
    assert await visit.balance() == "9.75"
    await page.locator("label.sample").nth(2).click()
    async with page.expect_navigation():
        await page.locator("button.size >> nth=2").click()
    await wait_until(lambda: shows_state("COMPLETED"))
    assert await visit.balance() == "7.75"
    assert await page.locator(".final img").evaluate("one => one.naturalWidth") == 2048


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_studio_pages_have_no_accessibility_violations(
    start_visit: StartVisit, scheme: str
) -> None:
    visit = await start_visit(color_scheme=scheme, reduced_motion="reduce")
    await visit.grant("10.00")
    violations = {}
    page = await visit.open()
    await page.click("summary:has-text('Style')")
    await page.click(".menu summary")
    violations["studio"] = await find_accessibility_violations(page)
    await visit.submit_brief(f"{PROMPT} [[partial]]")
    await visit.wait_for_state("AWAITING_SELECTION")
    await page.click("text=Change the prompt")
    await page.click("summary:has-text('Cancel')")
    violations["samples"] = await find_accessibility_violations(page)
    await select_sample(visit, 1)
    await visit.wait_for_state("COMPLETED")
    violations["final"] = await find_accessibility_violations(page)
    await visit.submit_brief(f"{PROMPT} [[down]]")
    await visit.wait_for_state("FAILED")
    violations["failed"] = await find_accessibility_violations(page)
    await visit.open("/studio/history")
    violations["history"] = await find_accessibility_violations(page)
    await visit.open("/studio/nowhere")
    violations["error"] = await find_accessibility_violations(page)
    assert violations == {name: [] for name in violations}


async def test_theme_chosen_is_kept_after_reload(start_visit: StartVisit) -> None:
    visit = await start_visit(color_scheme="light")
    page = await visit.open()
    background = "getComputedStyle(document.body).backgroundColor"
    light = await page.evaluate(background)
    await page.click("[data-theme-toggle]")
    dark = await page.evaluate(background)
    await page.reload()
    assert await page.evaluate(background) == dark != light


async def test_studio_pages_on_phone_fit_and_stay_below_weight_limit(
    start_visit: StartVisit,
) -> None:
    visit = await start_visit(viewport={"width": 360, "height": 740})
    await visit.grant("10.00")
    weights = {}

    async def measure(name: str) -> None:
        await visit.page.wait_for_load_state("load")
        weights[name] = await visit.log.weight()
        visit.log.finished.clear()
        content_width = await visit.page.evaluate("document.documentElement.scrollWidth")
        assert content_width <= 360, f"{name} is {content_width} px wide"

    await visit.open()
    await measure("studio, first visit")
    await visit.submit_brief(PROMPT)
    await visit.wait_for_state("AWAITING_SELECTION")
    await measure("request")
    await visit.open("/studio/history")
    await measure("history")
    print(f"\nbytes received: {weights}")  # noqa: T201 - a measurement to read
    assert weights["studio, first visit"] > 5_000
    assert max(weights.values()) < WEIGHT_MAX
