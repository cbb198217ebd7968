"""The actions of users and operators on a request, one method each.

A method loads what the decision needs (entitlements, models, a quote), runs a command of
`domain/commands.py` through the transition runner, and settles the hold of what was ordered. No
foreign system is called inside a transaction: a hold is written as `placing`, then asked for, then
written as held. Credits in our own database are taken by the statement that begins the work; where
they are not available the order takes the ordinary way and is refused there.
"""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any
from uuid import UUID

from creativeflow.services.aigeneration.application.credit_holds import CreditHolds
from creativeflow.services.aigeneration.application.idempotency import (
    ActionResult,
    Caller,
    accept_unless_placing,
    accepted,
    run_idempotent,
)
from creativeflow.services.aigeneration.application.moderation import PromptModeration
from creativeflow.services.aigeneration.application.quotes import Quotes
from creativeflow.services.aigeneration.application.transitions import (
    CreditsNotTakenError,
    TransitionRunner,
)
from creativeflow.services.aigeneration.domain import commands, errors
from creativeflow.services.aigeneration.domain.commands import (
    AlreadyDone,
    Offer,
    SampleChoice,
    Submission,
)
from creativeflow.services.aigeneration.domain.events import OperatorFailed, Order
from creativeflow.services.aigeneration.domain.lifecycle import IN_FLIGHT, Origin, Stage
from creativeflow.services.aigeneration.domain.model_routing import Routing
from creativeflow.services.aigeneration.domain.moderation import ModerationOutcome
from creativeflow.services.aigeneration.domain.ordering import build_quote, check_plan, quote_terms
from creativeflow.services.aigeneration.domain.representation import to_resource
from creativeflow.services.aigeneration.domain.request import Brief, GenerationRequest, iso
from creativeflow.services.aigeneration.domain.transitions import (
    ApiResponse,
    IdempotencyClaim,
    StateChange,
)
from creativeflow.services.aigeneration.ports import Credits, CreditsUnknownError, Entitlements

__all__ = ["ActionResult", "Caller", "GenerationService", "SampleChoice", "Submission"]


class GenerationService:
    """The use cases of users and operators; stateless, so any number of processes may run it."""

    def __init__(
        self,
        runner: TransitionRunner,
        credits_: Credits,
        *,
        entitlements: Callable[[str], Awaitable[Entitlements]],
        quotes: Quotes,
        routing: Callable[[], Routing],
        prompts: PromptModeration,
        hold_seconds: float = 5.0,
        ledger_here: bool = False,
    ) -> None:
        self._runner = runner
        self._policy, self._now, self._new_id = runner.policy, runner.now, runner.new_id
        self._entitlements = entitlements
        self._quotes = quotes
        self._routing = routing
        self._prompts = prompts
        self._holds = CreditHolds(runner, credits_, timeout_seconds=hold_seconds)
        self._ledger_here = ledger_here

    # Users

    async def submit(
        self, order: Submission, claim: IdempotencyClaim | None = None
    ) -> ActionResult:
        """Create a request: priced, its credits held or none needed, its job queued.

        Idempotent on the claim: the same key returns the same response and starts nothing twice.

        Raises:
            PromptRejectedError, SafetyUnavailableError: the prompt was rejected or not checked.
            FreeQuotaExhaustedError, InsufficientCreditsError: nothing was charged.
            PlanRequiredError, AccountRestrictedError: the plan or the account does not allow it.
            QuoteExpiredError: the price is not the quoted one; nothing was charged.
            CreditsUnavailableError: the plan is not known right now.
        """
        return await self._idempotent(claim, partial(self._submit, order, claim))

    async def quote(self, user_id: str, brief: Brief) -> dict[str, Any]:
        """Return the price of a request, item by item, and the balance after it; starts nothing.

        The `quote_id` binds these prices until `expires_at`: an action that sends it costs them, or
        is refused.
        """
        offer, balance = await self._offer(user_id, user_id, None)
        models = {stage: offer.choose_model(stage, brief, user_id).model for stage in Stage}
        check_plan(offer.plan, brief, offer.prices, models[Stage.SAMPLES])
        terms = quote_terms(offer.plan, offer.prices, models)
        expires_at = offer.now + self._policy.quote_validity
        return build_quote(offer.plan, brief, offer.prices, models, balance=balance) | {
            "quote_id": self._quotes.seal(user_id, terms, expires_at),
            "expires_at": iso(expires_at.replace(microsecond=0)),
        }

    async def select_sample(
        self, request_id: UUID, choice: SampleChoice, caller: Caller, *, quote_id: str | None = None
    ) -> ActionResult:
        """Select one sample and order its final; the same selection again gives the same response.

        Raises:
            AlreadySelectedError: another sample was selected before.
            InvalidRequestError: the sample is not of this round, or the resolution does not fit.
            QuoteExpiredError: the price is not the quoted one; nothing was charged.
            PlanRequiredError, InsufficientCreditsError, ActionInProgressError, InvalidStateError
        """
        act = partial(self._select_sample, request_id, choice, caller, quote_id)
        return await self._idempotent(caller.claim, act)

    async def regenerate(
        self,
        request_id: UUID,
        caller: Caller,
        brief_changes: Mapping[str, str],
        quote_id: str | None = None,
    ) -> ActionResult:
        """Order another round of samples, at the price of a sample set (REQ-008).

        Raises:
            PromptRejectedError, PromptReviewRequiredError, SafetyUnavailableError: because of the
            changed words.
            TooManyRoundsError, ActionInProgressError, InvalidStateError, FreeQuotaExhaustedError,
            InsufficientCreditsError, QuoteExpiredError
        """
        act = partial(self._regenerate, request_id, caller, brief_changes, quote_id)
        return await self._idempotent(caller.claim, act)

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
        """Start a request that ended without its result again, as a new one with `retry_of`.

        Raises:
            InvalidStateError: the request is live or was completed.
        """
        act = partial(
            self._retry,
            request_id,
            caller,
            changes,
            correlation_id=correlation_id,
            traceparent=traceparent,
            quote_id=quote_id,
        )
        return await self._idempotent(caller.claim, act)

    async def cancel(self, request_id: UUID, caller: Caller) -> ActionResult:
        """End a request early and release its holds; an ended request stays as it is.

        `outcome` is `cancellation_requested` where a worker may still be busy: its results will be
        refused.
        """
        return await self._idempotent(caller.claim, partial(self._cancel, request_id, caller))

    # Operators

    async def force_fail(
        self, request_id: UUID, caller: Caller, reason: str, *, note: str | None = None
    ) -> ActionResult:
        """End a live request and release its holds; the timeline names the operator."""
        fail = partial(commands.force_fail, by=caller.name, reason=reason, note=note)
        return await self._idempotent(
            caller.claim, partial(self._force_fail, request_id, caller, fail)
        )

    async def review(
        self, request_id: UUID, caller: Caller, *, accepted_: bool
    ) -> GenerationRequest:
        """Accept or reject a prompt in review; a request that is not in review stays as it is.

        Raises:
            NotFoundError: no such request.
            CreditsUnavailableError: the plan is not known right now.
        """
        before = await self._runner.load_owned(request_id, caller)
        if not before.in_review:
            return before
        if not accepted_:
            reject = partial(commands.reject_review, by=caller.name)
            return (await self._runner.run(request_id, reject, caller)).request
        entitled = await self._known_entitlements(before.user_id)
        offer = self._offer_for(before.user_id, caller.name, entitled, None)
        try:
            accept = partial(commands.accept_review, offer=offer)
            request = (await self._runner.run(request_id, accept, caller)).request
            return (await self._holds.place_for_caller(request)).request or request
        except (errors.InsufficientCreditsError, errors.FreeQuotaExhaustedError):
            return (await self._runner.run(request_id, commands.refuse_reviewed, caller)).request

    async def settle_hold(self, request_id: UUID, key: str) -> None:
        """Settle a hold that no caller waits for any more; see `CreditHolds.settle`."""
        await self._holds.settle(request_id, key)

    async def decide_hold(self, key: str, *, charged: bool, by: str) -> None:
        """Record whether a hold in doubt was charged; see `CreditHolds.decide`. Idempotent.

        Raises:
            NotFoundError: no hold has this key.
            CreditsUnavailableError: the decision could not be stored now.
        """
        if not await self._holds.decide(key, charged=charged, by=by):
            raise errors.NotFoundError

    # How it is done

    async def _submit(self, order: Submission, claim: IdempotencyClaim | None) -> ActionResult:
        offer, _ = await self._offer(order.user_id, order.created_by, order.quote_id)
        moderated = await self._prompts.check(order.user_id, order.brief)
        in_review = moderated.outcome is ModerationOutcome.REVIEW
        submitted = commands.submit(
            order,
            self._new_id(),
            offer,
            max_rounds=self._policy.max_rounds,
            review=moderated.category if in_review else None,
        )
        respond = accept_unless_placing if claim else None
        if submitted.origin is Origin.NEEDS_CREDITS and self._ledger_here:
            with suppress(CreditsNotTakenError):
                taking = commands.take_credits(submitted)
                request = await self._runner.create(taking, claim, respond)
                return ActionResult(answer=accepted(request), request=request)
        request = await self._runner.create(submitted, claim, respond)
        return await self._holds.place_for_caller(request)

    async def _select_sample(
        self, request_id: UUID, choice: SampleChoice, caller: Caller, quote_id: str | None
    ) -> ActionResult:
        user_id = await self._runner.find_owner(request_id, caller)
        offer, _ = await self._offer(user_id, caller.name, quote_id)
        select = partial(commands.select_sample, choice=choice, offer=offer)
        return await self._order(request_id, caller, select)

    async def _regenerate(
        self,
        request_id: UUID,
        caller: Caller,
        brief_changes: Mapping[str, str],
        quote_id: str | None,
    ) -> ActionResult:
        self._routing().check_named(brief_changes.get("model"))
        before = await self._runner.load_owned(request_id, caller)
        offer, _ = await self._offer(before.user_id, caller.name, quote_id)
        if brief_changes.keys() & {"input_prompt", "style_guidance"}:
            changed = Brief(**{**before.brief, **brief_changes})  # type: ignore[typeddict-item]
            await self._prompts.check_change(before.user_id, changed)
        regenerate = partial(commands.regenerate_samples, brief_changes=brief_changes, offer=offer)
        return await self._order(request_id, caller, regenerate)

    async def _order(
        self,
        request_id: UUID,
        caller: Caller,
        decide: Callable[[GenerationRequest], Order | AlreadyDone],
    ) -> ActionResult:
        """Begin paid work, with the credits taken by the same statement where they are ours."""
        respond = accept_unless_placing if caller.claim else None
        order = partial(commands.begin_order, decide=decide)
        try:
            taking = partial(order, takes_credits=self._ledger_here)
            applied = await self._runner.run(request_id, taking, caller, respond=respond)
        except CreditsNotTakenError:
            asking = partial(order, takes_credits=False)
            applied = await self._runner.run(request_id, asking, caller, respond=respond)
        request, acted = applied.request, applied.change is not None
        if request.placing is not None and request.pending_action is not None:
            return replace(await self._holds.place_for_caller(request), acted=acted)
        return ActionResult(answer=accepted(request), request=request, acted=acted)

    async def _retry(
        self,
        request_id: UUID,
        caller: Caller,
        changes: Mapping[str, Any],
        *,
        correlation_id: str,
        traceparent: str | None,
        quote_id: str | None,
    ) -> ActionResult:
        self._routing().check_named(changes.get("model"))
        request = await self._runner.load_owned(request_id, caller)
        caller.check_version(request)
        order = Submission(
            user_id=request.user_id,
            project_id=request.project_id,
            brief=commands.retried_brief(request, changes),
            metadata=request.metadata,
            created_by=caller.name,
            correlation_id=correlation_id,
            traceparent=traceparent,
            retry_of=request.id,
            quote_id=quote_id,
        )
        return await self._submit(order, caller.claim)

    async def _cancel(self, request_id: UUID, caller: Caller) -> ActionResult:
        cancel = partial(commands.cancel, by=caller.name)
        applied = await self._runner.run(request_id, cancel, caller, respond=_respond_to_cancel)
        if applied.change is not None:
            answer = _respond_to_cancel(applied.change)
            return ActionResult(answer=answer, request=applied.request)
        body = to_resource(applied.request) | {"outcome": "already_terminal"}
        return ActionResult(
            answer=ApiResponse(status=200, body=body), request=applied.request, acted=False
        )

    async def _force_fail(
        self, request_id: UUID, caller: Caller, fail: Callable[[GenerationRequest], OperatorFailed]
    ) -> ActionResult:
        applied = await self._runner.run(request_id, fail, caller, respond=_respond_with_resource)
        answer = ApiResponse(status=200, body=to_resource(applied.request))
        return ActionResult(answer=answer, request=applied.request)

    async def _idempotent(
        self, claim: IdempotencyClaim | None, act: Callable[[], Awaitable[ActionResult]]
    ) -> ActionResult:
        return await run_idempotent(self._runner.store, claim, act)

    async def _offer(self, user_id: str, by: str, quote_id: str | None) -> tuple[Offer, int | None]:
        """Return what the user's orders are priced by, and their balance where it is known.

        Raises:
            AccountRestrictedError: the account is restricted.
            CreditsUnavailableError: the plan is not known right now.
        """
        entitled = await self._known_entitlements(user_id)
        if entitled.restricted:
            raise errors.AccountRestrictedError
        return self._offer_for(user_id, by, entitled, quote_id), entitled.balance

    def _offer_for(
        self, user_id: str, by: str, entitled: Entitlements, quote_id: str | None
    ) -> Offer:
        now = self._now()
        return Offer(
            plan=entitled.plan,
            stale=entitled.stale,
            prices=self._policy.prices,
            routing=self._routing(),
            by=by,
            now=now,
            open_quote=partial(self._quotes.open, quote_id, user_id, now),
        )

    async def _known_entitlements(self, user_id: str) -> Entitlements:
        try:
            return await self._entitlements(user_id)
        except CreditsUnknownError as error:
            raise errors.CreditsUnavailableError(retry_after_seconds=5) from error


def _respond_to_cancel(change: StateChange) -> ApiResponse:
    busy = change.before is not None and change.before.state in IN_FLIGHT
    outcome = "cancellation_requested" if busy else "cancelled"
    return ApiResponse(status=200, body=to_resource(change.after) | {"outcome": outcome})


def _respond_with_resource(change: StateChange) -> ApiResponse:
    return ApiResponse(status=200, body=to_resource(change.after))
