"""The Python client leads whole lives on a running service, and never starts anything twice however
calls fail.
"""

import asyncio
import re
from decimal import Decimal
from pathlib import Path

import httpx
import pytest

from creativeflow.clients.aigeneration import (
    AsyncClient,
    Client,
    Generation,
    GenerationEndedError,
    ProblemError,
    Retries,
    WaitTimeoutError,
)
from tests.e2e.journey import Caller
from tests.support.running_system import Parts

QUICK = Retries(max_attempts=4, initial_seconds=0.01, max_seconds=0.02)
SQUARE = "InstagramPost_1x1"
DOCUMENT = Path(__file__).parents[4] / "docs" / "python-client.md"


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
        started = client.create(
            "A lighthouse", SQUARE, quote_id=quote.quote_id, idempotency_key="order-1"
        )
        assert (
            client.create(
                "A lighthouse", SQUARE, quote_id=quote.quote_id, idempotency_key="order-1"
            ).id
            == started.id
        )
        seen: list[str] = []
        shown = client.wait(
            started.id, for_samples=True, on_change=lambda found: seen.append(found.status)
        )
        assert len(shown.samples) == 4
        assert seen[-1] == "AWAITING_SELECTION"
        with pytest.raises(WaitTimeoutError):
            client.wait(started.id, timeout_seconds=0.1)
        client.select_sample(
            started.id, shown.samples[2], output_format="webp", quote_id=quote.quote_id
        )
        *_, done = client.stream(started.id)
        assert (done.status, done.cost.total) == ("COMPLETED", Decimal("1.25"))
        assert done.final_asset is not None
        assert client.download(done.final_asset)[8:12] == b"WEBP"
        assert client.wait(started.id).version == done.version
        failed = client.create("A lighthouse [[invalid]]", SQUARE)
        with pytest.raises(GenerationEndedError) as ended:
            client.wait(failed.id, for_samples=True)
        assert ended.value.generation.failure is not None
        assert ended.value.generation.failure.code == "invalid_input"
        again = client.retry(failed.id, updated_prompt="A lighthouse at noon")
        client.wait(again.id, for_samples=True)
        assert client.regenerate(again.id, updated_prompt="A lighthouse at dusk").round == 2
        assert client.cancel(again.id).status == "CANCELLED"
        assert [found.id for found in client.list(page_size=1)] == [again.id, failed.id, started.id]


async def test_the_same_life_beside_others(parts: Parts) -> None:
    async with AsyncClient(f"http://127.0.0.1:{parts.ports[0]}", user_id="user") as client:

        async def live(number: int) -> Generation:
            started = await client.create(f"A lighthouse {number}", SQUARE)
            shown = await client.wait(started.id, for_samples=True)
            await client.select_sample(started.id, shown.samples[0])
            return await client.wait(started.id)

        ended = await asyncio.gather(*(live(number) for number in range(3)))
        assert [found.status for found in ended] == ["COMPLETED"] * 3
        statuses = [found.status async for found in client.stream(ended[0].id)]
        assert statuses == ["COMPLETED"]
        assert ended[0].final_asset is not None
        assert (await client.download(ended[0].final_asset)).startswith(b"\x89PNG")
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


async def test_the_open_app_answers_the_asynchronous_client(client: Caller) -> None:
    transport = httpx.ASGITransport(app=client.app)
    async with AsyncClient("http://aigen", user_id="user", transport=transport) as calls:
        started = await calls.create("A lighthouse", SQUARE, idempotency_key="k")
        assert (await calls.get(started.id)).actions == ("cancel",)
        assert [found.id async for found in calls.list()] == [started.id]
        assert (await calls.cancel(started.id)).ended
