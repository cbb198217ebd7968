"""One run: service, n8n and broker names, all removed afterwards; and the result of a scenario."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from tests.e2e_n8n import broker, workflows
from tests.e2e_n8n.n8n import N8n
from tests.e2e_n8n.provider import Provider
from tests.e2e_n8n.system import ENDED, SECRET, Shown, StillWorkingError, System
from tests.e2e_n8n.tools import Tools
from tests.support.databases import a_database
from tests.support.services import RABBITMQ, delete_names, unique_names


@dataclass
class Found:
    """The result of a scenario; any violation fails the run."""

    tried: int = 0
    ended: int = 0
    charged_wrongly: int = 0
    notes: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    measurements: dict[str, float] = field(default_factory=dict)
    seen: dict[str, list[Shown]] = field(default_factory=dict)
    """Every ended request, by user."""

    @property
    def lost(self) -> int:
        """The number of requests that never ended."""
        return self.tried - self.ended

    def expect(self, truth: bool, sentence: str) -> None:
        """Record a violation unless the condition holds."""
        if not truth:
            self.violations.append(sentence)


@dataclass
class Run:
    """The parts that a scenario uses."""

    system: System
    n8n: N8n
    provider: Provider
    names: dict[str, str]
    quick: bool

    def count(self, full: int) -> int:
        """Return the number of requests, fewer in a quick run."""
        return max(2, full // 5) if self.quick else full

    async def settings(self, **changed: str) -> None:
        """Change and publish the settings of the workflows in the running n8n."""
        await self.n8n.change(
            workflows.SETTINGS, lambda workflow: workflows.with_settings(workflow, changed)
        )

    async def all_end(
        self, found: Found, user: str, living: Iterable[Coroutine[Any, Any, Shown]]
    ) -> list[Shown]:
        """Wait for all requests and count them."""
        outcomes = await asyncio.gather(*living, return_exceptions=True)
        ended = []
        for outcome in outcomes:
            found.tried += 1
            if isinstance(outcome, StillWorkingError):
                found.violations.append(str(outcome))
            elif isinstance(outcome, BaseException):
                raise outcome
            else:
                found.ended += 1
                ended.append(outcome)
        found.seen.setdefault(user, []).extend(ended)
        return ended

    async def settle(self, found: Found) -> None:
        """Wait until the outbox is empty; check the invariants and each user's charges."""
        found.violations += await self.system.broken()
        for user, requests in found.seen.items():
            wrong = await self.system.charged_wrongly(user, requests)
            found.charged_wrongly += len(wrong)
            found.violations += wrong

    async def completed(
        self, found: Found, user: str, living: Iterable[Coroutine[Any, Any, Shown]]
    ) -> list[Shown]:
        """Wait for all requests; each must be completed."""
        ended = await self.all_end(found, user, living)
        for shown in ended:
            found.expect(
                shown["status"] == "COMPLETED",
                f"{shown['id']} is {shown['status']}: {shown.get('failure')}",
            )
        return ended

    async def smoothly(
        self, found: Found, user: str, living: Iterable[Coroutine[Any, Any, Shown]]
    ) -> list[Shown]:
        """Wait for all requests; each must be completed at the first attempt, so that a fixed error
        is noticed if it returns.
        """
        ended = await self.completed(found, user, living)
        for shown in ended:
            failed = [
                e["data"]
                for e in await self.system.events(shown["id"])
                if e["event"] == "attempt_failed"
            ]
            found.expect(not failed, f"{shown['id']} needed further attempts: {failed}")
        return ended

    def listening(self) -> bool:
        """Return whether n8n consumes jobs."""
        return broker.listening(self.names)


@asynccontextmanager
async def a_run(tools: Tools, admin_url: str, *, quick: bool, keep: bool) -> AsyncIterator[Run]:
    """Start everything; `keep` keeps the directory with the logs."""
    folder = Path(tempfile.mkdtemp(prefix="aigen-e2e-"))
    names = unique_names(f"e2e.{uuid4().hex[:8]}")
    whole = False
    try:
        async with (
            a_database(admin_url, "aigen_e2e") as url,
            a_database(admin_url, "n8n_e2e") as n8n_url,
        ):
            system, n8n = (
                System(url, folder / "service", names),
                N8n(tools, n8n_url, folder / "n8n"),
            )
            try:
                with Provider() as provider:
                    await system.start()
                    await _set_up(system, n8n, provider, names, folder / "workflows")
                    seconds = await n8n.start(lambda: broker.listening(names))
                    print(f"n8n listens after {seconds:.0f} s.", flush=True)
                    yield Run(system, n8n, provider, names, quick)
            finally:
                await n8n.close()
                await system.close()
        whole = True
    finally:
        await asyncio.to_thread(delete_names, names)
        if whole and not keep:
            shutil.rmtree(folder)


async def _set_up(
    system: System, n8n: N8n, provider: Provider, names: dict[str, str], folder: Path
) -> None:
    settings = {
        "service_url": f"http://127.0.0.1:{system.port}",
        "openai_base_url": f"{provider.url}/v1",
        "stability_base_url": provider.url,
    }
    ids = workflows.write(folder, names, settings)
    storage = {
        "endpoint": provider.url,
        "accessKeyId": "of-the-run",
        "secretAccessKey": "of-the-run",
    }
    filled = workflows.credentials(RABBITMQ, SECRET, s3=storage)
    print(f"Importing and publishing {len(ids)} workflows (logs: {folder.parent}) ...", flush=True)
    await asyncio.to_thread(n8n.set_up, folder, ids, filled)


__all__ = ["ENDED", "Found", "Run", "a_run"]
