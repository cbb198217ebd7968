"""What one event writes: the request after it, its line in the timeline, holds resolved, messages
owed.

`carry_out` is the only place where a state changes. It is pure: the same arguments give the same
change.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from creativeflow.services.aigeneration.domain.lifecycle import (
    Effect,
    Event,
    Stage,
    State,
    transition_for,
)
from creativeflow.services.aigeneration.domain.policy import Policy
from creativeflow.services.aigeneration.domain.pricing import Funding, credits_text
from creativeflow.services.aigeneration.domain.representation import to_resource
from creativeflow.services.aigeneration.domain.request import (
    Failure,
    GenerationRequest,
    Hold,
    HoldState,
    iso,
)
from creativeflow.services.aigeneration.domain.webhooks import event_type as webhook_type
from creativeflow.services.aigeneration.domain.worker_errors import worker_error_for

SUBMITTED = "submitted"
"""The first line of every timeline; not an event, because nothing was there before."""


class Topic:
    """What a message is about; each has one handler in the relay."""

    NOTIFY = "notification.send"
    EVENT = "event.publish"
    CAPTURE = "credits.capture"
    RELEASE = "credits.release"
    WEBHOOK = "webhook"
    """For every endpoint of the request's caller; the store makes one message for each, none where
    there is no endpoint.
    """


TOPICS = (Topic.NOTIFY, Topic.EVENT, Topic.CAPTURE, Topic.RELEASE)


@dataclass(frozen=True, slots=True)
class TimelineEntry:
    """One line of the timeline; `state` is set when the request moved."""

    event: str
    state: State | None = None
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OutboxMessage:
    """Something owed to somebody else, paid by the relay after the commit."""

    topic: str
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRecord:
    """One chargeable action that took place, whatever paid for it; `amount` in 1/100 credit
    (REQ-016).
    """

    stage: Stage
    round: int
    action: str
    paid_by: Funding
    amount: int
    model: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class IdempotencyClaim:
    """An idempotency key of this caller and the fingerprint of the body it came with."""

    principal: str
    key: str
    fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiResponse:
    """What the caller with the key was, or will be, told."""

    status: int
    body: Mapping[str, Any]
    location: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StateChange:
    """All that one statement writes, together or not at all.

    `queues` asks the store for a place in the fair queue. `claim` takes an idempotency key; an
    `answer` without a claim completes the key that was claimed when the action began.
    """

    before: GenerationRequest | None
    after: GenerationRequest
    entries: tuple[TimelineEntry, ...]
    messages: tuple[OutboxMessage, ...] = ()
    holds: tuple[Hold, ...] = ()
    usage: tuple[UsageRecord, ...] = ()
    queues: bool = False
    claim: IdempotencyClaim | None = None
    answer: ApiResponse | None = None

    @property
    def allowance(self) -> Hold | None:
        """The hold in this change that uses up one generation of the month."""
        return next(
            (h for h in self.holds if h.funding is Funding.ALLOWANCE and h.state is HoldState.HELD),
            None,
        )

    @property
    def taking(self) -> Hold | None:
        """The hold of credits that this change takes by itself: nobody was asked for it before."""
        known = {hold.key for hold in self.before.holds} if self.before else ()
        held = (h for h in self.holds if h.funding is Funding.CREDITS and h.state is HoldState.HELD)
        return next((hold for hold in held if hold.key not in known), None)


@dataclass(slots=True)
class _Draft:
    """The change while its effects are being carried out."""

    request: GenerationRequest
    policy: Policy
    now: datetime
    new_id: Callable[[], UUID]
    messages: list[OutboxMessage] = field(default_factory=list)
    changed: dict[str, Hold] = field(default_factory=dict)
    usage: list[UsageRecord] = field(default_factory=list)
    queues: bool = False

    def resolve(self, hold: Hold, state: HoldState) -> None:
        """Resolve one open hold; the message to the credit service, and what was used, are written
        along.
        """
        self.put(replace(hold, state=state))
        if state is HoldState.CAPTURED:
            self.use(hold.action, hold.funding, hold.amount)
        if hold.funding is Funding.CREDITS:
            topic = Topic.CAPTURE if state is HoldState.CAPTURED else Topic.RELEASE
            self.messages.append(OutboxMessage(topic, hold.reservation(self.request.user_id)))

    def use(self, action: str, paid_by: Funding, amount: int = 0) -> None:
        """Log the action that has just been delivered."""
        request = self.request
        self.usage.append(
            UsageRecord(
                stage=request.stage,
                round=request.round,
                action=action,
                paid_by=paid_by,
                amount=amount,
                model=request.ai_model_used or request.model,
            )
        )

    def put(self, hold: Hold) -> None:
        self.changed[hold.key] = hold
        others = tuple(h for h in self.request.holds if h.key != hold.key)
        self.request = replace(self.request, holds=(*others, hold))


def apply(
    request: GenerationRequest,
    event: Event,
    *,
    policy: Policy,
    now: datetime,
    new_id: Callable[[], UUID],
    data: Mapping[str, Any] | None = None,
    hold: Hold | None = None,
    **fields: Any,
) -> StateChange:
    """Let `event` happen to `request`: the move, its effects, and `fields` set on the way.

    `hold` is a hold which this event creates or changes beside the effects. `data` goes into the
    timeline.

    Raises:
        IllegalTransitionError: TRANSITIONS has no line for it.
    """
    move = transition_for(request.state, event)
    set_by_move: dict[str, Any] = {
        "state": move.to,
        "version": request.version + 1,
        "updated_at": now,
        "lease_until": None,
    }
    moved = replace(request, **(set_by_move | _times(request, move.to, policy, now) | fields))
    draft = _Draft(moved, policy, now, new_id)
    if hold is not None:
        draft.put(hold)
    for effect in move.effects:
        _EFFECTS[effect](draft)
    change = StateChange(
        before=request,
        after=draft.request,
        entries=(TimelineEntry(event.value, move.to, data or {}),),
        messages=tuple(draft.messages),
        holds=tuple(draft.changed.values()),
        usage=tuple(draft.usage),
        queues=draft.queues,
    )
    return _with_money_line(change) if hold is not None else change


def started(
    request: GenerationRequest,
    *,
    data: Mapping[str, Any],
    claim: IdempotencyClaim | None = None,
    answer: ApiResponse | None = None,
) -> StateChange:
    """The change that brings a new request into being, with its hold and, when it waits already,
    its first job.
    """
    change = StateChange(
        before=None,
        after=request,
        entries=(TimelineEntry(SUBMITTED, request.state, data),),
        holds=request.holds,
        queues=request.state is State.PENDING,
        claim=claim,
        answer=answer,
    )
    return _with_money_line(change)


def _with_money_line(change: StateChange) -> StateChange:
    """Credits that are taken at once have their line in the timeline, as those which were asked for
    have.
    """
    if (hold := change.taking) is None:
        return change
    line = TimelineEntry(
        Event.CREDITS_HELD.value, None, {"hold": hold.key, "credits": credits_text(hold.amount)}
    )
    return replace(change, entries=(*change.entries, line))


def failure(code: str) -> Failure:
    """A failure as its user sees it: friendly words, who caused it, and the ways on (REQ-007.1)."""
    fault = worker_error_for(code)
    return Failure(
        code=code,
        fault=fault.party.value,
        message=fault.message,
        retryable="retry" in fault.next_steps,
        next_steps=list(fault.next_steps),
    )


def _times(request: GenerationRequest, to: State, policy: Policy, now: datetime) -> dict[str, Any]:
    """The deadline of the state that follows; a state kept keeps its own, and so does a job's way
    to the broker.
    """
    waiting = (State.PENDING, State.PUBLISHING_TO_QUEUE)
    if to is request.state or (to in waiting and request.state in waiting):
        return {}
    wait = policy.deadline(to)
    remind = to is State.AWAITING_SELECTION and policy.selection_deadline > policy.expiry_reminder
    return {
        "deadline_at": now + wait if wait else None,
        "remind_at": now + policy.selection_deadline - policy.expiry_reminder if remind else None,
        "pending_action": None,
    }


def _queue_job(draft: _Draft) -> None:
    draft.queues = True
    draft.request = replace(
        draft.request,
        job_id=draft.new_id(),
        attempt=1,
        due_at=draft.now,
        progress=None,
        failure=None,
    )


def _requeue_job(draft: _Draft) -> None:
    """A new attempt is a new job; it keeps its place in the fair queue and waits longer each
    time.
    """
    delay = draft.policy.retry_delay * 2 ** (draft.request.attempt - 1)
    draft.request = replace(
        draft.request,
        job_id=draft.new_id(),
        attempt=draft.request.attempt + 1,
        due_at=draft.now + delay,
        deadline_at=draft.now + draft.policy.dispatch_deadline,
        progress=None,
        samples=() if draft.request.stage is Stage.SAMPLES else draft.request.samples,
    )


def _capture(draft: _Draft) -> None:
    """Take what is held for what was delivered; where nothing is held, the plan has paid."""
    if not _resolve_held(draft, HoldState.CAPTURED):
        action = (
            "sample_generation" if draft.request.stage is Stage.SAMPLES else "standard_generation"
        )
        draft.use(action, Funding.PLAN)


def _resolve_held(draft: _Draft, state: HoldState) -> bool:
    held = [hold for hold in draft.request.holds if hold.state is HoldState.HELD]
    for hold in held:
        draft.resolve(hold, state)
    return bool(held)


def _release(draft: _Draft) -> None:
    _resolve_held(draft, HoldState.RELEASED)


def _settle_rejected(draft: _Draft) -> None:
    """A rejected prompt costs its sample set by default (a setting); an undelivered final never
    costs anything.
    """
    charged = draft.policy.charge_rejected and draft.request.stage is Stage.SAMPLES
    _resolve_held(draft, HoldState.CAPTURED if charged else HoldState.RELEASED)


def _announce(event_type: str, topic_event: str) -> Callable[[_Draft], None]:
    def announce(draft: _Draft) -> None:
        request = draft.request
        data: dict[str, Any] = {
            "generation_request_id": str(request.id),
            "status": request.state.value,
            "stage": request.stage.value,
            "round": request.round,
            "project_id": request.project_id,
        }
        match event_type:
            case "samples_ready":
                data |= {
                    "samples": list(request.samples),
                    "sample_failures": list(request.sample_failures),
                }
            case "final_asset_ready":
                data |= {"final_asset": request.final_asset}
            case "generation_failed":
                data |= {"failure": request.failure}
            case "generation_expiring":
                data |= {"expires_at": iso(request.deadline_at)}
        data["credits_charged"] = credits_text(
            sum(request.cost(stage, HoldState.CAPTURED) for stage in Stage)
        )
        envelope = {
            "event_id": str(draft.new_id()),
            "event_type": event_type,
            "user_id": request.user_id,
            "correlation_id": request.correlation_id,
            "locale": request.brief.get("locale"),
            "at": iso(draft.now),
            "data": data,
        }
        draft.messages.append(OutboxMessage(Topic.NOTIFY, envelope))
        if draft.policy.publish_events:
            draft.messages.append(
                OutboxMessage(Topic.EVENT, envelope | {"event_type": topic_event})
            )
        if draft.policy.webhooks:
            told = {
                "type": webhook_type(topic_event),
                "timestamp": envelope["at"],
                "data": to_resource(request),
            }
            draft.messages.append(
                OutboxMessage(Topic.WEBHOOK, {"event_id": envelope["event_id"], "told": told})
            )

    return announce


_EFFECTS: dict[Effect, Callable[[_Draft], None]] = {
    Effect.QUEUE_JOB: _queue_job,
    Effect.REQUEUE_JOB: _requeue_job,
    Effect.CAPTURE: _capture,
    Effect.RELEASE: _release,
    Effect.SETTLE_REJECTED: _settle_rejected,
    Effect.ANNOUNCE_SAMPLES: _announce("samples_ready", "samples_ready"),
    Effect.ANNOUNCE_FINAL: _announce("final_asset_ready", "completed"),
    Effect.ANNOUNCE_FAILURE: _announce("generation_failed", "failed"),
    Effect.ANNOUNCE_CANCELLATION: _announce("generation_cancelled", "cancelled"),
    Effect.ANNOUNCE_EXPIRING: _announce("generation_expiring", "expiring"),
    Effect.ANNOUNCE_EXPIRY: _announce("generation_expired", "expired"),
}
