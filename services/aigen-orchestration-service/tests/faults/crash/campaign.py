"""Kills the service at each seam under a mix of lives, starts it again, and asks what came of
everybody's money.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing.context import ForkServerProcess
from typing import Any

import httpx

from tests.faults.crash.failpoints import Failpoint
from tests.faults.crash.launcher import Trigger, start
from tests.support.environment import Environment, environment
from tests.support.processes import free_port
from tests.support.scenarios import SCENARIOS

_START_SECONDS = 30
_A_MINUTE_LATER = (
    "UPDATE holds SET began_at = began_at - interval '1 minute' WHERE state <> 'placing'"
)
"""Holds are compared with the credit service's books a minute after they began."""


@dataclass
class CampaignResult:
    """What came of the kills at one moment of one seam; `reached` says whether the mix ever came
    there.
    """

    seam: str
    moment: str
    books: str
    kills: int = 0
    reached: bool = False
    lives: int = 0
    violations: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """For the JSON file."""
        return asdict(self)


class Campaign:
    """One serving process after another on one yard; whoever dies is followed by the next at
    once.
    """

    def __init__(self, made: Environment, kinds: Sequence[str]) -> None:
        self.yard = made
        self.kinds = kinds
        self.trigger = Trigger()
        self.port = free_port()
        self.environment = made.environment(self.port, AIGEN_DATABASE_POOL_SIZE="6")
        self.process: ForkServerProcess | None = None
        self.deaths = 0
        self._round = 0
        made.call_at([self.port])

    async def start(self) -> None:
        """A process that serves, or has died of what is armed."""
        self.process = await asyncio.to_thread(
            start, self.environment, self.trigger, str(self.yard.folder / "log")
        )
        ends = time.monotonic() + _START_SECONDS
        while self.process.exitcode is None:
            if time.monotonic() > ends:
                raise RuntimeError("the service does not start")
            try:
                if (await self.yard.http.get(f"http://127.0.0.1:{self.port}/ready")).is_success:
                    return
            except httpx.HTTPError:
                await asyncio.sleep(0.03)

    async def keep(self) -> None:
        """Start the next process whenever one has died; what the dead one had taken becomes free as
        time would do.
        """
        while True:
            assert self.process is not None
            if self.process.exitcode is not None:
                self.deaths += 1
                await self.yard.time_passes()
                await self.start()
            await asyncio.sleep(0.03)

    async def rehearse(self) -> tuple[dict[str, int], dict[str, int], CampaignResult]:
        """The mix without a kill: how often each seam is passed by it, and while starting; and
        whether all is well.
        """
        starting = self.trigger.passes()
        found = CampaignResult("none", "never", self.yard.books)
        await self._lead(found)
        return self.trigger.passes(), starting, found

    async def kill_at(self, seam: Failpoint, moment: str, nth: int) -> CampaignResult:
        """One kill: the mix is led while the seam is armed. `nth` 0: it is armed in a process that
        is starting.
        """
        found = CampaignResult(seam.name, moment, self.yard.books)
        if not nth:
            self.stop()
            await self.yard.time_passes()
        for times in sorted(
            {nth or 1, 1}, reverse=True
        ):  # how often it is passed differs a little from mix to mix
            self.trigger.arm(moment, seam.name, times)
            await self._lead(found)
            if found.reached:
                break
        return found

    async def _lead(self, found: CampaignResult) -> None:
        self._round += 1
        if self.yard.books == "billing":
            self.yard.receiver.answers.extend([500, 400])
        operating = asyncio.create_task(self._operate())
        before = self.deaths
        try:
            lives = [self.yard.live(kind, str(self._round)) for kind in self.kinds]
            await asyncio.gather(*lives, self._reconcile())
            await self.yard.database.execute(_A_MINUTE_LATER)
            await self._reconcile()
            found.reached = bool(self.trigger.fired.value)
            self.trigger.disarm()
        finally:
            operating.cancel()
            await asyncio.gather(operating, return_exceptions=True)
        while found.reached and self.deaths == before:
            await asyncio.sleep(0.02)  # it was killed at the very end, and is being followed
        await self.yard.drained()
        found.lives += len(self.kinds)
        found.kills += self.deaths - before
        found.violations += await self.yard.check()

    async def _reconcile(self) -> None:
        await self.yard.line.call("POST", "/operations/reconcile", told={"hours": 1, "apply": True})

    async def _operate(self) -> None:
        while True:
            await asyncio.sleep(0.4)
            await self.yard.operate_somehow()

    def stop(self) -> None:
        """Kill it from outside."""
        if self.process is not None and self.process.exitcode is None:
            self.process.kill()
            self.process.join()


Plan = Callable[[dict[str, int], dict[str, int]], Sequence[tuple[Failpoint, str, int]]]
"""From how often each seam is passed by the mix, and while starting, to where it is killed."""


async def run(
    plan: Plan,
    *,
    books: str,
    kinds: Sequence[str] = tuple(SCENARIOS),
    report: Callable[[CampaignResult], None] = lambda _: None,
) -> list[CampaignResult]:
    """Rehearse, and kill as planned, one kill after the other; `report` is told each result."""
    async with environment(books=books) as made:
        campaign = Campaign(made, kinds)
        await campaign.start()
        stop = asyncio.Event()
        working = asyncio.create_task(made.worker(campaign.port).run(stop))
        keeping = asyncio.create_task(campaign.keep())
        results = []
        try:
            passed, starting, rehearsal = await campaign.rehearse()
            results.append(rehearsal)
            for seam, moment, nth in plan(passed, starting):
                results.append(await campaign.kill_at(seam, moment, nth))
                report(results[-1])
                if keeping.done():
                    await keeping
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
            stop.set()
            await working
            campaign.stop()
            await made.line.close()
        return results
