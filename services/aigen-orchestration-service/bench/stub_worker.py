"""A worker that costs next to nothing: answers every job at once over plain keep-alive
connections.
"""

import asyncio
import os
import sys
from typing import Any

import orjson
import uvloop

from bench.load import answer, post
from bench.parts import RABBITMQ
from creativeflow.services.aigeneration.adapters.rabbitmq.broker import (
    AckDecision,
    Broker,
    Delivery,
    Topology,
)

CONNECTIONS = 16
SECONDS = float(os.environ.get("BENCH_STUB_SECONDS", "0"))
"""How long a job takes, where it should take any time."""


class StubWorker:
    """Reports `started`, then four samples or the final."""

    def __init__(self, ports: list[int], queues: list[str]) -> None:
        self._ports = ports
        self._queues = queues
        self._idle: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = (
            asyncio.Queue()
        )

    async def run(self) -> None:
        """Work until killed."""
        for number in range(CONNECTIONS):
            port = self._ports[number % len(self._ports)]
            self._idle.put_nowait(await asyncio.open_connection("127.0.0.1", port))
        broker = Broker(RABBITMQ, topology=Topology((), (), ()), name="bench-worker")
        for queue in self._queues:
            broker.consume(queue, self._take, prefetch=100)
        await broker.start()
        await asyncio.Event().wait()

    async def _take(self, delivery: Delivery) -> AckDecision:
        job = orjson.loads(delivery.body)
        await self._report(job, "started", {})
        if SECONDS:
            await asyncio.sleep(SECONDS)
        if job["job_type"] == "final_generation":
            asset = _asset(job, job["final_resolution"], 0)
            await self._report(job, "final-result", {"final_asset": asset})
        else:
            samples = [_asset(job, job["sample_resolution"], index) for index in range(4)]
            await self._report(job, "sample-result", {"samples": samples})
        return AckDecision.ACK

    async def _report(self, job: dict[str, Any], kind: str, body: dict[str, Any]) -> None:
        said = {
            "generation_request_id": job["generation_request_id"],
            "job_id": job["job_id"],
            **body,
        }
        reader, writer = await self._idle.get()
        token = {"Authorization": f"Bearer {job['callback_token']}"}
        writer.write(post(f"/api/v1/n8n-callbacks/{kind}", orjson.dumps(said), token))
        await answer(reader)
        self._idle.put_nowait((reader, writer))


def _asset(job: dict[str, Any], resolution: str, index: int) -> dict[str, Any]:
    name = f"{job['job_id']}-{index}"
    url = f"https://pictures.invalid/{name}.png"
    return {"asset_id": name, "url": url, "resolution": resolution, "format": "png", "index": index}


if __name__ == "__main__":
    uvloop.run(StubWorker([int(port) for port in sys.argv[1].split(",")], sys.argv[2:]).run())
