"""The studio as a browser without a script sees it: what is asked, shown, picked, paid, and every
way it can end.
"""

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
from creativeflow.services.aigeneration.web.studio.choices import FORMATS_SHOWN
from tests.e2e.journey import NOBODY, Caller
from tests.support.html_client import ORIGIN, Browser, Page

USER = "demo"
BY = "\u00d7"
FOR_REVIEW = "a nude statue of an otter"
NASTY = "</textarea><script>alert('x')</script>\"'><img src=x onerror=alert(1)>"
Make = Callable[..., Awaitable[Caller]]


@pytest.fixture
async def studio(client: Caller) -> Browser:
    """A browser at the studio of an open service, acting for a user of the plan that pays as it
    goes.
    """
    await client.world.grant(USER, 1000, "payg")
    return Browser(client.app)


async def asked(browser: Browser, **fields: Any) -> Page:
    """Fill the form in and send it."""
    page = await browser.open("/studio")
    said = {
        "input_prompt": "A lighthouse at dawn",
        "output_format": "YouTubeThumbnail_16x9",
    } | fields
    return await browser.submit(page.form("/studio/requests"), **said)


def id_of(page: Page) -> str:
    match = re.search(r"/studio/requests/([0-9a-f-]{36})$", str(page.answer.url))
    assert match, page.answer.url
    return match[1]


async def with_samples(browser: Browser, client: Caller, **fields: Any) -> Page:
    """A request whose samples have come, as it is shown."""
    page = await asked(browser, **fields)
    await client.world.deliver(await client.world.next_job())
    return await browser.open(f"/studio/requests/{id_of(page)}")


async def picked(browser: Browser, page: Page, number: int = 0, **fields: Any) -> Page:
    """Pick a sample on the page."""
    samples = re.findall(r'name="sample" value="([^"]+)"', page.answer.text)
    return await browser.submit(
        page.form("/select-sample"), sample=samples[number], size="", **fields
    )


# The whole way


async def test_from_the_words_to_the_final_at_the_prices_that_were_shown(
    studio: Browser, client: Caller
) -> None:
    page = await studio.open("/studio")
    assert "Four samples, now 0.25 credits" in page.text
    assert "Together 1.25 credits" in page.text
    assert "Make four samples 0.25 credits" in page.text
    shown = await asked(studio)
    assert "Waiting for its turn" in shown.text
    assert "0.25 credits set aside" in shown.text
    await client.world.deliver(await client.world.next_job())
    page = await studio.open(f"/studio/requests/{id_of(shown)}")
    assert "Pick the one you like" in page.text
    assert len(page.pictures) == 4
    assert "0.25 credits charged." in page.text
    assert f"Standard size 1280 {BY} 720 1 credit" in page.text
    assert f"4K 4096 {BY} 2304 2 credits" in page.text
    ordered = await picked(studio, page, 2, file_format="jpg")
    assert "1 credit set aside" in ordered.text
    await client.world.deliver(await client.world.next_job())
    done = await studio.open(f"/studio/requests/{id_of(shown)}")
    assert "Your picture is ready" in done.text
    assert "1.25 credits charged." in done.text
    assert "https://s/final.png" in done.links
    assert done.actions == ["user"]
    assert await client.world.balance(USER) == 875


async def test_the_whole_brief_reaches_the_worker_as_it_was_typed(
    studio: Browser, client: Caller
) -> None:
    await asked(
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
    job = await client.world.next_job()
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


def test_every_format_has_a_card_with_its_shape() -> None:
    assert [shown.name for shown in FORMATS_SHOWN] == list(FORMATS)
    assert all(shown.platform and shown.kind for shown in FORMATS_SHOWN)
    ratios = {shown.name: shown.ratio for shown in FORMATS_SHOWN}
    assert (ratios["TikTok_9x16"], ratios["PinterestPin_2x3"], ratios["FacebookPost"]) == (
        "9:16",
        "2:3",
        "1.90:1",
    )
    assert all(max(shown.drawn) == 30 for shown in FORMATS_SHOWN)


# What is shown is what is charged


async def test_a_price_that_has_changed_is_never_charged_without_being_shown(
    make_client: Make, client: Caller
) -> None:
    await client.world.grant(USER, 1000, "payg")
    page = await Browser(client.app).open("/studio")
    dearer = Browser((await make_client(price_samples=75)).app)
    fresh = await dearer.open("/studio")
    form = fresh.form("/studio/requests")
    form.fields["quote_id"] = page.form("/studio/requests").fields["quote_id"]
    refused = await dearer.submit(form, input_prompt="A lighthouse", output_format="XPost")
    assert refused.status == httpx.codes.CONFLICT
    assert "The price has changed or was too old" in refused.text
    assert "Make four samples 0.75 credits" in refused.text
    assert refused.form("/studio/requests").fields["input_prompt"] == "A lighthouse"
    assert await client.world.balance(USER) == 1000
    taken = await dearer.submit(refused.form("/studio/requests"))
    assert "0.75 credits set aside" in taken.text


async def test_the_price_follows_the_form(studio: Browser) -> None:
    page = await studio.open("/studio")
    form = page.form("/studio/requests")
    form.action = "/studio/quote"
    part = await studio.submit(form, headers={"X-Part": "price"}, model="advanced")
    assert "Four samples, now 1.25 credits" in part.text
    assert "<html" not in part.answer.text
    whole = await studio.submit(form, model="advanced", input_prompt="half a thou")
    assert whole.form("/studio/requests").fields["input_prompt"] == "half a thou"
    odd = await studio.submit(form, output_format="Custom", width="9", height="many")
    assert "This must be at least 64." in odd.text
    assert "Make four samples" not in odd.text


async def test_a_form_sent_twice_charges_once_and_changed_words_charge_again(
    studio: Browser, client: Caller
) -> None:
    form = (await studio.open("/studio")).form("/studio/requests")
    said = {"input_prompt": "A lighthouse", "output_format": "XPost"}
    first, second = await studio.submit(form, **said), await studio.submit(form, **said)
    assert id_of(first) == id_of(second)
    other = await studio.submit(form, **said | {"input_prompt": "A harbour"})
    assert id_of(other) != id_of(first)
    assert await client.world.balance(USER) == 950


async def test_the_free_plan_sees_what_is_left_and_what_it_does_not_include(client: Caller) -> None:
    browser = Browser(client.app)
    page = await browser.open("/studio")
    assert "Make four samples 1 free generation" in page.text
    assert "watermark" in page.text
    assert "100 free left" in page.text
    assert "Advanced" not in page.text
    shown = await with_samples(browser, client)
    assert "99 free left" in shown.text
    assert f"2K 2048 {BY} 1152 from the Pro plan" in shown.text
    assert "1 of this month's free generations used." in shown.text


# Refusals at the form


async def test_what_does_not_fit_is_told_at_its_field_and_nothing_typed_is_lost(
    studio: Browser,
) -> None:
    refused = await asked(
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
    told = dict(re.findall(r'<p class="fault" id="(\w+)-fault">([^<]+)', refused.answer.text))
    assert set(told) == {
        "input_prompt",
        "width",
        "height",
        "color_scheme",
        "uploaded_image_references",
    }
    assert refused.form("/studio/requests").fields["style_guidance"] == "x"


async def test_too_few_credits_and_rejected_words_are_told_where_they_can_be_mended(
    make_client: Make, client: Caller
) -> None:
    caller = await make_client(web_top_up_url="https://shop.example/credits")
    await caller.world.grant(USER, 10, "payg")
    browser = Browser(caller.app)
    refused = await asked(browser)
    assert refused.status == httpx.codes.PAYMENT_REQUIRED
    assert "This costs 0.25 credits and the account does not have them" in refused.text
    assert "https://shop.example/credits" in refused.links
    assert refused.form("/studio/requests").fields["input_prompt"] == "A lighthouse at dawn"
    await caller.world.grant(USER, 100, "payg")
    rejected = await asked(browser, input_prompt="a naked child")
    assert rejected.status == httpx.codes.UNPROCESSABLE_ENTITY
    assert "Change the words and try again; nothing was charged" in rejected.text
    assert await client.world.balance(USER) == 110


# Words of others


async def test_words_are_shown_as_words_wherever_they_stand(
    studio: Browser, client: Caller
) -> None:
    page = await with_samples(
        studio,
        client,
        input_prompt=NASTY,
        style_guidance=NASTY,
        emotional_tone="<b onclick=x>",
        region=NASTY[:150],
    )
    history = await studio.open("/studio/history")
    again = await studio.open("/studio", params={"from": id_of(page), "prompt": NASTY})
    linked = await studio.open("/studio", params={"prompt": NASTY})
    switched = await studio.submit(page.form("/sign-in/user"), user_id='"><script>x</script>')
    for seen in (page, history, again, linked, switched):
        assert seen.status == httpx.codes.OK
        assert "<script>" not in seen.answer.text
        assert "<img src=x" not in seen.answer.text
        assert seen.inline == []
    assert again.form("/studio/requests").fields["input_prompt"] == NASTY


async def test_a_picture_that_a_browser_must_not_load_is_named_and_not_loaded(
    studio: Browser, client: Caller
) -> None:
    page = await asked(studio)
    job = await client.world.next_job()
    addresses = [
        "http://inside.example/a.png",
        "s3://bucket/b.png",
        "https://cdn.example/c.png",
        f"{client.world.service.public_url}/assets/{'0' * 32}.png",
    ]
    samples = [
        Asset(asset_id=str(index), url=url, resolution="512x288", format="png", index=index)
        for index, url in enumerate(addresses)
    ]
    await client.world.deliver(job, samples)
    page = await studio.open(f"/studio/requests/{id_of(page)}")
    assert page.pictures == ["https://cdn.example/c.png", f"/assets/{'0' * 32}.png"]
    assert "http://inside.example/a.png" in page.text


# Steering


async def test_another_round_with_other_words_is_charged_again_and_shown_with_its_price(
    studio: Browser, client: Caller
) -> None:
    page = await with_samples(studio, client)
    assert "Four new samples 0.25 credits" in page.text
    form = next(form for form in page.forms if "updated_prompt" in form.fields)
    shown = await studio.submit(form, updated_prompt="A lighthouse at night")
    again = await studio.submit(form, updated_prompt="A lighthouse at night")
    assert shown.status == again.status == httpx.codes.OK
    job = await client.world.next_job()
    assert (job.round, job.brief["input_prompt"]) == (2, "A lighthouse at night")
    assert await client.world.balance(USER) == 950


async def test_cancelling_gives_back_and_says_so(studio: Browser, client: Caller) -> None:
    page = await asked(studio)
    ended = await studio.submit(page.form("/cancel"))
    assert "You cancelled this" in ended.text
    assert "0.25 credits given back." in ended.text
    assert "Nothing was charged." in ended.text
    again = await studio.submit(page.form("/cancel"))
    assert (again.status, "You cancelled this" in again.text) == (200, True)
    await client.world.drain()
    assert await client.world.balance(USER) == 1000


# Two windows


async def test_of_two_windows_the_second_is_told_that_the_first_has_picked(
    studio: Browser, client: Caller
) -> None:
    one = await with_samples(studio, client)
    other = await studio.open(f"/studio/requests/{id_of(one)}")
    await picked(studio, one, 0)
    late = await picked(studio, other, 1)
    assert late.status in {409, 412}
    assert "Something changed meanwhile" in late.text or "already picked" in late.text
    assert "Waiting for its turn" in late.text
    same = await picked(studio, one, 0)
    assert same.status == httpx.codes.OK
    assert await client.world.balance(USER) == 875


async def test_an_old_page_never_orders_a_round_or_a_final_that_nobody_sees_the_price_of(
    studio: Browser, client: Caller
) -> None:
    old = await with_samples(studio, client)
    await studio.submit(old.form("/regenerate-samples"))
    await client.world.deliver(await client.world.next_job())
    form = next(form for form in old.forms if "updated_prompt" in form.fields)
    stale = await studio.submit(form, updated_prompt="other words from the old page")
    assert (stale.status, "Something changed meanwhile" in stale.text) == (412, True)
    assert (await picked(studio, old)).status == httpx.codes.PRECONDITION_FAILED
    forged = await picked(studio, old, version="x")
    assert forged.status == httpx.codes.PRECONDITION_FAILED
    assert await client.world.balance(USER) == 950


async def test_an_action_that_is_over_is_answered_with_how_things_stand(
    studio: Browser, client: Caller
) -> None:
    page = await with_samples(studio, client)
    retry = next(form for form in page.forms if form.action.endswith("/cancel"))
    retry.action = retry.action.replace("/cancel", "/retry")
    refused = await studio.submit(retry)
    assert (refused.status, "That is not possible any more" in refused.text) == (409, True)
    assert "Pick the one you like" in refused.text


# Every end


async def ended_by(client: Caller, browser: Browser, code: str) -> Page:
    page = await asked(browser)
    for _ in range(5):
        job = await client.world.next_job()
        request = await client.world.fail(job, code)
        if request.terminal:
            break
        client.world.clock.advance(minutes=5)
    return await browser.open(f"/studio/requests/{id_of(page)}")


async def test_a_failure_costs_nothing_says_so_and_can_be_tried_again(
    studio: Browser, client: Caller
) -> None:
    page = await ended_by(client, studio, "provider_error")
    assert "This did not work out" in page.text
    assert "The AI provider had a problem" in page.text
    assert "0.25 credits given back. Nothing was charged." in page.text
    assert "Try again 0.25 credits" in page.text
    form = page.form("/retry")
    first, second = await studio.submit(form), await studio.submit(form)
    assert id_of(first) == id_of(second) != id_of(page)
    assert f"/studio/requests/{id_of(page)}" in first.links
    words = next(form for form in page.forms if "updated_prompt" in form.fields)
    other = await studio.submit(words, updated_prompt="A harbour")
    assert (await client.look(id_of(other)))["brief"]["input_prompt"] == "A harbour"
    assert (await client.look(id_of(other)))["retry_of"] == id_of(page)


async def test_rejected_words_must_be_changed_and_what_was_charged_is_said(
    studio: Browser, client: Caller
) -> None:
    page = await ended_by(client, studio, "prompt_rejected")
    assert "These words were not accepted" in page.text
    assert "0.25 credits charged." in page.text
    form = next(form for form in page.forms if "updated_prompt" in form.fields)
    same = await studio.submit(form)
    assert (same.status, "The prompt was rejected as it is" in same.text) == (422, True)
    assert id_of(await studio.submit(form, updated_prompt="A harbour")) != id_of(page)


async def test_what_expired_says_so_and_can_be_made_again(studio: Browser, client: Caller) -> None:
    page = await with_samples(studio, client)
    client.world.clock.advance(days=31)
    await client.world.sweep()
    page = await studio.open(f"/studio/requests/{id_of(page)}")
    assert "The time to pick is over" in page.text
    assert page.form("/retry")


async def test_samples_that_failed_are_told_beside_the_good_ones(
    studio: Browser, client: Caller
) -> None:
    page = await asked(studio)
    job = await client.world.next_job()
    good = [Asset(asset_id="a", url="https://s/a.png", resolution="512x288", format="png", index=1)]
    failures = [
        {"index": index, "error_code": "provider_error", "message": ""} for index in (0, 2, 3)
    ]
    await client.world.deliver(job, good, failures)
    page = await studio.open(f"/studio/requests/{id_of(page)}")
    assert page.text.count("did not work out") == 3
    assert page.form("/select-sample").fields["sample"] == "a"


async def test_words_that_a_person_looks_at_first_say_so(studio: Browser, client: Caller) -> None:
    page = await asked(studio, input_prompt=FOR_REVIEW)
    assert "A person looks at your words first" in page.text
    assert (await client.look(id_of(page)))["status"] == State.VALIDATING_CREDITS
    assert "You cancelled this" in (await studio.submit(page.form("/cancel"))).text


# History, and whose it is


async def test_history_shows_ones_own_newest_first_page_by_page(
    studio: Browser, client: Caller
) -> None:
    empty = await studio.open("/studio/history")
    assert "Nothing here yet" in empty.text
    for number in range(26):
        await client.world.submit(USER, input_prompt=f"wish {number:02}")
    await client.world.submit("other", input_prompt="not mine")
    first = await studio.open("/studio/history")
    seen = re.findall(r"wish \d\d", first.text)
    older = await studio.open(next(link for link in first.links if "cursor=" in link))
    seen += re.findall(r"wish \d\d", older.text)
    assert seen == [f"wish {number:02}" for number in reversed(range(26))]
    assert "not mine" not in first.text + older.text
    assert "Nothing here right now" in (await studio.open("/studio/history?show=ready")).text
    assert "wish 25" in (await studio.open("/studio/history?show=working")).text
    assert (
        await studio.open("/studio/history?cursor=!!")
    ).status == httpx.codes.UNPROCESSABLE_ENTITY


async def test_a_request_of_somebody_else_is_not_there(studio: Browser, client: Caller) -> None:
    theirs = (await client.world.submitted("other")).id
    form = (await asked(studio)).form("/cancel")
    for path in (
        f"/studio/requests/{theirs}",
        f"/studio/requests/{NOBODY}",
        f"/studio?from={theirs}",
        f"/studio/requests/{theirs}/stream",
        "/studio/requests/nonsense",
    ):
        answer = await studio.open(path)
        assert answer.status in {404, 422}, path
        assert answer.answer.headers["content-type"].startswith("text/html")
    form.action = f"/studio/requests/{theirs}/cancel"
    assert (await studio.submit(form)).status == httpx.codes.NOT_FOUND


async def test_after_switching_the_user_an_older_page_orders_nothing_for_the_new_one(
    studio: Browser, client: Caller
) -> None:
    old = await studio.open("/studio")
    await client.world.grant("other", 1000, "payg")
    fresh = await studio.submit(old.form("/sign-in/user"), user_id="other")
    refused = await studio.submit(
        old.form("/studio/requests"), input_prompt="A lighthouse", output_format="XPost"
    )
    assert refused.status == httpx.codes.FORBIDDEN
    form = fresh.form("/studio/requests")
    form.fields["quote_id"] = old.form("/studio/requests").fields["quote_id"]
    told = await studio.submit(form, input_prompt="A lighthouse", output_format="XPost")
    assert (told.status, "The price has changed or was too old" in told.text) == (409, True)
    assert await client.world.balance("other") == 1000


async def test_the_place_in_the_queue_is_told_and_so_is_another_try(
    studio: Browser, client: Caller
) -> None:
    for number in range(3):
        await client.world.submit(f"early-{number}")
    page = await asked(studio)
    assert "3 jobs are ahead of yours" in page.text
    for _ in range(4):
        job = await client.world.next_job()
    await client.world.fail(job, "provider_error")
    page = await studio.open(f"/studio/requests/{id_of(page)}")
    assert "Trying again" in page.text
    assert "0.25 credits set aside" in page.text


async def test_what_was_said_is_never_folded_away(studio: Browser) -> None:
    assert '<details class="card more">' in (await studio.open("/studio")).answer.text
    for path in ("/studio?emotional_tone=calm", "/studio?model=fast"):
        assert '<details class="card more" open>' in (await studio.open(path)).answer.text
    told = await asked(
        studio,
        input_prompt="x" * 4000,
        style_guidance="\u20ac" * 2000,
        region="\u20ac" * 200,
        uploaded_image_references="\n".join(f"https://s/{'x' * 900}{n}" for n in range(10)),
    )
    assert "All fields together may have" in told.text


# What pages listen to


async def test_the_stream_says_that_it_changed_and_never_what(
    studio: Browser, client: Caller
) -> None:
    page = await asked(studio)
    await studio.submit(page.form("/cancel"))
    path = f"/studio/requests/{id_of(page)}/stream"
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


async def test_the_stream_ends_with_the_session(
    studio: Browser, client: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = await asked(studio)
    monkeypatch.setattr(live_updates, "HEARTBEAT_SECONDS", 0.05)
    ends = time.monotonic() + 0.4
    later = timedelta(hours=9)
    sessions = client.app.state.sessions
    monkeypatch.setattr(
        sessions,
        "_now",
        lambda: client.world.clock() + (later if time.monotonic() > ends else timedelta()),
    )
    told = await studio.get(f"/studio/requests/{id_of(page)}/stream")
    assert "still here" in told.text
    assert "event: ended" not in told.text


# References


def a_picture(kind: str = "PNG", size: tuple[int, int] = (300, 200), **more: Any) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, "teal").save(out, kind, **more)
    return out.getvalue()


async def test_an_uploaded_picture_is_kept_small_and_without_what_the_camera_noted(
    studio: Browser, client: Caller
) -> None:
    csrf = (await studio.open("/studio")).form("/studio/requests").fields["csrf"]
    headers = {"X-CSRF-Token": csrf, "Origin": ORIGIN, "Content-Type": "image/jpeg"}
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"
    sent = a_picture("JPEG", (3000, 1500), exif=exif)
    answer = await studio.post("/studio/references", content=sent, headers=headers)
    assert answer.status_code == httpx.codes.CREATED, answer.text
    kept = await studio.get(answer.json()["picture"])
    with Image.open(io.BytesIO(kept.content)) as image:
        assert (image.size, dict(image.getexif())) == ((1024, 2048), {})
    shown = await asked(studio, uploaded_image_references=answer.json()["reference"])
    assert answer.json()["picture"] in shown.pictures
    job: GenerationRequest = await client.world.next_job()
    assert job.brief["uploaded_image_references"] == [answer.json()["reference"]]


async def test_what_is_no_picture_or_too_large_or_not_ours_is_not_kept(make_client: Make) -> None:
    browser = Browser((await make_client(web_upload_bytes=20_000)).app)
    csrf = (await browser.open("/studio")).form("/studio/requests").fields["csrf"]

    async def sent(content: bytes, **headers: str) -> int:
        told = {"X-CSRF-Token": csrf, "Origin": ORIGIN, "Content-Type": "image/png"} | headers
        return (await browser.post("/studio/references", content=content, headers=told)).status_code

    assert await sent(a_picture()) == httpx.codes.CREATED
    assert await sent(b"<svg onload=alert(1)>") == httpx.codes.UNPROCESSABLE_ENTITY
    assert await sent(a_picture("GIF")) == httpx.codes.UNPROCESSABLE_ENTITY
    assert await sent(a_picture()[:-40]) == httpx.codes.UNPROCESSABLE_ENTITY
    assert await sent(a_picture(size=(20, 20))) == httpx.codes.UNPROCESSABLE_ENTITY
    assert await sent(b"x" * 20_001) == httpx.codes.REQUEST_ENTITY_TOO_LARGE
    assert (
        await sent(a_picture(), **{"Content-Type": "text/html"})
        == httpx.codes.UNSUPPORTED_MEDIA_TYPE
    )
    assert await sent(a_picture(), **{"X-CSRF-Token": "forged"}) == httpx.codes.FORBIDDEN
