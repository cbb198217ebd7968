"""The service under test: a database, `aigen serve`, users with credits, and the final checks."""

import asyncio
import time
from collections.abc import Iterable
from contextlib import ExitStack
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx

from creativeflow.services.aigeneration.kit.clock import now
from creativeflow.services.aigeneration.storage.database import Database
from creativeflow.services.aigeneration.storage.migrations import migrate
from tests.support.invariants import violations
from tests.support.processes import MODULE, free_port, process, service_environment, wait_ready
from tests.support.services import RABBITMQ

Shown = dict[str, Any]

SECRET = "a-callback-secret-of-this-run-only"
ENDED = frozenset({"COMPLETED", "FAILED", "CONTENT_REJECTED", "CANCELLED", "EXPIRED"})
CHOOSING = "AWAITING_SELECTION"
_GRANT = Decimal("500.00")
_SAMPLES, _FINAL = Decimal("0.25"), Decimal("1.00")
_QUICK = {
    "AIGEN_RETRY_DELAY": "0.5",
    "AIGEN_SWEEP_INTERVAL": "0.5",
    "AIGEN_POLL_INTERVAL": "0.2",
    "AIGEN_RESULT_CHECK": "fetch",
    "AIGEN_RESULT_ALLOWED_NETWORKS": "127.0.0.0/8",
    "AIGEN_IN_FLIGHT_LIMITS": "free=100,payg=100,pro=100,team=100,enterprise=100",
}

ROUTING = """
default = "standard"

[models.standard]
provider = "default"
title = "Standard"
quality = 4
fallbacks = ["fast"]

[models.fast]
provider = "stub"
title = "Fast"
speed = 5

[models.remote]
provider = "openai_images"
title = "By an OpenAI-compatible endpoint"
fallbacks = ["fast"]

[models.stability]
provider = "stability"
title = "By Stability"
fallbacks = ["fast"]

[models.unknown]
provider = "nobody-knows-it"
title = "A provider without a workflow"
fallbacks = ["fast"]
"""


class StillWorkingError(Exception):
    """A request has not ended in time."""


class System:
    """One serving process and its clients."""

    def __init__(self, url: str, folder: Path, names: dict[str, str]) -> None:
        self._stack = ExitStack()
        self.url, self.folder, self.names = url, folder, names
        self.port = free_port()
        self.client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", timeout=30)
        self.database: Database

    async def start(self) -> None:
        """Start the service on an empty database."""
        await migrate(self.url)
        self.database = Database(self.url, pool_size=2)
        self.folder.mkdir(parents=True, exist_ok=True)
        rules = self.folder / "routing.toml"
        rules.write_text(ROUTING, "utf-8")
        told = {
            "AIGEN_ENGINE_URL": RABBITMQ,
            "AIGEN_CALLBACK_SECRET": SECRET,
            "AIGEN_ROUTING_FILE": str(rules),
        }
        environment = service_environment(
            self.url, self.folder, self.port, **(told | _QUICK | self.names)
        )
        running = self._stack.enter_context(
            process(["-m", MODULE, "serve"], environment, self.folder / "service.log")
        )
        await wait_ready(self.port, running)

    async def close(self) -> None:
        """End the service."""
        await self.client.aclose()
        await asyncio.to_thread(self._stack.close)
        await self.database.close()

    async def call(self, method: str, path: str, **more: Any) -> httpx.Response:
        """Make a call; repeat it while the service is unavailable."""
        ends = time.monotonic() + 60
        while True:
            answer = await self.client.request(method, f"/api/v1{path}", **more)
            if (
                answer.status_code not in {409, 503}
                or not answer.json().get("retryable")
                or time.monotonic() > ends
            ):
                return answer.raise_for_status()
            await asyncio.sleep(0.3)

    async def user(self, plan: str = "payg") -> str:
        """Create a user, on the Free plan or with many credits."""
        user = f"{plan}-{uuid4().hex[:8]}"
        if plan != "free":
            grant = {"user_id": user, "amount": str(_GRANT), "plan": plan}
            await self.call("POST", "/operations/credits/grants", json=grant)
        return user

    async def create(self, user: str, prompt: str = "a lighthouse", **brief: Any) -> str:
        """Create a request and return its id."""
        body = {
            "user_id": user,
            "input_prompt": prompt,
            "output_format": "InstagramPost_1x1",
            **brief,
        }
        answer = await self.call(
            "POST", "/generation-requests", json=body, headers={"Idempotency-Key": str(uuid4())}
        )
        return str(answer.json()["id"])

    async def look(self, request_id: str) -> Shown:
        """Return the current request."""
        found: Shown = (await self.call("GET", f"/generation-requests/{request_id}")).json()
        return found

    async def act(self, request_id: str, action: str, **body: Any) -> Shown:
        """Run an action on a request."""
        found: Shown = (
            await self.call(
                "POST", f"/generation-requests/{request_id}/{action}", json=body or None
            )
        ).json()
        return found

    async def until(self, request_id: str, *states: str, seconds: float) -> Shown:
        """Wait for one of these states, or for any end.

        Raises:
            StillWorkingError: none is reached in time.
        """
        ends = time.monotonic() + seconds
        while (found := await self.look(request_id))["status"] not in {*states, *ENDED}:
            if time.monotonic() > ends:
                raise StillWorkingError(
                    f"{request_id} is still {found['status']} after {seconds:.0f} s"
                )
            await asyncio.sleep(0.25)
        return found

    async def live(
        self, user: str, prompt: str = "a lighthouse", *, seconds: float = 300, **brief: Any
    ) -> Shown:
        """Run a lifecycle: samples, the second of them, the final."""
        select = {
            key: brief.pop(key) for key in ("desired_resolution", "final_format") if key in brief
        }
        request_id = await self.create(user, prompt, **brief)
        shown = await self.until(request_id, CHOOSING, seconds=seconds)
        if shown["status"] == CHOOSING:
            await self.select(shown, **select)
            shown = await self.until(request_id, seconds=seconds)
        return shown

    async def select(
        self, shown: Shown, *, desired_resolution: str | None = None, final_format: str = "png"
    ) -> None:
        """Select the last sample."""
        chosen = {
            "selected_sample_id": shown["samples"][-1]["asset_id"],
            "output_format": final_format,
        }
        if desired_resolution:
            chosen["desired_resolution"] = desired_resolution
        await self.act(shown["id"], "select-sample", **chosen)

    async def events(self, request_id: str) -> list[dict[str, Any]]:
        """Return the timeline."""
        found: list[dict[str, Any]] = (
            await self.call("GET", f"/generation-requests/{request_id}/events")
        ).json()["items"]
        return found

    async def charged_wrongly(self, user: str, requests: Iterable[Shown]) -> list[str]:
        """Return charges that differ: 0.25 a sample set, 1.00 a standard final, 2.00 a
        larger one.
        """
        owed = Decimal(0)
        for shown in requests:
            rounds = {
                e["data"].get("job_id")
                for e in await self.events(shown["id"])
                if e["event"] == "samples_delivered"
            }
            owed += _SAMPLES * len(rounds)
            if shown["status"] == "CONTENT_REJECTED":
                owed += _SAMPLES
            if shown["status"] == "COMPLETED":
                width, height = (
                    int(side) for side in shown["final_asset"]["resolution"].split("x")
                )
                owed += _FINAL * (2 if max(width, height) > 1920 else 1)
        statement = (await self.call("GET", f"/operations/users/{user}/statement")).json()
        paid = (
            (_GRANT - Decimal(statement["balance"]))
            if not user.startswith("free")
            else Decimal(statement["balance"])
        )
        wanted = Decimal(0) if user.startswith("free") else owed
        found = [] if paid == wanted else [f"{user} paid {paid} and owes {wanted}"]
        return found + (
            [f"{user} still has {statement['held']} held"] if Decimal(statement["held"]) else []
        )

    async def broken(self) -> list[str]:
        """Return every violated invariant once the outbox is empty: our own check, and the
        service's counts.
        """
        ends = time.monotonic() + 60
        owed = "SELECT count(*) FROM outbox WHERE parked_reason IS NULL"
        while await self.database.fetchval(owed) and time.monotonic() < ends:
            await asyncio.sleep(0.2)
        found = await violations(self.database, now())
        counts = (await self.call("GET", "/operations/invariants")).json()["counts"]
        return found + [f"{name} is {count}" for name, count in counts.items() if count]
