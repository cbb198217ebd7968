"""The generation request with its current job and its holds."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, NotRequired, TypedDict
from uuid import UUID

from creativeflow.services.aigeneration.domain.formats import CUSTOM, FORMATS, Size
from creativeflow.services.aigeneration.domain.lifecycle import TERMINAL, Event, Stage, State
from creativeflow.services.aigeneration.domain.pricing import PLANS, Funding, Plan


class Brief(TypedDict):
    """A brief as sent: validated by the API, stored as JSON."""

    input_prompt: str
    output_format: str
    style_guidance: NotRequired[str]
    custom_dimensions: NotRequired[dict[str, int]]
    brand_kit_id: NotRequired[str]
    uploaded_image_references: NotRequired[list[str]]
    target_platform_hints: NotRequired[list[str]]
    emotional_tone: NotRequired[str]
    industry_template: NotRequired[str]
    cultural_adaptation_parameters: NotRequired[dict[str, Any]]
    color_scheme: NotRequired[list[str]]
    model: NotRequired[str]
    locale: NotRequired[str]


class Asset(TypedDict):
    """A picture made by a worker; `resolution` is "WxH" in pixels."""

    asset_id: str
    url: str
    resolution: str
    format: str
    index: NotRequired[int]
    model: NotRequired[str]
    checksum: NotRequired[str]
    metadata: NotRequired[dict[str, Any]]


class SampleFailure(TypedDict):
    """A sample that failed."""

    index: int
    error_code: str
    message: str


class Failure(TypedDict):
    """Why a request ended without a result; `message` is for the user."""

    code: str
    fault: str
    message: str
    retryable: bool
    next_steps: list[str]


class Route(TypedDict):
    """The model of the stage, the reason for its choice, and the provider of the current
    attempt.
    """

    chosen: str
    reason: str
    provider: str
    strategy: str


class HoldState(StrEnum):
    """A hold is placed once and resolved once."""

    PLACING = "placing"
    HELD = "held"
    CAPTURED = "captured"
    RELEASED = "released"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Credits or an allowance held for one stage and round; `amount` in 1/100 credit.

    `month` (first day, UTC) is the month of an allowance.
    """

    key: str
    stage: Stage
    round: int
    action: str
    funding: Funding
    amount: int
    state: HoldState
    month: str | None = None

    @property
    def open(self) -> bool:
        """Whether the hold is placing or held."""
        return self.state in (HoldState.PLACING, HoldState.HELD)

    def reservation(self, user_id: str) -> dict[str, Any]:
        """Return the facts of the hold that every call to the credit service sends."""
        return {"key": self.key, "user_id": user_id, "amount": self.amount, "action": self.action}


class PendingAction(TypedDict):
    """The order whose hold is being placed, applied when the credits are held."""

    event: str
    fields: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """A row of `generation_requests` and its holds; replaced as a whole, never changed in place.

    `version` counts transitions and guards every write. `job_id` names the current attempt: it is
    the fencing token against results of earlier ones. All times are UTC.
    """

    id: UUID
    user_id: str
    project_id: str | None
    created_by: str
    correlation_id: str
    traceparent: str | None
    state: State
    stage: Stage
    round: int
    attempt: int
    job_id: UUID | None
    version: int
    plan: str
    brief: Brief
    metadata: Mapping[str, Any]
    samples: tuple[Asset, ...] = ()
    sample_failures: tuple[SampleFailure, ...] = ()
    selected_sample_id: str | None = None
    final_size: Size | None = None
    file_format: str = "png"
    max_rounds: int = 10
    final_asset: Asset | None = None
    failure: Failure | None = None
    progress: Mapping[str, Any] | None = None
    pending_action: PendingAction | None = None
    route: Route | None = None
    model: str | None = None
    ai_model_used: str | None = None
    retry_of: UUID | None = None
    fair_at: float | None = None
    due_at: datetime | None = None
    lease_until: datetime | None = None
    deadline_at: datetime | None = None
    remind_at: datetime | None = None
    created_at: datetime
    updated_at: datetime
    holds: tuple[Hold, ...] = field(default=())

    @property
    def terminal(self) -> bool:
        """Whether the request has ended."""
        return self.state in TERMINAL

    @property
    def dimensions(self) -> Size:
        """The pixel size of the ordered format."""
        return dimensions_of(self.brief)

    @property
    def terms(self) -> Plan:
        """The plan under which the request was submitted."""
        return PLANS[self.plan]

    @property
    def in_review(self) -> bool:
        """Whether the prompt waits for a review."""
        return (
            self.pending_action is not None and self.pending_action["event"] == Event.REVIEW_PASSED
        )

    @property
    def placing(self) -> Hold | None:
        """The hold with an unknown outcome; there is at most one."""
        return next((hold for hold in self.holds if hold.state is HoldState.PLACING), None)

    @property
    def shown_samples(self) -> tuple[Asset, ...]:
        """The samples that the user may see: a set that is paid for by a hold only when the hold
        has been captured, so that nobody looks at samples, cancels and pays nothing.
        """
        if self.stage is not Stage.SAMPLES:
            return self.samples
        paying = [
            hold.state
            for hold in self.holds
            if hold.stage is Stage.SAMPLES
            and hold.round == self.round
            and hold.state is not HoldState.REFUSED
        ]
        return self.samples if not paying or HoldState.CAPTURED in paying else ()

    def cost(self, stage: Stage, *states: HoldState) -> int:
        """Return the sum of the stage's credit holds in these states, in 1/100 credit."""
        return sum(
            hold.amount for hold in self.holds if hold.stage is stage and hold.state in states
        )


def dimensions_of(brief: Brief) -> Size:
    """Return the pixel size of the format in a brief."""
    if brief["output_format"] == CUSTOM:
        custom = brief["custom_dimensions"]
        return Size(custom["width"], custom["height"])
    return FORMATS[brief["output_format"]]


def iso(moment: datetime | None) -> str | None:
    """Return a time as ISO 8601 in UTC with a Z."""
    return moment.isoformat().replace("+00:00", "Z") if moment else None
