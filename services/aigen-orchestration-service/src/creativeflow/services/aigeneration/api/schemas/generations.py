"""Request and response bodies of generation requests and operations."""

import re
import unicodedata
from datetime import datetime
from typing import Annotated, Any, Literal, cast
from uuid import UUID

import orjson
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    model_validator,
)

from creativeflow.services.aigeneration.application.quotes import ID_MAX
from creativeflow.services.aigeneration.domain.commands import SampleChoice
from creativeflow.services.aigeneration.domain.formats import CUSTOM, FORMATS, SIDE_MAX, SIDE_MIN
from creativeflow.services.aigeneration.domain.lifecycle import Stage, State
from creativeflow.services.aigeneration.domain.pricing import SubscriptionStatus, credits_amount
from creativeflow.services.aigeneration.domain.request import Brief
from creativeflow.services.aigeneration.kit.json_input import (
    METADATA_MAX_BYTES,
    clean_text,
    plain_texts,
)

PROMPT_MAX = 4000
REFERENCES_MAX = 10
BRIEF_MAX_BYTES = 17_000
"""Limits of the fields that go into a job, whose message stays below 20 kB."""
_REFERENCE = re.compile(
    r"(s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/\S+|https://[^\s/]+/\S*|[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/\S+"
    r"|[A-Za-z0-9][A-Za-z0-9_-]{7,127})"
)


def _visible(text: str) -> str:
    if not any(unicodedata.category(character)[0] not in "CZ" for character in text):
        raise ValueError(
            "nothing_visible: This text shows nothing; write what the picture should show."
        )
    return text


def _no_number(value: Any) -> Any:
    """Reject numbers, which Pydantic would read as seconds since 1970."""
    if isinstance(value, str) and re.fullmatch(r"\s*[-+]?[0-9.]+\s*", value):
        raise ValueError(
            "datetime_parsing: This must be a date and time such as 2026-01-31T12:00:00Z."
        )
    return value


def _one_line(text: str) -> str:
    if not text.isprintable():
        raise ValueError("line_breaks: Line breaks are not allowed here.")
    return text


def _reference(text: str) -> str:
    if not _REFERENCE.fullmatch(text) or "/../" in f"{text}/" or not text.isprintable():
        raise ValueError(
            "invalid_reference: Use bucket/key, s3://bucket/key, https://… or an asset id."
        )
    return text


def _format(name: str) -> str:
    if name != CUSTOM and name not in FORMATS:
        raise ValueError(
            f"unknown_format: Use one of {', '.join([*FORMATS, CUSTOM])}; GET /api/v1/formats has"
            " sizes."
        )
    return name


def _colour(text: str) -> str:
    if not re.fullmatch(r"#([0-9A-Fa-f]{3}|[0-9A-Fa-f]{6})|[A-Za-z]{3,30}", text):
        raise ValueError('invalid_colour: Use "#rrggbb", "#rgb" or a colour name.')
    return text


def _model(name: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]{0,63}", name):
        raise ValueError(
            "unknown_model: Use the name of one of /api/v1/models, or quality, cost or fastest."
        )
    return name


def _credits(value: Any) -> int:
    """Accept text such as "2.50", or whole credits as a number; a float is rejected as inexact."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise ValueError('invalid_amount: Send the amount as a text such as "2.50".')  # noqa: TRY004 - Pydantic's way
    try:
        return credits_amount(value)
    except ValueError as error:
        raise ValueError(f"invalid_amount: {str(error).capitalize()}.") from None


Clean = BeforeValidator(clean_text)
Prompt = Annotated[
    str,
    Field(min_length=1, max_length=PROMPT_MAX, examples=["A lighthouse at dawn"]),
    Clean,
    AfterValidator(_visible),
]
Guidance = Annotated[str, Field(min_length=1, max_length=2000), Clean]
Short = Annotated[str, Field(min_length=1, max_length=200), Clean]
Identifier = Annotated[str, Field(min_length=1, max_length=200), Clean, AfterValidator(_one_line)]
Moment = Annotated[datetime, BeforeValidator(_no_number)]
Reference = Annotated[str, Field(min_length=1, max_length=2048), AfterValidator(_reference)]
Side = Annotated[int, Field(ge=SIDE_MIN, le=SIDE_MAX, strict=True)]
FileFormat = Literal["png", "jpg", "webp"]
Object = Annotated[dict[str, Any], Field(max_length=50), AfterValidator(plain_texts)]
ModelName = Annotated[
    str,
    Field(max_length=100, description="A model of /models, or a strategy: quality, cost, fastest."),
    AfterValidator(_model),
]


class Body(BaseModel):
    """A request body; unknown fields are rejected, so that a misspelt one is not silently
    ignored.
    """

    model_config = ConfigDict(extra="forbid")


class Dimensions(Body):
    """Pixel sides of a Custom format."""

    width: Side
    height: Side


QuoteId = Annotated[
    str,
    Field(
        min_length=1,
        max_length=ID_MAX,
        description="From a quote: the action costs its prices or is refused.",
    ),
]


class CreateRequest(Body):
    """A creative to generate (REQ-005, REQ-006, REQ-007)."""

    user_id: Identifier | None = None
    project_id: Identifier | None = None
    input_prompt: Prompt
    style_guidance: Guidance | None = None
    output_format: Annotated[
        str, AfterValidator(_format), Field(max_length=100, examples=["InstagramPost_1x1"])
    ]
    custom_dimensions: Dimensions | None = None
    brand_kit_id: Identifier | None = None
    uploaded_image_references: (
        Annotated[list[Reference], Field(max_length=REFERENCES_MAX)] | None
    ) = None
    target_platform_hints: Annotated[list[Short], Field(max_length=20)] | None = None
    emotional_tone: Short | None = None
    industry_template: Short | None = None
    cultural_adaptation_parameters: Object | None = None
    color_scheme: (
        Annotated[
            list[Annotated[str, Field(max_length=40), AfterValidator(_colour)]],
            Field(max_length=12),
        ]
        | None
    ) = None
    model: ModelName | None = None
    locale: Annotated[str, Field(pattern=r"^[a-z]{2}(-[A-Z]{2})?$", examples=["en-US"])] | None = (
        None
    )
    metadata: Object | None = None
    quote_id: QuoteId | None = None

    @model_validator(mode="after")
    def _parts_fit_together(self) -> "CreateRequest":
        if self.output_format == CUSTOM and self.custom_dimensions is None:
            raise ValueError(
                "dimensions_required@/custom_dimensions: Custom needs `custom_dimensions` with"
                " width and height."
            )
        if self.output_format != CUSTOM and self.custom_dimensions is not None:
            raise ValueError(
                "dimensions_not_allowed@/custom_dimensions: Only Custom takes `custom_dimensions`;"
                " leave it out."
            )
        if self.metadata and len(orjson.dumps(self.metadata)) > METADATA_MAX_BYTES:
            raise ValueError(
                f"metadata_too_large@/metadata: It may have {METADATA_MAX_BYTES} bytes as JSON;"
                " shorten it."
            )
        if (
            len(self.model_dump_json(exclude_none=True, exclude={"metadata"}).encode())
            > BRIEF_MAX_BYTES
        ):
            raise ValueError(
                f"brief_too_large: All fields together may have {BRIEF_MAX_BYTES} bytes; shorten"
                " some."
            )
        return self

    def brief(self) -> Brief:
        """Return the brief, without unset fields."""
        asked = self.model_dump(
            exclude_none=True, exclude={"user_id", "project_id", "metadata", "quote_id"}
        )
        return cast("Brief", asked)


class ActionBody(Body):
    """The user for whom a service acts on a request; the request must belong to this user."""

    user_id: Identifier | None = None


class CancelRequest(ActionBody):
    """The user for whom a request is cancelled."""


class SelectSample(ActionBody):
    """The sample that becomes the final, and its size and format (REQ-009)."""

    selected_sample_id: Identifier
    desired_resolution: (
        Annotated[str, Field(max_length=20, examples=["2048x2048", "4K"])] | None
    ) = None
    output_format: FileFormat | None = None
    quote_id: QuoteId | None = None

    def choice(self) -> SampleChoice:
        """Convert to the domain's choice."""
        return SampleChoice(
            sample_id=self.selected_sample_id,
            resolution=self.desired_resolution,
            file_format=self.output_format,
        )


class BriefChanges(ActionBody):
    """Changes of the brief for another round or a retry."""

    updated_prompt: Prompt | None = None
    updated_style_guidance: Guidance | None = None
    model: ModelName | None = None
    quote_id: QuoteId | None = None

    def changes(self) -> dict[str, str]:
        """Return the changed fields by their names in the brief."""
        named = {
            "input_prompt": self.updated_prompt,
            "style_guidance": self.updated_style_guidance,
            "model": self.model,
        }
        return {name: value for name, value in named.items() if value is not None}


class CreditGrantCreate(Body):
    """Credits to grant; a negative amount takes some back."""

    user_id: Identifier
    amount: Annotated[
        int,
        BeforeValidator(_credits),
        Field(json_schema_extra={"type": ["string", "integer"], "examples": ["5.00"]}),
    ]
    plan: Literal["free", "payg", "pro", "team", "enterprise"] | None = None
    status: SubscriptionStatus | None = None
    reason: Annotated[str, Clean, Field(max_length=200)] = "granted by an operator"


class ClearFlagsRequest(Body):
    """The reason for clearing the flags."""

    note: Annotated[str, Clean, Field(min_length=1, max_length=500)]


class HoldDecision(Body):
    """Whether the credit service's books show the charge."""

    charged: StrictBool


class ReviewDecision(Body):
    """The decision on a prompt in review."""

    decision: Literal["accept", "reject"]


class ReconcileRequest(Body):
    """The hours of holds to compare, and whether to post what is missing."""

    hours: Annotated[int, Field(ge=1, le=24 * 366)] = 24
    apply: StrictBool = False


class ForceFailRequest(Body):
    """The reason for ending a request, which its user sees, and a note for operators only."""

    reason: Annotated[str, Clean, Field(min_length=1, max_length=500)]
    note: Annotated[str, Clean, Field(min_length=1, max_length=500)] | None = None


class AssetOut(BaseModel):
    """A picture; `resolution` is WxH in pixels."""

    model_config = ConfigDict(extra="allow")

    asset_id: str
    url: str
    resolution: str
    format: str
    index: int | None = None


class SampleFailureOut(BaseModel):
    """A sample that failed."""

    index: int
    error_code: str
    message: str


class FailureOut(BaseModel):
    """The reason why a request ended without its result."""

    code: str
    fault: Literal["system", "provider", "user"]
    message: str
    retryable: bool
    next_steps: list[str]


class Cost(BaseModel):
    """Credits captured or held, as decimal text; `held` may still be released."""

    samples: str
    final: str
    total: str
    held: str


class GenerationRequest(BaseModel):
    """A generation request."""

    id: UUID
    status: State
    stage: Stage
    round: int
    attempt: int
    user_id: str
    project_id: str | None
    plan: str
    brief: dict[str, Any]
    samples: list[AssetOut]
    sample_failures: list[SampleFailureOut]
    selected_sample_id: str | None
    final_resolution: str | None
    final_asset: AssetOut | None
    progress: dict[str, Any] | None
    cost: Cost
    failure: FailureOut | None
    queue_position: int | None
    actions: list[str]
    ai_model_used: str | None
    metadata: dict[str, Any]
    retry_of: UUID | None
    deadline_at: datetime | None
    created_at: datetime
    updated_at: datetime
    version: int


class Cancelled(GenerationRequest):
    """A request after a cancel; `cancellation_requested`: a worker may still be busy, its results
    are refused.
    """

    outcome: Literal["cancelled", "cancellation_requested", "already_terminal"]


class Page(BaseModel):
    """One page of a list; `next` is the cursor of the page after it."""

    items: list[GenerationRequest]
    next: str | None


class TimelineEntry(BaseModel):
    """One entry of a timeline; `status` is set for a transition."""

    seq: int
    at: datetime
    event: str
    status: State | None
    version: int | None
    data: dict[str, Any]


class Timeline(BaseModel):
    """The timeline of a request, oldest first."""

    items: list[TimelineEntry]


class QuoteItem(BaseModel):
    """The price of one action; `paid_by` is credits, allowance (Free plan) or plan (included)."""

    stage: Stage
    model: str
    action: str
    resolution: str | None
    credits: str
    paid_by: Literal["credits", "allowance", "plan"]
    included_in_total: bool


class Quote(BaseModel):
    """What a request would cost: the total is one set of samples and the final in the format's own
    size.

    An action that is sent with `quote_id` before `expires_at` costs these prices or is refused.
    """

    quote_id: str
    expires_at: datetime
    plan: str
    items: list[QuoteItem]
    total: str
    balance: str | None
    balance_after: str | None
    watermark: bool


class FieldError(BaseModel):
    """A validation error; `pointer` is a JSON pointer to the field."""

    pointer: str
    code: str
    message: str


class Problem(BaseModel):
    """A problem document (RFC 9457); docs/problems.md lists every `code`."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    retryable: bool
    request_id: str
    errors: list[FieldError] | None = None


class Received(BaseModel):
    """The report was accepted, now or earlier."""

    status: Literal["received"] = "received"


class Uploaded(BaseModel):
    """The stored picture; these fields go into the result."""

    asset_id: str
    url: str
    resolution: str
    format: str
    checksum: str
