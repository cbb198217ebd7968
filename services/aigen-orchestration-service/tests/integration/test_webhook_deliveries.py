"""Webhook deliveries on real sockets: signed, in order, at least once, independently per
endpoint.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest
import structlog

from creativeflow.services.aigeneration.application.webhook_endpoints import EndpointScope
from creativeflow.services.aigeneration.domain.errors import (
    NotFoundError,
    WebhookEndpointDisabledError,
)
from creativeflow.services.aigeneration.domain.representation import to_resource
from creativeflow.services.aigeneration.domain.webhooks import (
    SCHEDULE,
    DisabledReason,
    EndpointState,
)
from creativeflow.services.aigeneration.storage.webhook_endpoints import WebhookEndpoint
from tests.support.app import ServiceUnderTest
from tests.support.webhook_receiver import LOOPBACK, Call, Receiver
from tools import generate_docs

TEST = EndpointScope(name="test", sees_all=False)
"""The caller that submits the requests of a test."""
OTHER = EndpointScope(name="other", sees_all=False)


@pytest.fixture
async def test_app(
    make_test_app: Callable[..., ServiceUnderTest], receiver: Receiver
) -> AsyncIterator[ServiceUnderTest]:
    """The service, allowed to call loopback; the invariants are checked while the receiver still
    listens.
    """
    made = make_test_app(webhook_allowed_networks=LOOPBACK)
    yield made
    await made.check()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """A webhook receiver."""
    async with Receiver() as made:
        yield made


async def registered(
    test_app: ServiceUnderTest,
    receiver: Receiver,
    who: EndpointScope = TEST,
    secret: str | None = None,
) -> WebhookEndpoint:
    """Register an endpoint at a receiver."""
    return await test_app.service.webhook_endpoints.register(who, receiver.url, secret, None)


async def log_of(
    test_app: ServiceUnderTest, endpoint: WebhookEndpoint, who: EndpointScope = TEST
) -> list[dict[str, Any]]:
    """Return the delivery log, newest first."""
    return await test_app.service.webhook_endpoints.deliveries(
        who, endpoint.id, state=None, most=100
    )


async def owed(test_app: ServiceUnderTest) -> list[str]:
    """Return the topics of the outbox."""
    return [
        row["topic"]
        for row in await test_app.database.fetch("SELECT topic FROM outbox ORDER BY id")
    ]


async def seen(test_app: ServiceUnderTest, endpoint: WebhookEndpoint) -> WebhookEndpoint:
    """Return the current endpoint."""
    return await test_app.service.webhook_endpoints.one(TEST, endpoint.id)


async def test_webhook_every_event_is_signed_and_carries_the_resource(
    test_app: ServiceUnderTest, receiver: Receiver
) -> None:
    endpoint = await registered(test_app, receiver)
    shown = await test_app.with_samples()
    await test_app.drain()
    await test_app.select(shown)
    finished = await test_app.deliver(await test_app.next_job())
    await test_app.drain()
    assert receiver.types() == ["generation.samples_ready", "generation.completed"]
    for call, request in zip(receiver.calls, (shown, finished), strict=True):
        assert call.verified(endpoint.secret) == call.told
        assert call.told["data"] == to_resource(request)
        assert list(call.told["data"]) == list(to_resource(request))
        assert call.told["timestamp"] == call.told["data"]["updated_at"]
        assert call.headers["content-type"] == "application/json"
        assert call.headers["user-agent"] == "creativeflow-aigen"
        assert call.headers["host"] == f"127.0.0.1:{receiver.port}"
    assert [call.event_id for call in receiver.calls] == [
        sent["event_id"] for sent in test_app.notifier.sent
    ]
    events = await test_app.events(finished)
    assert events.count("webhook_delivered") == 2
    assert [
        (row["state"], row["attempts"], row["last_status"])
        for row in await log_of(test_app, endpoint)
    ] == [("delivered", 1, 204)] * 2


async def test_webhook_documented_verification_accepts_a_real_delivery(
    test_app: ServiceUnderTest, receiver: Receiver
) -> None:
    endpoint = await registered(test_app, receiver)
    rotated = await test_app.service.webhook_endpoints.rotate(TEST, endpoint.id, None)
    await test_app.with_samples()
    await test_app.drain()
    (call,) = receiver.calls
    text = (generate_docs.ROOT / "docs" / "webhooks.md").read_text("utf-8")
    (example,) = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    said: dict[str, Any] = {}
    exec(example, said)  # noqa: S102 - the example of our own documents
    for secret in (endpoint.secret, rotated.secret):
        assert said["verified"](secret, call.headers, call.body) == call.verified(secret)
    old = call.headers | {"webhook-timestamp": str(int(call.headers["webhook-timestamp"]) - 301)}
    for secret, headers, body in (
        ("whsec_" + "A" * 32, call.headers, call.body),
        (endpoint.secret, call.headers, call.body + b" "),
        (endpoint.secret, call.headers | {"webhook-id": "another"}, call.body),
        (endpoint.secret, old, call.body),
    ):
        with pytest.raises(ValueError, match=r"not signed|too old"):
            said["verified"](secret, headers, body)


async def test_webhook_every_end_is_sent(test_app: ServiceUnderTest, receiver: Receiver) -> None:
    await registered(test_app, receiver)
    await test_app.cancel(await test_app.submitted())
    await test_app.submitted()
    await test_app.fail(await test_app.next_job(), "prompt_rejected")
    await test_app.with_samples()
    test_app.clock.advance(days=28)
    await test_app.sweep()
    test_app.clock.advance(days=3)
    await test_app.sweep()
    await test_app.drain()
    assert sorted(receiver.types()) == [
        "generation.cancelled",
        "generation.expired",
        "generation.expiring",
        "generation.failed",
        "generation.samples_ready",
    ]


async def test_webhook_without_endpoint_writes_nothing(
    test_app: ServiceUnderTest, receiver: Receiver
) -> None:
    theirs = await registered(test_app, receiver, OTHER)
    await test_app.with_samples()
    assert [topic for topic in await owed(test_app) if topic.startswith("webhook")] == []
    assert await test_app.database.fetchval("SELECT count(*) FROM webhook_deliveries") == 0
    mine = await registered(test_app, receiver)
    await test_app.service.webhook_endpoints.disable(TEST, mine.id)
    await test_app.cancel(await test_app.submitted())
    assert await test_app.database.fetchval("SELECT count(*) FROM webhook_deliveries") == 0
    await test_app.drain()
    assert receiver.calls == []
    assert await log_of(test_app, theirs, OTHER) == []


async def test_webhook_turned_off_writes_nothing(
    make_test_app: Callable[..., ServiceUnderTest],
) -> None:
    test_app = make_test_app(webhook_endpoints_max=0)
    assert not test_app.service.policy.webhooks


async def test_webhook_events_of_a_request_keep_their_order_after_a_failure(
    test_app: ServiceUnderTest, receiver: Receiver
) -> None:
    await registered(test_app, receiver)
    receiver.answers.extend([500, 500])
    shown = await test_app.with_samples()
    await test_app.send_webhooks()
    await test_app.select(shown)
    await test_app.deliver(await test_app.next_job())
    assert await test_app.send_webhooks() == 0
    await test_app.drain()
    assert receiver.types() == ["generation.samples_ready"] * 3 + ["generation.completed"]
    assert len({call.event_id for call in receiver.calls[:3]}) == 1


async def test_webhook_failed_attempts_follow_the_schedule_then_park(
    test_app: ServiceUnderTest, receiver: Receiver
) -> None:
    endpoint = await registered(test_app, receiver)
    receiver.otherwise = 500
    request = await test_app.with_samples()
    tried: list[datetime] = []
    for _ in range(10):
        while not await test_app.send_webhooks():
            test_app.clock.set(await next_due(test_app))
        tried.append(test_app.clock())
        assert len(receiver.calls) == len(tried)
    waits = [later - earlier for earlier, later in pairwise(tried)]
    for wait, planned in zip(waits, SCHEDULE, strict=True):
        assert planned * 0.9 <= wait <= planned * 1.1 + timedelta(seconds=1)
    assert {call.event_id for call in receiver.calls} == {receiver.calls[0].event_id}
    assert {call.body for call in receiver.calls} == {receiver.calls[0].body}
    assert len({call.headers["webhook-timestamp"] for call in receiver.calls}) == 10
    (message,) = await test_app.service.outbox.list_open(parked_only=True, most=10)
    assert message["parked_reason"] == "given up after 10 tries: bad_status 500"
    (row,) = await log_of(test_app, endpoint)
    assert (row["state"], row["attempts"], row["last_error"], row["last_status"]) == (
        "parked",
        10,
        "bad_status",
        500,
    )
    assert (await test_app.events(request)).count("webhook_parked") == 1
    receiver.otherwise = 200
    assert await test_app.service.outbox.replay(message["id"], by="op", now=test_app.clock())
    assert (await log_of(test_app, endpoint))[0]["state"] == "pending"
    await test_app.drain()
    (row,) = await log_of(test_app, endpoint)
    assert (row["state"], row["attempts"], row["last_error"]) == ("delivered", 11, None)
    assert (await seen(test_app, endpoint)).failing_since is None


async def next_due(test_app: ServiceUnderTest) -> datetime:
    """Return the time of the next webhook attempt."""
    due = await test_app.database.fetchval(
        "SELECT min(due_at) FROM outbox WHERE topic LIKE 'webhook:%' AND parked_reason IS NULL"
    )
    assert isinstance(due, datetime)
    return due


async def test_webhook_dropped_message_is_failed_in_the_log(
    test_app: ServiceUnderTest, receiver: Receiver
) -> None:
    endpoint = await registered(test_app, receiver)
    await test_app.with_samples()
    await test_app.database.execute(
        "UPDATE outbox SET parked_reason = 'test' WHERE topic LIKE 'webhook:%'"
    )
    (message,) = await test_app.service.outbox.list_open(parked_only=True, most=10)
    assert await test_app.service.outbox.drop(message["id"], by="op", now=test_app.clock())
    assert [row["state"] for row in await log_of(test_app, endpoint)] == ["failed"]
    await test_app.drain()
    assert receiver.calls == []


@pytest.mark.parametrize("status", [429, 503])
async def test_webhook_retry_after_delays_the_next_attempt(
    test_app: ServiceUnderTest, receiver: Receiver, status: int
) -> None:
    await registered(test_app, receiver)
    receiver.answers.append((status, "Retry-After: 600"))
    await test_app.with_samples()
    await test_app.send_webhooks()
    wait = await next_due(test_app) - test_app.clock()
    assert timedelta(seconds=598) < wait < timedelta(seconds=602)


async def test_webhook_endpoint_gone_is_disabled_and_its_deliveries_dropped(
    test_app: ServiceUnderTest, receiver: Receiver
) -> None:
    endpoint = await registered(test_app, receiver)
    receiver.otherwise = 410
    shown = await test_app.with_samples()
    await test_app.select(shown)
    await test_app.deliver(await test_app.next_job())
    await test_app.send_webhooks()
    assert len(receiver.calls) == 1
    assert not [topic for topic in await owed(test_app) if topic.startswith("webhook")]
    now = await seen(test_app, endpoint)
    assert (now.state, now.disabled_reason) == (EndpointState.DISABLED, DisabledReason.GONE)
    assert [(row["state"], row["last_error"]) for row in await log_of(test_app, endpoint)] == [
        ("failed", "endpoint_disabled"),
        ("failed", "gone"),
    ]
    await test_app.cancel(await test_app.submitted())
    await test_app.drain()
    assert len(receiver.calls) == 1


async def test_webhook_endpoint_failing_for_five_days_is_disabled(
    test_app: ServiceUnderTest, receiver: Receiver
) -> None:
    endpoint = await registered(test_app, receiver)
    receiver.otherwise = 500
    await test_app.with_samples()
    await test_app.send_webhooks()
    first = (await seen(test_app, endpoint)).failing_since
    assert first is not None
    test_app.clock.advance(days=4, hours=23)
    await test_app.cancel(await test_app.submitted())
    await test_app.send_webhooks()
    assert (await seen(test_app, endpoint)).state is EndpointState.ENABLED
    assert (await seen(test_app, endpoint)).failing_since == first
    test_app.clock.advance(days=1, hours=1)
    await test_app.send_webhooks()
    now = await seen(test_app, endpoint)
    assert (now.state, now.disabled_reason) == (EndpointState.DISABLED, DisabledReason.FAILING)
    assert {row["state"] for row in await log_of(test_app, endpoint)} == {"failed"}
    with pytest.raises(WebhookEndpointDisabledError):
        await test_app.service.webhook_endpoints.test(TEST, endpoint.id)
    receiver.otherwise = 200
    enabled = await test_app.service.webhook_endpoints.enable(TEST, endpoint.id)
    assert (enabled.state, enabled.failing_since) == (EndpointState.ENABLED, None)
    for row in await log_of(test_app, endpoint):
        await test_app.service.webhook_endpoints.redeliver(TEST, endpoint.id, row["event_id"])
    await test_app.drain()
    assert {row["state"] for row in await log_of(test_app, endpoint)} == {"delivered"}


async def test_webhook_unresponsive_endpoint_delays_no_other(
    make_test_app: Callable[..., ServiceUnderTest],
) -> None:
    test_app = make_test_app(webhook_allowed_networks=LOOPBACK, webhook_timeout=30)
    released = asyncio.Event()
    async with AsyncExitStack() as stack:
        dead, alive = [await stack.enter_async_context(Receiver()) for _ in range(2)]

        async def silent(_writer: asyncio.StreamWriter) -> None:
            await released.wait()

        dead.otherwise = silent
        await registered(test_app, dead)
        await registered(test_app, alive)
        for n in range(12):
            await test_app.cancel(await test_app.submitted(f"user{n}"))
        await asyncio.wait_for(until(test_app, lambda: len(alive.calls) == 12), 10)
        assert len(dead.calls) == 8
        await asyncio.wait_for(test_app.service.relays.step(), 10)
        assert len(test_app.notifier.sent) == 12
        dead.otherwise = 200
        released.set()
        await test_app.drain()
        assert len({call.event_id for call in dead.calls}) == 12
    await test_app.check()


async def until(test_app: ServiceUnderTest, reached: Callable[[], bool]) -> None:
    """Run the sender until a condition holds."""
    while not reached():
        await test_app.service.webhook_sender.step()
        await asyncio.sleep(0.01)


async def test_webhook_failing_endpoint_gets_one_event_at_a_time(
    test_app: ServiceUnderTest, receiver: Receiver
) -> None:
    await registered(test_app, receiver)
    for n in range(3):
        await test_app.cancel(await test_app.submitted(f"user{n}"))
    receiver.otherwise = 500
    assert await test_app.send_webhooks() == 3
    test_app.clock.advance(minutes=1)
    assert await test_app.send_webhooks() == 1
    receiver.otherwise = 200
    assert await test_app.send_webhooks() == 1
    test_app.clock.advance(minutes=6)
    assert await test_app.send_webhooks() == 2


async def test_webhook_sender_dying_leaves_the_event_to_the_next(
    make_test_app: Callable[..., ServiceUnderTest], receiver: Receiver
) -> None:
    async def silent(_writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    dying, next_one = (make_test_app(webhook_allowed_networks=LOOPBACK) for _ in range(2))
    endpoint = await registered(dying, receiver)
    receiver.answers.append(silent)
    await dying.with_samples()
    await dying.service.webhook_sender.step()
    while not receiver.calls:
        await asyncio.sleep(0.01)
    await dying.service.webhook_sender.finish(0)
    assert await next_one.send_webhooks() == 0
    dying.clock.advance(minutes=2)
    assert await next_one.send_webhooks() == 1
    first, second = receiver.calls
    assert (first.event_id, first.body) == (second.event_id, second.body)
    assert first.headers["webhook-timestamp"] != second.headers["webhook-timestamp"]
    assert first.verified(endpoint.secret) == first.told
    assert [row["state"] for row in await log_of(next_one, endpoint)] == ["delivered"]
    await next_one.check()


async def test_webhook_outcome_not_stored_is_sent_again(
    test_app: ServiceUnderTest, receiver: Receiver, database_url: str
) -> None:
    async def and_the_database_goes(writer: asyncio.StreamWriter) -> None:
        await test_app.database.close()
        test_app.database._url = "postgresql://postgres@127.0.0.1:1/none"  # noqa: SLF001 - the same database, away
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")

    await registered(test_app, receiver)
    await test_app.with_samples()
    receiver.answers.append(and_the_database_goes)
    with structlog.testing.capture_logs() as logged:
        assert await test_app.send_webhooks() == 1
    test_app.database._url = database_url  # noqa: SLF001 - back again
    assert [line["event"] for line in logged] == ["webhook_unsettled"]
    assert await test_app.send_webhooks() == 0
    test_app.clock.advance(minutes=2)
    assert await test_app.send_webhooks() == 1
    first, second = receiver.calls
    assert (first.event_id, first.body) == (second.event_id, second.body)


async def test_webhook_internal_error_is_logged_and_retried(
    test_app: ServiceUnderTest, receiver: Receiver
) -> None:
    endpoint = await registered(test_app, receiver)
    await test_app.service.webhook_endpoints.test(TEST, endpoint.id)
    await test_app.database.execute("UPDATE webhook_targets SET secret = 'whsec_no base64'")
    with structlog.testing.capture_logs() as logged:
        assert await test_app.send_webhooks() == 1
    assert [line["event"] for line in logged] == ["webhook_failed"]
    assert "no base64" not in str(logged)
    await test_app.service.webhook_endpoints.rotate(TEST, endpoint.id, endpoint.secret)
    await test_app.database.execute("UPDATE webhook_targets SET previous_secrets = '[]'")
    test_app.clock.advance(minutes=2)
    assert await test_app.send_webhooks() == 1
    assert receiver.calls[0].headers["webhook-signature"] == signature_of(
        receiver.calls[0], endpoint.secret
    )


async def test_webhook_several_senders_send_each_event_once(
    make_test_app: Callable[..., ServiceUnderTest], receiver: Receiver
) -> None:
    test_apps = [make_test_app(webhook_allowed_networks=LOOPBACK) for _ in range(3)]
    await registered(test_apps[0], receiver)
    for n in range(20):
        await test_apps[0].cancel(await test_apps[0].submitted(f"user{n}"))
    while sum(await asyncio.gather(*(test_app.send_webhooks() for test_app in test_apps))):
        pass
    assert len(receiver.calls) == len({call.event_id for call in receiver.calls}) == 20
    await test_apps[0].check()


async def test_webhook_redeliver_works_in_every_status(
    test_app: ServiceUnderTest, receiver: Receiver
) -> None:
    endpoint = await registered(test_app, receiver)
    await test_app.with_samples()
    await test_app.drain()
    (row,) = await log_of(test_app, endpoint)
    await test_app.service.webhook_endpoints.redeliver(TEST, endpoint.id, row["event_id"])
    await test_app.service.webhook_endpoints.redeliver(TEST, endpoint.id, row["event_id"])
    assert (await log_of(test_app, endpoint))[0]["state"] == "pending"
    await test_app.drain()
    first, second = receiver.calls
    assert (first.event_id, first.body) == (second.event_id, second.body)
    assert [(row["state"], row["attempts"]) for row in await log_of(test_app, endpoint)] == [
        ("delivered", 2)
    ]
    with pytest.raises(NotFoundError):
        await test_app.service.webhook_endpoints.redeliver(TEST, endpoint.id, UUID(int=1))
    with pytest.raises(NotFoundError):
        await test_app.service.webhook_endpoints.redeliver(OTHER, endpoint.id, row["event_id"])


async def test_webhook_rotated_secret_signs_beside_the_old_for_a_day(
    test_app: ServiceUnderTest, receiver: Receiver
) -> None:
    endpoint = await registered(test_app, receiver)
    rotated = await test_app.service.webhook_endpoints.rotate(TEST, endpoint.id, None)
    again = await test_app.service.webhook_endpoints.rotate(TEST, endpoint.id, None)
    await test_app.service.webhook_endpoints.test(TEST, endpoint.id)
    await test_app.drain()
    test_app.clock.advance(hours=23, minutes=59)
    await test_app.service.webhook_endpoints.test(TEST, endpoint.id)
    await test_app.drain()
    test_app.clock.advance(minutes=2)
    await test_app.service.webhook_endpoints.test(TEST, endpoint.id)
    await test_app.drain()
    at_once, on_the_day, after = receiver.calls
    for secret in (endpoint.secret, rotated.secret, again.secret):
        assert at_once.verified(secret) == at_once.told
    assert [
        len(call.headers["webhook-signature"].split()) for call in (at_once, on_the_day, after)
    ] == [3, 3, 1]
    assert after.headers["webhook-signature"] == signature_of(after, again.secret)


def signature_of(call: Call, secret: str) -> str:
    """Return the signature that the independent package computes, regardless of the time."""
    from standardwebhooks import Webhook  # noqa: PLC0415

    moment = datetime.fromtimestamp(int(call.headers["webhook-timestamp"])).astimezone()
    return str(Webhook(secret).sign(call.event_id, moment, call.body.decode()))


async def test_webhook_deleted_endpoint_receives_nothing_and_its_log_expires(
    test_app: ServiceUnderTest, receiver: Receiver
) -> None:
    endpoint = await registered(test_app, receiver)
    await test_app.with_samples()
    await test_app.service.webhook_endpoints.delete(TEST, endpoint.id)
    with pytest.raises(NotFoundError):
        await test_app.service.webhook_endpoints.one(TEST, endpoint.id)
    await test_app.drain()
    assert receiver.calls == []
    test_app.clock.advance(days=29)
    await test_app.sweep()
    await test_app.housekeep()
    assert await test_app.database.fetchval("SELECT count(*) FROM webhook_deliveries") == 1
    test_app.clock.advance(days=2)
    await test_app.sweep()
    await test_app.housekeep()
    assert await test_app.database.fetchval("SELECT count(*) FROM webhook_deliveries") == 0


async def test_webhook_log_keeps_open_and_deletes_old_deliveries(
    test_app: ServiceUnderTest, receiver: Receiver
) -> None:
    endpoint = await registered(test_app, receiver)
    await test_app.service.webhook_endpoints.test(TEST, endpoint.id)
    await test_app.drain()
    await test_app.service.webhook_endpoints.test(TEST, endpoint.id)
    test_app.clock.advance(days=31)
    await test_app.housekeep()
    assert [row["state"] for row in await log_of(test_app, endpoint)] == ["pending"]


async def test_webhook_deliveries_written_during_a_disable_are_removed(
    test_app: ServiceUnderTest, receiver: Receiver
) -> None:
    endpoint = await registered(test_app, receiver)
    await test_app.with_samples()
    await test_app.database.execute(
        "UPDATE webhook_targets SET state = 'disabled', disabled_reason = 'gone'"
    )
    await test_app.housekeep()
    assert not [topic for topic in await owed(test_app) if topic.startswith("webhook")]
    assert [row["last_error"] for row in await log_of(test_app, endpoint)] == ["endpoint_disabled"]


async def test_webhook_running_service_sends_promptly(
    make_test_app: Callable[..., ServiceUnderTest], receiver: Receiver
) -> None:
    test_app = make_test_app(
        webhook_allowed_networks=LOOPBACK, roles=("relay",), poll_interval=60.0
    )
    await registered(test_app, receiver)
    await test_app.service.start()
    shown = await test_app.with_samples()
    await asyncio.wait_for(reached(lambda: len(receiver.calls) == 1), 5)
    await test_app.select(shown)
    await test_app.deliver(await test_app.next_job())
    await asyncio.wait_for(reached(lambda: len(receiver.calls) == 2), 5)
    opened = asyncio.Event()

    async def slowly(writer: asyncio.StreamWriter) -> None:
        await opened.wait()
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")

    receiver.otherwise = slowly
    for n in range(20):
        await test_app.cancel(await test_app.submitted(f"user{n}"))
    await asyncio.wait_for(reached(lambda: len(receiver.calls) == 10), 5)
    opened.set()
    await asyncio.wait_for(reached(lambda: len(receiver.calls) == 22), 5)
    await test_app.service.webhook_sender.finish()
    await test_app.check()


async def reached(condition: Callable[[], bool]) -> None:
    """Wait for a condition."""
    while not condition():
        await asyncio.sleep(0.01)
