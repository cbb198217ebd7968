"""State machine test: users, workers, operators, time and restarts in any order, on real use cases
and database.

The invariants are checked after every step and at the end. AIGEN_TEST_EXAMPLES sets the number of
examples.
"""

import asyncio
import os
from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import asyncpg
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from creativeflow.services.aigeneration.application.generations import ActionResult, Caller
from creativeflow.services.aigeneration.domain import errors
from creativeflow.services.aigeneration.domain.lifecycle import TERMINAL, Stage, State
from creativeflow.services.aigeneration.domain.pricing import PLANS
from creativeflow.services.aigeneration.domain.request import GenerationRequest
from creativeflow.services.aigeneration.domain.transitions import IdempotencyClaim
from creativeflow.services.aigeneration.ports import PublicationOutcome
from creativeflow.services.aigeneration.settings import Settings
from creativeflow.services.aigeneration.storage.account_flags import AccountFlags
from creativeflow.services.aigeneration.workers.dispatcher import LANES
from tests.support.app import ServiceUnderTest, four_samples
from tests.support.databases import a_database_outside
from tests.support.invariants import violations
from tests.support.simulators import Clock

EXAMPLES = int(os.environ.get("AIGEN_TEST_EXAMPLES", "25"))
STEPS = 40
GIVEN = 600
USERS = {plan: f"{plan}-user" for plan in PLANS}
OPERATOR = Caller(name="operator")
_TABLES = (
    "generation_requests",
    "generation_events",
    "holds",
    "outbox",
    "idempotency_keys",
    "free_usage",
    "usage_log",
    "credit_accounts",
    "account_flags",
    "periodic_work",
    "rejected_prompts",
)
_LIVE = "SELECT count(*) FROM generation_requests WHERE deadline_at IS NOT NULL"
_SPENT = """SELECT user_id, COALESCE(sum(amount), 0)::int AS spent FROM holds
            WHERE funding = 'credits' AND state = 'captured' GROUP BY 1"""

users = st.sampled_from([*sorted(USERS.values()), USERS["payg"], USERS["payg"]])
recent = st.integers(0, 5)
"""Index of a request or job, newest first."""
_TRANSIENT = "is still being placed while the request is"
credit_faults = st.lists(st.sampled_from(["before", "after", "conflict"]), max_size=2)


class AnyOrder(RuleBasedStateMachine):
    """The service, with the actions of everyone who acts on it."""

    url: str
    loop: asyncio.AbstractEventLoop
    folder: Path

    def __init__(self) -> None:
        super().__init__()
        self.test_app: ServiceUnderTest | None = None
        self.jobs: list[GenerationRequest] = []
        self.started = False
        self.keys: dict[str, Any] = {}
        self.ended: dict[Any, tuple[str, int]] = {}

    def do(self, work: Awaitable[Any]) -> Any:
        """Run an action; refusals are expected, any other exception is an error."""
        with suppress(errors.AigenError):
            return self.loop.run_until_complete(work)  # type: ignore[arg-type]
        return None

    @property
    def at(self) -> ServiceUnderTest:
        """The current service instance."""
        assert self.test_app is not None
        return self.test_app

    @initialize(ledger_here=st.booleans())
    def begin(self, ledger_here: bool) -> None:
        """Create an empty database with a user on each plan."""
        self.loop.run_until_complete(self._clear())
        self._restart(Clock(), ledger_here)
        for plan, user in USERS.items():
            self.do(self.at.grant(user, GIVEN, plan))

    def _restart(self, clock: Clock, ledger_here: bool) -> None:
        configured = Settings(
            _env_file=None,  # type: ignore[call-arg]
            data_dir=self.folder,
            callback_secret="test-secret-of-enough-length",
            free_generations=4,
            max_rounds=3,
            in_flight_limits=dict.fromkeys(PLANS, 1000),
        )
        self.test_app = ServiceUnderTest(self.url, configured, clock, ledger_here=ledger_here)

    async def _clear(self) -> None:
        connection = await asyncpg.connect(self.url)
        try:
            there = {
                row["tablename"]
                for row in await connection.fetch("SELECT tablename FROM pg_tables")
            }
            await connection.execute(
                f"TRUNCATE {', '.join(t for t in (*_TABLES, 'credit_entries') if t in there)}"
            )
            await connection.execute("UPDATE lanes SET virtual_time = 0")
        finally:
            await connection.close()

    def request(self, number: int, state: str = "%") -> GenerationRequest | None:
        """Return one of the requests in this state, if any."""
        ids = self.loop.run_until_complete(
            self.at.database.fetch(
                "SELECT id FROM generation_requests WHERE state LIKE $1 ORDER BY id", state
            )
        )
        if not ids:
            return None
        found: GenerationRequest | None = self.do(
            self.at.service.queries.request(ids[-1 - number % len(ids)]["id"])
        )
        return found

    # What users do

    @rule(
        user=users,
        key=st.sampled_from(["", "a", "b", "c"]),
        quoted=st.booleans(),
        large=st.booleans(),
        faults=credit_faults,
    )
    def submit(self, user: str, key: str, quoted: bool, large: bool, faults: list[str]) -> None:
        """Submit a request, with or without a key and a quote."""
        claim = IdempotencyClaim(principal=user, key=key, fingerprint="same") if key else None
        quote = self.do(self.at.quoted(user)) if quoted else None
        self.at.credits.faults.extend(faults)
        brief = {"output_format": "YouTubeThumbnail_16x9"} if large else {}
        reply: ActionResult | None = self.do(
            self.at.submit(
                user, claim=claim, quote_id=quote["quote_id"] if quote else None, **brief
            )
        )
        self.at.credits.faults.clear()
        self.started = True
        if claim and reply is not None and reply.request is not None and reply.stored is None:
            known = self.keys.setdefault(f"{user}:{key}", reply.request.id)
            assert known == reply.request.id, "one key has started two requests"

    @rule(user=users)
    def submit_something_doubtful(self, user: str) -> None:
        """Submit a prompt that needs a review."""
        self.do(self.at.submit(user, input_prompt="a nude statue of an otter"))

    @precondition(lambda self: self.started)
    @rule(
        number=recent,
        sample=st.integers(0, 3),
        resolution=st.sampled_from([None, "4K"]),
        faults=credit_faults,
    )
    def select(self, number: int, sample: int, resolution: str | None, faults: list[str]) -> None:
        request = self.request(number, State.AWAITING_SELECTION) or self.request(number)
        if request is None or sample >= len(request.samples):
            return
        self.at.credits.faults.extend(faults)
        self.do(self.at.select(request, sample, resolution=resolution))
        self.at.credits.faults.clear()

    @precondition(lambda self: self.started)
    @rule(number=recent, faults=credit_faults)
    def regenerate(self, number: int, faults: list[str]) -> None:
        if request := self.request(number, State.AWAITING_SELECTION) or self.request(number):
            self.at.credits.faults.extend(faults)
            self.do(self.at.regenerate(request))
            self.at.credits.faults.clear()

    @precondition(lambda self: self.started)
    @rule(number=recent)
    def cancel(self, number: int) -> None:
        if request := self.request(number):
            self.do(self.at.cancel(request))

    @precondition(lambda self: self.started)
    @rule(number=recent)
    def retry(self, number: int) -> None:
        if request := self.request(number):
            self.do(
                self.at.generations.retry(
                    request.id, Caller(name="test"), {}, correlation_id="again"
                )
            )

    # Roles

    @rule(outcomes=st.lists(st.sampled_from(list(PublicationOutcome)), max_size=2))
    def dispatch(self, outcomes: list[PublicationOutcome]) -> None:
        """Publish jobs; the broker refuses some and does not confirm others."""
        self.at.engine.next_outcomes.extend(outcomes)
        self.do(self.at.service.dispatcher.step())
        self.at.engine.next_outcomes.clear()
        self.jobs += self.at.engine.jobs
        self.at.engine.jobs.clear()

    @rule(lane=st.sampled_from(LANES))
    def lease_and_die(self, lane: Stage) -> None:
        """Lease jobs and never publish them."""
        leased = self.do(self.at.jobs.lease(lane, window=10, most=2))
        self.jobs += leased.jobs if leased else []

    @rule(
        faults=credit_faults,
        told=st.lists(st.sampled_from(["away", "refused", "away_after"]), max_size=2),
    )
    def relay(self, faults: list[str], told: list[str]) -> None:
        self.at.credits.faults.extend(fault for fault in faults if fault != "conflict")
        self.at.notifier.faults.extend(told)
        self.do(self.at.service.relays.step())
        self.at.credits.faults.clear()
        self.at.notifier.faults.clear()

    @rule(faults=credit_faults)
    def sweep(self, faults: list[str]) -> None:
        self.at.credits.faults.extend(fault for fault in faults if fault != "conflict")
        self.do(self.at.sweep())
        self.at.credits.faults.clear()

    @rule(minutes=st.sampled_from([0.1, 0.1, 1, 1, 1, 6, 11, 60 * 24 * 31]))
    def time_jumps(self, minutes: float) -> None:
        self.at.clock.advance(minutes=minutes)

    @rule(ledger_here=st.booleans())
    def restart(self, ledger_here: bool) -> None:
        """Restart the process on the same database, with or without the local credit path."""
        clock = self.at.clock
        self.loop.run_until_complete(self.at.close())
        self._restart(clock, ledger_here)

    @rule(user=users)
    def samples_are_made(self, user: str) -> None:
        """Finish a stage without errors, so that later states are reached often."""
        self.do(self.at.submit(user))
        self.started = True
        self.work()

    @rule(user=users, sent=st.booleans())
    def one_is_cancelled(self, user: str, sent: bool) -> None:
        """Cancel a queued or running request."""
        reply = self.do(self.at.submit(user))
        self.started = True
        if sent:
            self.dispatch([])
        if reply is not None:
            self.do(self.at.cancel(reply.request))

    @precondition(lambda self: self.started)
    @rule(number=recent, again=st.booleans())
    def one_is_chosen(self, number: int, again: bool) -> None:
        """Select a sample, with or without making the final."""
        if request := self.request(number, State.AWAITING_SELECTION):
            self.do(self.at.regenerate(request) if again else self.at.select(request))
            self.work()

    @rule()
    def work(self) -> None:
        """Dispatch everything and finish the newest job."""
        self.dispatch([])
        if self.jobs:
            self.do(self.at.deliver(self.jobs[-1]))

    def report(self, job: GenerationRequest, work: Awaitable[Any]) -> None:
        """Send a report; one for an outdated job must change nothing."""
        before = self.do(self.at.look(job))
        self.do(work)
        after = self.do(self.at.look(job))
        assert job.job_id == before.job_id or after.version == before.version, (
            "a stale result was applied"
        )

    # Workers, for any job that ever existed

    @precondition(lambda self: self.jobs)
    @rule(number=recent, twice=st.booleans())
    def deliver(self, number: int, twice: bool) -> None:
        """Deliver a result, possibly twice."""
        if self.jobs:
            job = self.jobs[-1 - number % len(self.jobs)]
            for _ in range(1 + twice):
                self.report(job, self.at.deliver(job))

    @precondition(lambda self: self.jobs)
    @rule(number=recent, good=st.integers(0, 3))
    def deliver_partially(self, number: int, good: int) -> None:
        if self.jobs and (job := self.jobs[-1 - number % len(self.jobs)]).stage is Stage.SAMPLES:
            failures = [
                {"index": index, "error_code": "provider_error"} for index in range(good, 4)
            ]
            self.report(job, self.at.deliver(job, four_samples(job)[:good], failures))

    @precondition(lambda self: self.jobs)
    @rule(
        number=recent,
        code=st.sampled_from(["provider_error", "prompt_rejected", "invalid_input", "unheard_of"]),
    )
    def fail(self, number: int, code: str) -> None:
        if self.jobs:
            job = self.jobs[-1 - number % len(self.jobs)]
            self.report(job, self.at.fail(job, code))

    @precondition(lambda self: self.jobs)
    @rule(number=recent, percent=st.integers(0, 100))
    def progress(self, number: int, percent: int) -> None:
        if self.jobs:
            job = self.jobs[-1 - number % len(self.jobs)]
            assert job.job_id is not None
            self.report(job, self.at.jobs.work_started(job.id, job.job_id))
            self.report(
                job, self.at.jobs.progress_reported(job.id, job.job_id, {"percent": percent})
            )

    # Operators

    @precondition(lambda self: self.started)
    @rule(number=recent, accepted=st.booleans())
    def review(self, number: int, accepted: bool) -> None:
        if request := self.request(number, State.VALIDATING_CREDITS) or self.request(number):
            self.do(self.at.generations.review(request.id, OPERATOR, accepted_=accepted))

    @precondition(lambda self: self.started)
    @rule(number=recent)
    def force_fail(self, number: int) -> None:
        if request := self.request(number):
            self.do(self.at.generations.force_fail(request.id, OPERATOR, "the test says so"))

    @rule(charged=st.booleans())
    def decide_holds(self, charged: bool) -> None:
        """Decide a hold in doubt; the ledger's own state takes precedence."""
        for key in self.loop.run_until_complete(self.at.parked_holds()):
            self.do(self.at.generations.decide_hold(key, charged=charged, by="operator"))

    @precondition(lambda self: self.started)
    @rule()
    def replay(self) -> None:
        self.loop.run_until_complete(self._replay())

    @rule(user=users)
    def clear_flags(self, user: str) -> None:
        self.do(
            AccountFlags(self.at.database).clear(
                user, by="operator", note="looked into", now=self.at.clock()
            )
        )
        self.at.service.entitlements.forget(user)

    async def _replay(self) -> None:
        for message in await self.at.service.outbox.list_open(parked_only=True, most=100):
            await self.at.service.outbox.replay(message["id"], by="operator", now=self.at.clock())

    # Invariants

    @invariant()
    def nothing_is_wrong(self) -> None:
        """Check that timelines are legal, holds match the work, and ended requests stay ended."""
        if self.test_app is None:
            return
        found = self.loop.run_until_complete(
            violations(self.at.database, self.at.clock(), drained=False)
        )
        assert [text for text in found if _TRANSIENT not in text] == []
        rows = self.loop.run_until_complete(
            self.at.database.fetch("SELECT id, state, version FROM generation_requests")
        )
        now = {
            row["id"]: (row["state"], row["version"])
            for row in rows
            if State(row["state"]) in TERMINAL
        }
        assert self.ended.items() <= now.items(), "a terminal state has changed"
        self.ended = now

    @invariant()
    def what_was_written_is_what_is_stored(self) -> None:
        """Check that every written version is stored completely: the cached request equals the
        stored one.
        """
        if self.test_app is not None:
            self.loop.run_until_complete(self._compare())

    async def _compare(self) -> None:
        remembered = self.at.service.runner.cache.snapshot()
        for stored in await asyncio.gather(*map(self.at.service.store.load, remembered)):
            assert stored is not None
            if (written := remembered[stored.id]).version == stored.version:
                assert _comparable(written) == _comparable(stored)

    def teardown(self) -> None:
        """Drain everything and check that nothing is left and every credit is accounted for."""
        if self.test_app is None:
            return
        try:
            self.loop.run_until_complete(self._finish())
        finally:
            self.loop.run_until_complete(self.at.close())

    async def _finish(self) -> None:
        for _ in range(12):  # every live state has a deadline, so everything ends
            self.at.clock.advance(days=32)
            await self.at.sweep()
            for key in await self.at.parked_holds():
                await self.at.generations.decide_hold(key, charged=False, by="operator")
            await self._replay()
            await self.at.drain()
            if not await self.at.database.fetchval(_LIVE):
                break
        await self._replay()
        await self.at.drain()
        assert await violations(self.at.database, self.at.clock()) == []
        spent = {row["user_id"]: row["spent"] for row in await self.at.database.fetch(_SPENT)}
        for user in USERS.values():
            assert await self.at.balance(user) == GIVEN - spent.get(user, 0), user


def _comparable(request: GenerationRequest) -> GenerationRequest:
    """Return a request without its queue position, and with its holds sorted."""
    return replace(
        request, fair_at=None, holds=tuple(sorted(request.holds, key=lambda hold: hold.key))
    )


def test_any_order_of_events_keeps_credits_and_states_exact(admin_url: str, template: str) -> None:
    AnyOrder.loop = asyncio.new_event_loop()
    try:
        with (
            a_database_outside(admin_url, "aigen_test", template) as AnyOrder.url,
            TemporaryDirectory() as folder,
        ):
            AnyOrder.folder = Path(folder)
            run_state_machine_as_test(
                AnyOrder,
                settings=settings(
                    max_examples=EXAMPLES,
                    stateful_step_count=STEPS,
                    deadline=None,
                    derandomize=EXAMPLES <= 25,
                    database=None,
                    suppress_health_check=list(HealthCheck),
                    report_multiple_bugs=False,
                    phases=(Phase.explicit, Phase.generate, Phase.shrink),
                ),
            )
    finally:
        AnyOrder.loop.close()
