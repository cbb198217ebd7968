"""Whole journeys at the studio: a real Chromium, a real service that draws, and every way a request
can end.
"""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable

import asyncpg
import httpx
import pytest
from playwright.async_api import Page, expect

from tests.support.studio_browser import Visit, axe, eventually, tab_to

Visiting = Callable[..., Awaitable[Visit]]
PROMPT = "A lighthouse at dawn"
WEIGHT_MAX = 150_000
VISIBLE_SECONDS_MAX = 1.0
"""A loose bound for a busy machine; the figure itself is printed. What is wanted is below 0.3 s."""


async def pick(visit: Visit, number: int, page: Page | None = None) -> None:
    page = page or visit.page
    await page.locator("label.sample").nth(number).click()
    await page.locator("button.size").first.click()


# From the words to the final


async def test_from_the_words_to_the_final_in_the_hand(visit: Visit) -> None:
    page = await visit.open()
    await expect(page.locator(".go")).to_contain_text("0.25 credits")
    await page.fill("#input_prompt", f"{PROMPT} [[slow]]")
    await expect(page.locator("[data-counts]")).to_have_text("29 / 4,000")
    await page.check('input[value="PinterestPin_2x3"]', force=True)
    await page.click(".go")
    seen = set()
    while (count := await page.locator(".sample img").count()) < 4 or not await page.locator(
        ".picking"
    ).count():
        seen.add(count)
        await page.wait_for_timeout(50)
    assert {1, 2, 3} <= seen  # one by one
    assert await page.locator(".sample img").evaluate_all(
        "all => all.every(one => one.naturalHeight === 512)"
    )
    await pick(visit, 1)
    await visit.until("COMPLETED")
    await expect(page.locator("h1")).to_have_text("Your picture is ready")
    async with page.expect_download() as downloading:
        await page.click("text=Download")
    download = await downloading.value
    assert download.suggested_filename == f"creativeflow-{visit.request_id}.png"
    assert (await download.path()).read_bytes().startswith(b"\x89PNG")
    assert await visit.balance() == "8.75"
    await page.click("nav >> text=History")
    await expect(page.locator(".tile")).to_have_count(1)
    await expect(page.locator(".tile .badge")).to_have_text("Ready")


async def test_other_samples_and_other_words(visit: Visit) -> None:
    page = await visit.ask(PROMPT)
    await visit.until("AWAITING_SELECTION")
    first = await page.locator(".sample img").first.get_attribute("src")
    await page.click("text=Four new samples >> nth=0")
    await expect(page.locator("text=Round 2 of 10")).to_be_visible()
    assert await page.locator(".sample img").first.get_attribute("src") != first
    await page.click("text=With other words")
    await page.fill("#updated_prompt", "A harbour at night")
    await page.locator("#reword button").click()
    await expect(page.locator("text=Round 3 of 10")).to_be_visible()
    await expect(page.locator(".prompt")).to_have_text("A harbour at night")
    assert await visit.balance() == "9.25"


async def test_the_price_follows_what_is_chosen(visit: Visit) -> None:
    page = await visit.open()
    await page.click("summary:has-text('Style')")
    await page.select_option("#model", "advanced")
    await expect(page.locator(".go")).to_contain_text("1.25 credits")
    await page.check('input[value="Custom"]', force=True)
    await expect(page.locator("[data-price]")).to_contain_text("whole number")
    await page.fill("#width", "600")
    await page.fill("#height", "300")
    await expect(page.locator(".bill")).to_contain_text("4096")
    await page.fill("#input_prompt", PROMPT)
    await page.click(".go")
    await visit.until("AWAITING_SELECTION")
    assert await visit.balance() == "8.75"


async def test_reference_pictures_and_colours_are_added_with_a_click(visit: Visit) -> None:
    page = await visit.open()
    await page.click("summary:has-text('Style')")
    picture = await visit.page.screenshot(clip={"x": 0, "y": 0, "width": 100, "height": 80})
    files = [{"name": "logo.png", "mimeType": "image/png", "buffer": picture}]
    await page.set_input_files("input[type=file]", files)
    await expect(page.locator(".previews img")).to_have_count(1)
    await page.set_input_files(
        "input[type=file]", [files[0] | {"name": "x.png", "buffer": b"no picture"}]
    )
    await expect(page.locator("[data-told]")).to_contain_text("could not be used")
    await page.fill("#color_scheme", "#0b3954, tomato, nonsense-colour")
    await expect(page.locator(".swatches svg")).to_have_count(2)
    await page.fill("#color_scheme", "#0b3954, tomato")
    await page.fill("#input_prompt", PROMPT)
    await page.click(".go")
    await expect(page.locator(".about .previews img")).to_have_count(1)
    await expect(page.locator(".dots svg")).to_have_count(2)


# What goes wrong


async def test_too_few_credits(visiting: Visiting) -> None:
    visit = await visiting()
    await visit.grant("0.10")
    page = await visit.ask(PROMPT)
    await expect(page.locator("[data-refusal]")).to_contain_text("Not enough credits")
    await expect(page.locator("[data-refusal]")).to_be_focused()
    assert await page.input_value("#input_prompt") == PROMPT
    assert await visit.balance() == "0.10"


async def test_a_failure_gives_back_and_is_tried_again(visit: Visit) -> None:
    page = await visit.ask(f"{PROMPT} [[down]]")
    await visit.until("FAILED")
    said = await visit.text()
    assert "The AI model is not available right now" in said
    assert "0.25 credits given back. Nothing was charged." in said
    assert await visit.balance() == "10.00"
    await page.click("text=With other words")
    await page.fill("#updated_prompt", PROMPT)
    await page.click("text=Try these words")
    await visit.until("AWAITING_SELECTION")
    assert await visit.balance() == "9.75"


async def test_rejected_words_before_and_after_the_work_began(visit: Visit) -> None:
    page = await visit.ask("a porn poster with an otter")
    await expect(page.locator("[data-refusal]")).to_contain_text("nothing was charged")
    page = await visit.ask(f"{PROMPT} [[rejected]]")
    await visit.until("CONTENT_REJECTED")
    await expect(page.locator(".where")).to_contain_text("does not accept this prompt")
    await page.fill("#updated_prompt", PROMPT)
    await page.click("text=Try these words")
    await visit.until("AWAITING_SELECTION")


async def test_cancelling_asks_first(visit: Visit) -> None:
    page = await visit.ask(f"{PROMPT} [[slow]]")
    await page.click("summary:has-text('Cancel')")
    await page.click("text=Yes, cancel it")
    await visit.until("CANCELLED")
    assert "0.25 credits given back" in await visit.text()
    assert await visit.balance() == "10.00"


async def test_what_expires_while_it_is_looked_at(visit: Visit, studio_database: str) -> None:
    await visit.ask(PROMPT)
    await visit.until("AWAITING_SELECTION")
    connection = await asyncpg.connect(studio_database)
    await connection.execute(
        "UPDATE generation_requests SET deadline_at = now(), remind_at = NULL WHERE id ="
        " $1::text::uuid",
        visit.request_id,
    )
    await connection.close()
    await visit.until("EXPIRED")
    assert "The time to pick is over" in await visit.text()


async def test_two_windows_race_for_one_pick(visit: Visit) -> None:
    await visit.ask(PROMPT)
    await visit.until("AWAITING_SELECTION")
    other = await visit.window()
    await other.route("**/stream**", lambda route: route.abort())  # a window that hears of nothing
    await other.goto(visit.page.url)
    await pick(visit, 0)
    await visit.until("COMPLETED")
    await pick(visit, 3, other)
    await expect(other.locator("[data-refusal]")).to_be_visible()
    await expect(other.locator("h1")).to_have_text("Your picture is ready")
    assert await visit.balance() == "8.75"
    visit.seen.complaints[:] = [said for said in visit.seen.complaints if "ERR_FAILED" not in said]


async def test_a_page_that_refused_a_form_stays_live_and_can_be_loaded_again(visit: Visit) -> None:
    await visit.ask(PROMPT)
    await visit.until("AWAITING_SELECTION")
    path = visit.page.url
    await visit.page.evaluate("document.querySelector('#reword [name=version]').value = '1'")
    await visit.page.click("text=With other words")
    await visit.page.locator("#reword button").click()
    await expect(visit.page.locator("[data-refusal]")).to_contain_text(
        "Something changed meanwhile"
    )
    assert visit.page.url == path
    await visit.api.post(f"/generation-requests/{visit.request_id}/cancel")
    await visit.until("CANCELLED")


async def test_a_page_whose_session_has_ended_leads_to_the_sign_in_by_itself(visit: Visit) -> None:
    page = await visit.ask(PROMPT)
    await visit.until("AWAITING_SELECTION")
    await page.route(
        "**/studio/requests/**", lambda route: route.fulfill(status=401, body="signed out")
    )
    await visit.api.post(f"/generation-requests/{visit.request_id}/cancel")
    await expect(page.locator("body")).to_have_text("signed out")
    visit.seen.complaints[:] = [
        said for said in visit.seen.complaints if "status of 401" not in said
    ]


async def test_the_same_form_twice_at_once_orders_once(visit: Visit) -> None:
    page = await visit.open()
    await page.fill("#input_prompt", PROMPT)
    led = await page.evaluate("""() => {
        const form = document.querySelector("[data-maker]");
        const body = () => new URLSearchParams(new FormData(form));
        const send = () => fetch(form.action, {method: "POST", body: body()});
        const sent = [send(), send(), send()];
        return Promise.all(sent.map((one) => one.then((answer) => [answer.status, answer.url])));
    }""")
    assert len({url for status, url in led if status == httpx.codes.OK}) == 1
    assert {status for status, _ in led} <= {httpx.codes.OK, httpx.codes.CONFLICT}
    await page.dblclick(".go")
    await visit.until("AWAITING_SELECTION")
    assert page.url in {url for _, url in led}
    assert await visit.balance() == "9.75"


# Live


async def test_a_change_is_seen_at_once(
    visit: Visit, record_property: Callable[[str, object], None]
) -> None:
    taken = []
    for _ in range(5):
        page = await visit.ask(f"{PROMPT} [[slow]]")
        await visit.until("PROCESSING_SAMPLES")
        seen = asyncio.create_task(
            page.evaluate("""() => new Promise((resolve) => new MutationObserver(() => {
                    const ended = document.querySelector('[data-state="CANCELLED"]');
                    if (ended) resolve(Date.now() / 1000);
                }).observe(document.body, {subtree: true, childList: true, attributes: true}))""")
        )
        await asyncio.sleep(0.1)
        began = time.time()
        answer = await visit.api.post(f"/generation-requests/{visit.request_id}/cancel")
        assert answer.status_code == httpx.codes.OK
        taken.append(await seen - began)
    record_property("seconds_to_visible", [round(each, 3) for each in taken])
    print(  # noqa: T201 - a figure for the report
        f"\nfrom the call to what is seen: median {statistics.median(taken):.3f} s, most"
        f" {max(taken):.3f} s"
    )
    assert statistics.median(taken) < VISIBLE_SECONDS_MAX


async def test_what_somebody_is_typing_stays_theirs_while_the_page_moves_on(visit: Visit) -> None:
    page = await visit.ask(PROMPT)
    await visit.until("AWAITING_SELECTION")
    await page.click("text=With other words")
    await page.fill("#updated_prompt", "half a thought")
    other = await visit.window()
    await other.goto(page.url)
    await page.evaluate(
        "document.querySelector('[data-live]').firstElementChild.dataset.version = 'old'"
    )
    await page.focus("#updated_prompt")
    await page.evaluate("""async () => {
        const { patch } = await import(document.querySelector('script[src*="live.js"]').src);
        const region = document.querySelector('[data-live]');
        const fresh = region.cloneNode(false);
        fresh.innerHTML = await (await fetch(location.href, {headers: {'X-Part': 'state'}})).text();
        patch(region, fresh);
    }""")
    await expect(page.locator("#updated_prompt")).to_be_focused()
    await expect(page.locator("#reword")).to_have_attribute("open", "")
    assert await page.input_value("#updated_prompt") == "half a thought"
    assert await page.get_attribute("[data-live] > *", "data-version") != "old"


# For everybody


async def test_with_the_keyboard_alone(visit: Visit) -> None:
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
    await tab_to(page, ".go")
    await page.keyboard.press("Enter")
    await visit.until("AWAITING_SELECTION")
    await tab_to(page, "input[name=sample] >> nth=0")
    await page.keyboard.press("ArrowRight")
    await page.keyboard.press(
        "Enter"
    )  # orders nothing: the prices are on the buttons to which it leads
    await expect(page.locator("input[name=sample] >> nth=1")).to_be_checked()
    await expect(page.locator("button.size >> nth=0")).to_be_focused()
    assert await visit.balance() == "9.75"
    await page.keyboard.press("Enter")
    await visit.until("COMPLETED")
    assert await visit.balance() == "8.75"


async def test_without_a_script(visiting: Visiting) -> None:
    visit = await visiting(java_script_enabled=False)
    await visit.grant("10.00")
    page = await visit.ask(PROMPT)

    async def shows(state: str) -> bool:
        await page.goto(
            page.url
        )  # a reload may meet the page while the browser is still changing it
        return await page.locator(f'[data-state="{state}"]').count() == 1

    await eventually(lambda: shows("AWAITING_SELECTION"))
    await page.focus("input[name=sample] >> nth=1")
    await page.keyboard.press("Space")
    async with page.expect_navigation():
        await page.keyboard.press("Enter")  # orders nothing: no price stands there
    assert await shows("AWAITING_SELECTION")
    assert await visit.balance() == "9.75"
    await page.locator("label.sample").nth(2).click()
    async with page.expect_navigation():
        await page.locator("button.size >> nth=2").click()
    await eventually(lambda: shows("COMPLETED"))
    assert await visit.balance() == "7.75"
    assert await page.locator(".final img").evaluate("one => one.naturalWidth") == 2048


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_nobody_is_shut_out(visiting: Visiting, scheme: str) -> None:
    visit = await visiting(color_scheme=scheme, reduced_motion="reduce")
    await visit.grant("10.00")
    found = {}
    page = await visit.open()
    await page.click("summary:has-text('Style')")
    await page.click(".menu summary")
    found["studio"] = await axe(page)
    await visit.ask(f"{PROMPT} [[partial]]")
    await visit.until("AWAITING_SELECTION")
    await page.click("text=With other words")
    await page.click("summary:has-text('Cancel')")
    found["samples"] = await axe(page)
    await pick(visit, 1)
    await visit.until("COMPLETED")
    found["final"] = await axe(page)
    await visit.ask(f"{PROMPT} [[down]]")
    await visit.until("FAILED")
    found["failed"] = await axe(page)
    await visit.open("/studio/history")
    found["history"] = await axe(page)
    await visit.open("/studio/nowhere")
    found["error"] = await axe(page)
    assert found == {name: [] for name in found}


async def test_a_chosen_theme_is_kept(visiting: Visiting) -> None:
    visit = await visiting(color_scheme="light")
    page = await visit.open()
    background = "getComputedStyle(document.body).backgroundColor"
    light = await page.evaluate(background)
    await page.click("[data-theme-toggle]")
    dark = await page.evaluate(background)
    await page.reload()
    assert await page.evaluate(background) == dark != light


async def test_pages_are_light_and_fit_a_phone(visiting: Visiting) -> None:
    visit = await visiting(viewport={"width": 360, "height": 740})
    await visit.grant("10.00")
    weights = {}

    async def weigh(name: str) -> None:
        await visit.page.wait_for_load_state("load")
        weights[name] = await visit.seen.weight()
        visit.seen.finished.clear()
        wide = await visit.page.evaluate("document.documentElement.scrollWidth")
        assert wide <= 360, f"{name} is {wide} px wide"

    await visit.open()
    await weigh("studio, first visit")
    await visit.ask(PROMPT)
    await visit.until("AWAITING_SELECTION")
    await weigh("request")
    await visit.open("/studio/history")
    await weigh("history")
    print(f"\nbytes over the wire: {weights}")  # noqa: T201 - the figure is what is asked for
    assert weights["studio, first visit"] > 5_000
    assert max(weights.values()) < WEIGHT_MAX
