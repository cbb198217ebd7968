"""Kill the service at each failpoint while scenarios run, restart it and check the invariants."""

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
"""Reconciliation compares only holds that are at least a minute old."""


@dataclass
class CampaignResult:
    """Result of the kills at one moment of one failpoint; `reached`: whether the scenarios passed
    it.
    """

    failpoint: str
    moment: str
    credit_service: str
    kills: int = 0
    reached: bool = False
    scenarios: int = 0
    violations: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Convert to JSON types."""
        return asdict(self)


class Campaign:
    """Serving processes on one environment, one at a time; a killed one is replaced at once."""

    def __init__(self, made: Environment, kinds: Sequence[str]) -> None:
        self.environment = made
        self.kinds = kinds
        self.trigger = Trigger()
        self.port = free_port()
        self.variables = made.variables(self.port, AIGEN_DATABASE_POOL_SIZE="6")
        self.process: ForkServerProcess | None = None
        self.deaths = 0
        self._round = 0
        made.call_at([self.port])

    async def start(self) -> None:
        """Start a process; wait until it is ready or the armed failpoint has killed it."""
        self.process = await asyncio.to_thread(
            start, self.variables, self.trigger, str(self.environment.folder / "log")
        )
        ends = time.monotonic() + _START_SECONDS
        while self.process.exitcode is None:
            if time.monotonic() > ends:
                raise RuntimeError("the service does not start")
            try:
                if (
                    await self.environment.http.get(f"http://127.0.0.1:{self.port}/ready")
                ).is_success:
                    return
            except httpx.HTTPError:
                await asyncio.sleep(0.03)

    async def keep(self) -> None:
        """Replace each killed process, with its leases expired."""
        while True:
            assert self.process is not None
            if self.process.exitcode is not None:
                self.deaths += 1
                await self.environment.time_passes()
                await self.start()
            await asyncio.sleep(0.03)

    async def rehearse(self) -> tuple[dict[str, int], dict[str, int], CampaignResult]:
        """Run the scenarios without a kill.

        Returns how often each failpoint was passed by them and by the start, and the result.
        """
        starting = self.trigger.passes()
        found = CampaignResult("none", "never", self.environment.credit_service)
        await self._run_scenarios(found)
        return self.trigger.passes(), starting, found

    async def kill_at(self, failpoint: Failpoint, moment: str, nth: int) -> CampaignResult:
        """Run the scenarios with an armed failpoint; `nth` 0 arms it during the start."""
        found = CampaignResult(failpoint.name, moment, self.environment.credit_service)
        if not nth:
            self.stop()
            await self.environment.time_passes()
        for times in sorted(
            {nth or 1, 1}, reverse=True
        ):  # the number of passes differs slightly from run to run
            self.trigger.arm(moment, failpoint.name, times)
            await self._run_scenarios(found)
            if found.reached:
                break
        return found

    async def _run_scenarios(self, found: CampaignResult) -> None:
        self._round += 1
        if self.environment.credit_service == "billing":
            self.environment.receiver.answers.extend([500, 400])
        operating = asyncio.create_task(self._operate())
        before = self.deaths
        try:
            scenarios = [
                self.environment.run_scenario(kind, str(self._round)) for kind in self.kinds
            ]
            await asyncio.gather(*scenarios, self._reconcile())
            await self.environment.database.execute(_A_MINUTE_LATER)
            await self._reconcile()
            found.reached = bool(self.trigger.fired.value)
            self.trigger.disarm()
        finally:
            operating.cancel()
            await asyncio.gather(operating, return_exceptions=True)
        while found.reached and self.deaths == before:
            await asyncio.sleep(0.02)  # killed at the very end; the replacement is starting
        await self.environment.drained()
        found.scenarios += len(self.kinds)
        found.kills += self.deaths - before
        found.violations += await self.environment.check()

    async def _reconcile(self) -> None:
        await self.environment.line.call(
            "POST", "/operations/reconcile", told={"hours": 1, "apply": True}
        )

    async def _operate(self) -> None:
        while True:
            await asyncio.sleep(0.4)
            await self.environment.operate_somehow()

    def stop(self) -> None:
        """Kill the process."""
        if self.process is not None and self.process.exitcode is None:
            self.process.kill()
            self.process.join()


Plan = Callable[[dict[str, int], dict[str, int]], Sequence[tuple[Failpoint, str, int]]]
"""Maps the passes of each failpoint, by the scenarios and by the start, to the kills."""


async def run(
    plan: Plan,
    *,
    credit_service: str,
    kinds: Sequence[str] = tuple(SCENARIOS),
    report: Callable[[CampaignResult], None] = lambda _: None,
) -> list[CampaignResult]:
    """Rehearse, then run the planned kills one after another; call `report` with each result."""
    async with environment(credit_service=credit_service) as made:
        campaign = Campaign(made, kinds)
        await campaign.start()
        stop = asyncio.Event()
        working = asyncio.create_task(made.worker(campaign.port).run(stop))
        keeping = asyncio.create_task(campaign.keep())
        results = []
        try:
            passed, starting, rehearsal = await campaign.rehearse()
            results.append(rehearsal)
            for failpoint, moment, nth in plan(passed, starting):
                results.append(await campaign.kill_at(failpoint, moment, nth))
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
