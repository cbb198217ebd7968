"""The events of a request as frozen dataclasses; an event sets exactly its fields.

A field has the name and type of the field of `GenerationRequest` that it sets, except `hold` and
`data`. Events never set `state`, `version` and `updated_at`: the transition table does, see
`domain/transitions.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from functools import cache
from typing import Any, ClassVar, Self
from uuid import UUID

from creativeflow.services.aigeneration.domain.formats import Size
from creativeflow.services.aigeneration.domain.lifecycle import Event, Origin, Stage
from creativeflow.services.aigeneration.domain.request import (
    Asset,
    Brief,
    Failure,
    GenerationRequest,
    Hold,
    PendingAction,
    Route,
    SampleFailure,
)

_NOT_FIELDS_OF_A_REQUEST = frozenset({"data", "hold"})


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainEvent:
    """Base class of the events; `data` is stored in the timeline and changes nothing.

    `hold`, if the event has that field, is the hold that it creates or replaces.
    """

    kind: ClassVar[Event]
    data: Mapping[str, Any] = field(default_factory=dict)

    def fields_to_set(self) -> dict[str, Any]:
        """Return the fields of the request that this event sets, by name."""
        event: Any = type(self)
        return {name: getattr(self, name) for name in names_of(event)}


@cache
def names_of(event: Any) -> tuple[str, ...]:
    """Return the names of the fields of the request that events of this class set."""
    return tuple(each.name for each in fields(event) if each.name not in _NOT_FIELDS_OF_A_REQUEST)


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted(DomainEvent):
    """A request was created; `origin` selects the row of the table."""

    kind: ClassVar[Event] = Event.SUBMITTED
    origin: Origin
    id: UUID
    user_id: str
    project_id: str | None
    created_by: str
    correlation_id: str
    traceparent: str | None
    plan: str
    brief: Brief
    metadata: Mapping[str, Any]
    retry_of: UUID | None
    max_rounds: int
    route: Route
    pending_action: PendingAction | None = None
    hold: Hold | None = None


# Review and credits


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewPassed(DomainEvent):
    """An operator accepted the prompt; `hold` is an allowance, held at once."""

    kind: ClassVar[Event] = Event.REVIEW_PASSED
    plan: str
    pending_action: None = None
    hold: Hold | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewRejected(DomainEvent):
    """An operator rejected the prompt."""

    kind: ClassVar[Event] = Event.REVIEW_REJECTED
    failure: Failure
    pending_action: None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditsAsked(DomainEvent):
    """A hold is being placed; `pending_action` is applied once the credits are held."""

    kind: ClassVar[Event] = Event.CREDITS_ASKED
    hold: Hold
    plan: str
    pending_action: PendingAction | None
    selected_sample_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditsHeld(DomainEvent):
    """The credit service holds the credits of the first samples."""

    kind: ClassVar[Event] = Event.CREDITS_HELD
    hold: Hold


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditsRefused(DomainEvent):
    """The credit service or the allowance refused; `failure` is set if this ends the request."""

    kind: ClassVar[Event] = Event.CREDITS_REFUSED
    failure: Failure | None
    hold: Hold | None = None
    pending_action: None = None
    selected_sample_id: None = None


# Jobs


@dataclass(frozen=True, slots=True, kw_only=True)
class JobLeased(DomainEvent):
    """A dispatcher leased the job until `lease_until`."""

    kind: ClassVar[Event] = Event.JOB_LEASED
    lease_until: datetime
    model: str
    route: Route


@dataclass(frozen=True, slots=True, kw_only=True)
class JobReturned(DomainEvent):
    """The job was not published, or the outcome is unknown; it is due again at `due_at`."""

    kind: ClassVar[Event] = Event.JOB_RETURNED
    due_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class JobNotTaken(DomainEvent):
    """No worker took the job before its deadline."""

    kind: ClassVar[Event] = Event.JOB_NOT_TAKEN


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplesJobConfirmed(DomainEvent):
    """The broker has stored the samples job."""

    kind: ClassVar[Event] = Event.SAMPLES_JOB_CONFIRMED


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalJobConfirmed(DomainEvent):
    """The broker has stored the final job."""

    kind: ClassVar[Event] = Event.FINAL_JOB_CONFIRMED


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplesStarted(DomainEvent):
    """A worker started to make the samples."""

    kind: ClassVar[Event] = Event.SAMPLES_STARTED
    progress: Mapping[str, Any]
    samples: tuple[Asset, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalStarted(DomainEvent):
    """A worker started to make the final."""

    kind: ClassVar[Event] = Event.FINAL_STARTED
    progress: Mapping[str, Any]
    samples: tuple[Asset, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressReported(DomainEvent):
    """A worker reported progress; `samples` are those that are visible so far."""

    kind: ClassVar[Event] = Event.PROGRESS_REPORTED
    progress: Mapping[str, Any]
    samples: tuple[Asset, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplesDelivered(DomainEvent):
    """At least one valid sample was delivered (REQ-008)."""

    kind: ClassVar[Event] = Event.SAMPLES_DELIVERED
    samples: tuple[Asset, ...]
    sample_failures: tuple[SampleFailure, ...]
    ai_model_used: str | None
    progress: None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalDelivered(DomainEvent):
    """The final was delivered in the ordered size and format (REQ-009)."""

    kind: ClassVar[Event] = Event.FINAL_DELIVERED
    final_asset: Asset
    ai_model_used: str | None
    progress: None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptFailed(DomainEvent):
    """An attempt failed for a transient reason, and another attempt is left."""

    kind: ClassVar[Event] = Event.ATTEMPT_FAILED


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptsExhausted(DomainEvent):
    """The last attempt failed."""

    kind: ClassVar[Event] = Event.ATTEMPTS_EXHAUSTED
    failure: Failure
    progress: None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InputRefused(DomainEvent):
    """The provider refused the input."""

    kind: ClassVar[Event] = Event.INPUT_REFUSED
    failure: Failure
    progress: None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptRejected(DomainEvent):
    """The provider refused the prompt."""

    kind: ClassVar[Event] = Event.PROMPT_REJECTED
    failure: Failure
    progress: None = None


# Orders of the user


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSelected(DomainEvent):
    """One sample was selected and its final ordered."""

    kind: ClassVar[Event] = Event.SAMPLE_SELECTED
    selected_sample_id: str
    final_size: Size
    file_format: str
    plan: str
    route: Route | None
    stage: Stage = Stage.FINAL
    hold: Hold | None = None

    def to_pending(self) -> PendingAction:
        """Return this event as JSON, to be applied when its hold is held."""
        return {"event": self.kind.value, "fields": self.to_json()}

    def to_json(self) -> dict[str, Any]:
        """Return the order, as stored in the timeline and in a pending action."""
        return {
            "selected_sample_id": self.selected_sample_id,
            "final_resolution": str(self.final_size),
            "file_format": self.file_format,
            "plan": self.plan,
            "route": self.route,
        }

    @classmethod
    def from_pending(cls, fields_: Mapping[str, Any], hold: Hold, data: Mapping[str, Any]) -> Self:
        """Return the event stored by `to_pending`, with its hold."""
        return cls(
            selected_sample_id=fields_["selected_sample_id"],
            final_size=Size.parse(fields_["final_resolution"]),
            file_format=fields_["file_format"],
            plan=fields_["plan"],
            route=fields_.get("route"),
            hold=hold,
            data=data,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RegenerationRequested(DomainEvent):
    """Another round of samples was ordered (REQ-008)."""

    kind: ClassVar[Event] = Event.REGENERATION_REQUESTED
    round: int
    brief: Brief
    plan: str
    route: Route | None
    samples: tuple[Asset, ...] = ()
    sample_failures: tuple[SampleFailure, ...] = ()
    hold: Hold | None = None

    def to_pending(self) -> PendingAction:
        """Return this event as JSON, to be applied when its hold is held."""
        return {"event": self.kind.value, "fields": {"brief": dict(self.brief), **self.to_json()}}

    def to_json(self) -> dict[str, Any]:
        """Return the order as stored in the timeline, without the prompt."""
        return {"plan": self.plan, "route": self.route}

    @classmethod
    def from_pending(
        cls,
        request: GenerationRequest,
        fields_: Mapping[str, Any],
        hold: Hold,
        data: Mapping[str, Any],
    ) -> Self:
        """Return the event stored by `to_pending`, with its hold."""
        return cls(
            round=request.round + 1,
            brief=Brief(**{**request.brief, **fields_["brief"]}),
            plan=fields_["plan"],
            route=fields_.get("route"),
            hold=hold,
            data=data,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelRequested(DomainEvent):
    """The user cancelled."""

    kind: ClassVar[Event] = Event.CANCEL_REQUESTED
    pending_action: None = None


# Time and operators


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpiryNeared(DomainEvent):
    """The samples expire soon."""

    kind: ClassVar[Event] = Event.EXPIRY_NEARED
    remind_at: None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadlinePassed(DomainEvent):
    """The deadline of the state passed; `failure` is None if samples expired without a
    selection.
    """

    kind: ClassVar[Event] = Event.DEADLINE_PASSED
    failure: Failure | None
    pending_action: None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorFailed(DomainEvent):
    """An operator ended the request."""

    kind: ClassVar[Event] = Event.OPERATOR_FAILED
    failure: Failure
    pending_action: None = None


Order = SampleSelected | RegenerationRequested
"""An event that starts paid work."""


def job_confirmed(stage: Stage, data: Mapping[str, Any]) -> DomainEvent:
    """Return the confirmation of a published job of this stage."""
    if stage is Stage.SAMPLES:
        return SamplesJobConfirmed(data=data)
    return FinalJobConfirmed(data=data)


def work_started(
    stage: Stage,
    *,
    progress: Mapping[str, Any],
    samples: tuple[Asset, ...],
    data: Mapping[str, Any],
) -> DomainEvent:
    """Return the start of work on a job of this stage."""
    if stage is Stage.SAMPLES:
        return SamplesStarted(progress=progress, samples=samples, data=data)
    return FinalStarted(progress=progress, samples=samples, data=data)


def attempt_ended(kind: Event, failure: Failure, data: Mapping[str, Any]) -> DomainEvent:
    """Return the event of a failed attempt that is not retried."""
    match kind:
        case Event.ATTEMPTS_EXHAUSTED:
            return AttemptsExhausted(failure=failure, data=data)
        case Event.INPUT_REFUSED:
            return InputRefused(failure=failure, data=data)
        case Event.PROMPT_REJECTED:
            return PromptRejected(failure=failure, data=data)
    raise ValueError(kind)


EVENTS: tuple[type[DomainEvent], ...] = (
    Submitted,
    ReviewPassed,
    ReviewRejected,
    CreditsAsked,
    CreditsHeld,
    CreditsRefused,
    JobLeased,
    JobReturned,
    JobNotTaken,
    SamplesJobConfirmed,
    FinalJobConfirmed,
    SamplesStarted,
    FinalStarted,
    ProgressReported,
    SamplesDelivered,
    FinalDelivered,
    AttemptFailed,
    AttemptsExhausted,
    InputRefused,
    PromptRejected,
    SampleSelected,
    RegenerationRequested,
    CancelRequested,
    ExpiryNeared,
    DeadlinePassed,
    OperatorFailed,
)
"""Event classes by event."""
