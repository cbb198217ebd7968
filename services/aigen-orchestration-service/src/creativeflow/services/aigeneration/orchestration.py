"""What can happen to a request: one method for each thing, from the first call to the last coin.

Every method loads the request, lets one event happen to it, and writes the change guarded by its version; when
somebody else was faster it looks again. Nothing foreign is called inside a transaction: a hold is first written
as `placing`, then asked for, then written as held.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from creativeflow.services.aigeneration.domain import errors, faults
from creativeflow.services.aigeneration.domain.change import Answer, Change, Entry, KeyClaim, failure, started
from creativeflow.services.aigeneration.domain.formats import final_size
from creativeflow.services.aigeneration.domain.lifecycle import (
    CONFIRMED,
    DELIVERED,
    IN_FLIGHT,
    ON_DEADLINE,
    STARTED,
    Event,
    Stage,
    State,
)
from creativeflow.services.aigeneration.domain.orders import (
    charge_data,
    check_choosing,
    check_model,
    check_plan,
    check_quoted,
    hold_for,
    ordered,
    provided,
    quote,
    repeats,
    routed,
    shown,
    terms_of,
)
from creativeflow.services.aigeneration.domain.policy import Policy
from creativeflow.services.aigeneration.domain.prices import (
    Charge,
    Funding,
    Plan,
    is_high_resolution,
    price_final,
    price_samples,
)
from creativeflow.services.aigeneration.domain.request import Asset, Brief, Request, SampleFailure, iso
from creativeflow.services.aigeneration.domain.resource import resource
from creativeflow.services.aigeneration.domain.results import INVALID_OUTPUT, final_fits, judge_samples
from creativeflow.services.aigeneration.domain.routing import Asked, Choice, Routing
from creativeflow.services.aigeneration.domain.safety import Outcome, Verdict
from creativeflow.services.aigeneration.holds import Holds
from creativeflow.services.aigeneration.moving import Caller, Decide, Mover, Reply, accepted, check_version
from creativeflow.services.aigeneration.ports import (
    Credits,
    CreditsUnknownError,
    Entitlements,
    Publication,
    PublicationOutcome,
)
from creativeflow.services.aigeneration.prompts import Prompts
from creativeflow.services.aigeneration.quotes import Quotes
from creativeflow.services.aigeneration.storage.store import LeasedJobs, Store

__all__ = ["Caller", "Orchestrator", "Reply", "Submission"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A validated order for a new request."""

    user_id: str
    project_id: str | None
    brief: Brief
    metadata: Mapping[str, Any]
    created_by: str
    correlation_id: str
    traceparent: str | None = None
    retry_of: UUID | None = None
    quote_id: str | None = None


class Orchestrator:
    """The only part that decides; all its state is in the store, so any number of processes may run it."""

    def __init__(
        self,
        store: Store,
        credits_: Credits,
        *,
        entitlements: Callable[[str], Awaitable[Entitlements]],
        quotes: Quotes,
        routing: Callable[[], Routing],
        prompts: Prompts,
        policy: Policy,
        now: Callable[[], datetime],
        new_id: Callable[[], UUID],
        on_written: Callable[[Change], None] = lambda _change: None,
        hold_seconds: float = 5.0,
    ) -> None:
        self._store = store
        self._entitlements = entitlements
        self._quotes = quotes
        self._routing = routing
        self._prompts = prompts
        self._policy = policy
        self._now = now
        self._new_id = new_id
        self._on_written = on_written
        self._mover = Mover(store, policy=policy, now=now, new_id=new_id, on_written=on_written)
        self._holds = Holds(self._mover, credits_, timeout_seconds=hold_seconds)

    # What a user does

    async def submit(self, order: Submission, claim: KeyClaim | None = None) -> Reply:
        """Take a new request: priced, its credits being held or none needed, its job queued.

        Idempotent on the claim: the same key gives the same answer and starts nothing twice.

        Raises:
            PromptRejectedError, SafetyUnavailableError: the words may not be used, or nobody can say now.
            FreeQuotaExhaustedError, InsufficientCreditsError: nothing was charged.
            PlanRequiredError, AccountRestrictedError: the plan or the account does not allow it.
            QuoteExpiredError: it no longer costs what was quoted; nothing was charged.
            CreditsUnavailableError: the plan cannot be known right now.
        """
        return await self._mover.once(claim, lambda: self._submit(order, claim))

    async def quote(self, user_id: str, brief: Brief) -> dict[str, Any]:
        """What a request would cost, item by item, and what it would leave; starts nothing.

        Its `quote_id` binds these prices until `expires_at`: an action that comes with it costs them, or is refused.
        """
        entitled = await self._entitled(user_id)
        prices = self._policy.prices
        models = {stage: self._choose(stage, entitled.plan, brief, user_id).model for stage in Stage}
        check_plan(entitled.plan, brief, prices, models[Stage.SAMPLES])
        terms, expires_at = terms_of(entitled.plan, prices, models), self._now() + self._policy.quote_validity
        return quote(entitled.plan, brief, prices, models, balance=entitled.balance) | {
            "quote_id": self._quotes.seal(user_id, terms, expires_at),
            "expires_at": iso(expires_at.replace(microsecond=0)),
        }

    async def select_sample(
        self, request_id: UUID, sample_id: str, caller: Caller, *, resolution: str | None, file_format: str | None,
        quote_id: str | None = None,
    ) -> Reply:  # fmt: skip
        """Pick exactly one sample and order the final; the same sample again gives the same answer.

        Raises:
            AlreadySelectedError: another sample was picked before.
            InvalidRequestError: the sample is not one of this round, or the resolution does not fit.
            QuoteExpiredError: it no longer costs what was quoted; nothing was charged.
            PlanRequiredError, InsufficientCreditsError, ActionInProgressError, ActionNotPossibleError.
        """

        async def act() -> Reply:
            entitled = await self._entitled((await self._mover.owned(request_id, caller)).user_id)

            def decide(request: Request) -> Change | None:
                if request.selected_sample_id is not None:
                    if not repeats(request, sample_id, resolution, file_format):
                        raise errors.AlreadySelectedError(sample_id=request.selected_sample_id)
                    return None
                check_choosing(request, Event.SAMPLE_SELECTED)
                if sample_id not in {sample["asset_id"] for sample in request.samples}:
                    raise errors.InvalidRequestError.at(
                        "/selected_sample_id", "unknown_sample", "Pick one of the request's current `samples`."
                    )
                size = final_size(request.dimensions, resolution)
                if is_high_resolution(self._policy.prices, size.longest) and not entitled.plan.high_resolution:
                    raise errors.PlanRequiredError(feature="A high-resolution final", plan="Pro")
                choice = self._choose(Stage.FINAL, entitled.plan, request.brief, request.user_id)
                check_model(entitled.plan, choice.model)
                charge = price_final(
                    entitled.plan, self._policy.prices, longest_side=size.longest, surcharge=choice.model.surcharge
                )
                chosen = {
                    "selected_sample_id": sample_id,
                    "final_resolution": str(size),
                    "file_format": file_format or request.file_format,
                    "plan": entitled.plan.name,
                    "route": routed(choice),
                }
                check_quoted(self._quotes.open(quote_id, request.user_id, self._now()), charge)
                return self._order(request, Event.SAMPLE_SELECTED, charge, chosen, caller=caller, entitled=entitled)

            return await self._act_and_pay(request_id, caller, decide)

        return await self._mover.once(caller.claim, act)

    async def regenerate(
        self, request_id: UUID, caller: Caller, brief_changes: Mapping[str, str], quote_id: str | None = None
    ) -> Reply:
        """Ask for another round of samples, at the price of a sample set (REQ-008).

        Raises:
            PromptRejectedError, PromptReviewRequiredError, SafetyUnavailableError: because of the changed words.
            TooManyRoundsError, ActionInProgressError, ActionNotPossibleError, FreeQuotaExhaustedError,
            InsufficientCreditsError, QuoteExpiredError.
        """

        async def act() -> Reply:
            before = await self._mover.owned(request_id, caller)
            entitled = await self._entitled(before.user_id)
            if brief_changes.keys() & {"input_prompt", "style_guidance"}:
                changed = Brief(**{**before.brief, **brief_changes})  # type: ignore[typeddict-item]
                await self._prompts.judge_change(before.user_id, changed)

            def decide(request: Request) -> Change:
                check_choosing(request, Event.REGENERATION_REQUESTED)
                if request.selected_sample_id is not None:
                    raise errors.AlreadySelectedError(sample_id=request.selected_sample_id)
                if request.round >= request.max_rounds:
                    raise errors.TooManyRoundsError(limit=request.max_rounds)
                brief = Brief(**{**request.brief, **brief_changes})  # type: ignore[typeddict-item]
                choice = self._choose(Stage.SAMPLES, entitled.plan, brief, request.user_id)
                check_model(entitled.plan, choice.model)
                charge = price_samples(entitled.plan, self._policy.prices, choice.model.surcharge)
                check_quoted(self._quotes.open(quote_id, request.user_id, self._now()), charge)
                fields = {"brief": dict(brief_changes), "plan": entitled.plan.name, "route": routed(choice)}
                return self._order(
                    request, Event.REGENERATION_REQUESTED, charge, fields, caller=caller, entitled=entitled
                )

            return await self._act_and_pay(request_id, caller, decide)

        return await self._mover.once(caller.claim, act)

    async def retry(
        self, request_id: UUID, caller: Caller, changes: Mapping[str, Any], *, correlation_id: str,
        traceparent: str | None = None, quote_id: str | None = None,
    ) -> Reply:  # fmt: skip
        """Start a request that ended without its result again, as a new request with `retry_of`.

        Raises:
            ActionNotPossibleError: it has not ended, or it ended well.
        """

        async def act() -> Reply:
            request = await self._mover.owned(request_id, caller)
            check_version(request, caller)
            if not request.terminal or request.state is State.COMPLETED:
                raise errors.ActionNotPossibleError(state=request.state)
            brief = Brief(**{**request.brief, **changes})  # type: ignore[typeddict-item]
            if request.state is State.CONTENT_REJECTED and brief["input_prompt"] == request.brief["input_prompt"]:
                raise errors.InvalidRequestError.at(
                    "/updated_prompt", "prompt_unchanged", "The prompt was rejected as it is: send another one."
                )
            self._routing().check_named(brief.get("model"))
            order = Submission(
                user_id=request.user_id, project_id=request.project_id, brief=brief, metadata=request.metadata,
                created_by=caller.name, correlation_id=correlation_id, traceparent=traceparent, retry_of=request.id,
                quote_id=quote_id,
            )  # fmt: skip
            return await self._submit(order, caller.claim)

        return await self._mover.once(caller.claim, act)

    async def cancel(self, request_id: UUID, caller: Caller) -> Reply:
        """End a request early; what is held is given back. On an ended request nothing happens.

        `outcome` is `cancellation_requested` where a worker may still be busy: its results will be refused.
        """

        async def act() -> Reply:
            outcome = "already_terminal"

            def decide(request: Request) -> Change | None:
                nonlocal outcome
                if request.terminal:
                    outcome = "already_terminal"
                    return None
                outcome = "cancellation_requested" if request.state in IN_FLIGHT else "canceled"
                change = self._mover.happen(
                    request, Event.CANCEL_REQUESTED, data={"by": caller.name}, pending_action=None
                )
                return replace(change, claim=caller.claim, answer=Answer(status=200, body=body(change.after)))

            def body(request: Request) -> dict[str, Any]:
                return resource(request) | {"outcome": outcome}

            request = await self._mover.move(request_id, decide, caller)
            acted = outcome != "already_terminal"
            return Reply(answer=Answer(status=200, body=body(request)), request=request, acted=acted)

        return await self._mover.once(caller.claim, act)

    async def force_fail(self, request_id: UUID, caller: Caller, reason: str) -> Reply:
        """An operator ends a live request; what is held is given back and who did it stands in the timeline."""

        def decide(request: Request) -> Change:
            change = self._mover.happen(
                request, Event.OPERATOR_FAILED, data={"by": caller.name, "reason": reason},
                failure=failure(faults.OPERATOR_ENDED), pending_action=None,
            )  # fmt: skip
            return replace(change, claim=caller.claim, answer=Answer(status=200, body=resource(change.after)))

        async def act() -> Reply:
            request = await self._mover.move(request_id, decide, caller)
            return Reply(answer=Answer(status=200, body=resource(request)), request=request)

        return await self._mover.once(caller.claim, act)

    async def review(self, request_id: UUID, caller: Caller, *, accepted_: bool) -> Request:
        """An operator has looked at a prompt: the request goes on, or is rejected. Again: nothing happens.

        Raises:
            NotFoundError: no such request. CreditsUnavailableError: the plan cannot be known right now.
        """
        before = await self._mover.owned(request_id, caller)
        if not before.in_review:
            return before
        if not accepted_:
            return await self._mover.move(request_id, lambda request: self._reject(request, caller), caller)
        entitled = await self._entitlements_known(before.user_id)
        surcharge = self._choose(Stage.SAMPLES, entitled.plan, before.brief, before.user_id).model.surcharge
        charge = price_samples(entitled.plan, self._policy.prices, surcharge)
        try:
            request = await self._mover.move(
                request_id, lambda request: self._accept(request, charge, entitled, caller), caller
            )
            return (await self._holds.place_for_caller(request)).request or request
        except (errors.InsufficientCreditsError, errors.FreeQuotaExhaustedError):
            return await self._mover.move(request_id, self._cannot_pay, caller)

    # What the credit service answers

    async def settle_hold(self, request_id: UUID) -> None:
        """Find out what became of a hold nobody waits for any more; see `Holds.settle`."""
        await self._holds.settle(request_id)

    async def decide_hold(self, key: str, *, charged: bool, by: str) -> None:
        """An operator says whether a hold in doubt was charged; see `Holds.decide`. Again: nothing happens.

        Raises:
            NotFoundError: no hold has this key. CreditsUnavailableError: it could not be kept now.
        """
        if not await self._holds.decide(key, charged=charged, by=by):
            raise errors.NotFoundError

    # What dispatchers do

    async def lease_jobs(self, lane: Stage, *, window: int, most: int) -> LeasedJobs:
        """Take the next jobs of a lane in fair order; each is leased to the caller for a bounded time."""
        now, routing = self._now(), self._routing()

        def lease(request: Request) -> Change:
            chosen = request.route["chosen"] if request.route else request.brief.get("model")
            model = routing.attempt(chosen, attempt=request.attempt, max_attempts=self._policy.max_attempts)
            return self._mover.happen(
                request, Event.JOB_LEASED, lease_until=now + self._policy.job_lease, model=model.name,
                route=provided(request.route, model),
                data={"job_id": request.job_id, "attempt": request.attempt, "model": model.name},
            )  # fmt: skip

        return await self._store.lease_jobs(
            lane, window=window, most=most, per_user=self._policy.in_flight, now=now, lease=lease
        )

    async def jobs_published(self, published: Sequence[tuple[Request, Publication]]) -> None:
        """Write what came of publishing leased jobs. A job that a worker has already answered stays as it is."""
        changes = []
        for request, publication in published:
            data = {"job_id": request.job_id}
            if publication.outcome is PublicationOutcome.ACCEPTED:
                changes.append(self._mover.happen(request, CONFIRMED[request.stage], data=data))
            else:
                changes.append(
                    self._mover.happen(
                        request, Event.JOB_RETURNED, due_at=self._now() + self._policy.retry_delay,
                        data=data | {"outcome": publication.outcome, "reason": publication.reason},
                    )
                )  # fmt: skip
        for change, written in zip(changes, await self._store.write_moves(changes), strict=True):
            if written:
                self._on_written(change)

    # What workers report

    async def work_started(self, request_id: UUID, job_id: UUID) -> Request:
        """A worker has begun. Again: nothing happens.

        Raises:
            NotFoundError: no such request. StaleResultError: the job is not the current one; the worker stops.
        """

        def decide(request: Request) -> Change | None:
            if request.state in (State.PROCESSING_SAMPLES, State.PROCESSING_FINAL) and request.progress is not None:
                return None
            return self._mover.happen(request, STARTED[request.stage], progress={"percent": 0}, data={"job_id": job_id})

        return await self._report(request_id, job_id, "started", decide)

    async def progress_reported(
        self, request_id: UUID, job_id: UUID, progress: Mapping[str, Any], samples: Sequence[Asset] = ()
    ) -> Request:
        """A worker says how far it is; samples that are ready can be seen, but not yet selected."""

        def decide(request: Request) -> Change:
            fields: dict[str, Any] = {"progress": dict(progress)}
            if samples and request.stage is Stage.SAMPLES:
                fields["samples"] = judge_samples(request, (*request.samples, *samples), ()).good
            begun = request.state in (State.PROCESSING_SAMPLES, State.PROCESSING_FINAL)
            event = Event.PROGRESS_REPORTED if begun else STARTED[request.stage]
            return self._mover.happen(request, event, data={"job_id": job_id, **progress}, **fields)

        return await self._report(request_id, job_id, "progress", decide)

    async def samples_delivered(
        self,
        request_id: UUID,
        job_id: UUID,
        samples: Sequence[Asset],
        failures: Sequence[SampleFailure],
        *,
        ai_model_used: str | None = None,
        data: Mapping[str, Any] | None = None,
    ) -> Request:
        """Samples came: the good ones are shown and paid for; none good is a failed attempt (REQ-008)."""

        def decide(request: Request) -> Change | None:
            if request.stage is not Stage.SAMPLES:
                raise _wrong_stage(request)
            if request.state is State.AWAITING_SELECTION:
                return None
            judged = judge_samples(request, samples, failures)
            if not judged.good:
                code = judged.failures[0]["error_code"] if judged.failures else INVALID_OUTPUT
                return self._fail_attempt(request, code, {"failures": list(judged.failures)})
            return self._mover.happen(
                request, DELIVERED[Stage.SAMPLES], samples=judged.good, sample_failures=judged.failures,
                ai_model_used=ai_model_used or request.model, progress=None,
                data={"job_id": job_id, "good": len(judged.good), "failed": len(judged.failures), **(data or {})},
            )  # fmt: skip

        return await self._report(request_id, job_id, "samples", decide)

    async def final_delivered(
        self, request_id: UUID, job_id: UUID, asset: Asset, ai_model_used: str | None = None,
        data: Mapping[str, Any] | None = None,
    ) -> Request:  # fmt: skip
        """The final came: completed and paid for, if size and format are what was asked (REQ-009)."""

        def decide(request: Request) -> Change | None:
            if request.stage is not Stage.FINAL:
                raise _wrong_stage(request)
            if request.state is State.COMPLETED:
                return None
            if not final_fits(request, asset):
                evidence = {"resolution": asset["resolution"], "format": asset["format"]}
                return self._fail_attempt(request, INVALID_OUTPUT, evidence)
            return self._mover.happen(
                request, DELIVERED[Stage.FINAL], final_asset=asset, progress=None,
                ai_model_used=ai_model_used or request.model,
                data={"job_id": job_id, "asset_id": asset["asset_id"], **(data or {})},
            )  # fmt: skip

        return await self._report(request_id, job_id, "final", decide)

    async def attempt_failed(
        self, request_id: UUID, job_id: UUID, code: str, data: Mapping[str, Any] | None = None
    ) -> Request:
        """A worker gave up: tried again, failed, or rejected, by the table in `domain/faults.py`."""

        def decide(request: Request) -> Change | None:
            if request.terminal and request.failure and request.failure["code"] == faults.reported_code(code):
                return None
            return self._fail_attempt(request, code, data or {})

        return await self._report(request_id, job_id, "error", decide)

    async def current_job(self, request_id: UUID) -> UUID:
        """The current job of a request.

        Raises:
            NotFoundError: no such request. StaleResultError: it has no job now.
        """
        request = await self._mover.owned(request_id, None)
        if request.job_id is None:
            raise errors.StaleResultError
        return request.job_id

    # What time does

    async def time_passed(self, request: Request) -> None:
        """Let happen what is overdue: a deadline, an expired lease, a reminder."""

        def decide(current: Request) -> Change | None:
            now = self._now()
            if current.deadline_at and current.deadline_at <= now:
                if ON_DEADLINE[current.state] is Event.ATTEMPT_FAILED:
                    return self._fail_attempt(current, "model_timeout", {"deadline": current.deadline_at})
                expired = current.state is State.AWAITING_SELECTION
                return self._mover.happen(
                    current, ON_DEADLINE[current.state], pending_action=None,
                    failure=None if expired else failure(faults.DISPATCH_TIMEOUT),
                )  # fmt: skip
            if current.lease_until and current.lease_until <= now:
                return self._mover.happen(
                    current, Event.JOB_RETURNED, due_at=now, data={"job_id": current.job_id, "reason": "lease expired"}
                )
            if current.remind_at and current.remind_at <= now and current.state is State.AWAITING_SELECTION:
                return self._mover.happen(current, Event.EXPIRY_NEARED, remind_at=None)
            return None

        await self._mover.move(request.id, decide)

    # How it is done

    async def _submit(self, order: Submission, claim: KeyClaim | None) -> Reply:
        entitled = await self._entitled(order.user_id)
        verdict = await self._prompts.judge(order.user_id, order.brief)
        choice = self._choose(Stage.SAMPLES, entitled.plan, order.brief, order.user_id)
        check_plan(entitled.plan, order.brief, self._policy.prices, choice.model)
        charge = price_samples(entitled.plan, self._policy.prices, choice.model.surcharge)
        check_quoted(self._quotes.open(order.quote_id, order.user_id, self._now()), charge)
        request = replace(self._new_request(order, entitled.plan, charge), route=routed(choice))
        data = {
            "by": order.created_by, "charge": _payable(charge, entitled), "retry_of": order.retry_of,
            "route": request.route,
        }  # fmt: skip
        if verdict.outcome is Outcome.REVIEW:
            request = self._for_review(request, verdict)
            answer = accepted(request)
            data["review"] = verdict.category
            await self._mover.write_new(started(request, data=data, claim=claim, answer=answer if claim else None))
            return Reply(answer=answer, request=request)
        if charge.funding is Funding.CREDITS:
            await self._mover.write_new(started(request, data=data, claim=claim))
            return await self._holds.place_for_caller(request)
        answer = accepted(request)
        await self._mover.write_new(started(request, data=data, claim=claim, answer=answer if claim else None))
        return Reply(answer=answer, request=request)

    def _new_request(self, order: Submission, plan: Plan, charge: Charge) -> Request:
        """The request in its first state: waiting for its hold, or for its turn where nothing is to be paid."""
        now, request_id = self._now(), self._new_id()
        hold = hold_for(charge, request_id, Stage.SAMPLES, 1, now)
        waits = charge.funding is not Funding.CREDITS
        return Request(
            id=request_id, user_id=order.user_id, project_id=order.project_id, created_by=order.created_by,
            correlation_id=order.correlation_id, traceparent=order.traceparent,
            state=State.PENDING if waits else State.VALIDATING_CREDITS, stage=Stage.SAMPLES, round=1,
            attempt=1 if waits else 0, job_id=self._new_id() if waits else None, due_at=now if waits else None,
            version=1, plan=plan.name, brief=order.brief, metadata=order.metadata, retry_of=order.retry_of,
            max_rounds=self._policy.max_rounds,
            deadline_at=now + self._policy.dispatch_deadline, created_at=now, updated_at=now,
            holds=(hold,) if hold else (),
        )  # fmt: skip

    def _for_review(self, request: Request, verdict: Verdict) -> Request:
        """The request as it waits for a person: nothing is held, and no job is queued."""
        return replace(
            request, state=State.VALIDATING_CREDITS, attempt=0, job_id=None, due_at=None, holds=(),
            deadline_at=request.created_at + self._policy.review_deadline,
            pending_action={"event": Event.REVIEW_PASSED.value, "fields": {"category": verdict.category}},
        )  # fmt: skip

    def _accept(self, request: Request, charge: Charge, entitled: Entitlements, caller: Caller) -> Change | None:
        if not request.in_review:
            return None
        hold = hold_for(charge, request.id, Stage.SAMPLES, request.round, self._now())
        event = Event.CREDITS_ASKED if charge.funding is Funding.CREDITS else Event.REVIEW_PASSED
        data = {"by": caller.name, "review": "passed", "charge": _payable(charge, entitled)}
        return self._mover.happen(request, event, hold=hold, data=data, pending_action=None, plan=entitled.plan.name)

    def _reject(self, request: Request, caller: Caller) -> Change | None:
        if not request.in_review:
            return None
        return self._mover.happen(
            request, Event.REVIEW_REJECTED, data={"by": caller.name}, failure=failure(faults.PROMPT_REFUSED),
            pending_action=None,
        )  # fmt: skip

    def _cannot_pay(self, request: Request) -> Change | None:
        """The allowance is used up by now; credits that were refused have been written so already."""
        if not request.in_review:
            return None
        return self._mover.happen(
            request, Event.CREDITS_REFUSED, failure=failure(faults.INSUFFICIENT_CREDITS), pending_action=None
        )

    def _order(
        self, request: Request, event: Event, charge: Charge, fields: dict[str, Any], *, caller: Caller,
        entitled: Entitlements,
    ) -> Change:  # fmt: skip
        """Queue the next job, or first ask for the credits it costs."""
        stage = Stage.FINAL if event is Event.SAMPLE_SELECTED else Stage.SAMPLES
        round_number = request.round + (stage is Stage.SAMPLES)
        hold = hold_for(charge, request.id, stage, round_number, self._now())
        data = {"by": caller.name, "charge": _payable(charge, entitled), **shown(fields)}
        if hold is None or hold.funding is Funding.ALLOWANCE:
            change = self._mover.happen(request, event, hold=hold, data=data, **ordered(request, event, fields))
            return replace(change, claim=caller.claim, answer=accepted(change.after) if caller.claim else None)
        chosen = {"selected_sample_id": fields["selected_sample_id"]} if stage is Stage.FINAL else {}
        pending = {"event": event.value, "fields": fields}
        change = self._mover.happen(
            request, Event.CREDITS_ASKED, hold=hold, data=data, pending_action=pending, **chosen
        )
        return replace(change, claim=caller.claim)

    async def _act_and_pay(self, request_id: UUID, caller: Caller, decide: Decide) -> Reply:
        acted = False

        def watched(request: Request) -> Change | None:
            nonlocal acted
            change = decide(request)
            acted = change is not None
            return change

        request = await self._mover.move(request_id, watched, caller)
        if request.placing is not None and request.pending_action is not None:
            return replace(await self._holds.place_for_caller(request), acted=acted)
        return Reply(answer=accepted(request), request=request, acted=acted)

    def _fail_attempt(self, request: Request, code: str, data: Mapping[str, Any]) -> Change:
        """By the fault's line: another attempt while there is one, else the end with friendly words."""
        known = faults.reported_code(code)
        fault = faults.fault_of(known)
        data = {
            "job_id": request.job_id,
            "code": known,
            "reported": code,
            "fault": fault.party,
            "attempt": request.attempt,
            **data,
        }
        if fault.transient and request.attempt < self._policy.max_attempts:
            return self._mover.happen(request, Event.ATTEMPT_FAILED, data=data)
        event = Event.ATTEMPTS_EXHAUSTED if fault.transient else fault.event
        return self._mover.happen(request, event, data=data, failure=failure(known), progress=None)

    async def _report(self, request_id: UUID, job_id: UUID, kind: str, decide: Decide) -> Request:
        """Apply what a worker says of its job; anything for another job is kept as evidence only."""

        def fenced(request: Request) -> Change | None:
            if request.job_id != job_id:
                raise errors.StaleResultError
            try:
                return decide(request)
            except errors.ImpossibleMoveError:
                raise errors.StaleResultError from None

        try:
            return await self._mover.move(request_id, fenced)
        except errors.StaleResultError:
            entry = Entry("stale_result", None, {"job_id": job_id, "kind": kind})
            await self._store.note(request_id, entry, self._now())
            raise

    def _choose(self, stage: Stage, plan: Plan, brief: Brief, user_id: str) -> Choice:
        """The model for a stage, by the rules in force now."""
        return self._routing().choose(
            Asked(
                stage=stage, plan=plan, output_format=brief["output_format"], user_id=user_id, named=brief.get("model")
            )
        )

    async def _entitled(self, user_id: str) -> Entitlements:
        entitled = await self._entitlements_known(user_id)
        if entitled.restricted:
            raise errors.AccountRestrictedError
        return entitled

    async def _entitlements_known(self, user_id: str) -> Entitlements:
        try:
            return await self._entitlements(user_id)
        except CreditsUnknownError as error:
            raise errors.CreditsUnavailableError(retry_after_seconds=5) from error


def _payable(charge: Charge, entitled: Entitlements) -> dict[str, Any]:
    """The charge as the timeline shows it, marked where it rests on what the credit service said minutes ago.

    Raises:
        CreditsUnavailableError: it costs credits, and the credit service does not answer.
    """
    if not entitled.stale:
        return charge_data(charge)
    if charge.funding is Funding.CREDITS:
        raise errors.CreditsUnavailableError(retry_after_seconds=5)
    return charge_data(charge) | {"entitlements": "stale"}


def _wrong_stage(request: Request) -> errors.InvalidRequestError:
    return errors.InvalidRequestError.at(
        "/job_id", "wrong_stage", f"This job makes the {request.stage}; send its result to the matching address."
    )
