"""The service assembled for tests: real database, simulated external systems, and a clock that
tests control.
"""

from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from creativeflow.services.aigeneration.adapters.credits.local import LocalCredits
from creativeflow.services.aigeneration.application.generations import (
    ActionResult,
    Caller,
    Submission,
)
from creativeflow.services.aigeneration.bootstrap.container import Container
from creativeflow.services.aigeneration.domain.commands import SampleChoice
from creativeflow.services.aigeneration.domain.lifecycle import Stage
from creativeflow.services.aigeneration.domain.pricing import SubscriptionStatus
from creativeflow.services.aigeneration.domain.request import Asset, GenerationRequest
from creativeflow.services.aigeneration.ports import Credits
from creativeflow.services.aigeneration.settings import Settings
from creativeflow.services.aigeneration.storage.database import Database
from creativeflow.services.aigeneration.storage.ledger import Ledger
from tests.support.invariants import violations
from tests.support.simulators import Clock, FaultyCredits, RecordingEngine, RecordingNotifier

_STEPS_MAX = 1000


class ServiceUnderTest:
    """One process of the service whose roles run only when the test runs them.

    `ledger_here`: local credits are settled in the statement of the transition; otherwise they take
    the path of external credits.
    """

    def __init__(
        self,
        database_url: str,
        settings: Settings,
        clock: Clock | None = None,
        credits_: Credits | None = None,
        *,
        ledger_here: bool = False,
    ) -> None:
        self.clock = clock or Clock()
        self.engine = RecordingEngine()
        self.notifier = RecordingNotifier()
        self._credits_database = Database(database_url, pool_size=5)
        ledger = LocalCredits(Ledger(self._credits_database))
        self.credits = FaultyCredits(credits_ or ledger)
        self.service = Container(
            settings,
            database_url=database_url,
            now=self.clock,
            new_id=self.clock.new_id,
            monotonic=lambda: self.clock().timestamp(),
            credits_=ledger if ledger_here else self.credits,
            engine=self.engine,
            notifier=self.notifier,
        )
        self.generations = self.service.generations
        self.jobs = self.service.jobs
        self.database = self.service.database

    async def close(self) -> None:
        """Stop the process."""
        await self.service.stop()
        await self._credits_database.close()

    # Actions of users

    async def grant(
        self,
        user_id: str,
        amount: int = 0,
        plan: str | None = None,
        status: SubscriptionStatus | None = None,
    ) -> None:
        """Grant credits (1/100) and set the plan and its status."""
        ledger = Ledger(self.database)
        await ledger.grant(
            user_id, amount, operation=str(uuid4()), reason="test", plan=plan, status=status
        )
        self.service.entitlements.forget(user_id)

    async def submit(
        self, user_id: str = "user", *, claim: Any = None, quote_id: str | None = None, **brief: Any
    ) -> ActionResult:
        """Submit a request."""
        order = Submission(
            user_id=user_id,
            project_id=None,
            brief={"input_prompt": "a lighthouse", "output_format": "InstagramPost_1x1", **brief},  # type: ignore[typeddict-item]
            metadata={},
            created_by="test",
            correlation_id="test",
            quote_id=quote_id,
        )
        return await self.generations.submit(order, claim)

    async def submitted(self, user_id: str = "user", **brief: Any) -> GenerationRequest:
        """Submit a request and return it."""
        reply = await self.submit(user_id, **brief)
        assert reply.request is not None
        return reply.request

    async def select(
        self,
        request: GenerationRequest,
        sample: int = 0,
        *,
        resolution: str | None = None,
        caller: Caller | None = None,
        quote_id: str | None = None,
    ) -> ActionResult:
        """Select one of the request's samples."""
        return await self.generations.select_sample(
            request.id,
            SampleChoice(sample_id=request.samples[sample]["asset_id"], resolution=resolution),
            caller or Caller(name="test"),
            quote_id=quote_id,
        )

    async def quoted(self, user_id: str = "user", **brief: Any) -> dict[str, Any]:
        """Quote the request of `submit`."""
        asked: Any = {"input_prompt": "a lighthouse", "output_format": "InstagramPost_1x1", **brief}
        return await self.generations.quote(user_id, asked)

    async def regenerate(
        self, request: GenerationRequest, quote_id: str | None = None
    ) -> ActionResult:
        """Order another round."""
        return await self.generations.regenerate(request.id, Caller(name="test"), {}, quote_id)

    async def cancel(self, request: GenerationRequest) -> ActionResult:
        return await self.generations.cancel(request.id, Caller(name="test"))

    # Roles and workers

    def start_own(self) -> None:
        """Publish jobs and deliver messages right after their commit, as a started process does."""
        self.service.dispatcher.start_own(self.service.runner)
        self.service.relays.start_own()

    async def settle_own(self) -> None:
        """Wait until nothing of its own is on its way, and write the confirms that wait."""
        await self.service.dispatcher.finish_own()
        await self.service.runner.confirms.flush()
        await self.service.relays.finish()

    async def dispatch(self) -> None:
        """Run the dispatcher until no job is left."""
        for _ in range(_STEPS_MAX):
            if not await self.service.dispatcher.step():
                return

    async def next_job(self) -> GenerationRequest:
        """Dispatch, and return the oldest job that no worker has taken."""
        await self.dispatch()
        return self.engine.jobs.popleft()

    async def deliver(
        self, job: GenerationRequest, samples: Sequence[Asset] | None = None, failures: Any = ()
    ) -> GenerationRequest:
        """Report a valid result for a job: four samples, or the final."""
        assert job.job_id is not None
        if job.stage is Stage.SAMPLES:
            found = four_samples(job) if samples is None else samples
            return await self.jobs.samples_delivered(job.id, job.job_id, found, failures)
        return await self.jobs.final_delivered(job.id, job.job_id, a_final(job))

    async def fail(self, job: GenerationRequest, code: str = "provider_error") -> GenerationRequest:
        """Report an error for a job."""
        assert job.job_id is not None
        return await self.jobs.attempt_failed(job.id, job.job_id, code)

    async def with_samples(self, user_id: str = "user", **brief: Any) -> GenerationRequest:
        """Submit a request and deliver its samples."""
        await self.submitted(user_id, **brief)
        return await self.deliver(await self.next_job())

    async def sweep(self) -> None:
        """Run the sweeper once."""
        await self.service.sweeper.step()

    async def send_webhooks(self) -> int:
        """Send all due webhooks and wait for their outcomes; return the number of attempts."""
        taken = await self.service.webhook_sender.step()
        await self.service.webhook_sender.finish()
        return taken

    async def housekeep(self) -> None:
        """Run the periodic tasks that are due."""
        await self.service.periodic_tasks.step()
        await self.service.periodic_tasks.finish()

    async def drain(self) -> None:
        """Run relay and webhook sender until nothing is due, advancing the clock over retry
        delays.
        """
        for _ in range(_STEPS_MAX):
            if await self.service.relays.step() + await self.send_webhooks():
                continue
            if not await self.database.fetchval(
                "SELECT EXISTS (SELECT FROM outbox WHERE parked_reason IS NULL)"
            ):
                return
            self.clock.advance(minutes=6)

    # State

    async def look(self, request: GenerationRequest) -> GenerationRequest:
        """Return the current request."""
        found = await self.service.queries.request(request.id)
        assert found is not None
        return found

    async def timeline(self, request: GenerationRequest) -> list[dict[str, Any]]:
        """Return the timeline with its data."""
        return await self.service.queries.timeline(request.id)

    async def events(self, request: GenerationRequest) -> list[str]:
        """Return the events of the timeline."""
        return [entry["event"] for entry in await self.service.queries.timeline(request.id)]

    async def parked_holds(self) -> list[str]:
        """Return the keys of parked holds."""
        return [
            row["key"]
            for row in await self.database.fetch(
                "SELECT key FROM holds WHERE parked_at IS NOT NULL"
            )
        ]

    async def balance(self, user_id: str = "user") -> int:
        """Return the user's balance, in 1/100 credit."""
        return (await Ledger(self.database).account(user_id)).balance

    async def check(self, *, drained: bool = True) -> None:
        """Drain, and check the invariants."""
        if drained:
            await self.drain()
        assert await violations(self.database, self.clock(), drained=drained) == []


def four_samples(job: GenerationRequest) -> list[Asset]:
    """Return four valid samples for a job."""
    size = job.dimensions.scaled(min(512, job.dimensions.longest))
    return [
        Asset(
            asset_id=f"{job.job_id}-{index}",
            url=f"https://s/{index}.png",
            resolution=str(size),
            format="png",
            index=index,
        )
        for index in range(4)
    ]


def a_final(job: GenerationRequest) -> Asset:
    """Return a valid final for a job."""
    return Asset(
        asset_id=f"{job.job_id}-final",
        url="https://s/final.png",
        resolution=str(job.final_size),
        format=job.file_format,
    )
