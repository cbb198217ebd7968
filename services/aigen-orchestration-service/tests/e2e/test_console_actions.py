"""Operator actions in the console: the same effects as the API, only when allowed, and audited."""

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


class OperatorBrowser(Browser):
    """The browser of the operator `duty`, with access to the service behind it."""

    def __init__(self, caller: Caller) -> None:
        super().__init__(caller.app)
        self.caller, self.test_app = caller, caller.test_app
        sessions = caller.app.state.web_services.sessions
        key = caller.app.state.services.authenticator.key(OPERATOR_KEY, "")
        self.session: Session = sessions.create_from_key(key, "user")
        self.cookies.set(sessions.cookie, sessions.seal(self.session))
        caller.headers["X-Internal-API-Key"] = OPERATOR_KEY

    async def open_fresh(self, path: str) -> Page:
        """Open a page without cached values."""
        self.caller.app.state.web_services.snapshots.invalidate()
        page = await self.open(path)
        assert page.status == httpx.codes.OK, page.text
        return page

    async def open_request(self, request_id: object) -> Page:
        """Open the page of a request."""
        return await self.open_fresh(f"/console/requests/{request_id}")

    async def last_event_data(self, request_id: object, event: str) -> dict[str, Any]:
        """Return the data of the newest event of this kind in the timeline."""
        events = (await self.caller.get(f"{REQUESTS}/{request_id}/events")).json()["items"]
        found: dict[str, Any] = [entry for entry in events if entry["event"] == event][-1]["data"]
        return found


@pytest.fixture
async def operator(make_client: Make) -> OperatorBrowser:
    """The operator's browser; `user` is on the payg plan with 20 credits."""
    caller = await make_client(
        api_keys=f"duty:operator:{OPERATOR_KEY}", webhook_allowed_networks=LOOPBACK[0]
    )
    await caller.test_app.grant("user", 2000, "payg")
    return OperatorBrowser(caller)


def list_actions(page: Page) -> list[str]:
    """Return the actions of a page: the last path segment of each form."""
    return [name for name in page.actions if name not in {"user", "sign-out"}]


# Requests


async def test_request_any_state_offers_only_allowed_actions(operator: OperatorBrowser) -> None:
    waiting = await operator.test_app.submitted()
    assert list_actions(await operator.open_request(waiting.id)) == ["cancel", "fail"]
    shown = await operator.test_app.deliver(await operator.test_app.next_job())
    assert list_actions(await operator.open_request(shown.id)) == ["cancel", "fail"]
    await operator.test_app.select(shown)
    await operator.test_app.deliver(await operator.test_app.next_job())
    assert list_actions(await operator.open_request(shown.id)) == []
    failed = await operator.test_app.submitted()
    await operator.test_app.fail(await operator.test_app.next_job(), "invalid_input")
    assert list_actions(await operator.open_request(failed.id)) == ["retry"]
    rejected = await operator.test_app.submitted()
    await operator.test_app.fail(await operator.test_app.next_job(), "prompt_rejected")
    assert (
        list_actions(await operator.open_request(rejected.id)) == []
    )  # the same prompt would be rejected again
    review = await operator.test_app.submitted(input_prompt=FOR_REVIEW)
    assert list_actions(await operator.open_request(review.id)) == [
        "review",
        "review",
        "cancel",
        "fail",
    ]
    await operator.test_app.cancel(review)


async def test_fail_open_request_releases_hold_as_announced(operator: OperatorBrowser) -> None:
    shown = await operator.test_app.with_samples()
    await operator.test_app.select(shown)
    page = await operator.open_request(shown.id)
    assert (
        "1.00 credit on hold will be released. 0.25 credits already charged for deliveries stay"
        in page.text
    )
    after = await operator.submit(page.form("/fail"), reason="the provider burnt down")
    assert str(after.response.url).endswith(f"/console/requests/{shown.id}?done=failed")
    assert "Request failed; the user is notified." in after.text
    assert "Failed by duty: the provider burnt down Failed" in after.text
    assert (await operator.last_event_data(shown.id, "operator_failed"))["by"] == "duty"
    await operator.test_app.drain()
    assert await operator.test_app.balance() == 1975
    assert operator.test_app.notifier.types()[-1] == "generation_failed"


async def test_fail_without_reason_is_refused(operator: OperatorBrowser) -> None:
    waiting = await operator.test_app.submitted()
    refused = await operator.submit(
        (await operator.open_request(waiting.id)).form("/fail"), reason=" "
    )
    assert refused.status == 422
    assert "Please check your input" in refused.text
    assert list_actions(refused) == ["cancel", "fail"]
    await operator.test_app.cancel(waiting)


async def test_cancel_open_request_releases_hold_and_is_audited(operator: OperatorBrowser) -> None:
    waiting = await operator.test_app.submitted()
    after = await operator.submit((await operator.open_request(waiting.id)).form("/cancel"))
    assert "Request cancelled." in after.text
    assert "Cancelled by duty" in after.text
    await operator.test_app.drain()
    assert await operator.test_app.balance() == 2000


async def test_action_on_ended_request_shows_current_state(operator: OperatorBrowser) -> None:
    waiting = await operator.test_app.submitted()
    page = await operator.open_request(waiting.id)
    await operator.test_app.cancel(waiting)
    for form, status in (("/cancel", 409), ("/fail", 409)):
        late = await operator.submit(page.form(form), reason="why")
        assert late.status == status
        assert "current state is shown below." in late.text
        assert list_actions(late) == ["retry"]


async def test_retry_submitted_twice_creates_one_request(operator: OperatorBrowser) -> None:
    failed = await operator.test_app.submitted()
    await operator.test_app.fail(await operator.test_app.next_job(), "invalid_input")
    page = await operator.open_request(failed.id)
    assert "who is charged 0.25 credits for the samples" in page.text
    first = await operator.submit(page.form("/retry"))
    again = await operator.submit(page.form("/retry"))
    assert "New request created." in first.text
    assert first.response.url.path == again.response.url.path != f"/console/requests/{failed.id}"
    new = await operator.caller.look(first.response.url.path.rpartition("/")[2])
    assert (new["retry_of"], new["user_id"], new["cost"]["held"]) == (
        str(failed.id),
        "user",
        "0.25",
    )
    assert (await operator.last_event_data(new["id"], "submitted"))["by"] == "duty"
    await operator.caller.act(new["id"], "cancel")


@pytest.mark.parametrize(
    ("decision", "state", "confirmation"),
    [("accept", "PENDING", "Prompt accepted"), ("reject", "CONTENT_REJECTED", "Prompt rejected")],
)
async def test_review_either_decision_applies_once(
    operator: OperatorBrowser, decision: str, state: str, confirmation: str
) -> None:
    waiting = await operator.test_app.submitted(input_prompt=FOR_REVIEW)
    page = await operator.open_fresh("/console/attention")
    assert FOR_REVIEW in page.text
    assert FOR_REVIEW not in (await operator.open_fresh("/console/requests")).text
    (form,) = (form for form in page.forms if form.fields.get("decision") == decision)
    after = await operator.submit(form)
    assert confirmation in after.text
    assert "Nothing needs attention" in after.text
    assert after.response.url.path == "/console/attention"
    assert (await operator.caller.look(waiting.id))["status"] == state
    event = "credits_asked" if decision == "accept" else "review_rejected"
    assert (await operator.last_event_data(waiting.id, event))["by"] == "duty"
    late = await operator.submit(form)
    assert late.status == 409
    assert "Already done" in late.text
    if decision == "accept":
        await operator.caller.act(waiting.id, "cancel")


# Messages


async def create_parked_message(operator: OperatorBrowser) -> str:
    """Create a request whose notification is parked; return its id."""
    shown = await operator.test_app.with_samples()
    operator.test_app.notifier.faults.append("refused")
    await operator.test_app.drain()
    return str(shown.id)


@pytest.mark.parametrize("where", ["/console/attention", "request"])
async def test_replay_parked_message_delivers_it_from_either_page(
    operator: OperatorBrowser, where: str
) -> None:
    request_id = await create_parked_message(operator)
    path = f"/console/requests/{request_id}" if where == "request" else where
    page = await operator.open_fresh(path)
    assert "The notification service did not accept “samples_ready” for user." in page.text
    assert "Parked: simulated" in page.text
    assert "The user is not notified. No effect on credits." in page.text
    after = await operator.submit(page.form("/replay"))
    assert after.response.url.path == path
    assert "Message replayed; it is due now." in after.text
    late = await operator.submit(page.form("/replay"))
    assert (late.status, "Already done" in late.text) == (409, True)
    await operator.test_app.drain()
    assert operator.test_app.notifier.types() == ["samples_ready"]
    assert (await operator.last_event_data(request_id, "message_replayed"))["by"] == "duty"
    assert (
        "Parked message notification.send replayed by duty"
        in (await operator.open_request(request_id)).text
    )


async def test_drop_parked_message_never_delivers_it(operator: OperatorBrowser) -> None:
    request_id = await create_parked_message(operator)
    after = await operator.submit((await operator.open_fresh("/console/attention")).form("/drop"))
    assert "Message dropped." in after.text
    assert "Nothing needs attention" in after.text
    assert (await operator.last_event_data(request_id, "message_dropped"))["by"] == "duty"
    await operator.test_app.drain()
    assert operator.test_app.notifier.types() == []


async def test_attention_parked_capture_names_user_and_credits(operator: OperatorBrowser) -> None:
    await operator.test_app.with_samples()
    await operator.test_app.database.execute(
        "UPDATE outbox SET parked_reason = 'refused there' WHERE topic = 'credits.capture'"
    )
    page = await operator.open_fresh("/console/attention")
    assert "The credit service did not accept a charge of 0.25 credits to user." in page.text
    assert "Charges user 0.25 credits, exactly once." in page.text
    assert "The user is not charged and keeps the delivery." in page.text
    await operator.submit(page.form("/replay"))


# Credits


@pytest.mark.parametrize(("charged", "state"), [("yes", "PENDING"), ("no", "PENDING")])
async def test_resolve_hold_either_outcome_continues_and_flag_can_be_cleared(
    operator: OperatorBrowser, charged: str, state: str
) -> None:
    operator.test_app.credits.faults.extend(["conflict", "conflict"])
    request_id = (await operator.caller.create()).json()["id"]
    operator.test_app.clock.advance(minutes=1)
    await operator.test_app.sweep()
    page = await operator.open_fresh("/console/attention")
    assert f"0.25 credits of user {request_id}:samples:1:1" in page.text
    assert "Flagged accounts" in page.text
    (form,) = (form for form in page.forms if form.fields.get("charged") == charged)
    after = await operator.submit(form)
    assert "Hold resolved" in after.text
    assert (await operator.caller.look(request_id))["status"] == state
    decided = await operator.last_event_data(request_id, "hold_decided")
    assert (decided["by"], decided["charged"]) == ("duty", charged == "yes")
    account = await operator.open_fresh("/console/accounts/user")
    assert "Restricted: hold undecided" in account.text
    assert (await operator.submit(account.form("/clear"), note="")).status == 422
    cleared = await operator.submit(account.form("/clear"), note="settled by phone")
    assert "Flags cleared." in cleared.text
    row = await operator.test_app.database.fetchrow("SELECT cleared_by, note FROM account_flags")
    assert tuple(row or ()) == ("duty", "settled by phone")
    assert "clear" not in list_actions(cleared)
    await operator.caller.act(request_id, "cancel")


async def test_grant_submitted_twice_posts_once(operator: OperatorBrowser) -> None:
    page = await operator.open_fresh("/console/accounts/user")
    for _ in range(2):
        after = await operator.submit(
            page.form("/grant"), amount="5.50", reason="goodwill", plan="pro"
        )
        assert "Credits granted." in after.text
    assert await operator.test_app.balance() == 2550
    statement = await operator.open_fresh("/console/accounts/user")
    assert "grant 5.50 goodwill (plan pro) · by duty" in statement.text
    assert "Plan Pro" in statement.text
    for amount in ("", "many", "-99", "1.234"):
        refused = await operator.submit(statement.form("/grant"), amount=amount)
        assert refused.status == 422, amount
        assert "Please check your input" in refused.text
    assert await operator.test_app.balance() == 2550


async def test_account_with_work_shows_balance_holds_usage_and_requests(
    operator: OperatorBrowser,
) -> None:
    await operator.caller.completed()
    waiting = await operator.test_app.submitted()
    page = await operator.open_fresh("/console/accounts/user")
    assert "Balance 18.50 credits" in page.text
    assert "Held 0.25 credits" in page.text
    assert "sample generation 1 0.25 credits" in page.text
    assert "standard generation 1 1.00 credits" in page.text
    assert f"/console/requests/{waiting.id}" in page.links
    redirected = await operator.open("/console/accounts", params={"user": "user"})
    assert redirected.response.url.path == "/console/accounts/user"
    await operator.test_app.cancel(waiting)


async def test_account_long_statement_is_paginated(operator: OperatorBrowser) -> None:
    for _ in range(30):
        await operator.test_app.grant("rich", 100)
    first = await operator.open_fresh("/console/accounts/rich")
    (older,) = (link for link in first.links if "page=2" in link)
    second = await operator.open_fresh(older)
    assert (first.text.count(" grant "), second.text.count(" grant ")) == (25, 5)
    assert (await operator.open("/console/accounts/rich?page=0")).status == 422


async def test_account_unusual_user_id_works(operator: OperatorBrowser) -> None:
    for user in ("a/b/c", "10%?#&", "Zoë & co"):
        await operator.test_app.grant(user, 100)
        page = await operator.open("/console/accounts", params={"user": user})
        assert (page.status, user in page.text) == (200, True)
        after = await operator.submit(page.form("/grant"), amount="1")
        assert "Balance 2.00 credits" in after.text
        await operator.test_app.submitted(user)
        queue = await operator.open_fresh("/console/queue")
        (link,) = (link for link in queue.links if link.startswith("/console/accounts/"))
        assert "Balance 2.00 credits" in (await operator.open_fresh(link)).text
        await operator.test_app.cancel(await operator.test_app.next_job())


async def test_reconcile_missing_capture_is_reported_and_posted_with_apply(
    operator: OperatorBrowser,
) -> None:
    shown = await operator.test_app.with_samples()
    await operator.test_app.database.execute(
        "DELETE FROM outbox WHERE topic = 'credits.capture'"
    )  # the credit service is never informed
    await operator.test_app.database.execute(
        "UPDATE holds SET settled_at = $1", operator.test_app.clock()
    )
    operator.test_app.clock.advance(minutes=5)
    page = await operator.open_fresh("/console/accounts")
    compare, apply = (form for form in page.forms if form.action.endswith("/reconcile"))
    compared = await operator.submit(compare, hours="1")
    assert "1 difference" in compared.text
    assert (
        f"capture missing {shown.id}:samples:1:1 user 0.25 captured held captures" in compared.text
    )
    assert (
        await operator.test_app.database.fetchval(
            "SELECT count(*) FROM outbox WHERE topic = 'credits.capture'"
        )
        == 0
    )
    applied = await operator.submit(apply, hours="1")
    assert "by duty: 1 holds compared, 1 posted" in applied.text
    assert (await operator.last_event_data(shown.id, "compensation_posted"))["by"] == "duty"
    await operator.test_app.drain()
    again = await operator.submit(compare, hours="1")
    assert "No differences" in again.text
    for hours in ("", "0", "soon", "99999"):
        assert (await operator.submit(compare, hours=hours)).status == 422


async def test_account_credit_service_down_still_renders(operator: OperatorBrowser) -> None:
    await operator.test_app.service.account_flags.raise_(
        "user", "charge_failed", operator.test_app.clock()
    )
    operator.test_app.credits.faults.append("entitlements")
    page = await operator.open_fresh("/console/accounts/user")
    assert "The credit service is unavailable" in page.text
    assert "Restricted: charge failed" in page.text
    await operator.submit(page.form("/clear"), note="mended")


# Webhooks


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """A webhook receiver."""
    async with Receiver() as made:
        yield made


async def test_redeliver_event_sends_it_again_and_is_audited(
    operator: OperatorBrowser, receiver: Receiver
) -> None:
    endpoint = await operator.caller.post("/api/v1/webhook-endpoints", json={"url": receiver.url})
    assert endpoint.status_code == 201, endpoint.text
    shown = await operator.caller.with_samples()
    await operator.test_app.drain()
    page = await operator.open_request(shown["id"])
    assert f"generation.samples_ready delivered to {receiver.url}" in page.text
    after = await operator.submit(page.form("/redeliver"))
    assert "Redelivery scheduled." in after.text
    assert "Redelivery of generation.samples_ready requested by duty" in after.text
    assert (await operator.last_event_data(shown["id"], "webhook_redelivered"))["by"] == "duty"
    await operator.test_app.drain()
    assert len({call.headers["webhook-id"] for call in receiver.calls}) == 1 < len(receiver.calls)
    await operator.caller.post(f"/api/v1/webhook-endpoints/{endpoint.json()['id']}/disable")
    page = await operator.open_request(shown["id"])
    assert "redeliver" not in list_actions(page)
    assert "disabled: its owner must enable it first" in page.text


# Forged forms


async def test_forms_without_token_or_from_other_origin_are_rejected(
    operator: OperatorBrowser,
) -> None:
    request_id = await create_parked_message(operator)
    waiting = await operator.test_app.submitted()
    pages = [
        await operator.open_fresh(path)
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
    before = await Footprint.of(operator.test_app)
    fields = {"reason": "why", "amount": "5", "hours": "1"}
    for form in forms.values():
        for changed, headers in (
            ({"csrf": None}, {}),
            ({"csrf": "x"}, {}),
            ({}, {"Origin": "https://evil.example"}),
        ):
            refused = await operator.submit(form, headers=headers, **fields, **changed)
            assert refused.status == 403, form.action
    assert await Footprint.of(operator.test_app) == before
    await operator.submit(forms[f"/console/requests/{waiting.id}/cancel"])
    await operator.submit(
        next(form for action, form in forms.items() if action.endswith("/replay"))
    )


async def test_action_foreign_back_path_is_ignored(operator: OperatorBrowser) -> None:
    for back in (
        "https://evil.example",
        "//evil.example/console",
        "/studio",
        "/console/../studio/x y",
        "",
    ):
        waiting = await operator.test_app.submitted()
        form = (await operator.open_request(waiting.id)).form("/cancel")
        after = await operator.submit(form, back=back)
        assert after.response.url.path == f"/console/requests/{waiting.id}", back


async def test_action_on_unknown_object_returns_not_found(operator: OperatorBrowser) -> None:
    form = (await operator.open_fresh("/console/accounts")).form("/reconcile")
    for path in (
        f"/console/requests/{NOBODY}/cancel",
        f"/console/holds/{NOBODY}:samples:1:1/decide",
    ):
        forged = PageForm(path, "post", {"csrf": form.fields["csrf"], "charged": "yes"})
        assert (await operator.submit(forged)).status == 404, path
    malformed = PageForm(
        "/console/holds/nonsense/decide", "post", {"csrf": form.fields["csrf"], "charged": "yes"}
    )
    assert (await operator.submit(malformed)).status == 422
    assert (await operator.caller.get(f"{OPERATIONS}/stuck")).json() == {"items": []}
