"""Slow, greedy, curious or malicious clients affect only themselves."""

import asyncio
import io
import json
import logging
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from uuid import uuid4

import httpx
import pytest
import structlog
import structlog.testing

from creativeflow.services.aigeneration.api import live_updates
from creativeflow.services.aigeneration.api.middleware import RequestContext
from creativeflow.services.aigeneration.api.rate_limit import BodyTimeout
from creativeflow.services.aigeneration.app import create_app
from creativeflow.services.aigeneration.settings import Settings
from tests.e2e.journey import PLAIN, REQUESTS, Caller, Footprint, assert_problem
from tests.e2e.test_access import JWT_SECRET, KEYS, OPERATOR_KEY, SERVICE_KEY, by_key, made, token
from tests.e2e.test_stream import listening

SLOW_CLIENTS = 200
DESCRIBED = create_app(Settings(_env_file=None)).openapi()["paths"]  # type: ignore[call-arg]
OF_A_REQUEST = [
    (method, path)
    for path, calls in DESCRIBED.items()
    if path.startswith(f"{REQUESTS}/{{request_id}}")
    for method in calls
]


@asynccontextmanager
async def connected(
    address: str,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Open a plain connection."""
    host, _, port = address.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield reader, writer
    finally:
        writer.close()


def head(length: int) -> bytes:
    """Return the head of a create whose body is not sent yet."""
    return (
        f"POST {REQUESTS} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {length}\r\n\r\n"
    ).encode()


# Slow clients


async def test_body_many_slow_clients_do_not_block_others(client: Caller) -> None:
    async with listening(client) as address:
        host, _, port = address.removeprefix("http://").partition(":")
        dawdling = [await asyncio.open_connection(host, int(port)) for _ in range(SLOW_CLIENTS)]
        for number, (_, writer) in enumerate(dawdling):
            writer.write(b"POST /api/v1/gen" if number % 2 else head(5000) + b'{"user_id": "us')
        async with httpx.AsyncClient(base_url=address) as others:
            taken = []
            for number in range(20):
                began = time.monotonic()
                answer = await others.post(REQUESTS, json=PLAIN | {"user_id": f"user-{number}"})
                taken.append(time.monotonic() - began)
                assert answer.status_code == httpx.codes.ACCEPTED
        assert sorted(taken)[10] < 0.5
        with structlog.testing.capture_logs() as logs:
            for _, writer in dawdling:
                writer.close()
            async with asyncio.timeout(20):
                while sum(log["event"] == "http_request" for log in logs) < SLOW_CLIENTS // 2:
                    await asyncio.sleep(0.02)
        assert {(log["event"], log.get("status")) for log in logs} == {
            ("http_request", 499)
        }  # within the allowed time


async def test_body_not_received_in_time_ends_the_call(
    client: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    _be_impatient(client, monkeypatch, BodyTimeout(0.4))
    async with listening(client) as address, connected(address) as (reader, writer):
        writer.write(head(500) + b'{"user_id": ')
        answer = await asyncio.wait_for(reader.readuntil(b"}"), 5)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "body_too_slow"


async def test_body_sent_byte_by_byte_ends_the_call(
    client: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    _be_impatient(client, monkeypatch, BodyTimeout(0.4))
    async with listening(client) as address, connected(address) as (reader, writer):
        writer.write(head(500))
        trickling = asyncio.create_task(_trickle(writer))
        answer = await asyncio.wait_for(reader.readuntil(b"}"), 5)
        trickling.cancel()
        assert answer.startswith(b"HTTP/1.1 408 ")


async def test_body_on_a_slow_connection_is_accepted(
    client: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    _be_impatient(client, monkeypatch, BodyTimeout(0.4, bytes_per_second=40))
    body = json.dumps(PLAIN | {"user_id": "user"}).encode()
    async with listening(client) as address, connected(address) as (reader, writer):
        writer.write(head(len(body)))
        for start in range(0, len(body), 20):
            writer.write(body[start : start + 20])
            await asyncio.sleep(0.2)
        assert (await asyncio.wait_for(reader.readuntil(b"\r\n"), 5)).startswith(b"HTTP/1.1 202 ")


def _be_impatient(client: Caller, monkeypatch: pytest.MonkeyPatch, patience: BodyTimeout) -> None:
    began = RequestContext.__init__

    def begin(self: RequestContext, app: Any, **told: Any) -> None:
        began(self, app, **told, patience=patience)

    monkeypatch.setattr(RequestContext, "__init__", begin)
    client.app.middleware_stack = None


async def _trickle(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b" ")
        await asyncio.sleep(0.05)


# Greedy clients


async def test_stream_beyond_the_user_limit_is_refused(
    client: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_updates, "SUBSCRIPTIONS_PER_USER_MAX", 3)
    mine, theirs = (
        (await client.create("greedy")).json()["id"],
        (await client.create("modest")).json()["id"],
    )
    async with AsyncExitStack() as stack:
        address = await stack.enter_async_context(listening(client))
        opened = [await _stream(stack, address, mine) for _ in range(3)]
        refused = await client.get(f"{REQUESTS}/{mine}/stream")
        assert_problem(refused, 429, "rate_limited")
        assert int(refused.headers["retry-after"]) > 0
        await _stream(stack, address, theirs)
        opened[0].close()
        async with asyncio.timeout(20):
            while client.test_app.service.updates.count > 3:
                await asyncio.sleep(0.02)
        await _stream(stack, address, mine)


async def test_stream_beyond_the_process_limit_returns_retry_after(
    client: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_updates, "SUBSCRIPTIONS_MAX", 1)
    ids = [(await client.create(f"user-{n}")).json()["id"] for n in range(2)]
    async with AsyncExitStack() as stack:
        address = await stack.enter_async_context(listening(client))
        await _stream(stack, address, ids[0])
        assert_problem(await client.get(f"{REQUESTS}/{ids[1]}/stream"), 503, "service_unavailable")


async def _stream(stack: AsyncExitStack, address: str, request_id: str) -> asyncio.StreamWriter:
    """Open a live stream; closing the connection ends it."""
    reader, writer = await stack.enter_async_context(connected(address))
    writer.write(f"GET {REQUESTS}/{request_id}/stream HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    assert b" 200 " in await asyncio.wait_for(reader.readuntil(b"data: "), 10)
    return writer


# Access to the requests of others


@pytest.fixture
async def two_users(make_client: Any) -> Caller:
    """A service with keys and tokens, and two users on the Pro plan."""
    caller: Caller = await make_client(api_keys=KEYS, jwt_secret=JWT_SECRET)
    for user in ("owner", "other"):
        await caller.test_app.grant(user, 1000, "pro")
    return caller


async def test_every_call_on_a_request_of_another_user_is_not_found(two_users: Caller) -> None:
    assert len(OF_A_REQUEST) >= 7
    theirs = await made(two_users, token("owner"))
    before = await Footprint.of(two_users.test_app)
    strangers = {
        "another user": token("other"),
        "a service that acts for another user": by_key(SERVICE_KEY, "other"),
        "an operator who acts for another user": by_key(OPERATOR_KEY, "other"),
    }
    for method, path in OF_A_REQUEST:
        for who, headers in strangers.items():
            for request_id in (theirs["id"], str(uuid4())):
                answer = await _call(
                    two_users, method, path.replace("{request_id}", request_id), headers
                )
                assert answer.status_code == httpx.codes.NOT_FOUND, (who, method, path, answer.text)
        nobody = await _call(two_users, method, path.replace("{request_id}", theirs["id"]), {})
        assert nobody.status_code == httpx.codes.UNAUTHORIZED, (method, path)
    assert await Footprint.of(two_users.test_app) == before


async def _call(caller: Caller, method: str, path: str, headers: dict[str, str]) -> httpx.Response:
    body = {"selected_sample_id": "x"} if path.endswith("select-sample") else {}
    told = {"json": body} if method in {"post", "put", "patch"} else {}
    return await caller.request(method, path, headers=headers, **told)


# Injection


SLY = (
    '\'; DROP TABLE holds; --\n"level": "error" \x1b[31m{request_id} %s ${jndi:ldap://x}'
    " \u2028forged"
)


async def test_log_caller_input_cannot_forge_lines(client: Caller) -> None:
    told = io.StringIO()
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=structlog.PrintLoggerFactory(told),
    )
    try:
        sly = (
            SLY.replace("\n", "%0A")
            .replace("\x1b", "%1B")
            .replace(" ", "%20")
            .replace("\u2028", "%E2%80%A8")
        )
        await client.get(f"/api/v1/{sly}?{sly}", headers={"X-Request-ID": "forged id: no"})
        await client.get(
            REQUESTS,
            params={"user_id": SLY.replace("\n", " ").replace("\x1b", ""), "project_id": "'--"},
        )
        await client.create(input_prompt='forged " words', project_id="p' OR 1=1 --")
    finally:
        structlog.reset_defaults()
    lines = told.getvalue().splitlines()
    assert len(lines) >= 3
    for line in lines:
        entry = json.loads(line)  # one entry per line, whatever the input
        assert entry.get("level") != "error"
        assert "forged" not in line


async def test_prompt_with_sql_is_stored_as_text(client: Caller) -> None:
    words = SLY.replace("\x1b", "").replace("\n", " ")
    created = (await client.create("user'); --", input_prompt=words)).json()
    shown = await client.look(created["id"])
    assert shown["user_id"] == "user'); --"
    assert shown["brief"]["input_prompt"] == " ".join(words.split("\u2028")) or "DROP TABLE" in str(
        shown["brief"]
    )
    listed = (await client.get(REQUESTS, params={"user_id": "user'); --"})).json()["items"]
    assert [item["id"] for item in listed] == [created["id"]]
    assert (await client.get(REQUESTS, params={"user_id": "' OR '1'='1"})).json()["items"] == []
