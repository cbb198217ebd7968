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
    """The topic of an outbox message; each has one handler in the relay."""

    NOTIFY = "notification.send"
    EVENT = "event.publish"
    CAPTURE = "credits.capture"
    RELEASE = "credits.release"
    WEBHOOK = "webhook"
    """One message for each endpoint of the request's caller; the store creates them, none
    without an endpoint.
    """


TOPICS = (Topic.NOTIFY, Topic.EVENT, Topic.CAPTURE, Topic.RELEASE)


@dataclass(frozen=True, slots=True)
class TimelineEntry:
    """An entry of the timeline; `state` is set for a transition.

    `at` is the time of an entry that is written with a later change; None is the change's own.
    """

    event: str
    state: State | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class OutboxMessage:
    """An outbox message, delivered by the relay after commit."""

    topic: str
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRecord:
    """A chargeable action that took place, whatever paid for it; `amount` in 1/100 credit
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
    """The response that is stored for a caller."""

    status: int
    body: Mapping[str, Any]
    location: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StateChange:
    """Everything that one statement writes, together or not at all.

    `queues` gives the request a place in the fair queue. `claim` takes an idempotency key; an
    `answer` without a claim completes the key that was claimed when the action began. `lease` is
    the lease of the queued job, decided on `after`: the statement applies it along where the lane
    has room, and the job then needs no dispatcher.
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
    lease: "LeaseOffer | None" = None

    def then(self, following: "StateChange") -> "StateChange":
        """Return this change and the one decided on `self.after` as one, written together.

        Only for a change that writes nothing beside its request, such as a broker's confirm.
        """
        at = self.after.updated_at
        entries = tuple(replace(entry, at=at) for entry in self.entries)
        return replace(following, before=self.before, entries=(*entries, *following.entries))

    @property
    def allowance(self) -> Hold | None:
        """The hold in this change that uses up one generation of the month."""
        return next(
            (h for h in self.holds if h.funding is Funding.ALLOWANCE and h.state is HoldState.HELD),
            None,
        )

    @property
    def taking(self) -> Hold | None:
        """The hold of credits that this change takes itself: the credit service was not asked
        before.
        """
        known = {hold.key for hold in self.before.holds} if self.before else ()
        held = (h for h in self.holds if h.funding is Funding.CREDITS and h.state is HoldState.HELD)
        return next((hold for hold in held if hold.key not in known), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseOffer:
    """The lease of a job that is only being queued, and the jobs in flight that bound it.

    `window`: of the lane; `per_user`: of one user in the lane.
    """

    change: StateChange
    window: int
    per_user: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The inputs of a transition beside request and event: the policy, the time, new ids."""

    policy: Policy
    now: datetime
    new_id: Callable[[], UUID]


@dataclass(slots=True)
class _Draft:
    """A change while its effects are applied; `fields` are those in which the new request
    differs.
    """

    before: GenerationRequest | None
    fields: dict[str, Any]
    context: Context
    holds: dict[str, Hold] = field(default_factory=dict)
    messages: list[OutboxMessage] = field(default_factory=list)
    changed: dict[str, Hold] = field(default_factory=dict)
    usage: list[UsageRecord] = field(default_factory=list)
    queues: bool = False

    def get(self, name: str) -> Any:
        """Return a field of the request as it will be."""
        return self.fields[name] if name in self.fields else getattr(self.before, name)

    def put(self, hold: Hold) -> None:
        """Add or replace a hold."""
        self.holds.pop(hold.key, None)
        self.holds[hold.key] = self.changed[hold.key] = hold

    def resolve(self, hold: Hold, state: HoldState) -> None:
        """Resolve one open hold, with the message to the credit service and the usage record."""
        self.put(replace(hold, state=state))
        if state is HoldState.CAPTURED:
            self.use(hold.action, hold.funding, hold.amount)
        if hold.funding is Funding.CREDITS:
            topic = Topic.CAPTURE if state is HoldState.CAPTURED else Topic.RELEASE
            self.messages.append(OutboxMessage(topic, hold.reservation(self.get("user_id"))))

    def use(self, action: str, paid_by: Funding, amount: int = 0) -> None:
        """Record the usage of what has just been delivered."""
        self.usage.append(
            UsageRecord(
                stage=self.get("stage"),
                round=self.get("round"),
                action=action,
                paid_by=paid_by,
                amount=amount,
                model=self.get("ai_model_used") or self.get("model"),
            )
        )

    def build(self) -> GenerationRequest:
        """Return the request after the change."""
        fields_ = self.fields | {"holds": tuple(self.holds.values())}
        if self.before is None:
            return GenerationRequest(**fields_)
        return replace(self.before, **fields_)


def apply(request: GenerationRequest | None, event: DomainEvent, context: Context) -> StateChange:
    """Return the change that `event` makes to `request`; `request` is None for a new one.

    The event sets its own fields; the table then decides `state`, and `version` and `updated_at`
    follow here, so that no event can set them.

    Raises:
        IllegalTransitionError: TRANSITIONS has no row for it.
    """
    if request is None:
        row, fields_ = _create(event, context)
    else:
        row = transition_for(request.state, event.kind)
        fields_ = {"lease_until": None} | _timing(request, row.to, context)
        fields_ |= event.fields_to_set() | {"version": request.version + 1}
    fields_ |= {"state": row.to, "updated_at": context.now}
    holds = {hold.key: hold for hold in request.holds} if request else {}
    draft = _Draft(request, fields_, context, holds)
    hold: Hold | None = getattr(event, "hold", None)
    if hold is not None:
        draft.put(hold)
    for effect in row.effects:
        if effect in _EFFECTS:
            _EFFECTS[effect](draft)
    after = draft.build()
    for effect in row.effects:
        if effect in _ANNOUNCEMENTS:
            _announce(after, draft, *_ANNOUNCEMENTS[effect])
    change = StateChange(
        before=request,
        after=after,
        entries=(TimelineEntry(event.kind.value, row.to, event.data),),
        messages=tuple(draft.messages),
        holds=tuple(draft.changed.values()),
        usage=tuple(draft.usage),
        queues=draft.queues,
    )
    return _with_money_line(change) if hold is not None else change


def _create(event: DomainEvent, context: Context) -> tuple[Transition, dict[str, Any]]:
    """Return the birth row and the fields of the new request, before any effect."""
    if not isinstance(event, Submitted):
        raise TypeError(f"{type(event).__name__} needs a request")
    row = transition_for(event.origin, event.kind)
    policy = context.policy
    reviewed = event.origin is Origin.NEEDS_REVIEW
    wait = policy.review_deadline if reviewed else policy.dispatch_deadline
    fields_ = event.fields_to_set() | {
        "stage": Stage.SAMPLES,
        "round": 1,
        "attempt": 0,
        "job_id": None,
        "version": 1,
        "deadline_at": context.now + wait,
        "created_at": context.now,
    }
    del fields_["origin"]
    return row, fields_


def _with_money_line(change: StateChange) -> StateChange:
    """Add the timeline entry of credits that the statement takes itself, as placed ones have it."""
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
    draft.fields |= {
        "job_id": draft.context.new_id(),
        "attempt": 1,
        "due_at": draft.context.now,
        "progress": None,
        "failure": None,
    }


def _requeue_job(draft: _Draft) -> None:
    """Make the next attempt a new job, in the same place of the queue and due later each time."""
    context, attempt = draft.context, draft.get("attempt")
    draft.fields |= {
        "job_id": context.new_id(),
        "attempt": attempt + 1,
        "due_at": context.now + context.policy.retry_delay * 2 ** (attempt - 1),
        "deadline_at": context.now + context.policy.dispatch_deadline,
        "progress": None,
    }
    if draft.get("stage") is Stage.SAMPLES:
        draft.fields["samples"] = ()


def _renew_job(draft: _Draft) -> None:
    """Queue a job that no worker took under a new id, so that the old message is stale; its wait
    goes on from when the attempt was queued.
    """
    context = draft.context
    due_at = draft.get("due_at") or context.now
    draft.fields |= {
        "job_id": context.new_id(),
        "deadline_at": due_at + context.policy.dispatch_deadline,
        "progress": None,
    }


def _capture(draft: _Draft) -> None:
    """Capture what is held for what was delivered; where nothing is held, the plan has paid."""
    if not _resolve_held(draft, HoldState.CAPTURED):
        samples = draft.get("stage") is Stage.SAMPLES
        draft.use("sample_generation" if samples else "standard_generation", Funding.PLAN)


def _resolve_held(draft: _Draft, state: HoldState) -> bool:
    held = [hold for hold in draft.holds.values() if hold.state is HoldState.HELD]
    for hold in held:
        draft.resolve(hold, state)
    return bool(held)


def _release(draft: _Draft) -> None:
    _resolve_held(draft, HoldState.RELEASED)


def _settle_rejected(draft: _Draft) -> None:
    """A rejected prompt costs its sample set by default; an undelivered final costs nothing."""
    charged = draft.context.policy.charge_rejected and draft.get("stage") is Stage.SAMPLES
    _resolve_held(draft, HoldState.CAPTURED if charged else HoldState.RELEASED)


def _announce(request: GenerationRequest, draft: _Draft, event_type: str, topic_event: str) -> None:
    """Add the messages that announce the change: notification, lifecycle event, webhooks."""
    context = draft.context
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
    charged = sum(request.cost(stage, HoldState.CAPTURED) for stage in Stage)
    data["credits_charged"] = credits_text(charged)
    envelope = {
        "event_id": str(context.new_id()),
        "event_type": event_type,
        "user_id": request.user_id,
        "correlation_id": request.correlation_id,
        "locale": request.brief.get("locale"),
        "at": iso(context.now),
        "data": data,
    }
    draft.messages.append(OutboxMessage(Topic.NOTIFY, envelope))
    if context.policy.publish_events:
        event = envelope | {"event_type": topic_event}
        draft.messages.append(OutboxMessage(Topic.EVENT, event))
    if context.policy.webhooks:
        body = {
            "type": webhook_type(topic_event),
            "timestamp": envelope["at"],
            "data": to_resource(request),
        }
        message = {"event_id": envelope["event_id"], "told": body}
        draft.messages.append(OutboxMessage(Topic.WEBHOOK, message))


_EFFECTS: dict[Effect, Callable[[_Draft], None]] = {
    Effect.QUEUE_JOB: _queue_job,
    Effect.REQUEUE_JOB: _requeue_job,
    Effect.RENEW_JOB: _renew_job,
    Effect.CAPTURE: _capture,
    Effect.RELEASE: _release,
    Effect.SETTLE_REJECTED: _settle_rejected,
}
_ANNOUNCEMENTS: dict[Effect, tuple[str, str]] = {
    Effect.ANNOUNCE_SAMPLES: ("samples_ready", "samples_ready"),
    Effect.ANNOUNCE_FINAL: ("final_asset_ready", "completed"),
    Effect.ANNOUNCE_FAILURE: ("generation_failed", "failed"),
    Effect.ANNOUNCE_CANCELLATION: ("generation_cancelled", "cancelled"),
    Effect.ANNOUNCE_EXPIRING: ("generation_expiring", "expiring"),
    Effect.ANNOUNCE_EXPIRY: ("generation_expired", "expired"),
}
"""The notification and the lifecycle event of each announcement; they show the finished request."""
