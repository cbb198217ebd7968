"""What an operator does at the console: each button does what the API does, only when it can, and
says who did it.
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest

from creativeflow.services.aigeneration.web.sessions import Session
from tests.e2e.journey import NOBODY, OPERATIONS, REQUESTS, Caller, Footprint
from tests.support.html_client import Browser, Page, PageForm
from tests.support.webhook_receiver import LOOPBACK, Receiver

OPERATOR_KEY = "the-key-of-the-operator"
FOR_REVIEW = "a nude statue of an otter"
Make = Callable[..., Awaitable[Caller]]


class Desk(Browser):
    """An operator called `duty` at the console, beside a service that is served."""

    def __init__(self, caller: Caller) -> None:
        super().__init__(caller.app)
        self.caller, self.world = caller, caller.world
        state = caller.app.state
        self.session: Session = state.sessions.of_key(state.gate.key(OPERATOR_KEY), "user")
        self.cookies.set(state.sessions.cookie, state.sessions.seal(self.session))
        caller.headers["X-Internal-API-Key"] = OPERATOR_KEY

    async def see(self, path: str) -> Page:
        """A page as it is now."""
        self.caller.app.state.overview.forget()
        page = await self.open(path)
        assert page.status == httpx.codes.OK, page.text
        return page

    async def look(self, request_id: object) -> Page:
        """One request's page."""
        return await self.see(f"/console/requests/{request_id}")

    async def who_did(self, request_id: object, event: str) -> dict[str, Any]:
        """The data of the newest line of this kind in the timeline."""
        events = (await self.caller.get(f"{REQUESTS}/{request_id}/events")).json()["items"]
        found: dict[str, Any] = [entry for entry in events if entry["event"] == event][-1]["data"]
        return found


@pytest.fixture
async def desk(make_client: Make) -> Desk:
    """The desk; `user` pays for each thing and has 20 credits."""
    caller = await make_client(
        api_keys=f"duty:operator:{OPERATOR_KEY}", webhook_allowed_networks=LOOPBACK[0]
    )
    await caller.world.grant("user", 2000, "payg")
    return Desk(caller)


def deeds(page: Page) -> list[str]:
    """What can be done on a page, as the last part of each form's address."""
    return [name for name in page.actions if name not in {"user", "sign-out"}]


# Requests


async def test_a_button_stands_there_only_while_the_state_allows_it(desk: Desk) -> None:
    waiting = await desk.world.submitted()
    assert deeds(await desk.look(waiting.id)) == ["cancel", "fail"]
    shown = await desk.world.deliver(await desk.world.next_job())
    assert deeds(await desk.look(shown.id)) == ["cancel", "fail"]
    await desk.world.select(shown)
    await desk.world.deliver(await desk.world.next_job())
    assert deeds(await desk.look(shown.id)) == []
    failed = await desk.world.submitted()
    await desk.world.fail(await desk.world.next_job(), "invalid_input")
    assert deeds(await desk.look(failed.id)) == ["retry"]
    rejected = await desk.world.submitted()
    await desk.world.fail(await desk.world.next_job(), "prompt_rejected")
    assert deeds(await desk.look(rejected.id)) == []  # the same words would be refused again
    review = await desk.world.submitted(input_prompt=FOR_REVIEW)
    assert deeds(await desk.look(review.id)) == ["review", "review", "cancel", "fail"]
    await desk.world.cancel(review)


async def test_ending_a_request_says_what_it_does_to_the_money_and_does_it(desk: Desk) -> None:
    shown = await desk.world.with_samples()
    await desk.world.select(shown)
    page = await desk.look(shown.id)
    assert (
        "1.00 credit that are set aside go back to the user. 0.25 credits stay charged" in page.text
    )
    after = await desk.submit(page.form("/fail"), reason="the provider burnt down")
    assert str(after.answer.url).endswith(f"/console/requests/{shown.id}?done=failed")
    assert "It is ended, and the user is told." in after.text
    assert "duty ended it: the provider burnt down Failed" in after.text
    assert (await desk.who_did(shown.id, "operator_failed"))["by"] == "duty"
    await desk.world.drain()
    assert await desk.world.balance() == 1975
    assert desk.world.notifier.types()[-1] == "generation_failed"


async def test_ending_needs_a_reason(desk: Desk) -> None:
    waiting = await desk.world.submitted()
    refused = await desk.submit((await desk.look(waiting.id)).form("/fail"), reason=" ")
    assert refused.status == 422
    assert "Something does not fit yet" in refused.text
    assert deeds(refused) == ["cancel", "fail"]
    await desk.world.cancel(waiting)


async def test_cancelling_gives_back_and_says_who_did_it(desk: Desk) -> None:
    waiting = await desk.world.submitted()
    after = await desk.submit((await desk.look(waiting.id)).form("/cancel"))
    assert "It is cancelled." in after.text
    assert "duty cancelled it" in after.text
    await desk.world.drain()
    assert await desk.world.balance() == 2000


async def test_a_form_that_comes_too_late_shows_how_things_stand(desk: Desk) -> None:
    waiting = await desk.world.submitted()
    page = await desk.look(waiting.id)
    await desk.world.cancel(waiting)
    for form, status in (("/cancel", 409), ("/fail", 409)):
        late = await desk.submit(page.form(form), reason="why")
        assert late.status == status
        assert "Here is how things stand now." in late.text
        assert deeds(late) == ["retry"]


async def test_a_retry_is_a_new_request_that_its_user_pays_once(desk: Desk) -> None:
    failed = await desk.world.submitted()
    await desk.world.fail(await desk.world.next_job(), "invalid_input")
    page = await desk.look(failed.id)
    assert "who pays for it: 0.25 credits for the samples" in page.text
    first = await desk.submit(page.form("/retry"))
    again = await desk.submit(page.form("/retry"))
    assert "This is the new request." in first.text
    assert first.answer.url.path == again.answer.url.path != f"/console/requests/{failed.id}"
    new = await desk.caller.look(first.answer.url.path.rpartition("/")[2])
    assert (new["retry_of"], new["user_id"], new["cost"]["held"]) == (
        str(failed.id),
        "user",
        "0.25",
    )
    assert (await desk.who_did(new["id"], "submitted"))["by"] == "duty"
    await desk.caller.act(new["id"], "cancel")


@pytest.mark.parametrize(
    ("decision", "state", "said"),
    [
        ("accept", "PENDING", "The words are accepted"),
        ("reject", "CONTENT_REJECTED", "The words are rejected"),
    ],
)
async def test_words_are_reviewed_where_they_are_shown(
    desk: Desk, decision: str, state: str, said: str
) -> None:
    waiting = await desk.world.submitted(input_prompt=FOR_REVIEW)
    page = await desk.see("/console/attention")
    assert FOR_REVIEW in page.text
    assert FOR_REVIEW not in (await desk.see("/console/requests")).text
    (form,) = (form for form in page.forms if form.fields.get("decision") == decision)
    after = await desk.submit(form)
    assert said in after.text
    assert "Nothing needs you" in after.text
    assert after.answer.url.path == "/console/attention"
    assert (await desk.caller.look(waiting.id))["status"] == state
    event = "credits_asked" if decision == "accept" else "review_rejected"
    assert (await desk.who_did(waiting.id, event))["by"] == "duty"
    late = await desk.submit(form)
    assert late.status == 409
    assert "Somebody was faster" in late.text
    if decision == "accept":
        await desk.caller.act(waiting.id, "cancel")


# Messages


async def parked(desk: Desk) -> str:
    """A request whose notification the notifier refused."""
    shown = await desk.world.with_samples()
    desk.world.notifier.faults.append("refused")
    await desk.world.drain()
    return str(shown.id)


@pytest.mark.parametrize("where", ["/console/attention", "request"])
async def test_a_parked_message_is_explained_and_replayed_where_it_is_seen(
    desk: Desk, where: str
) -> None:
    request_id = await parked(desk)
    path = f"/console/requests/{request_id}" if where == "request" else where
    page = await desk.see(path)
    assert "The notification service did not take “samples_ready” for user." in page.text
    assert "Parked: simulated" in page.text
    assert "The user is never told. No money moves." in page.text
    after = await desk.submit(page.form("/replay"))
    assert after.answer.url.path == path
    assert "The message is due now and will be tried at once." in after.text
    late = await desk.submit(page.form("/replay"))
    assert (late.status, "Somebody was faster" in late.text) == (409, True)
    await desk.world.drain()
    assert desk.world.notifier.types() == ["samples_ready"]
    assert (await desk.who_did(request_id, "message_replayed"))["by"] == "duty"
    assert "duty replays the parked message notification.send" in (await desk.look(request_id)).text


async def test_a_parked_message_can_be_given_up(desk: Desk) -> None:
    request_id = await parked(desk)
    after = await desk.submit((await desk.see("/console/attention")).form("/drop"))
    assert "The message is given up for good." in after.text
    assert "Nothing needs you" in after.text
    assert (await desk.who_did(request_id, "message_dropped"))["by"] == "duty"
    await desk.world.drain()
    assert desk.world.notifier.types() == []


async def test_a_parked_capture_says_whose_money_it_is(desk: Desk) -> None:
    await desk.world.with_samples()
    await desk.world.database.execute(
        "UPDATE outbox SET parked_reason = 'refused there' WHERE topic = 'credits.capture'"
    )
    page = await desk.see("/console/attention")
    assert (
        "The credit service could not be made to charge 0.25 credits for what user got."
        in page.text
    )
    assert "user is charged 0.25 credits, once, however often it is tried." in page.text
    assert "The user is not charged, and keeps what was delivered." in page.text
    await desk.submit(page.form("/replay"))


# Money


@pytest.mark.parametrize(("charged", "state"), [("yes", "PENDING"), ("no", "PENDING")])
async def test_a_hold_in_doubt_is_decided_and_the_account_cleared(
    desk: Desk, charged: str, state: str
) -> None:
    desk.world.credits.faults.extend(["conflict", "conflict"])
    request_id = (await desk.caller.create()).json()["id"]
    desk.world.clock.advance(minutes=1)
    await desk.world.sweep()
    page = await desk.see("/console/attention")
    assert f"0.25 credits of user {request_id}:samples:1:1" in page.text
    assert "Flagged accounts" in page.text
    (form,) = (form for form in page.forms if form.fields.get("charged") == charged)
    after = await desk.submit(form)
    assert "The hold is decided" in after.text
    assert (await desk.caller.look(request_id))["status"] == state
    decided = await desk.who_did(request_id, "hold_decided")
    assert (decided["by"], decided["charged"]) == ("duty", charged == "yes")
    account = await desk.see("/console/accounts/user")
    assert "Restricted: hold undecided" in account.text
    assert (await desk.submit(account.form("/clear"), note="")).status == 422
    cleared = await desk.submit(account.form("/clear"), note="settled by phone")
    assert "The restriction is lifted." in cleared.text
    row = await desk.world.database.fetchrow("SELECT cleared_by, note FROM account_flags")
    assert tuple(row or ()) == ("duty", "settled by phone")
    assert "clear" not in deeds(cleared)
    await desk.caller.act(request_id, "cancel")


async def test_credits_are_granted_once_for_each_form(desk: Desk) -> None:
    page = await desk.see("/console/accounts/user")
    for _ in range(2):
        after = await desk.submit(page.form("/grant"), amount="5.50", reason="goodwill", plan="pro")
        assert "The credits are booked." in after.text
    assert await desk.world.balance() == 2550
    statement = await desk.see("/console/accounts/user")
    assert "grant 5.50 goodwill (plan pro) · by duty" in statement.text
    assert "Plan Pro" in statement.text
    for amount in ("", "many", "-99", "1.234"):
        refused = await desk.submit(statement.form("/grant"), amount=amount)
        assert refused.status == 422, amount
        assert "Something does not fit yet" in refused.text
    assert await desk.world.balance() == 2550


async def test_an_account_shows_statement_holds_usage_and_requests(desk: Desk) -> None:
    await desk.caller.completed()
    waiting = await desk.world.submitted()
    page = await desk.see("/console/accounts/user")
    assert "Balance 18.50 credits" in page.text
    assert "Set aside 0.25 credits" in page.text
    assert "sample generation 1 0.25 credits" in page.text
    assert "standard generation 1 1.00 credits" in page.text
    assert f"/console/requests/{waiting.id}" in page.links
    led = await desk.open("/console/accounts", params={"user": "user"})
    assert led.answer.url.path == "/console/accounts/user"
    await desk.world.cancel(waiting)


async def test_a_statement_has_pages(desk: Desk) -> None:
    for _ in range(30):
        await desk.world.grant("rich", 100)
    first = await desk.see("/console/accounts/rich")
    (older,) = (link for link in first.links if "page=2" in link)
    second = await desk.see(older)
    assert (first.text.count(" grant "), second.text.count(" grant ")) == (25, 5)
    assert (await desk.open("/console/accounts/rich?page=0")).status == 422


async def test_odd_user_ids_have_an_account_as_well(desk: Desk) -> None:
    for user in ("a/b/c", "10%?#&", "Zoë & co"):
        await desk.world.grant(user, 100)
        page = await desk.open("/console/accounts", params={"user": user})
        assert (page.status, user in page.text) == (200, True)
        after = await desk.submit(page.form("/grant"), amount="1")
        assert "Balance 2.00 credits" in after.text
        await desk.world.submitted(user)
        queue = await desk.see("/console/queue")
        (link,) = (link for link in queue.links if link.startswith("/console/accounts/"))
        assert "Balance 2.00 credits" in (await desk.see(link)).text
        await desk.world.cancel(await desk.world.next_job())


async def test_the_books_are_compared_and_mended_when_told_so(desk: Desk) -> None:
    shown = await desk.world.with_samples()
    await desk.world.database.execute(
        "DELETE FROM outbox WHERE topic = 'credits.capture'"
    )  # it is never told
    await desk.world.database.execute("UPDATE holds SET settled_at = $1", desk.world.clock())
    desk.world.clock.advance(minutes=5)
    page = await desk.see("/console/accounts")
    compare, apply = (form for form in page.forms if form.action.endswith("/reconcile"))
    found = await desk.submit(compare, hours="1")
    assert "1 difference" in found.text
    assert f"capture missing {shown.id}:samples:1:1 user 0.25 captured held captures" in found.text
    assert (
        await desk.world.database.fetchval(
            "SELECT count(*) FROM outbox WHERE topic = 'credits.capture'"
        )
        == 0
    )
    mended = await desk.submit(apply, hours="1")
    assert "by duty: 1 holds compared, 1 posted" in mended.text
    assert (await desk.who_did(shown.id, "compensation_posted"))["by"] == "duty"
    await desk.world.drain()
    again = await desk.submit(compare, hours="1")
    assert "No difference" in again.text
    for hours in ("", "0", "soon", "99999"):
        assert (await desk.submit(compare, hours=hours)).status == 422


async def test_while_the_credit_service_is_away_the_account_is_still_shown(desk: Desk) -> None:
    await desk.world.service.flags.raise_("user", "charge_failed", desk.world.clock())
    desk.world.credits.faults.append("entitlements")
    page = await desk.see("/console/accounts/user")
    assert "The credit service does not answer" in page.text
    assert "Restricted: charge failed" in page.text
    await desk.submit(page.form("/clear"), note="mended")


# Webhooks


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """A caller's receiver."""
    async with Receiver() as made:
        yield made


async def test_a_webhook_is_sent_again_and_that_stands_in_the_timeline(
    desk: Desk, receiver: Receiver
) -> None:
    endpoint = await desk.caller.post("/api/v1/webhook-endpoints", json={"url": receiver.url})
    assert endpoint.status_code == 201, endpoint.text
    shown = await desk.caller.with_samples()
    await desk.world.drain()
    page = await desk.look(shown["id"])
    assert f"generation.samples_ready delivered to {receiver.url}" in page.text
    after = await desk.submit(page.form("/redeliver"))
    assert "The event is sent again." in after.text
    assert "duty has generation.samples_ready sent again" in after.text
    assert (await desk.who_did(shown["id"], "webhook_redelivered"))["by"] == "duty"
    await desk.world.drain()
    assert len({call.headers["webhook-id"] for call in receiver.calls}) == 1 < len(receiver.calls)
    await desk.caller.post(f"/api/v1/webhook-endpoints/{endpoint.json()['id']}/disable")
    page = await desk.look(shown["id"])
    assert "redeliver" not in deeds(page)
    assert "disabled: its owner must enable it first" in page.text


# Forms that are not ours


async def test_no_form_is_taken_without_its_token_or_from_elsewhere(desk: Desk) -> None:
    request_id = await parked(desk)
    waiting = await desk.world.submitted()
    pages = [
        await desk.see(path)
        for path in (
            "/console/attention",
            f"/console/requests/{waiting.id}",
            f"/console/requests/{request_id}",
            "/console/accounts",
            "/console/accounts/user",
        )
    ]
    forms = {
        form.action: form
        for page in pages
        for form in page.forms
        if "/console/" in form.action and form.method == "post"
    }
    assert {re.sub(r"[0-9a-f-]{36}|\d+", "x", action) for action in forms} == {
        "/console/outbox/x/replay",
        "/console/outbox/x/drop",
        "/console/requests/x/cancel",
        "/console/requests/x/fail",
        "/console/accounts/reconcile",
        "/console/accounts/user/grant",
    }
    before = await Footprint.of(desk.world)
    said = {"reason": "why", "amount": "5", "hours": "1"}
    for form in forms.values():
        for changed, headers in (
            ({"csrf": None}, {}),
            ({"csrf": "x"}, {}),
            ({}, {"Origin": "https://evil.example"}),
        ):
            answer = await desk.submit(form, headers=headers, **said, **changed)
            assert answer.status == 403, form.action
    assert await Footprint.of(desk.world) == before
    await desk.submit(forms[f"/console/requests/{waiting.id}/cancel"])
    await desk.submit(next(form for action, form in forms.items() if action.endswith("/replay")))


async def test_after_a_deed_it_goes_on_only_within_the_console(desk: Desk) -> None:
    for back in (
        "https://evil.example",
        "//evil.example/console",
        "/studio",
        "/console/../studio/x y",
        "",
    ):
        waiting = await desk.world.submitted()
        form = (await desk.look(waiting.id)).form("/cancel")
        after = await desk.submit(form, back=back)
        assert after.answer.url.path == f"/console/requests/{waiting.id}", back


async def test_deeds_on_what_is_not_there_are_not_found(desk: Desk) -> None:
    form = (await desk.see("/console/accounts")).form("/reconcile")
    for path in (
        f"/console/requests/{NOBODY}/cancel",
        f"/console/holds/{NOBODY}:samples:1:1/decide",
    ):
        said = PageForm(path, "post", {"csrf": form.fields["csrf"], "charged": "yes"})
        assert (await desk.submit(said)).status == 404, path
    odd = PageForm(
        "/console/holds/nonsense/decide", "post", {"csrf": form.fields["csrf"], "charged": "yes"}
    )
    assert (await desk.submit(odd)).status == 422
    assert (await desk.caller.get(f"{OPERATIONS}/stuck")).json() == {"items": []}
