"""The local engine: real pictures, and every failure that a marker in the prompt selects."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from PIL import Image, ImageChops, ImageStat

from creativeflow.services.aigeneration.app import create_app
from creativeflow.services.aigeneration.bootstrap.container import Container
from creativeflow.services.aigeneration.kit.clock import now
from creativeflow.services.aigeneration.settings import Settings
from tests.support.invariants import violations

BASE = "/api/v1/generation-requests"


class Laptop:
    """The service with default settings, called over HTTP."""

    def __init__(self, service: Container, client: httpx.AsyncClient) -> None:
        self.service, self.client = service, client

    async def create(self, prompt: str, **more: Any) -> dict[str, Any]:
        body = {
            "user_id": "user",
            "input_prompt": prompt,
            "output_format": "YouTubeThumbnail_16x9",
            **more,
        }
        answer = await self.client.post(BASE, json=body)
        assert answer.status_code == 202, answer.text
        return await self.until(answer.json()["id"], "AWAITING_SELECTION")

    async def until(self, request_id: str, state: str) -> dict[str, Any]:
        ends = time.monotonic() + 40
        while True:
            found: dict[str, Any] = (await self.client.get(f"{BASE}/{request_id}")).json()
            if found["status"] in {state, "COMPLETED", "FAILED", "CONTENT_REJECTED"}:
                return found
            assert time.monotonic() < ends, found
            await asyncio.sleep(0.05)

    def picture(self, asset: dict[str, Any]) -> Image.Image:
        path = self.service.assets.path(asset["url"].rpartition("/")[2])
        assert path is not None
        with Image.open(path) as image:
            return image.convert("RGB")


@pytest.fixture
async def laptop(database_url: str, settings: Settings) -> AsyncIterator[Laptop]:
    """A service with short intervals."""
    quick = settings.model_copy(
        update={
            "retry_delay": 0.1,
            "samples_deadline": 3.0,
            "max_attempts": 2,
            "sweep_interval": 0.2,
            "poll_interval": 0.2,
        }
    )
    service = Container(quick, database_url=database_url)
    await service.start()
    app = create_app(service=service)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://laptop") as client,
    ):
        yield Laptop(service, client)
        for _ in range(200):
            if not (await service.queries.messages())["open"]:
                break
            await asyncio.sleep(0.05)
        assert await violations(service.database, now()) == []
    await service.stop()


async def test_local_engine_draws_four_different_samples_and_the_ordered_final(
    laptop: Laptop,
) -> None:
    await laptop.client.post(
        "/api/v1/operations/credits/grants",
        json={"user_id": "user", "amount": "2.00", "plan": "pro"},
    )
    shown = await laptop.create("A lighthouse at dawn", color_scheme=["#0b3954", "#ff6663"])
    pictures = [laptop.picture(sample) for sample in shown["samples"]]
    assert [picture.size for picture in pictures] == [(512, 288)] * 4
    for index, one in enumerate(pictures):
        for other in pictures[index + 1 :]:
            assert ImageStat.Stat(ImageChops.difference(one, other).convert("L")).mean[0] > 20
    order = {
        "selected_sample_id": shown["samples"][2]["asset_id"],
        "desired_resolution": "3840x2160",
        "output_format": "jpg",
    }
    assert (
        await laptop.client.post(f"{BASE}/{shown['id']}/select-sample", json=order)
    ).status_code == 202
    done = await laptop.until(shown["id"], "COMPLETED")
    final = laptop.picture(done["final_asset"])
    assert final.size == (3840, 2160)
    likeness = ImageChops.difference(final.resize((512, 288)), pictures[2]).convert("L")
    assert ImageStat.Stat(likeness).mean[0] < 10
    assert done["cost"]["total"] == "2.00"


async def test_local_engine_free_plan_is_watermarked_and_regeneration_differs(
    laptop: Laptop,
) -> None:
    first = await laptop.create("A lighthouse at dawn")
    again = await laptop.client.post(f"{BASE}/{first['id']}/regenerate-samples")
    assert again.status_code == 202
    second = await laptop.until(first["id"], "AWAITING_SELECTION")
    ends = time.monotonic() + 20
    while second["round"] == 1 or second["status"] != "AWAITING_SELECTION":
        assert time.monotonic() < ends
        second = await laptop.until(first["id"], "AWAITING_SELECTION")
    before, after = (laptop.picture(request["samples"][0]) for request in (first, second))
    assert ImageStat.Stat(ImageChops.difference(before, after).convert("L")).mean[0] > 5


async def test_local_engine_partial_delivers_valid_samples_and_failures(laptop: Laptop) -> None:
    shown = await laptop.create("A lighthouse [[partial]]")
    assert [sample["index"] for sample in shown["samples"]] == [0, 2]
    assert [failure["index"] for failure in shown["sample_failures"]] == [1, 3]


async def test_local_engine_transient_succeeds_on_the_second_attempt(laptop: Laptop) -> None:
    shown = await laptop.create("A lighthouse [[transient]]")
    assert (shown["status"], shown["attempt"]) == ("AWAITING_SELECTION", 2)


@pytest.mark.parametrize(
    ("marker", "status", "code", "fault"),
    [
        ("down", "FAILED", "model_unavailable", "provider"),
        ("unsafe", "FAILED", "unsafe_output", "provider"),
        ("garbage", "FAILED", "invalid_output", "provider"),
        ("invalid", "FAILED", "invalid_input", "user"),
        ("rejected", "CONTENT_REJECTED", "prompt_rejected", "user"),
        ("silence", "FAILED", "model_timeout", "provider"),
    ],
)
async def test_local_engine_every_failure_has_a_message_for_users(
    laptop: Laptop, marker: str, status: str, code: str, fault: str
) -> None:
    ended = await laptop.create(f"A lighthouse [[{marker}]]")
    assert (ended["status"], ended["failure"]["code"], ended["failure"]["fault"]) == (
        status,
        code,
        fault,
    )
    assert ended["failure"]["next_steps"]


async def test_local_engine_slow_reports_progress(laptop: Laptop) -> None:
    answer = await laptop.client.post(
        BASE,
        json={"user_id": "user", "input_prompt": "A lighthouse [[slow]]", "output_format": "XPost"},
    )
    seen = set()
    ends = time.monotonic() + 20
    while not seen & {25, 50}:
        assert time.monotonic() < ends
        found = (await laptop.client.get(f"{BASE}/{answer.json()['id']}")).json()
        seen.add((found["progress"] or {}).get("percent"))
        await asyncio.sleep(0.05)
    assert (await laptop.client.post(f"{BASE}/{answer.json()['id']}/cancel")).json()[
        "status"
    ] == "CANCELLED"
