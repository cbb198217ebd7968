"""What users and operators can do with a request: one method for each thing, from the first call to
the last coin.

Every method loads the request, lets one event happen to it, and writes the change guarded by its
version; when somebody else was faster it looks again. Nothing foreign is called inside a
transaction: a hold is first written as `placing`, then asked for, then written as held. Only
credits in our own database are taken by the change itself; where that does not work they are asked
for like all others, and refused where they are refused.
"""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol
from uuid import UUID

from creativeflow.services.aigeneration.application.credit_holds import CreditHolds
from creativeflow.services.aigeneration.application.moderation import PromptModeration
from creativeflow.services.aigeneration.application.quotes import Quotes
from creativeflow.services.aigeneration.application.transitions import (
    ActionResult,
    Caller,
    CreditsNotTakenError,
    TransitionRunner,
    accepted,
    check_version,
)
from creativeflow.services.aigeneration.domain import errors, worker_errors
from creativeflow.services.aigeneration.domain.formats import final_size
from creativeflow.services.aigeneration.domain.lifecycle import IN_FLIGHT, Event, Stage, State
from creativeflow.services.aigeneration.domain.model_routing import Asked, ModelChoice, Routing
from creativeflow.services.aigeneration.domain.moderation import ModerationOutcome, ModerationResult
from creativeflow.services.aigeneration.domain.ordering import (
    as_held,
    build_quote,
    charge_data,
    check_model,
    check_plan,
    check_quote,
    check_selectable,
    hold_for,
    is_repeat,
    order_fields,
    quote_terms,
    timeline_data,
    to_route,
)
from creativeflow.services.aigeneration.domain.pricing import (
    Charge,
    Funding,
    Plan,
    is_high_resolution,
    price_final,
    price_samples,
)
from creativeflow.services.aigeneration.domain.representation import to_resource
from creativeflow.services.aigeneration.domain.request import (
    Brief,
    GenerationRequest,
    HoldState,
    Route,
    iso,
)
from creativeflow.services.aigeneration.domain.transitions import (
    ApiResponse,
    IdempotencyClaim,
    StateChange,
    failure,
    started,
)
from creativeflow.services.aigeneration.ports import Credits, CreditsUnknownError, Entitlements

__all__ = ["ActionResult", "Caller", "GenerationService", "Submission"]


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


class DecideToPay(Protocol):
    """What is to happen to a request as it stands; `at_once`: its credits are taken by the change
    itself.
    """

    def __call__(self, request: GenerationRequest, *, at_once: bool) -> StateChange | None: ...


class GenerationService:
    """Decides what users and operators ask for; its state is in the store, so any number of
    processes may run it.
    """

    def __init__(
        self,
        mover: TransitionRunner,
        credits_: Credits,
        *,
        entitlements: Callable[[str], Awaitable[Entitlements]],
        quotes: Quotes,
        routing: Callable[[], Routing],
        prompts: PromptModeration,
        hold_seconds: float = 5.0,
        ledger_here: bool = False,
    ) -> None:
        self._entitlements = entitlements
        self._quotes = quotes
        self._routing = routing
        self._prompts = prompts
        self._policy, self._now, self._new_id = mover.policy, mover.now, mover.new_id
        self._mover = mover
        self._holds = CreditHolds(self._mover, credits_, timeout_seconds=hold_seconds)
        self._ledger_here = ledger_here

    # What a user does

    async def submit(
        self, order: Submission, claim: IdempotencyClaim | None = None
    ) -> ActionResult:
        """Take a new request: priced, its credits being held or none needed, its job queued.

        Idempotent on the claim: the same key gives the same answer and starts nothing twice.

        Raises:
            PromptRejectedError, SafetyUnavailableError: the words may not be used, or nobody can
            say now. FreeQuotaExhaustedError, InsufficientCreditsError: nothing was charged.
            PlanRequiredError, AccountRestrictedError: the plan or the account does not allow it.
            QuoteExpiredError: it no longer costs what was quoted; nothing was charged.
            CreditsUnavailableError: the plan cannot be known right now.
        """
        return await self._mover.run_idempotent(claim, lambda: self._submit(order, claim))

    async def quote(self, user_id: str, brief: Brief) -> dict[str, Any]:
        """What a request would cost, item by item, and what it would leave; starts nothing.

        Its `quote_id` binds these prices until `expires_at`: an action that comes with it costs
        them, or is refused.
        """
        entitled = await self._entitled(user_id)
        prices = self._policy.prices
        models = {
            stage: self._choose(stage, entitled.plan, brief, user_id).model for stage in Stage
        }
        check_plan(entitled.plan, brief, prices, models[Stage.SAMPLES])
        terms, expires_at = (
            quote_terms(entitled.plan, prices, models),
            self._now() + self._policy.quote_validity,
        )
        return build_quote(entitled.plan, brief, prices, models, balance=entitled.balance) | {
            "quote_id": self._quotes.seal(user_id, terms, expires_at),
            "expires_at": iso(expires_at.replace(microsecond=0)),
        }

    async def select_sample(
        self,
        request_id: UUID,
        sample_id: str,
        caller: Caller,
        *,
        resolution: str | None,
        file_format: str | None,
        quote_id: str | None = None,
    ) -> ActionResult:
        """Pick exactly one sample and order the final; the same sample again gives the same answer.

        Raises:
            AlreadySelectedError: another sample was picked before. InvalidRequestError: the sample
            is not one of this round, or the resolution does not fit. QuoteExpiredError: it no
            longer costs what was quoted; nothing was charged. PlanRequiredError,
            InsufficientCreditsError, ActionInProgressError, InvalidStateError.
        """

        async def act() -> ActionResult:
            entitled = await self._entitled(await self._mover.owner(request_id, caller))

            def decide(request: GenerationRequest, *, at_once: bool) -> StateChange | None:
                if request.selected_sample_id is not None:
                    if not is_repeat(request, sample_id, resolution, file_format):
                        raise errors.AlreadySelectedError(sample_id=request.selected_sample_id)
                    return None
                check_selectable(request, Event.SAMPLE_SELECTED)
                if sample_id not in {sample["asset_id"] for sample in request.samples}:
                    raise errors.InvalidRequestError.at(
                        "/selected_sample_id",
                        "unknown_sample",
                        "Pick one of the request's current `samples`.",
                    )
                size = final_size(request.dimensions, resolution)
                if (
                    is_high_resolution(self._policy.prices, size.longest)
                    and not entitled.plan.high_resolution
                ):
                    raise errors.PlanRequiredError(feature="A high-resolution final", plan="Pro")
                choice = self._choose(Stage.FINAL, entitled.plan, request.brief, request.user_id)
                check_model(entitled.plan, choice.model)
                charge = price_final(
                    entitled.plan,
                    self._policy.prices,
                    longest_side=size.longest,
                    surcharge=choice.model.surcharge,
                )
                chosen = {
                    "selected_sample_id": sample_id,
                    "final_resolution": str(size),
                    "file_format": file_format or request.file_format,
                    "plan": entitled.plan.name,
                    "route": to_route(choice),
                }
                check_quote(self._quotes.open(quote_id, request.user_id, self._now()), charge)
                return self._order(
                    request,
                    Event.SAMPLE_SELECTED,
                    charge,
                    chosen,
                    caller=caller,
                    entitled=entitled,
                    at_once=at_once,
                )

            return await self._act_and_pay(request_id, caller, decide)

        return await self._mover.run_idempotent(caller.claim, act)

    async def regenerate(
        self,
        request_id: UUID,
        caller: Caller,
        brief_changes: Mapping[str, str],
        quote_id: str | None = None,
    ) -> ActionResult:
        """Ask for another round of samples, at the price of a sample set (REQ-008).

        Raises:
            PromptRejectedError, PromptReviewRequiredError, SafetyUnavailableError: because of the
            changed words. TooManyRoundsError, ActionInProgressError, InvalidStateError,
            FreeQuotaExhaustedError, InsufficientCreditsError, QuoteExpiredError.
        """

        async def act() -> ActionResult:
            self._routing().check_named(brief_changes.get("model"))
            before = await self._mover.load_owned(request_id, caller)
            entitled = await self._entitled(before.user_id)
            if brief_changes.keys() & {"input_prompt", "style_guidance"}:
                changed = Brief(**{**before.brief, **brief_changes})  # type: ignore[typeddict-item]
                await self._prompts.judge_change(before.user_id, changed)

            def decide(request: GenerationRequest, *, at_once: bool) -> StateChange:
                check_selectable(request, Event.REGENERATION_REQUESTED)
                if request.selected_sample_id is not None:
                    raise errors.AlreadySelectedError(sample_id=request.selected_sample_id)
                if request.round >= request.max_rounds:
                    raise errors.TooManyRoundsError(limit=request.max_rounds)
                brief = Brief(**{**request.brief, **brief_changes})  # type: ignore[typeddict-item]
                choice = self._choose(Stage.SAMPLES, entitled.plan, brief, request.user_id)
                check_model(entitled.plan, choice.model)
                charge = price_samples(entitled.plan, self._policy.prices, choice.model.surcharge)
                check_quote(self._quotes.open(quote_id, request.user_id, self._now()), charge)
                fields = {
                    "brief": dict(brief_changes),
                    "plan": entitled.plan.name,
                    "route": to_route(choice),
                }
                return self._order(
                    request,
                    Event.REGENERATION_REQUESTED,
                    charge,
                    fields,
                    caller=caller,
                    entitled=entitled,
                    at_once=at_once,
                )

            return await self._act_and_pay(request_id, caller, decide)

        return await self._mover.run_idempotent(caller.claim, act)

    async def retry(
        self,
        request_id: UUID,
        caller: Caller,
        changes: Mapping[str, Any],
        *,
        correlation_id: str,
        traceparent: str | None = None,
        quote_id: str | None = None,
    ) -> ActionResult:
        """Start a request that ended without its result again, as a new request with `retry_of`.

        Raises:
            InvalidStateError: it has not ended, or it ended well.
        """

        async def act() -> ActionResult:
            self._routing().check_named(changes.get("model"))
            request = await self._mover.load_owned(request_id, caller)
            check_version(request, caller)
            if not request.terminal or request.state is State.COMPLETED:
                raise errors.InvalidStateError(state=request.state)
            brief = Brief(**{**request.brief, **changes})  # type: ignore[typeddict-item]
            if (
                request.state is State.CONTENT_REJECTED
                and brief["input_prompt"] == request.brief["input_prompt"]
            ):
                raise errors.InvalidRequestError.at(
                    "/updated_prompt",
                    "prompt_unchanged",
                    "The prompt was rejected as it is: send another one.",
                )
            order = Submission(
                user_id=request.user_id,
                project_id=request.project_id,
                brief=brief,
                metadata=request.metadata,
                created_by=caller.name,
                correlation_id=correlation_id,
                traceparent=traceparent,
                retry_of=request.id,
                quote_id=quote_id,
            )
            return await self._submit(order, caller.claim)

        return await self._mover.run_idempotent(caller.claim, act)

    async def cancel(self, request_id: UUID, caller: Caller) -> ActionResult:
        """End a request early; what is held is given back. On an ended request nothing happens.

        `outcome` is `cancellation_requested` where a worker may still be busy: its results will be
        refused.
        """

        async def act() -> ActionResult:
            outcome = "already_terminal"

            def decide(request: GenerationRequest) -> StateChange | None:
                nonlocal outcome
                if request.terminal:
                    outcome = "already_terminal"
                    return None
                outcome = "cancellation_requested" if request.state in IN_FLIGHT else "cancelled"
                change = self._mover.apply_event(
                    request, Event.CANCEL_REQUESTED, data={"by": caller.name}, pending_action=None
                )
                return replace(
                    change,
                    claim=caller.claim,
                    answer=ApiResponse(status=200, body=body(change.after)),
                )

            def body(request: GenerationRequest) -> dict[str, Any]:
                return to_resource(request) | {"outcome": outcome}

            request = await self._mover.move(request_id, decide, caller)
            acted = outcome != "already_terminal"
            return ActionResult(
                answer=ApiResponse(status=200, body=body(request)), request=request, acted=acted
            )

        return await self._mover.run_idempotent(caller.claim, act)

    async def force_fail(self, request_id: UUID, caller: Caller, reason: str) -> ActionResult:
        """An operator ends a live request; what is held is given back and who did it stands in the
        timeline.
        """

        def decide(request: GenerationRequest) -> StateChange:
            change = self._mover.apply_event(
                request,
                Event.OPERATOR_FAILED,
                data={"by": caller.name, "reason": reason},
                failure=failure(worker_errors.OPERATOR_ENDED),
                pending_action=None,
            )
            return replace(
                change,
                claim=caller.claim,
                answer=ApiResponse(status=200, body=to_resource(change.after)),
            )

        async def act() -> ActionResult:
            request = await self._mover.move(request_id, decide, caller)
            return ActionResult(
                answer=ApiResponse(status=200, body=to_resource(request)), request=request
            )

        return await self._mover.run_idempotent(caller.claim, act)

    async def review(
        self, request_id: UUID, caller: Caller, *, accepted_: bool
    ) -> GenerationRequest:
        """An operator has looked at a prompt: the request goes on, or is rejected. Again: nothing
        happens.

        Raises:
            NotFoundError: no such request. CreditsUnavailableError: the plan cannot be known right
            now.
        """
        before = await self._mover.load_owned(request_id, caller)
        if not before.in_review:
            return before
        if not accepted_:
            return await self._mover.move(
                request_id, lambda request: self._reject(request, caller), caller
            )
        entitled = await self._entitlements_known(before.user_id)
        surcharge = self._choose(
            Stage.SAMPLES, entitled.plan, before.brief, before.user_id
        ).model.surcharge
        charge = price_samples(entitled.plan, self._policy.prices, surcharge)
        try:
            request = await self._mover.move(
                request_id, lambda request: self._accept(request, charge, entitled, caller), caller
            )
            return (await self._holds.place_for_caller(request)).request or request
        except (errors.InsufficientCreditsError, errors.FreeQuotaExhaustedError):
            return await self._mover.move(request_id, self._cannot_pay, caller)

    # What the credit service answers

    async def settle_hold(self, request_id: UUID, key: str) -> None:
        """Find out what became of a hold nobody waits for any more; see `Holds.settle`."""
        await self._holds.settle(request_id, key)

    async def decide_hold(self, key: str, *, charged: bool, by: str) -> None:
        """An operator says whether a hold in doubt was charged; see `Holds.decide`. Again: nothing
        happens.

        Raises:
            NotFoundError: no hold has this key. CreditsUnavailableError: it could not be kept now.
        """
        if not await self._holds.decide(key, charged=charged, by=by):
            raise errors.NotFoundError

    # How it is done

    async def _submit(self, order: Submission, claim: IdempotencyClaim | None) -> ActionResult:
        entitled = await self._entitled(order.user_id)
        verdict = await self._prompts.judge(order.user_id, order.brief)
        choice = self._choose(Stage.SAMPLES, entitled.plan, order.brief, order.user_id)
        check_plan(entitled.plan, order.brief, self._policy.prices, choice.model)
        charge = price_samples(entitled.plan, self._policy.prices, choice.model.surcharge)
        check_quote(self._quotes.open(order.quote_id, order.user_id, self._now()), charge)
        request = self._new_request(order, entitled.plan, charge, to_route(choice))
        data = {
            "by": order.created_by,
            "charge": _payable(charge, entitled),
            "retry_of": order.retry_of,
            "route": request.route,
        }
        if verdict.outcome is ModerationOutcome.REVIEW:
            request = self._for_review(request, verdict)
            return await self._start(request, data | {"review": verdict.category}, claim)
        if charge.funding is not Funding.CREDITS:
            return await self._start(request, data, claim)
        if self._ledger_here:
            with suppress(CreditsNotTakenError):
                return await self._start(self._held(request), data, claim)
        await self._mover.write_new(started(request, data=data, claim=claim))
        return await self._holds.place_for_caller(request)

    async def _start(
        self, request: GenerationRequest, data: Mapping[str, Any], claim: IdempotencyClaim | None
    ) -> ActionResult:
        """Write a new request, and what its caller is told with it."""
        answer = accepted(request)
        await self._mover.write_new(
            started(request, data=data, claim=claim, answer=answer if claim else None)
        )
        return ActionResult(answer=answer, request=request)

    def _held(self, request: GenerationRequest) -> GenerationRequest:
        """A new request whose hold is taken in the statement that writes it, so that it waits for
        its turn at once.
        """
        return replace(
            request,
            state=State.PENDING,
            attempt=1,
            job_id=self._new_id(),
            due_at=request.created_at,
            holds=tuple(map(as_held, request.holds)),
        )

    def _new_request(
        self, order: Submission, plan: Plan, charge: Charge, route: Route
    ) -> GenerationRequest:
        """The request in its first state: waiting for its hold, or for its turn where nothing is to
        be paid.
        """
        now, request_id = self._now(), self._new_id()
        hold = hold_for(charge, request_id, Stage.SAMPLES, 1, now)
        waits = charge.funding is not Funding.CREDITS
        return GenerationRequest(
            id=request_id,
            user_id=order.user_id,
            project_id=order.project_id,
            created_by=order.created_by,
            correlation_id=order.correlation_id,
            traceparent=order.traceparent,
            state=State.PENDING if waits else State.VALIDATING_CREDITS,
            stage=Stage.SAMPLES,
            round=1,
            attempt=1 if waits else 0,
            job_id=self._new_id() if waits else None,
            due_at=now if waits else None,
            version=1,
            plan=plan.name,
            brief=order.brief,
            metadata=order.metadata,
            retry_of=order.retry_of,
            max_rounds=self._policy.max_rounds,
            route=route,
            deadline_at=now + self._policy.dispatch_deadline,
            created_at=now,
            updated_at=now,
            holds=(hold,) if hold else (),
        )

    def _for_review(
        self, request: GenerationRequest, verdict: ModerationResult
    ) -> GenerationRequest:
        """The request as it waits for a person: nothing is held, and no job is queued."""
        return replace(
            request,
            state=State.VALIDATING_CREDITS,
            attempt=0,
            job_id=None,
            due_at=None,
            holds=(),
            deadline_at=request.created_at + self._policy.review_deadline,
            pending_action={
                "event": Event.REVIEW_PASSED.value,
                "fields": {"category": verdict.category},
            },
        )

    def _accept(
        self, request: GenerationRequest, charge: Charge, entitled: Entitlements, caller: Caller
    ) -> StateChange | None:
        if not request.in_review:
            return None
        hold = hold_for(
            charge, request.id, Stage.SAMPLES, request.round, self._now(), earlier=request.holds
        )
        event = Event.CREDITS_ASKED if charge.funding is Funding.CREDITS else Event.REVIEW_PASSED
        data = {"by": caller.name, "review": "passed", "charge": _payable(charge, entitled)}
        return self._mover.apply_event(
            request, event, hold=hold, data=data, pending_action=None, plan=entitled.plan.name
        )

    def _reject(self, request: GenerationRequest, caller: Caller) -> StateChange | None:
        if not request.in_review:
            return None
        return self._mover.apply_event(
            request,
            Event.REVIEW_REJECTED,
            data={"by": caller.name},
            failure=failure(worker_errors.PROMPT_REFUSED),
            pending_action=None,
        )

    def _cannot_pay(self, request: GenerationRequest) -> StateChange | None:
        """The allowance is used up by now; credits that were refused have been written so
        already.
        """
        if not request.in_review:
            return None
        return self._mover.apply_event(
            request,
            Event.CREDITS_REFUSED,
            failure=failure(worker_errors.INSUFFICIENT_CREDITS),
            pending_action=None,
        )

    def _order(
        self,
        request: GenerationRequest,
        event: Event,
        charge: Charge,
        fields: dict[str, Any],
        *,
        caller: Caller,
        entitled: Entitlements,
        at_once: bool,
    ) -> StateChange:
        """Queue the next job, or first ask for the credits it costs; `at_once`: they are taken
        along instead.
        """
        stage = Stage.FINAL if event is Event.SAMPLE_SELECTED else Stage.SAMPLES
        round_number = request.round + (stage is Stage.SAMPLES)
        hold = hold_for(charge, request.id, stage, round_number, self._now(), earlier=request.holds)
        data = {"by": caller.name, "charge": _payable(charge, entitled), **timeline_data(fields)}
        if at_once and hold is not None:
            hold = as_held(hold)
        if hold is None or hold.state is HoldState.HELD:
            change = self._mover.apply_event(
                request, event, hold=hold, data=data, **order_fields(request, event, fields)
            )
            return replace(
                change, claim=caller.claim, answer=accepted(change.after) if caller.claim else None
            )
        chosen = (
            {"selected_sample_id": fields["selected_sample_id"]} if stage is Stage.FINAL else {}
        )
        pending = {"event": event.value, "fields": fields}
        change = self._mover.apply_event(
            request, Event.CREDITS_ASKED, hold=hold, data=data, pending_action=pending, **chosen
        )
        return replace(change, claim=caller.claim)

    async def _act_and_pay(
        self, request_id: UUID, caller: Caller, decide: DecideToPay
    ) -> ActionResult:
        acted = False

        def watched(request: GenerationRequest, *, at_once: bool) -> StateChange | None:
            nonlocal acted
            change = decide(request, at_once=at_once)
            acted = change is not None
            return change

        try:
            request = await self._mover.move(
                request_id, partial(watched, at_once=self._ledger_here), caller
            )
        except CreditsNotTakenError:
            request = await self._mover.move(request_id, partial(watched, at_once=False), caller)
        if request.placing is not None and request.pending_action is not None:
            return replace(await self._holds.place_for_caller(request), acted=acted)
        return ActionResult(answer=accepted(request), request=request, acted=acted)

    def _choose(self, stage: Stage, plan: Plan, brief: Brief, user_id: str) -> ModelChoice:
        """The model for a stage, by the rules in force now."""
        return self._routing().choose(
            Asked(
                stage=stage,
                plan=plan,
                output_format=brief["output_format"],
                user_id=user_id,
                named=brief.get("model"),
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
    """The charge as the timeline shows it, marked where it rests on what the credit service said
    minutes ago.

    Raises:
        CreditsUnavailableError: it costs credits, and the credit service does not answer.
    """
    if not entitled.stale:
        return charge_data(charge)
    if charge.funding is Funding.CREDITS:
        raise errors.CreditsUnavailableError(retry_after_seconds=5)
    return charge_data(charge) | {"entitlements": "stale"}
