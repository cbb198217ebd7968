"""The Python client leads whole lives on a running service, and never starts anything twice however
calls fail.
"""

import asyncio
import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from creativeflow.clients.aigeneration import (
    Asset,
    AsyncClient,
    Client,
    Generation,
    GenerationEndedError,
    NoAnswerError,
    ProblemError,
    Retries,
    WaitedTooLongError,
)

from tests.e2e.journey import Caller
from tests.support.processes import free_port
from tests.support.running_system import Parts

QUICK = Retries(tries=4, first_seconds=0.01, longest_seconds=0.02)
SQUARE = "InstagramPost_1x1"
DOCUMENT = Path(__file__).parents[4] / "docs" / "python-client.md"


def test_both_clients_offer_the_same() -> None:
    def offered(client: type) -> dict[str, list[str]]:
        methods = inspect.getmembers(client, inspect.isfunction)
        return {
            name: list(inspect.signature(method).parameters)
            for name, method in methods
            if name[0] != "_"
        }

    assert offered(Client) == offered(AsyncClient)


# On a running service


@pytest.fixture
async def parts(parts: Parts) -> Parts:
    """A serving process that draws by itself."""
    await parts.serve(engine="local://")
    await parts.grant("5.00", "payg")
    return parts


async def test_a_whole_life_with_quote_stream_and_download(parts: Parts) -> None:
    await asyncio.to_thread(_a_whole_life, f"http://127.0.0.1:{parts.ports[0]}")


def _a_whole_life(base_url: str) -> None:
    with Client(base_url, user_id="user") as client:
        quote = client.quote("A lighthouse", SQUARE)
        assert (quote.total, quote.balance) == (Decimal("1.25"), Decimal("5.00"))
        started = client.create("A lighthouse", SQUARE, quote_id=quote.quote_id, key="order-1")
        assert (
            client.create("A lighthouse", SQUARE, quote_id=quote.quote_id, key="order-1").id
            == started.id
        )
        seen: list[str] = []
        shown = client.wait(
            started.id, for_samples=True, on_change=lambda found: seen.append(found.status)
        )
        assert len(shown.samples) == 4
        assert seen[-1] == "AWAITING_SELECTION"
        with pytest.raises(WaitedTooLongError):
            client.wait(started.id, seconds=0.1)
        client.select(started.id, shown.samples[2], file_format="webp", quote_id=quote.quote_id)
        *_, done = client.stream(started.id)
        assert (done.status, done.cost) == ("COMPLETED", Decimal("1.25"))
        assert done.final is not None
        assert client.download(done.final)[8:12] == b"WEBP"
        assert client.wait(started.id).version == done.version
        failed = client.create("A lighthouse [[invalid]]", SQUARE)
        with pytest.raises(GenerationEndedError) as ended:
            client.wait(failed.id, for_samples=True)
        assert ended.value.generation.failure_code == "invalid_input"
        again = client.retry(failed.id, updated_prompt="A lighthouse at noon")
        client.wait(again.id, for_samples=True)
        assert client.regenerate(again.id, updated_prompt="A lighthouse at dusk").raw["round"] == 2
        assert client.cancel(again.id).status == "CANCELLED"
        assert [found.id for found in client.listed(limit=1)] == [again.id, failed.id, started.id]


async def test_the_same_life_beside_others(parts: Parts) -> None:
    async with AsyncClient(f"http://127.0.0.1:{parts.ports[0]}", user_id="user") as client:

        async def live(number: int) -> Generation:
            started = await client.create(f"A lighthouse {number}", SQUARE)
            shown = await client.wait(started.id, for_samples=True)
            await client.select(started.id, shown.samples[0])
            return await client.wait(started.id)

        ended = await asyncio.gather(*(live(number) for number in range(3)))
        assert [found.status for found in ended] == ["COMPLETED"] * 3
        statuses = [found.status async for found in client.stream(ended[0].id)]
        assert statuses == ["COMPLETED"]
        assert ended[0].final is not None
        assert (await client.download(ended[0].final)).startswith(b"\x89PNG")
        with pytest.raises(ProblemError) as refused:
            await client.create("A lighthouse", "Fax")
        assert (refused.value.code, refused.value.errors[0]["pointer"]) == (
            "invalid_request",
            "/output_format",
        )


async def test_the_examples_of_the_document_run(
    parts: Parts,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    given = {"user_id": "ada", "amount": "9.00", "plan": "payg"}
    assert (await parts.call("POST", "/operations/credits/grants", json=given)).is_success
    examples = re.findall(r"^```python\n(.*?)^```$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    for example in examples:
        here = example.replace("http://127.0.0.1:8000", f"http://127.0.0.1:{parts.ports[0]}")
        await asyncio.to_thread(
            exec, here, {"__name__": "example"}
        )  # a document's example is a program
    said = capsys.readouterr().out
    promised = re.findall(r"#\s+prints: (.+)$", "".join(examples), re.MULTILINE)
    assert len(promised) > len(examples)
    assert [line for line in promised if line not in said] == []
    for name in ("lighthouse", "windmill", "bridge", "harbour"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


# However calls fail


class Flaky(httpx.BaseTransport):
    """A connection that fails as told; what was sent is kept."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.answers = list(answers)
        self.sent: list[httpx.Request] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """The next answer."""
        self.sent.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def generation(**changes: Any) -> httpx.Response:
    """A generation as the service tells it."""
    said = {"id": "g", "status": "PENDING", "version": 1, "cost": {"total": "0.25"}} | changes
    return httpx.Response(202, json=said)


def problem(status: int, code: str, *, retryable: bool = False, **headers: str) -> httpx.Response:
    """A problem as the service tells it."""
    document = {"code": code, "title": "T", "detail": "D", "retryable": retryable}
    return httpx.Response(status, json=document, headers=headers)


@pytest.fixture
def calling() -> Iterator[Callable[..., tuple[Client, Flaky]]]:
    """Makes clients on a connection that fails as told."""
    with ExitStack() as stack:

        def make(*answers: httpx.Response | Exception, **more: Any) -> tuple[Client, Flaky]:
            flaky = Flaky(*answers)
            return stack.enter_context(
                Client("https://aigen.example", transport=flaky, retries=QUICK, **more)
            ), flaky

        yield make


@pytest.mark.parametrize(
    "failure",
    [
        httpx.ConnectError("away"),
        httpx.ReadTimeout("slow"),
        httpx.RemoteProtocolError("cut"),
        httpx.Response(502),
        problem(503, "storage_unavailable", retryable=True),
        problem(429, "rate_limited", **{"Retry-After": "0"}),
        problem(409, "idempotency_key_in_flight"),
    ],
    ids=str,
)
def test_a_passing_failure_is_tried_again_under_the_same_key(calling: Any, failure: Any) -> None:
    client, flaky = calling(failure, failure, generation())
    assert client.create("A lighthouse", SQUARE).id == "g"
    keys = {request.headers["idempotency-key"] for request in flaky.sent}
    assert (len(flaky.sent), len(keys)) == (3, 1)
    assert len({request.content for request in flaky.sent}) == 1


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (402, "insufficient_credits"),
        (409, "quote_expired"),
        (422, "invalid_request"),
        (403, "plan_required"),
    ],
)
def test_a_no_is_told_at_once(calling: Any, status: int, code: str) -> None:
    client, flaky = calling(problem(status, code))
    with pytest.raises(ProblemError) as refused:
        client.create("A lighthouse", SQUARE)
    assert (refused.value.status, refused.value.code, str(refused.value)) == (status, code, "D")
    assert len(flaky.sent) == 1


def test_tries_are_bounded_and_the_last_word_is_told(calling: Any) -> None:
    client, flaky = calling(*[httpx.ConnectError("away")] * 4)
    with pytest.raises(NoAnswerError):
        client.get("g")
    assert len(flaky.sent) == 4
    client, flaky = calling(*[problem(503, "storage_unavailable", retryable=True)] * 4)
    with pytest.raises(ProblemError, match="D"):
        client.get("g")


def test_a_live_stream_that_breaks_is_taken_up_where_it_broke(calling: Any) -> None:
    def events(*versions: int, status: str = "PENDING") -> bytes:
        said = '{"id": "g", "status": "%s", "version": %d, "cost": {"total": "0.25"}}'
        return b"".join(f"id: {n}\ndata: {said % (status, n)}\n\n".encode() for n in versions)

    client, flaky = calling(
        httpx.Response(200, content=events(1, 2)),
        httpx.ReadError("cut"),
        httpx.Response(200, content=b": still here\n\n" + events(3, status="COMPLETED")),
    )
    assert [found.version for found in client.stream("g")] == [1, 2, 3]
    assert [request.headers.get("last-event-id") for request in flaky.sent] == [None, "2", "2"]


def test_a_live_stream_that_is_refused_for_a_moment_is_opened_again(calling: Any) -> None:
    last = b'data: {"id": "g", "status": "COMPLETED", "version": 2, "cost": {"total": "0.25"}}\n\n'
    client, flaky = calling(
        httpx.Response(502), problem(503, "x", retryable=True), httpx.Response(200, content=last)
    )
    assert [found.version for found in client.stream("g")] == [2]
    client, flaky = calling(problem(404, "not_found"))
    with pytest.raises(ProblemError, match="D"):
        list(client.stream("g"))
    assert len(flaky.sent) == 1
    client, flaky = calling(*[httpx.ReadError("cut")] * 4)
    with pytest.raises(NoAnswerError):
        list(client.stream("g"))


def test_a_quiet_stream_that_is_cut_now_and_then_goes_on(calling: Any) -> None:
    quiet = [httpx.Response(200, content=b"retry: 2000\n\n: still here\n\n") for _ in range(6)]
    last = b'data: {"id": "g", "status": "COMPLETED", "version": 2, "cost": {"total": "0.25"}}\n\n'
    client, _ = calling(*quiet, httpx.Response(200, content=last))
    assert [found.version for found in client.stream("g")] == [2]


def test_a_download_is_tried_again(calling: Any) -> None:
    client, flaky = calling(
        httpx.ReadError("cut"), httpx.Response(503), httpx.Response(200, content=b"own")
    )
    assert (
        client.download(Asset(asset_id="a", url="/assets/a.png", resolution="1x1", format="png"))
        == b"own"
    )
    assert len(flaky.sent) == 3


def test_an_address_where_something_else_answers_is_told(calling: Any) -> None:
    client, _ = calling(httpx.Response(200, text="<html>Welcome</html>"))
    with pytest.raises(NoAnswerError, match="is not the service"):
        client.get("g")


def test_who_calls_is_told_to_the_service_and_to_nobody_else(calling: Any) -> None:
    client, flaky = calling(
        httpx.Response(200, content=b"own"), api_key="a-secret-key", user_id="ada", language="de"
    )
    own = Asset(
        asset_id="a", url="https://aigen.example/assets/a.png", resolution="1x1", format="png"
    )
    assert client.download(own) == b"own"
    assert flaky.sent[0].headers["x-internal-api-key"] == "a-secret-key"
    foreign = Asset(
        asset_id="a", url=f"http://127.0.0.1:{free_port()}/a.png", resolution="1x1", format="png"
    )
    neighbour = Asset(
        asset_id="a",
        url=f"https://aigen.example:{free_port()}/a.png",
        resolution="1x1",
        format="png",
    )
    for other in (foreign, neighbour):
        with pytest.raises(NoAnswerError):
            client.download(other)
    assert len(flaky.sent) == 1
    assert "a-secret-key" not in repr(client)


async def test_the_open_app_answers_the_asynchronous_client(client: Caller) -> None:
    transport = httpx.ASGITransport(app=client.app)
    async with AsyncClient("http://aigen", user_id="user", transport=transport) as calls:
        started = await calls.create("A lighthouse", SQUARE, key="k")
        assert (await calls.get(started.id)).actions == ("cancel",)
        assert [found.id async for found in calls.listed()] == [started.id]
        assert (await calls.cancel(started.id)).ended
