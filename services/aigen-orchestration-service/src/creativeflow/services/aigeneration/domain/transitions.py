"""Apply an event to a request: the request after it, its timeline entry, holds and messages.

`apply` is the only place where a state changes. It is pure: equal arguments give equal changes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from creativeflow.services.aigeneration.domain.events import DomainEvent, Submitted
from creativeflow.services.aigeneration.domain.lifecycle import (
    Effect,
    Event,
    Origin,
    Stage,
    State,
    Transition,
    transition_for,
)
from creativeflow.services.aigeneration.domain.policy import Policy
from creativeflow.services.aigeneration.domain.pricing import Funding, credits_text
from creativeflow.services.aigeneration.domain.representation import to_resource
from creativeflow.services.aigeneration.domain.request import (
    GenerationRequest,
    Hold,
    HoldState,
    iso,
)
from creativeflow.services.aigeneration.domain.webhooks import event_type as webhook_type


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a transition needs beside the request and the event: the policy, the time, new ids."""

    policy: Policy
    now: datetime
    new_id: Callable[[], UUID]


@dataclass(slots=True)
class _Draft:
    """The change while its effects are being carried out."""

    request: GenerationRequest
    context: Context
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


def apply(request: GenerationRequest | None, event: DomainEvent, context: Context) -> StateChange:
    """Return the change that `event` makes to `request`; `request` is None for a new one.

    The event sets its own fields; the table then decides `state`, and `version` and `updated_at`
    follow here, so that no event can set them.

    Raises:
        IllegalTransitionError: TRANSITIONS has no row for it.
    """
    if request is None:
        row, draft = _create(event, context)
    else:
        row = transition_for(request.state, event.kind)
        after = replace(
            request,
            **{"lease_until": None}
            | _timing(request, row.to, context)
            | event.fields_to_set()
            | {"state": row.to, "version": request.version + 1, "updated_at": context.now},
        )
        draft = _Draft(after, context)
    hold: Hold | None = getattr(event, "hold", None)
    if hold is not None:
        draft.put(hold)
    for effect in row.effects:
        _EFFECTS[effect](draft)
    change = StateChange(
        before=request,
        after=draft.request,
        entries=(TimelineEntry(event.kind.value, row.to, event.data),),
        messages=tuple(draft.messages),
        holds=tuple(draft.changed.values()),
        usage=tuple(draft.usage),
        queues=draft.queues,
    )
    return _with_money_line(change) if hold is not None else change


def _create(event: DomainEvent, context: Context) -> tuple[Transition, _Draft]:
    """Return the birth row and the new request, without its hold and before any effect."""
    if not isinstance(event, Submitted):
        raise TypeError(f"{type(event).__name__} needs a request")
    row = transition_for(event.origin, event.kind)
    policy = context.policy
    reviewed = event.origin is Origin.NEEDS_REVIEW
    request = GenerationRequest(
        id=event.id,
        user_id=event.user_id,
        project_id=event.project_id,
        created_by=event.created_by,
        correlation_id=event.correlation_id,
        traceparent=event.traceparent,
        state=row.to,
        stage=Stage.SAMPLES,
        round=1,
        attempt=0,
        job_id=None,
        version=1,
        plan=event.plan,
        brief=event.brief,
        metadata=event.metadata,
        pending_action=event.pending_action,
        retry_of=event.retry_of,
        max_rounds=event.max_rounds,
        route=event.route,
        deadline_at=context.now
        + (policy.review_deadline if reviewed else policy.dispatch_deadline),
        created_at=context.now,
        updated_at=context.now,
    )
    return row, _Draft(request, context)


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


def _timing(request: GenerationRequest, to: State, context: Context) -> dict[str, Any]:
    """Return the deadlines of the next state.

    A state that is kept keeps its own, and so does a job on its way to the broker.
    """
    waiting = (State.PENDING, State.PUBLISHING_TO_QUEUE)
    if to is request.state or (to in waiting and request.state in waiting):
        return {}
    policy, now = context.policy, context.now
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
        job_id=draft.context.new_id(),
        attempt=1,
        due_at=draft.context.now,
        progress=None,
        failure=None,
    )


def _requeue_job(draft: _Draft) -> None:
    """A new attempt is a new job; it keeps its place in the fair queue and waits longer each
    time.
    """
    delay = draft.context.policy.retry_delay * 2 ** (draft.request.attempt - 1)
    draft.request = replace(
        draft.request,
        job_id=draft.context.new_id(),
        attempt=draft.request.attempt + 1,
        due_at=draft.context.now + delay,
        deadline_at=draft.context.now + draft.context.policy.dispatch_deadline,
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
    charged = draft.context.policy.charge_rejected and draft.request.stage is Stage.SAMPLES
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
            "event_id": str(draft.context.new_id()),
            "event_type": event_type,
            "user_id": request.user_id,
            "correlation_id": request.correlation_id,
            "locale": request.brief.get("locale"),
            "at": iso(draft.context.now),
            "data": data,
        }
        draft.messages.append(OutboxMessage(Topic.NOTIFY, envelope))
        if draft.context.policy.publish_events:
            draft.messages.append(
                OutboxMessage(Topic.EVENT, envelope | {"event_type": topic_event})
            )
        if draft.context.policy.webhooks:
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
