"""Live updates: a snapshot, then every later state once, over a real connection and for slow
clients.
"""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx
import pytest
import uvicorn

from creativeflow.services.aigeneration.api import live_updates
from creativeflow.services.aigeneration.api.http_protocol import BoundedHttpProtocol
from creativeflow.services.aigeneration.application.generations import Caller as Actor
from tests.e2e.journey import PLAIN, REQUESTS, Caller, assert_problem
from tests.e2e.test_access import JWT_SECRET, token
from tests.support.app import ServiceUnderTest

BOUND_SECONDS = 10


@dataclass(frozen=True)
class Message:
    """One message of a stream; a comment has no data."""

    version: int | None = None
    event: str | None = None
    data: dict[str, Any] | None = None
    comment: str | None = None
    retry: int | None = None


class Stream:
    """An open stream; reads time out."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._lines = response.aiter_lines()

    async def next(self) -> Message | None:
        """Return the next message; None at the end of the stream."""
        found: dict[str, str] = {}
        async with asyncio.timeout(BOUND_SECONDS):
            async for line in self._lines:
                if not line:
                    return _message(found)
                name, _, value = line.partition(":")
                found[name or "comment"] = value.strip()
        return None

    async def state(self) -> Message:
        """Return the next message with a state."""
        while (found := await self.next()) is not None:
            if found.data is not None:
                return found
        raise AssertionError("the stream has ended")

    async def until(self, status: str) -> Message:
        """Return the first message with this status."""
        while (found := await self.state()).data["status"] != status:
            pass
        return found

    async def rest(self) -> list[Message]:
        """Return every remaining state."""
        found = []
        while (message := await self.next()) is not None:
            if message.data is not None:
                found.append(message)
        return found


def _message(found: dict[str, str]) -> Message:
    return Message(
        version=int(found["id"]) if "id" in found else None,
        event=found.get("event"),
        data=json.loads(found["data"]) if "data" in found else None,
        comment=found.get("comment"),
        retry=int(found["retry"]) if "retry" in found else None,
    )


@asynccontextmanager
async def listening(caller: Caller) -> AsyncIterator[str]:
    """Serve the application on a free port of loopback; yield the address."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        bound.listen()
        config = uvicorn.Config(
            caller.app,
            lifespan="off",
            http=BoundedHttpProtocol,
            ws="none",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=2,
        )
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[bound]))
        try:
            yield f"http://127.0.0.1:{bound.getsockname()[1]}"
        finally:
            server.should_exit = True
            async with asyncio.timeout(BOUND_SECONDS):
                await serving


Open = Callable[..., Any]


@pytest.fixture
async def open_stream(client: Caller) -> AsyncIterator[Open]:
    """Open streams for requests of `user`, who is on the Pro plan, over a real connection."""
    await client.test_app.grant("user", 0, "pro")
    async with AsyncExitStack() as stack:
        address = await stack.enter_async_context(listening(client))
        reader = await stack.enter_async_context(
            httpx.AsyncClient(base_url=address, timeout=BOUND_SECONDS)
        )

        async def opened(request_id: str, **headers: str) -> Stream:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            context = reader.stream("GET", f"{REQUESTS}/{request_id}/stream", headers=named)
            response = await stack.enter_async_context(context)
            return Stream(response)

        yield opened


async def test_stream_ends_with_the_token(
    make_client: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_updates, "HEARTBEAT_SECONDS", 0.02)
    caller = await make_client(jwt_secret=JWT_SECRET)
    headers = token(lasts=600)
    created = (await caller.post(REQUESTS, json=PLAIN, headers=headers)).json()
    clock = caller.test_app.clock
    async with listening(caller) as address, httpx.AsyncClient(base_url=address) as reader:
        path = f"{REQUESTS}/{created['id']}/stream"
        async with reader.stream("GET", path, headers=headers) as response:
            stream = Stream(response)
            assert (await stream.state()).data == created
            assert (await stream.next()).comment == "still here"
            clock.advance(seconds=time.time() + 605 - clock().timestamp())
            assert (await stream.next()).comment == "still here"
            clock.advance(seconds=10)
            assert await stream.rest() == []


async def test_stream_sends_a_snapshot_then_changes_until_the_end(
    client: Caller, open_stream: Open
) -> None:
    created = (await client.create()).json()
    updates = await open_stream(created["id"])
    assert updates.response.status_code == httpx.codes.OK
    assert updates.response.headers["content-type"].startswith("text/event-stream")
    assert updates.response.headers["cache-control"] == "no-store"
    assert (await updates.next()).retry > 0
    first = await updates.state()
    assert (first.event, first.version, first.data) == (
        "generation.updated",
        created["version"],
        created,
    )
    job = await client.test_app.next_job()
    working = await updates.until("PROCESSING_SAMPLES")
    await client.test_app.deliver(job)
    shown = await updates.state()
    assert (shown.data["status"], len(shown.data["samples"])) == ("AWAITING_SELECTION", 4)
    assert shown.data == await client.look(created["id"])
    await client.act(created["id"], "cancel")
    last = await updates.state()
    assert (last.data["status"], last.version) == ("CANCELLED", last.data["version"])
    assert await updates.next() is None
    versions = [message.version for message in (first, working, shown, last)]
    assert versions == sorted(set(versions))


async def test_stream_of_ended_request_is_one_snapshot(client: Caller, open_stream: Open) -> None:
    done = await client.completed()
    updates = await open_stream(done["id"])
    assert [message.data for message in await updates.rest()] == [done]


async def test_stream_last_event_id_resumes(client: Caller, open_stream: Open) -> None:
    created = (await client.create()).json()
    before = await open_stream(created["id"])
    seen = (await before.state()).version
    await before.response.aclose()
    await client.test_app.deliver(await client.test_app.next_job())
    back = await open_stream(created["id"], Last_Event_ID=str(seen))
    missed = await back.state()
    assert (missed.data["status"], missed.version > seen) == ("AWAITING_SELECTION", True)
    again = await open_stream(created["id"], Last_Event_ID=str(missed.version))
    await client.act(created["id"], "cancel")
    assert [message.data["status"] for message in await again.rest()] == ["CANCELLED"]
    ended = await open_stream(
        created["id"], Last_Event_ID=str((await client.look(created["id"]))["version"])
    )
    assert await ended.rest() == []


async def test_stream_invalid_last_event_id_starts_with_the_snapshot(
    client: Caller, open_stream: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_updates, "HEARTBEAT_SECONDS", 0.05)
    created = (await client.create()).json()
    for seen in ("", "otter", "-1", "1e3", "99999999999999999999", "999"):
        updates = await open_stream(created["id"], Last_Event_ID=seen)
        assert (await updates.next()).retry > 0
        message = await updates.next()
        assert message.data is not None, f"{message} instead of the snapshot after {seen!r}"
        assert message.version == created["version"]


async def test_stream_idle_sends_heartbeats(
    client: Caller, open_stream: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_updates, "HEARTBEAT_SECONDS", 0.05)
    created = (await client.create()).json()
    updates = await open_stream(created["id"])
    await updates.state()
    for _ in range(3):
        assert (await updates.next()).comment == "still here"
    await client.act(created["id"], "cancel")
    assert [message.data["status"] for message in await updates.rest()] == ["CANCELLED"]


async def test_stream_receives_changes_of_other_processes(
    client: Caller, open_stream: Open, make_test_app: Callable[..., ServiceUnderTest]
) -> None:
    created = (await client.create()).json()
    updates = await open_stream(created["id"])
    await updates.state()
    elsewhere = make_test_app()
    job = await elsewhere.next_job()
    await elsewhere.deliver(job)
    await updates.until("AWAITING_SELECTION")
    await elsewhere.generations.cancel(job.id, Actor(name="elsewhere"))
    assert [message.data["status"] for message in await updates.rest()] == ["CANCELLED"]


async def test_stream_many_clients_receive_the_same(client: Caller, open_stream: Open) -> None:
    created = (await client.create()).json()
    readers = [await open_stream(created["id"]) for _ in range(10)]
    for reader in readers:
        assert (await reader.state()).version == created["version"]
    await client.act(created["id"], "cancel")
    ends = [await reader.rest() for reader in readers]
    assert ends == [ends[0]] * 10
    assert [message.data["status"] for message in ends[0]] == ["CANCELLED"]


async def test_stream_disconnected_client_is_unsubscribed(
    client: Caller, open_stream: Open
) -> None:
    created = (await client.create()).json()
    broadcaster = client.test_app.service.updates
    leaving, ending = await open_stream(created["id"]), await open_stream(created["id"])
    for reader in (leaving, ending):
        await reader.state()
    assert broadcaster.count == 2
    await leaving.response.aclose()
    await client.act(created["id"], "cancel")
    await ending.rest()
    async with asyncio.timeout(BOUND_SECONDS):
        while broadcaster.count:
            await asyncio.sleep(0)
    assert broadcaster.count == 0


async def test_stream_request_of_another_user_is_not_found(
    client: Caller, open_stream: Open
) -> None:
    created = (await client.create()).json()
    for request_id, headers in ((created["id"], {"X-User-ID": "other"}), (str(uuid4()), {})):
        answer = await client.get(f"{REQUESTS}/{request_id}/stream", headers=headers)
        assert_problem(answer, 404, "not_found")
    foreign = await open_stream(created["id"], X_User_ID="other")
    assert foreign.response.status_code == httpx.codes.NOT_FOUND
    assert client.test_app.service.updates.count == 0


async def test_stream_slow_client_receives_only_the_newest_state(client: Caller) -> None:
    await client.test_app.grant("user", 0, "pro")
    created = (await client.create()).json()
    slow = SlowReader()
    reading = asyncio.create_task(client.app(slow.scope(created["id"]), slow.receive, slow.send))
    try:
        await slow.took(b"id: 1\n")
        await client.test_app.deliver(await client.test_app.next_job())
        await client.act(created["id"], "regenerate-samples")
        await client.test_app.next_job()
        await client.act(created["id"], "cancel")
        slow.may_go_on.set()
        async with asyncio.timeout(BOUND_SECONDS):
            await reading
    finally:
        reading.cancel()
        with suppress(asyncio.CancelledError):
            await reading
    states = [json.loads(chunk.split(b"data: ")[1]) for chunk in slow.chunks if b"data: " in chunk]
    assert [state["status"] for state in states] == ["PENDING", "CANCELLED"]
    assert client.test_app.service.updates.count == 0


class SlowReader:
    """A client that reads the first snapshot and then blocks until released."""

    def __init__(self) -> None:
        self.chunks: list[bytes] = []
        self.may_go_on = asyncio.Event()
        self._taken = asyncio.Event()

    def scope(self, request_id: str) -> dict[str, Any]:
        """Return the scope of the call."""
        path = f"{REQUESTS}/{request_id}/stream"
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(b"host", b"aigen")],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
        }

    async def receive(self) -> dict[str, Any]:
        """Return no body; the client never disconnects."""
        await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        """Receive data; after the first state only when released."""
        if message["type"] != "http.response.body":
            return
        self.chunks.append(message.get("body", b""))
        if self.chunks[-1].startswith(b"id: ") and not self.may_go_on.is_set():
            self._taken.set()
            await self.may_go_on.wait()

    async def took(self, beginning: bytes) -> None:
        """Wait until the first state was received."""
        async with asyncio.timeout(BOUND_SECONDS):
            await self._taken.wait()
        assert self.chunks[-1].startswith(beginning)
