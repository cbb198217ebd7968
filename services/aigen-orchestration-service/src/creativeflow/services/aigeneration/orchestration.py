"""What can happen to a request: one method for each thing, from the first call to the last coin.

Every method loads the request, lets one event happen to it, and writes the change guarded by its version; when
somebody else was faster it looks again. Nothing foreign is called inside a transaction: a hold is first written
as `placing`, then asked for, then written as held.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

import structlog

from creativeflow.services.aigeneration.domain import errors, faults
from creativeflow.services.aigeneration.domain.change import (
    Answer,
    Change,
    Entry,
    KeyClaim,
    carry_out,
    failure,
    started,
)
from creativeflow.services.aigeneration.domain.formats import Size, final_size
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
from creativeflow.services.aigeneration.domain.policy import Policy
from creativeflow.services.aigeneration.domain.prices import (
    Charge,
    Funding,
    Plan,
    credits_text,
    hold_key,
    is_high_resolution,
    price_final,
    price_samples,
)
from creativeflow.services.aigeneration.domain.request import (
    Asset,
    Brief,
    Hold,
    HoldState,
    Request,
    SampleFailure,
    dimensions_of,
)
from creativeflow.services.aigeneration.domain.resource import resource
from creativeflow.services.aigeneration.domain.results import INVALID_OUTPUT, final_fits, judge_samples
from creativeflow.services.aigeneration.domain.routing import model_for_attempt, named_model
from creativeflow.services.aigeneration.ports import (
    Credits,
    CreditsConflictError,
    CreditsRefusedError,
    CreditsUnknownError,
    Entitlements,
    HoldStatus,
    Publication,
    PublicationOutcome,
)
from creativeflow.services.aigeneration.storage.store import KeyTakenError, LeasedJobs, Store, StoredAnswer, Written

log = structlog.get_logger(__name__)

_LOOKS = 8
"""How often a request is looked at again when others keep moving it first."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who acts on an existing request: `user_id` limits them to their own, None sees all."""

    name: str
    user_id: str | None = None
    expected_versions: frozenset[int] | None = None
    claim: KeyClaim | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a caller is told; `stored` is the exact text of an earlier answer to the same idempotency key.

    `acted` is False where there was nothing to do any more.
    """

    answer: Answer
    acted: bool = True
    request: Request | None = None
    stored: StoredAnswer | None = None


Decide = Callable[[Request], Change | None]


class Orchestrator:
    """The only part that decides; all its state is in the store, so any number of processes may run it."""

    def __init__(
        self,
        store: Store,
        credits_: Credits,
        *,
        entitlements: Callable[[str], Awaitable[Entitlements]],
        policy: Policy,
        now: Callable[[], datetime],
        new_id: Callable[[], UUID],
        on_written: Callable[[Change], None] = lambda _change: None,
        hold_seconds: float = 5.0,
    ) -> None:
        self._store = store
        self._credits = credits_
        self._entitlements = entitlements
        self._policy = policy
        self._now = now
        self._new_id = new_id
        self._on_written = on_written
        self._hold_seconds = hold_seconds

    # What a user does

    async def submit(self, order: Submission, claim: KeyClaim | None = None) -> Reply:
        """Take a new request: priced, its credits being held or none needed, its job queued.

        Idempotent on the claim: the same key gives the same answer and starts nothing twice.

        Raises:
            FreeQuotaExhaustedError, InsufficientCreditsError: nothing was charged.
            PlanRequiredError, AccountRestrictedError: the plan or the account does not allow it.
            CreditsUnavailableError: the plan cannot be known right now.
        """
        return await self._once(claim, lambda: self._submit(order, claim))

    async def quote(self, user_id: str, brief: Brief) -> dict[str, Any]:
        """What a request would cost, item by item, and what it would leave; starts nothing."""
        entitled = await self._entitled(user_id)
        plan, prices = entitled.plan, self._policy.prices
        self._check_plan(plan, brief)
        size, surcharge = dimensions_of(brief), named_model(brief.get("model")).surcharge
        finals = [size] if is_high_resolution(prices, size.longest) else [size, size.scaled(4096)]
        items = [_quoted("samples", None, price_samples(plan, prices, surcharge))]
        items += [
            _quoted("final", each, price_final(plan, prices, longest_side=each.longest, surcharge=surcharge))
            for each in finals
            if plan.high_resolution or not is_high_resolution(prices, each.longest)
        ]
        total = sum(item["amount"] for item in items[:2])
        left = None if entitled.balance is None else credits_text(entitled.balance - total)
        return {
            "plan": plan.name,
            "items": [
                {k: v for k, v in item.items() if k != "amount"} | {"included_in_total": i < 2}  # noqa: PLR2004
                for i, item in enumerate(items)
            ],
            "total": credits_text(total),
            "balance": None if entitled.balance is None else credits_text(entitled.balance),
            "balance_after": left,
            "watermark": plan.watermark,
        }

    async def select_sample(
        self, request_id: UUID, sample_id: str, caller: Caller, *, resolution: str | None, file_format: str | None
    ) -> Reply:
        """Pick exactly one sample and order the final; the same sample again gives the same answer.

        Raises:
            AlreadySelectedError: another sample was picked before.
            InvalidRequestError: the sample is not one of this round, or the resolution does not fit.
            PlanRequiredError, InsufficientCreditsError, ActionInProgressError, ActionNotPossibleError.
        """

        async def act() -> Reply:
            entitled = await self._entitled((await self._owned(request_id, caller)).user_id)

            def decide(request: Request) -> Change | None:
                if request.selected_sample_id is not None:
                    if not _same_order(request, sample_id, resolution, file_format):
                        raise errors.AlreadySelectedError(sample_id=request.selected_sample_id)
                    return None
                self._check_choosing(request, Event.SAMPLE_SELECTED)
                if sample_id not in {sample["asset_id"] for sample in request.samples}:
                    raise errors.InvalidRequestError.at(
                        "/selected_sample_id", "unknown_sample", "Pick one of the request's current `samples`."
                    )
                size = final_size(request.dimensions, resolution)
                if is_high_resolution(self._policy.prices, size.longest) and not entitled.plan.high_resolution:
                    raise errors.PlanRequiredError(feature="A high-resolution final", plan="Pro")
                charge = price_final(
                    entitled.plan, self._policy.prices, longest_side=size.longest,
                    surcharge=named_model(request.brief.get("model")).surcharge,
                )  # fmt: skip
                chosen = {
                    "selected_sample_id": sample_id,
                    "final_resolution": str(size),
                    "file_format": file_format or request.file_format,
                    "plan": entitled.plan.name,
                }
                return self._order(request, Event.SAMPLE_SELECTED, charge, chosen, caller)

            return await self._act_and_pay(request_id, caller, decide)

        return await self._once(caller.claim, act)

    async def regenerate(self, request_id: UUID, caller: Caller, brief_changes: Mapping[str, str]) -> Reply:
        """Ask for another round of samples, at the price of a sample set (REQ-008).

        Raises:
            TooManyRoundsError, ActionInProgressError, ActionNotPossibleError, FreeQuotaExhaustedError,
            InsufficientCreditsError.
        """

        async def act() -> Reply:
            entitled = await self._entitled((await self._owned(request_id, caller)).user_id)

            def decide(request: Request) -> Change:
                self._check_choosing(request, Event.REGENERATION_REQUESTED)
                if request.selected_sample_id is not None:
                    raise errors.AlreadySelectedError(sample_id=request.selected_sample_id)
                if request.round >= request.max_rounds:
                    raise errors.TooManyRoundsError(limit=request.max_rounds)
                model = named_model(brief_changes.get("model") or request.brief.get("model"))
                self._check_model(entitled.plan, model.name)
                charge = price_samples(entitled.plan, self._policy.prices, model.surcharge)
                return self._order(
                    request, Event.REGENERATION_REQUESTED, charge,
                    {"brief": dict(brief_changes), "plan": entitled.plan.name}, caller,
                )  # fmt: skip

            return await self._act_and_pay(request_id, caller, decide)

        return await self._once(caller.claim, act)

    async def retry(
        self, request_id: UUID, caller: Caller, changes: Mapping[str, Any], *, correlation_id: str,
        traceparent: str | None = None,
    ) -> Reply:  # fmt: skip
        """Start a request that ended without its result again, as a new request with `retry_of`.

        Raises:
            ActionNotPossibleError: it has not ended, or it ended well.
        """

        async def act() -> Reply:
            request = await self._owned(request_id, caller)
            _check_version(request, caller)
            if not request.terminal or request.state is State.COMPLETED:
                raise errors.ActionNotPossibleError(state=request.state)
            brief = Brief(**{**request.brief, **changes})  # type: ignore[typeddict-item]
            if request.state is State.CONTENT_REJECTED and brief["input_prompt"] == request.brief["input_prompt"]:
                raise errors.InvalidRequestError.at(
                    "/updated_prompt", "prompt_unchanged", "The prompt was rejected as it is: send another one."
                )
            named_model(brief.get("model"))
            order = Submission(
                user_id=request.user_id, project_id=request.project_id, brief=brief, metadata=request.metadata,
                created_by=caller.name, correlation_id=correlation_id, traceparent=traceparent, retry_of=request.id,
            )  # fmt: skip
            return await self._submit(order, caller.claim)

        return await self._once(caller.claim, act)

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
                change = self._happen(request, Event.CANCEL_REQUESTED, data={"by": caller.name}, pending_action=None)
                return replace(change, claim=caller.claim, answer=Answer(status=200, body=body(change.after)))

            def body(request: Request) -> dict[str, Any]:
                return resource(request) | {"outcome": outcome}

            request = await self._move(request_id, decide, caller)
            acted = outcome != "already_terminal"
            return Reply(answer=Answer(status=200, body=body(request)), request=request, acted=acted)

        return await self._once(caller.claim, act)

    async def force_fail(self, request_id: UUID, caller: Caller, reason: str) -> Reply:
        """An operator ends a live request; what is held is given back and who did it stands in the timeline."""

        def decide(request: Request) -> Change:
            change = self._happen(
                request, Event.OPERATOR_FAILED, data={"by": caller.name, "reason": reason},
                failure=failure(faults.OPERATOR_ENDED), pending_action=None,
            )  # fmt: skip
            return replace(change, claim=caller.claim, answer=Answer(status=200, body=resource(change.after)))

        async def act() -> Reply:
            request = await self._move(request_id, decide, caller)
            return Reply(answer=Answer(status=200, body=resource(request)), request=request)

        return await self._once(caller.claim, act)

    # What the credit service answers

    async def settle_hold(self, request_id: UUID) -> None:
        """Find out what became of a hold that is still `placing`, and finish or undo it.

        A live request asks again with the same key, which is idempotent; for an ended one what was held is given
        back. Nothing is guessed: where the credit service does not answer, the hold stays as it is.
        """
        request = await self._store.load(request_id)
        if request is None or (hold := request.placing) is None:
            return
        try:
            if _waits_for(request, hold):
                await self._place(request, hold)
            else:
                held = await self._credits.find(hold.key) is HoldStatus.HELD
                await self._store.give_back_late(hold, request.id, held=held, now=self._now())
        except errors.InsufficientCreditsError:
            pass  # written as refused; there is no caller left to tell
        except CreditsUnknownError as error:
            log.warning("hold_still_unknown", generation_request_id=str(request_id), reason=str(error))

    # What dispatchers do

    async def lease_jobs(self, lane: Stage, *, window: int, most: int) -> LeasedJobs:
        """Take the next jobs of a lane in fair order; each is leased to the caller for a bounded time."""
        now = self._now()

        def lease(request: Request) -> Change:
            model = model_for_attempt(
                request.brief.get("model"), attempt=request.attempt, max_attempts=self._policy.max_attempts
            )
            return self._happen(
                request, Event.JOB_LEASED, lease_until=now + self._policy.job_lease, model=model.name,
                data={"job_id": request.job_id, "attempt": request.attempt, "model": model.name},
            )  # fmt: skip

        return await self._store.lease_jobs(lane, window=window, most=most, now=now, lease=lease)

    async def jobs_published(self, published: Sequence[tuple[Request, Publication]]) -> None:
        """Write what came of publishing leased jobs. A job that a worker has already answered stays as it is."""
        changes = []
        for request, publication in published:
            data = {"job_id": request.job_id}
            if publication.outcome is PublicationOutcome.ACCEPTED:
                changes.append(self._happen(request, CONFIRMED[request.stage], data=data))
            else:
                changes.append(
                    self._happen(
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
            return self._happen(request, STARTED[request.stage], progress={"percent": 0}, data={"job_id": job_id})

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
            return self._happen(request, event, data={"job_id": job_id, **progress}, **fields)

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
            return self._happen(
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
            return self._happen(
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
        request = await self._owned(request_id, None)
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
                return self._happen(
                    current, ON_DEADLINE[current.state], pending_action=None,
                    failure=None if expired else failure(faults.DISPATCH_TIMEOUT),
                )  # fmt: skip
            if current.lease_until and current.lease_until <= now:
                return self._happen(
                    current, Event.JOB_RETURNED, due_at=now, data={"job_id": current.job_id, "reason": "lease expired"}
                )
            if current.remind_at and current.remind_at <= now and current.state is State.AWAITING_SELECTION:
                return self._happen(current, Event.EXPIRY_NEARED, remind_at=None)
            return None

        await self._move(request.id, decide)

    # How it is done

    def _happen(self, request: Request, event: Event, **fields: Any) -> Change:
        return carry_out(request, event, policy=self._policy, now=self._now(), new_id=self._new_id, **fields)

    async def _submit(self, order: Submission, claim: KeyClaim | None) -> Reply:
        entitled = await self._entitled(order.user_id)
        self._check_plan(entitled.plan, order.brief)
        charge = price_samples(entitled.plan, self._policy.prices, named_model(order.brief.get("model")).surcharge)
        request = self._new_request(order, entitled.plan, charge)
        data = {"by": order.created_by, "charge": _charge_data(charge), "retry_of": order.retry_of}
        if charge.funding is Funding.CREDITS:
            await self._write_new(started(request, data=data, claim=claim))
            return await self._place_for_caller(request)
        answer = _accepted(request)
        await self._write_new(started(request, data=data, claim=claim, answer=answer if claim else None))
        return Reply(answer=answer, request=request)

    def _new_request(self, order: Submission, plan: Plan, charge: Charge) -> Request:
        """The request in its first state: waiting for its hold, or for its turn where nothing is to be paid."""
        now, request_id = self._now(), self._new_id()
        hold = self._hold(request_id, Stage.SAMPLES, 1, charge, now)
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

    async def _write_new(self, change: Change) -> None:
        if await self._store.write(change) is Written.NO_ALLOWANCE:
            raise errors.FreeQuotaExhaustedError(limit=self._policy.free_generations)
        self._on_written(change)

    def _order(self, request: Request, event: Event, charge: Charge, fields: dict[str, Any], caller: Caller) -> Change:
        """Queue the next job, or first ask for the credits it costs."""
        stage = Stage.FINAL if event is Event.SAMPLE_SELECTED else Stage.SAMPLES
        round_number = request.round + (stage is Stage.SAMPLES)
        hold = self._hold(request.id, stage, round_number, charge, self._now())
        data = {"by": caller.name, "charge": _charge_data(charge), **_shown(fields)}
        if hold is None or hold.funding is Funding.ALLOWANCE:
            change = self._happen(request, event, hold=hold, data=data, **_ordered(request, event, fields))
            return replace(change, claim=caller.claim, answer=_accepted(change.after) if caller.claim else None)
        chosen = {"selected_sample_id": fields["selected_sample_id"]} if stage is Stage.FINAL else {}
        pending = {"event": event.value, "fields": fields}
        change = self._happen(request, Event.CREDITS_ASKED, hold=hold, data=data, pending_action=pending, **chosen)
        return replace(change, claim=caller.claim)

    @staticmethod
    def _hold(request_id: UUID, stage: Stage, round_number: int, charge: Charge, now: datetime) -> Hold | None:
        """The hold for a charge; None where the plan includes it."""
        if charge.funding is Funding.PLAN:
            return None
        paid = charge.funding is Funding.CREDITS
        return Hold(
            key=hold_key(request_id, stage, round_number), stage=stage, round=round_number, action=charge.action,
            funding=charge.funding, amount=charge.amount, state=HoldState.PLACING if paid else HoldState.HELD,
            month=None if paid else now.date().replace(day=1).isoformat(),
        )  # fmt: skip

    async def _act_and_pay(self, request_id: UUID, caller: Caller, decide: Decide) -> Reply:
        acted = False

        def watched(request: Request) -> Change | None:
            nonlocal acted
            change = decide(request)
            acted = change is not None
            return change

        request = await self._move(request_id, watched, caller)
        if request.placing is not None and request.pending_action is not None:
            return replace(await self._place_for_caller(request), acted=acted)
        return Reply(answer=_accepted(request), request=request, acted=acted)

    async def _place_for_caller(self, request: Request) -> Reply:
        """Ask for the credits while the caller waits; without an answer the caller is told where it stands."""
        hold = request.placing
        if hold is None:
            return Reply(answer=_accepted(request), request=request)
        try:
            after = await self._place(request, hold)
        except CreditsUnknownError as error:
            log.warning("hold_unknown", generation_request_id=str(request.id), reason=str(error))
            await self._store.complete_key(request.id, _accepted(request))
            after = request
        return Reply(answer=_accepted(after), request=after)

    async def _place(self, request: Request, hold: Hold) -> Request:
        """Ask the credit service for one hold and write its answer.

        Raises:
            InsufficientCreditsError: refused, and written so. CreditsUnknownError: nothing is known, nothing written.
        """
        try:
            async with asyncio.timeout(self._hold_seconds):
                await self._credits.hold(hold.key, user_id=request.user_id, amount=hold.amount, action=hold.action)
        except TimeoutError as error:
            raise CreditsUnknownError("no answer in time") from error
        except (CreditsRefusedError, CreditsConflictError) as error:
            if isinstance(error, CreditsConflictError):
                log.warning("hold_conflict", hold=hold.key)
            await self._hold_answered(request, hold, held=False)
            raise errors.InsufficientCreditsError(required=credits_text(hold.amount)) from None
        return await self._hold_answered(request, hold, held=True)

    async def _hold_answered(self, request: Request, hold: Hold, *, held: bool) -> Request:
        state = HoldState.HELD if held else HoldState.REFUSED

        def decide(current: Request) -> Change | None:
            if current.placing is None or current.placing.key != hold.key or not _waits_for(current, hold):
                return None
            return self._answered_change(current, replace(hold, state=state))

        after = await self._move(request.id, decide, known=request)
        if after.placing is not None and after.placing.key == hold.key:
            await self._store.give_back_late(hold, after.id, held=held, now=self._now())
        return after

    def _answered_change(self, current: Request, hold: Hold) -> Change:
        data = {"hold": hold.key, "credits": credits_text(hold.amount)}
        if hold.state is HoldState.REFUSED:
            failed = failure(faults.INSUFFICIENT_CREDITS) if current.state is State.VALIDATING_CREDITS else None
            change = self._happen(
                current, Event.CREDITS_REFUSED, hold=hold, data=data, failure=failed, pending_action=None,
                selected_sample_id=None,
            )  # fmt: skip
            refusal = {"code": errors.InsufficientCreditsError.code, "fields": {"required": credits_text(hold.amount)}}
            return replace(change, answer=Answer(status=402, body=refusal))
        if current.pending_action is None:
            change = self._happen(current, Event.CREDITS_HELD, hold=hold, data=data)
        else:
            event, fields = Event(current.pending_action["event"]), current.pending_action["fields"]
            change = self._happen(current, event, hold=hold, data=data, **_ordered(current, event, fields))
        return replace(change, answer=_accepted(change.after))

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
            return self._happen(request, Event.ATTEMPT_FAILED, data=data)
        event = Event.ATTEMPTS_EXHAUSTED if fault.transient else fault.event
        return self._happen(request, event, data=data, failure=failure(known), progress=None)

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
            return await self._move(request_id, fenced)
        except errors.StaleResultError:
            entry = Entry("stale_result", None, {"job_id": job_id, "kind": kind})
            await self._store.note(request_id, entry, self._now())
            raise

    async def _move(
        self, request_id: UUID, decide: Decide, caller: Caller | None = None, known: Request | None = None
    ) -> Request:
        """Look, decide, write; look again when somebody else wrote first. Returns the request as it is now."""
        for _ in range(_LOOKS):
            request = known or await self._owned(request_id, caller)
            known = None
            _check_version(request, caller)
            change = decide(request)
            if change is None:
                return request
            match await self._store.write(change):
                case Written.YES:
                    self._on_written(change)
                    return change.after
                case Written.NO_ALLOWANCE:
                    raise errors.FreeQuotaExhaustedError(limit=self._policy.free_generations)
                case Written.SUPERSEDED:
                    continue
        raise errors.ServiceUnavailableError

    async def _owned(self, request_id: UUID, caller: Caller | None) -> Request:
        request = await self._store.load(request_id)
        if request is None or (caller and caller.user_id not in (None, request.user_id)):
            raise errors.NotFoundError
        return request

    async def _once(self, claim: KeyClaim | None, act: Callable[[], Awaitable[Reply]]) -> Reply:
        """Act, or give the answer that an earlier call with the same key got."""
        try:
            reply = await act()
            stored = await self._store.answer(claim.principal, claim.key) if claim and not reply.acted else None
            return _replay(claim, stored) if claim and stored else reply
        except (KeyTakenError, errors.AigenError) as error:
            stored = await self._store.answer(claim.principal, claim.key) if claim else None
            if stored is None and isinstance(error, KeyTakenError):
                raise errors.IdempotencyKeyInFlightError(retry_after_seconds=1) from None
            if claim is None or stored is None or _is_own_refusal(error, stored):
                raise
            return _replay(claim, stored)

    async def _entitled(self, user_id: str) -> Entitlements:
        try:
            entitled = await self._entitlements(user_id)
        except CreditsUnknownError as error:
            raise errors.CreditsUnavailableError(retry_after_seconds=5) from error
        if entitled.restricted:
            raise errors.AccountRestrictedError
        return entitled

    def _check_plan(self, plan: Plan, brief: Brief) -> None:
        if brief.get("brand_kit_id") and not plan.brand_kit:
            raise errors.PlanRequiredError(feature="A brand kit", plan="Pro")
        if is_high_resolution(self._policy.prices, dimensions_of(brief).longest) and not plan.high_resolution:
            raise errors.PlanRequiredError(feature="A format this large", plan="Pro")
        self._check_model(plan, brief.get("model"))

    @staticmethod
    def _check_model(plan: Plan, model: str | None) -> None:
        """Credits never pay on the Free plan, so a model with a surcharge cannot be used there."""
        if plan.monthly_generations and named_model(model).surcharge:
            raise errors.PlanRequiredError(feature="An advanced model", plan="Pro")

    def _check_choosing(self, request: Request, event: Event) -> None:
        if request.placing is not None and not request.terminal:
            raise errors.ActionInProgressError
        if request.state is not State.AWAITING_SELECTION:
            raise errors.ImpossibleMoveError(state=request.state, event=event)


def _check_version(request: Request, caller: Caller | None) -> None:
    if caller and caller.expected_versions is not None and request.version not in caller.expected_versions:
        raise errors.PreconditionFailedError


def _accepted(request: Request) -> Answer:
    return Answer(status=202, body=resource(request), location=f"/api/v1/generation-requests/{request.id}")


def _waits_for(request: Request, hold: Hold) -> bool:
    """Whether the request still stands where the hold was asked for."""
    if request.state is State.VALIDATING_CREDITS:
        return hold.stage is Stage.SAMPLES
    return request.state is State.AWAITING_SELECTION and request.pending_action is not None


def _ordered(request: Request, event: Event, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The request's fields once the order stands: which stage and round the next job is for."""
    if event is Event.SAMPLE_SELECTED:
        return {
            "stage": Stage.FINAL,
            "selected_sample_id": fields["selected_sample_id"],
            "final_size": Size.parse(fields["final_resolution"]),
            "file_format": fields["file_format"],
            "plan": fields["plan"],
        }
    return {
        "round": request.round + 1,
        "samples": (),
        "sample_failures": (),
        "brief": Brief(**{**request.brief, **fields["brief"]}),
        "plan": fields["plan"],
    }


def _same_order(request: Request, sample_id: str, resolution: str | None, file_format: str | None) -> bool:
    """Whether a selection repeats the one that was made; what it leaves out it does not contradict."""
    made = request.pending_action["fields"] if request.pending_action else {}
    size = made.get("final_resolution") or str(request.final_size)
    return (
        request.selected_sample_id == sample_id
        and (resolution is None or str(final_size(request.dimensions, resolution)) == size)
        and file_format in {None, made.get("file_format") or request.file_format}
    )


def _shown(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What of an order may stand in the timeline: never the words of the prompt."""
    return {k: v for k, v in fields.items() if k != "brief"}


def _charge_data(charge: Charge) -> dict[str, str]:
    return {"action": charge.action, "paid_by": charge.funding, "credits": credits_text(charge.amount)}


def _quoted(stage: str, size: Size | None, charge: Charge) -> dict[str, Any]:
    return {
        "stage": stage, "action": charge.action, "resolution": str(size) if size else None,
        "credits": credits_text(charge.amount), "paid_by": charge.funding.value, "amount": charge.amount,
    }  # fmt: skip


def _wrong_stage(request: Request) -> errors.InvalidRequestError:
    return errors.InvalidRequestError.at(
        "/job_id", "wrong_stage", f"This job makes the {request.stage}; send its result to the matching address."
    )


def _is_own_refusal(error: Exception, stored: StoredAnswer) -> bool:
    """Whether the stored answer is the refusal that was written just now: then the first answer is the error."""
    return isinstance(error, errors.InsufficientCreditsError) and stored.status == error.status


def _replay(claim: KeyClaim, stored: StoredAnswer) -> Reply:
    if stored.fingerprint != claim.fingerprint:
        raise errors.IdempotencyKeyReusedError
    if stored.status is None:
        raise errors.IdempotencyKeyInFlightError(retry_after_seconds=1)
    return Reply(answer=Answer(status=stored.status, body={}, location=stored.location), stored=stored)
