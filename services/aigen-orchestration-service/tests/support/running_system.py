"""A running system for end-to-end tests: serving processes, workers, and a client that retries."""

import asyncio
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx

from creativeflow.services.aigeneration.kit.clock import now
from creativeflow.services.aigeneration.storage.database import Database
from tests.support.invariants import violations
from tests.support.processes import MODULE, free_port, process, service_environment, wait_ready
from tests.support.services import RABBITMQ

USER = "user"
ENDED = {"COMPLETED", "FAILED", "CONTENT_REJECTED", "CANCELLED", "EXPIRED"}
QUICK = {
    "AIGEN_RETRY_DELAY": "0.2",
    "AIGEN_SWEEP_INTERVAL": "0.2",
    "AIGEN_POLL_INTERVAL": "0.2",
    "AIGEN_JOB_LEASE": "5",
}


_OWED = """SELECT topic, attempts, leased_until > now() AS leased, last_error, count(*),
    min(due_at)::text AS due
           FROM outbox GROUP BY 1, 2, 3, 4"""


class Parts:
    """A running system: serving processes and workers that end with the test."""

    def __init__(
        self, database_url: str, folder: Path, stack: ExitStack, names: dict[str, str]
    ) -> None:
        self.database_url, self.folder, self.stack, self.names = database_url, folder, stack, names
        self.ports: list[int] = []
        self.client = httpx.AsyncClient(timeout=30)

    async def serve(self, *, engine: str = RABBITMQ, **more: str) -> int:
        """Start a serving process."""
        port = free_port()
        told = {"AIGEN_ENGINE_URL": engine, **QUICK, **self.names, **more}
        environment = service_environment(self.database_url, self.folder, port, **told)
        running = self.stack.enter_context(
            process(["-m", MODULE, "serve"], environment, self.folder / "log")
        )
        await wait_ready(port, running)
        self.ports.append(port)
        return port

    def work(self, behaviour: str = "well", over: str = "http", *more: str) -> None:
        """Start a fake worker."""
        told = {"AIGEN_ENGINE_URL": RABBITMQ, **self.names}
        environment = service_environment(self.database_url, self.folder, self.ports[0], **told)
        arguments = [
            "-m",
            MODULE,
            "worker",
            "--behaviour",
            behaviour,
            "--over",
            over,
            "--no-pictures",
            *more,
        ]
        self.stack.enter_context(process(arguments, environment, self.folder / "worker-log"))

    async def call(
        self, method: str, path: str, port: int | None = None, **more: Any
    ) -> httpx.Response:
        """Make a call; repeat it while the service responds 503."""
        ends = time.monotonic() + 60
        while True:
            answer = await self.client.request(
                method, f"http://127.0.0.1:{port or self.ports[0]}/api/v1{path}", **more
            )
            if (
                answer.status_code not in {503, 409}
                or not answer.json().get("retryable")
                or time.monotonic() > ends
            ):
                return answer
            await asyncio.sleep(0.2)

    async def grant(self, amount: str, plan: str) -> None:
        """Grant credits to the user."""
        answer = await self.call(
            "POST",
            "/operations/credits/grants",
            json={"user_id": USER, "amount": amount, "plan": plan},
        )
        assert answer.status_code == 201

    async def create(self, port: int | None = None, key: str | None = None) -> str:
        """Create a request and return its id; the key makes repetitions safe."""
        body = {
            "user_id": USER,
            "input_prompt": "a lighthouse",
            "output_format": "InstagramPost_1x1",
        }
        headers = {"Idempotency-Key": key or str(uuid4())}
        answer = await self.call("POST", "/generation-requests", port, json=body, headers=headers)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    async def until(self, request_id: str, *states: str, seconds: float = 45) -> dict[str, Any]:
        """Wait for one of these states, or for any end."""
        ends = time.monotonic() + seconds
        while True:
            found: dict[str, Any] = (
                await self.call("GET", f"/generation-requests/{request_id}")
            ).json()
            if found.get("status") in {*states, *ENDED}:
                return found
            assert time.monotonic() < ends, f"still {found.get('status')} after {seconds} s"
            await asyncio.sleep(0.05)

    async def live(self, port: int | None = None, seconds: float = 60) -> dict[str, Any]:
        """Run a whole lifecycle as its user."""
        request_id = await self.create(port)
        shown = await self.until(request_id, "AWAITING_SELECTION", seconds=seconds)
        if shown["status"] != "AWAITING_SELECTION":
            return shown
        chosen = {"selected_sample_id": shown["samples"][0]["asset_id"], "desired_resolution": "4K"}
        answer = await self.call(
            "POST", f"/generation-requests/{request_id}/select-sample", port, json=chosen
        )
        assert answer.status_code == 202, answer.text
        return await self.until(request_id, seconds=seconds)

    async def leases_end(self) -> None:
        """Expire the leases of killed processes."""
        database = Database(self.database_url, pool_size=2)
        await database.execute("UPDATE outbox SET leased_until = now() WHERE leased_until > now()")
        await database.close()

    async def drained(self, *, parked: int = 0) -> None:
        """Wait until only parked messages are left, delete those, and check the invariants."""
        database = Database(self.database_url, pool_size=2)
        try:
            ends = time.monotonic() + 60
            while await database.fetchval(
                "SELECT count(*) FROM outbox WHERE parked_reason IS NULL"
            ) or await database.fetchval("SELECT count(*) FROM holds WHERE state = 'placing'"):
                assert time.monotonic() < ends, await database.fetch(_OWED)
                await asyncio.sleep(0.1)
            assert (
                await database.fetchval(
                    "SELECT count(*) FROM outbox WHERE parked_reason IS NOT NULL"
                )
                == parked
            )
            await database.execute("DELETE FROM outbox WHERE parked_reason IS NOT NULL")
            assert await violations(database, now()) == []
        finally:
            await database.close()
