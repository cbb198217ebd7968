"""The studio without JavaScript: brief, price, selection, charges and every final state."""

import io
import re
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import httpx
import pytest
from PIL import Image

from creativeflow.services.aigeneration.api import live_updates
from creativeflow.services.aigeneration.domain.formats import FORMATS
from creativeflow.services.aigeneration.domain.lifecycle import State
from creativeflow.services.aigeneration.domain.request import Asset, GenerationRequest
from creativeflow.services.aigeneration.web.studio.choices import FORMAT_OPTIONS
from tests.e2e.journey import NOBODY, Caller
from tests.support.html_client import ORIGIN, Browser, Page

USER = "demo"
TIMES = "\u00d7"
FOR_REVIEW = "a nude statue of an otter"
NASTY = "</textarea><script>alert('x')</script>\"'><img src=x onerror=alert(1)>"
Make = Callable[..., Awaitable[Caller]]


@pytest.fixture
async def studio(client: Caller) -> Browser:
    """A browser for an open service; the user is on the payg plan with 10 credits."""
    await client.test_app.grant(USER, 1000, "payg")
    return Browser(client.app)


async def submit_brief(browser: Browser, **fields: Any) -> Page:
    """Submit the brief form."""
    page = await browser.open("/studio")
    brief = {
        "input_prompt": "A lighthouse at dawn",
        "output_format": "YouTubeThumbnail_16x9",
    } | fields
    return await browser.submit(page.form("/studio/requests"), **brief)


def get_request_id(page: Page) -> str:
    match = re.search(r"/studio/requests/([0-9a-f-]{36})$", str(page.response.url))
    assert match, page.response.url
    return match[1]


async def reach_selection(browser: Browser, client: Caller, **fields: Any) -> Page:
    """Submit a brief, deliver its samples and open the page."""
    page = await submit_brief(browser, **fields)
    await client.test_app.deliver(await client.test_app.next_job())
    return await browser.open(f"/studio/requests/{get_request_id(page)}")


async def select_sample(browser: Browser, page: Page, number: int = 0, **fields: Any) -> Page:
    """Select a sample on the page and order the final."""
    samples = re.findall(r'name="sample" value="([^"]+)"', page.response.text)
    return await browser.submit(
        page.form("/select-sample"), sample=samples[number], size="", **fields
    )


# Happy path


async def test_studio_whole_journey_charges_the_prices_shown(
    studio: Browser, client: Caller
) -> None:
    page = await studio.open("/studio")
    assert "Four samples 0.25 credits" in page.text
    assert "Total 1.25 credits" in page.text
    assert "Make four samples 0.25 credits" in page.text
    shown = await submit_brief(studio)
    assert "Waiting in the queue" in shown.text
    assert "0.25 credits reserved" in shown.text
    await client.test_app.deliver(await client.test_app.next_job())
    page = await studio.open(f"/studio/requests/{get_request_id(shown)}")
    assert "Select a sample" in page.text
    assert len(page.images) == 4
    assert "0.25 credits charged." in page.text
    assert f"Standard size 1280 {TIMES} 720 1 credit" in page.text
    assert f"4K 4096 {TIMES} 2304 2 credits" in page.text
    ordered = await select_sample(studio, page, 2, file_format="jpg")
    assert "1 credit reserved" in ordered.text
    await client.test_app.deliver(await client.test_app.next_job())
    done = await studio.open(f"/studio/requests/{get_request_id(shown)}")
    assert "Your image is ready" in done.text
    assert "1.25 credits charged." in done.text
    assert "https://s/final.png" in done.links
    assert done.actions == ["user"]
    assert await client.test_app.balance(USER) == 875


async def test_submit_full_brief_reaches_worker_unchanged(studio: Browser, client: Caller) -> None:
    await submit_brief(
        studio,
        input_prompt="A lighthouse\r\nat dawn",
        output_format="Custom",
        width="600",
        height="400",
        style_guidance="flat",
        emotional_tone="Playful",
        industry_template="Travel",
        region="Japan",
        color_scheme="#0b3954, ivory",
        uploaded_image_references="https://cdn.example/a.png\r\nbucket/b.png",
        model="fast",
    )
    job = await client.test_app.next_job()
    assert job.brief == {
        "input_prompt": "A lighthouse\nat dawn",
        "output_format": "Custom",
        "custom_dimensions": {"width": 600, "height": 400},
        "style_guidance": "flat",
        "emotional_tone": "Playful",
        "industry_template": "Travel",
        "cultural_adaptation_parameters": {"region": "Japan"},
        "color_scheme": ["#0b3954", "ivory"],
        "model": "fast",
        "uploaded_image_references": ["https://cdn.example/a.png", "bucket/b.png"],
    }
    again = await studio.open("/studio", params={"from": str(job.id)})
    draft = again.form("/studio/requests").fields
    assert (draft["region"], draft["width"], draft["color_scheme"]) == (
        "Japan",
        "600",
        "#0b3954, ivory",
    )
    assert draft["uploaded_image_references"].split() == [
        "https://cdn.example/a.png",
        "bucket/b.png",
    ]
    assert (draft["model"], draft["output_format"], draft["input_prompt"]) == (
        "fast",
        "Custom",
        "A lighthouse\nat dawn",
    )


def test_format_options_every_format_has_label_and_shape() -> None:
    assert [option.name for option in FORMAT_OPTIONS] == list(FORMATS)
    assert all(option.platform and option.kind for option in FORMAT_OPTIONS)
    ratios = {option.name: option.ratio for option in FORMAT_OPTIONS}
    assert (ratios["TikTok_9x16"], ratios["PinterestPin_2x3"], ratios["FacebookPost"]) == (
        "9:16",
        "2:3",
        "1.90:1",
    )
    assert all(max(option.drawing) == 30 for option in FORMAT_OPTIONS)


# Prices


async def test_submit_changed_price_is_refused_and_new_price_shown(
    make_client: Make, client: Caller
) -> None:
    await client.test_app.grant(USER, 1000, "payg")
    page = await Browser(client.app).open("/studio")
    expensive = Browser((await make_client(price_samples=75)).app)
    fresh = await expensive.open("/studio")
    form = fresh.form("/studio/requests")
    form.fields["quote_id"] = page.form("/studio/requests").fields["quote_id"]
    refused = await expensive.submit(form, input_prompt="A lighthouse", output_format="XPost")
    assert refused.status == httpx.codes.CONFLICT
    assert "The price has changed or expired" in refused.text
    assert "Make four samples 0.75 credits" in refused.text
    assert refused.form("/studio/requests").fields["input_prompt"] == "A lighthouse"
    assert await client.test_app.balance(USER) == 1000
    accepted = await expensive.submit(refused.form("/studio/requests"))
    assert "0.75 credits reserved" in accepted.text


async def test_quote_changed_fields_updates_price(studio: Browser) -> None:
    page = await studio.open("/studio")
    form = page.form("/studio/requests")
    form.action = "/studio/quote"
    part = await studio.submit(form, headers={"X-Part": "price"}, model="advanced")
    assert "Four samples 1.25 credits" in part.text
    assert "<html" not in part.response.text
    whole = await studio.submit(form, model="advanced", input_prompt="half a thou")
    assert whole.form("/studio/requests").fields["input_prompt"] == "half a thou"
    invalid = await studio.submit(form, output_format="Custom", width="9", height="many")
    assert "This must be at least 64." in invalid.text
    assert "Make four samples" not in invalid.text


async def test_submit_twice_charges_once_and_changed_prompt_charges_again(
    studio: Browser, client: Caller
) -> None:
    form = (await studio.open("/studio")).form("/studio/requests")
    brief = {"input_prompt": "A lighthouse", "output_format": "XPost"}
    first, second = await studio.submit(form, **brief), await studio.submit(form, **brief)
    assert get_request_id(first) == get_request_id(second)
    other = await studio.submit(form, **brief | {"input_prompt": "A harbour"})
    assert get_request_id(other) != get_request_id(first)
    assert await client.test_app.balance(USER) == 950


async def test_free_plan_shows_quota_watermark_and_locked_sizes(client: Caller) -> None:
    browser = Browser(client.app)
    page = await browser.open("/studio")
    assert "Make four samples 1 free generation" in page.text
    assert "watermark" in page.text
    assert "100 free left" in page.text
    assert "Advanced" not in page.text
    shown = await reach_selection(browser, client)
    assert "99 free left" in shown.text
    assert f"2K 2048 {TIMES} 1152 Pro plan required" in shown.text
    assert "1 of this month's free generations used." in shown.text


# Refused briefs


async def test_submit_invalid_fields_shows_errors_and_keeps_input(studio: Browser) -> None:
    refused = await submit_brief(
        studio,
        input_prompt="  ",
        output_format="Custom",
        width="9",
        height="",
        color_scheme="#12",
        style_guidance="x",
        uploaded_image_references="not a reference",
    )
    assert refused.status == httpx.codes.UNPROCESSABLE_ENTITY
    errors = dict(
        re.findall(r'<p class="field-error" id="(\w+)-error">([^<]+)', refused.response.text)
    )
    assert set(errors) == {
        "input_prompt",
        "width",
        "height",
        "color_scheme",
        "uploaded_image_references",
    }
    assert refused.form("/studio/requests").fields["style_guidance"] == "x"


async def test_submit_without_credits_or_with_rejected_prompt_keeps_form(
    make_client: Make, client: Caller
) -> None:
    caller = await make_client(web_top_up_url="https://shop.example/credits")
    await caller.test_app.grant(USER, 10, "payg")
    browser = Browser(caller.app)
    refused = await submit_brief(browser)
    assert refused.status == httpx.codes.PAYMENT_REQUIRED
    assert "This costs 0.25 credits and the account does not have them" in refused.text
    assert "https://shop.example/credits" in refused.links
    assert refused.form("/studio/requests").fields["input_prompt"] == "A lighthouse at dawn"
    await caller.test_app.grant(USER, 100, "payg")
    rejected = await submit_brief(browser, input_prompt="a naked child")
    assert rejected.status == httpx.codes.UNPROCESSABLE_ENTITY
    assert "Change the words and try again; nothing was charged" in rejected.text
    assert await client.test_app.balance(USER) == 110


# Untrusted content


async def test_pages_user_text_is_escaped(studio: Browser, client: Caller) -> None:
    page = await reach_selection(
        studio,
        client,
        input_prompt=NASTY,
        style_guidance=NASTY,
        emotional_tone="<b onclick=x>",
        region=NASTY[:150],
    )
    history = await studio.open("/studio/history")
    again = await studio.open("/studio", params={"from": get_request_id(page), "prompt": NASTY})
    from_link = await studio.open("/studio", params={"prompt": NASTY})
    switched = await studio.submit(page.form("/sign-in/user"), user_id='"><script>x</script>')
    for each in (page, history, again, from_link, switched):
        assert each.status == httpx.codes.OK
        assert "<script>" not in each.response.text
        assert "<img src=x" not in each.response.text
        assert each.inline == []
    assert again.form("/studio/requests").fields["input_prompt"] == NASTY


async def test_request_image_at_forbidden_address_is_named_and_not_loaded(
    studio: Browser, client: Caller
) -> None:
    page = await submit_brief(studio)
    job = await client.test_app.next_job()
    addresses = [
        "http://inside.example/a.png",
        "s3://bucket/b.png",
        "https://cdn.example/c.png",
        f"{client.test_app.service.public_url}/assets/{'0' * 32}.png",
    ]
    samples = [
        Asset(asset_id=str(index), url=url, resolution="512x288", format="png", index=index)
        for index, url in enumerate(addresses)
    ]
    await client.test_app.deliver(job, samples)
    page = await studio.open(f"/studio/requests/{get_request_id(page)}")
    assert page.images == ["https://cdn.example/c.png", f"/assets/{'0' * 32}.png"]
    assert "http://inside.example/a.png" in page.text


# Actions


async def test_regenerate_changed_prompt_charges_another_round_once(
    studio: Browser, client: Caller
) -> None:
    page = await reach_selection(studio, client)
    assert "Four new samples 0.25 credits" in page.text
    form = next(form for form in page.forms if "updated_prompt" in form.fields)
    shown = await studio.submit(form, updated_prompt="A lighthouse at night")
    again = await studio.submit(form, updated_prompt="A lighthouse at night")
    assert shown.status == again.status == httpx.codes.OK
    job = await client.test_app.next_job()
    assert (job.round, job.brief["input_prompt"]) == (2, "A lighthouse at night")
    assert await client.test_app.balance(USER) == 950


async def test_cancel_queued_request_returns_credits(studio: Browser, client: Caller) -> None:
    page = await submit_brief(studio)
    ended = await studio.submit(page.form("/cancel"))
    assert "Request cancelled" in ended.text
    assert "0.25 credits returned." in ended.text
    assert "Nothing was charged." in ended.text
    again = await studio.submit(page.form("/cancel"))
    assert (again.status, "Request cancelled" in again.text) == (200, True)
    await client.test_app.drain()
    assert await client.test_app.balance(USER) == 1000


# Concurrent windows


async def test_select_in_second_window_is_refused_after_first(
    studio: Browser, client: Caller
) -> None:
    one = await reach_selection(studio, client)
    other = await studio.open(f"/studio/requests/{get_request_id(one)}")
    await select_sample(studio, one, 0)
    late = await select_sample(studio, other, 1)
    assert late.status in {409, 412}
    assert "The request has changed" in late.text or "Already selected" in late.text
    assert "Waiting in the queue" in late.text
    same = await select_sample(studio, one, 0)
    assert same.status == httpx.codes.OK
    assert await client.test_app.balance(USER) == 875


async def test_action_from_outdated_page_is_refused(studio: Browser, client: Caller) -> None:
    old = await reach_selection(studio, client)
    await studio.submit(old.form("/regenerate-samples"))
    await client.test_app.deliver(await client.test_app.next_job())
    form = next(form for form in old.forms if "updated_prompt" in form.fields)
    stale = await studio.submit(form, updated_prompt="another prompt from the outdated page")
    assert (stale.status, "The request has changed" in stale.text) == (412, True)
    assert (await select_sample(studio, old)).status == httpx.codes.PRECONDITION_FAILED
    forged = await select_sample(studio, old, version="x")
    assert forged.status == httpx.codes.PRECONDITION_FAILED
    assert await client.test_app.balance(USER) == 950


async def test_action_not_allowed_in_state_shows_current_state(
    studio: Browser, client: Caller
) -> None:
    page = await reach_selection(studio, client)
    retry = next(form for form in page.forms if form.action.endswith("/cancel"))
    retry.action = retry.action.replace("/cancel", "/retry")
    refused = await studio.submit(retry)
    assert (refused.status, "No longer possible" in refused.text) == (409, True)
    assert "Select a sample" in refused.text


# Final states


async def fail_request(client: Caller, browser: Browser, code: str) -> Page:
    page = await submit_brief(browser)
    for _ in range(5):
        job = await client.test_app.next_job()
        request = await client.test_app.fail(job, code)
        if request.terminal:
            break
        client.test_app.clock.advance(minutes=5)
    return await browser.open(f"/studio/requests/{get_request_id(page)}")


async def test_failed_request_is_free_and_can_be_retried(studio: Browser, client: Caller) -> None:
    page = await fail_request(client, studio, "provider_error")
    assert "This request failed" in page.text
    assert "The AI provider had a problem" in page.text
    assert "0.25 credits returned. Nothing was charged." in page.text
    assert "Try again 0.25 credits" in page.text
    form = page.form("/retry")
    first, second = await studio.submit(form), await studio.submit(form)
    assert get_request_id(first) == get_request_id(second) != get_request_id(page)
    assert f"/studio/requests/{get_request_id(page)}" in first.links
    changed = next(form for form in page.forms if "updated_prompt" in form.fields)
    other = await studio.submit(changed, updated_prompt="A harbour")
    assert (await client.look(get_request_id(other)))["brief"]["input_prompt"] == "A harbour"
    assert (await client.look(get_request_id(other)))["retry_of"] == get_request_id(page)


async def test_rejected_prompt_must_be_changed_and_shows_charge(
    studio: Browser, client: Caller
) -> None:
    page = await fail_request(client, studio, "prompt_rejected")
    assert "Your prompt was not accepted" in page.text
    assert "0.25 credits charged." in page.text
    form = next(form for form in page.forms if "updated_prompt" in form.fields)
    same = await studio.submit(form)
    assert (same.status, "The prompt was rejected as it is" in same.text) == (422, True)
    assert get_request_id(await studio.submit(form, updated_prompt="A harbour")) != get_request_id(
        page
    )


async def test_expired_request_can_be_retried(studio: Browser, client: Caller) -> None:
    page = await reach_selection(studio, client)
    client.test_app.clock.advance(days=31)
    await client.test_app.sweep()
    page = await studio.open(f"/studio/requests/{get_request_id(page)}")
    assert "Request expired" in page.text
    assert page.form("/retry")


async def test_partial_samples_show_failed_slots(studio: Browser, client: Caller) -> None:
    page = await submit_brief(studio)
    job = await client.test_app.next_job()
    good = [Asset(asset_id="a", url="https://s/a.png", resolution="512x288", format="png", index=1)]
    failures = [
        {"index": index, "error_code": "provider_error", "message": ""} for index in (0, 2, 3)
    ]
    await client.test_app.deliver(job, good, failures)
    page = await studio.open(f"/studio/requests/{get_request_id(page)}")
    assert len(re.findall(r"Sample \d failed", page.text)) == 3
    assert page.form("/select-sample").fields["sample"] == "a"


async def test_submit_prompt_for_review_shows_review_state(studio: Browser, client: Caller) -> None:
    page = await submit_brief(studio, input_prompt=FOR_REVIEW)
    assert "Your prompt is being reviewed" in page.text
    assert (await client.look(get_request_id(page)))["status"] == State.VALIDATING_CREDITS
    assert "Request cancelled" in (await studio.submit(page.form("/cancel"))).text


# History and access


async def test_history_many_requests_are_paginated_newest_first(
    studio: Browser, client: Caller
) -> None:
    empty = await studio.open("/studio/history")
    assert "No images yet" in empty.text
    for number in range(26):
        await client.test_app.submit(USER, input_prompt=f"wish {number:02}")
    await client.test_app.submit("other", input_prompt="not mine")
    first = await studio.open("/studio/history")
    seen = re.findall(r"wish \d\d", first.text)
    older = await studio.open(next(link for link in first.links if "cursor=" in link))
    seen += re.findall(r"wish \d\d", older.text)
    assert seen == [f"wish {number:02}" for number in reversed(range(26))]
    assert "not mine" not in first.text + older.text
    assert "No images here" in (await studio.open("/studio/history?show=ready")).text
    assert "wish 25" in (await studio.open("/studio/history?show=working")).text
    assert (
        await studio.open("/studio/history?cursor=!!")
    ).status == httpx.codes.UNPROCESSABLE_ENTITY


async def test_request_of_other_user_returns_not_found(studio: Browser, client: Caller) -> None:
    theirs = (await client.test_app.submitted("other")).id
    form = (await submit_brief(studio)).form("/cancel")
    for path in (
        f"/studio/requests/{theirs}",
        f"/studio/requests/{NOBODY}",
        f"/studio?from={theirs}",
        f"/studio/requests/{theirs}/stream",
        "/studio/requests/nonsense",
    ):
        missing = await studio.open(path)
        assert missing.status in {404, 422}, path
        assert missing.response.headers["content-type"].startswith("text/html")
    form.action = f"/studio/requests/{theirs}/cancel"
    assert (await studio.submit(form)).status == httpx.codes.NOT_FOUND


async def test_submit_page_of_previous_user_is_refused_after_switch(
    studio: Browser, client: Caller
) -> None:
    old = await studio.open("/studio")
    await client.test_app.grant("other", 1000, "payg")
    fresh = await studio.submit(old.form("/sign-in/user"), user_id="other")
    refused = await studio.submit(
        old.form("/studio/requests"), input_prompt="A lighthouse", output_format="XPost"
    )
    assert refused.status == httpx.codes.FORBIDDEN
    form = fresh.form("/studio/requests")
    form.fields["quote_id"] = old.form("/studio/requests").fields["quote_id"]
    expired = await studio.submit(form, input_prompt="A lighthouse", output_format="XPost")
    assert (expired.status, "The price has changed or expired" in expired.text) == (409, True)
    assert await client.test_app.balance("other") == 1000


async def test_request_queued_or_retried_shows_position_and_attempt(
    studio: Browser, client: Caller
) -> None:
    for number in range(3):
        await client.test_app.submit(f"early-{number}")
    page = await submit_brief(studio)
    assert "3 jobs are ahead of yours" in page.text
    for _ in range(4):
        job = await client.test_app.next_job()
    await client.test_app.fail(job, "provider_error")
    page = await studio.open(f"/studio/requests/{get_request_id(page)}")
    assert "Trying again" in page.text
    assert "0.25 credits reserved" in page.text


async def test_brief_form_with_optional_fields_opens_section(studio: Browser) -> None:
    assert '<details class="card more">' in (await studio.open("/studio")).response.text
    for path in ("/studio?emotional_tone=calm", "/studio?model=fast"):
        assert '<details class="card more" open>' in (await studio.open(path)).response.text
    refused = await submit_brief(
        studio,
        input_prompt="x" * 4000,
        style_guidance="\u20ac" * 2000,
        region="\u20ac" * 200,
        uploaded_image_references="\n".join(f"https://s/{'x' * 900}{n}" for n in range(10)),
    )
    assert "All fields together may have" in refused.text


# Event streams


async def test_stream_changed_request_signals_without_content(
    studio: Browser, client: Caller
) -> None:
    page = await submit_brief(studio)
    await studio.submit(page.form("/cancel"))
    path = f"/studio/requests/{get_request_id(page)}/stream"
    behind = await studio.get(path, params={"seen": "1"})
    assert behind.headers["content-type"].startswith("text/event-stream")
    assert re.findall(r"^(?:id|event|data): .+$", behind.text, re.MULTILINE) == [
        "id: 3",
        "event: changed",
        "data: 3",
        "event: ended",
        "data: -",
    ]
    assert "event: changed" not in (await studio.get(path, params={"seen": "3"})).text
    assert "event: changed" not in (await studio.get(path, headers={"Last-Event-ID": "3"})).text


async def test_stream_expired_session_ends(
    studio: Browser, client: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = await submit_brief(studio)
    monkeypatch.setattr(live_updates, "HEARTBEAT_SECONDS", 0.05)
    ends = time.monotonic() + 0.4
    later = timedelta(hours=9)
    sessions = client.app.state.web_services.sessions
    monkeypatch.setattr(
        sessions,
        "_now",
        lambda: client.test_app.clock() + (later if time.monotonic() > ends else timedelta()),
    )
    stream = await studio.get(f"/studio/requests/{get_request_id(page)}/stream")
    assert "still here" in stream.text
    assert "event: ended" not in stream.text


# References


def encode_image(kind: str = "PNG", size: tuple[int, int] = (300, 200), **more: Any) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, "teal").save(out, kind, **more)
    return out.getvalue()


async def test_upload_large_photo_is_scaled_and_stripped_of_exif(
    studio: Browser, client: Caller
) -> None:
    csrf = (await studio.open("/studio")).form("/studio/requests").fields["csrf"]
    headers = {"X-CSRF-Token": csrf, "Origin": ORIGIN, "Content-Type": "image/jpeg"}
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"
    sent = encode_image("JPEG", (3000, 1500), exif=exif)
    response = await studio.post("/studio/references", content=sent, headers=headers)
    assert response.status_code == httpx.codes.CREATED, response.text
    stored = await studio.get(response.json()["picture"])
    with Image.open(io.BytesIO(stored.content)) as image:
        assert (image.size, dict(image.getexif())) == ((1024, 2048), {})
    shown = await submit_brief(studio, uploaded_image_references=response.json()["reference"])
    assert response.json()["picture"] in shown.images
    job: GenerationRequest = await client.test_app.next_job()
    assert job.brief["uploaded_image_references"] == [response.json()["reference"]]


async def test_upload_invalid_or_forged_is_rejected(make_client: Make) -> None:
    browser = Browser((await make_client(web_upload_bytes=20_000)).app)
    csrf = (await browser.open("/studio")).form("/studio/requests").fields["csrf"]

    async def upload(content: bytes, **headers: str) -> int:
        all_headers = {
            "X-CSRF-Token": csrf,
            "Origin": ORIGIN,
            "Content-Type": "image/png",
        } | headers
        return (
            await browser.post("/studio/references", content=content, headers=all_headers)
        ).status_code

    assert await upload(encode_image()) == httpx.codes.CREATED
    assert await upload(b"<svg onload=alert(1)>") == httpx.codes.UNPROCESSABLE_ENTITY
    assert await upload(encode_image("GIF")) == httpx.codes.UNPROCESSABLE_ENTITY
    assert await upload(encode_image()[:-40]) == httpx.codes.UNPROCESSABLE_ENTITY
    assert await upload(encode_image(size=(20, 20))) == httpx.codes.UNPROCESSABLE_ENTITY
    assert await upload(b"x" * 20_001) == httpx.codes.REQUEST_ENTITY_TOO_LARGE
    assert (
        await upload(encode_image(), **{"Content-Type": "text/html"})
        == httpx.codes.UNSUPPORTED_MEDIA_TYPE
    )
    assert await upload(encode_image(), **{"X-CSRF-Token": "forged"}) == httpx.codes.FORBIDDEN
