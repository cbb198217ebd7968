"""Generations, their pictures, costs and timelines."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from creativeflow.clients.aigeneration.resources.parsing import Resource

AWAITING_SELECTION = "AWAITING_SELECTION"
COMPLETED = "COMPLETED"
ENDED = frozenset({COMPLETED, "FAILED", "CONTENT_REJECTED", "CANCELLED", "EXPIRED"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset(Resource):
    """A picture; `resolution` is "WxH" in pixels."""

    asset_id: str
    url: str
    resolution: str
    format: str
    index: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleFailure(Resource):
    """A sample that failed."""

    index: int
    error_code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress(Resource):
    """Progress as the worker reports it."""

    percent: int | None = None
    step: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost(Resource):
    """Credits captured or held; `held` may still be released."""

    samples: Decimal
    final: Decimal
    total: Decimal
    held: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureReason(Resource):
    """The reason why a generation ended without its result; `fault` is system, provider or user."""

    code: str
    fault: str
    message: str
    retryable: bool
    next_steps: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation(Resource):
    """A generation request at one version."""

    id: str
    status: str
    stage: str
    round: int
    attempt: int
    user_id: str
    project_id: str | None
    plan: str
    brief: Mapping[str, Any]
    samples: tuple[Asset, ...]
    sample_failures: tuple[SampleFailure, ...]
    selected_sample_id: str | None
    final_resolution: str | None
    final_asset: Asset | None
    progress: Progress | None
    cost: Cost
    failure: FailureReason | None
    queue_position: int | None
    actions: tuple[str, ...]
    ai_model_used: str | None
    metadata: Mapping[str, Any]
    retry_of: str | None
    deadline_at: datetime | None
    created_at: datetime
    updated_at: datetime
    version: int

    @property
    def ended(self) -> bool:
        """Whether the status is terminal."""
        return self.status in ENDED


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancellation(Generation):
    """A generation after a cancel.

    `outcome` is cancelled, cancellation_requested (a worker may still be busy; its results are
    refused) or already_terminal.
    """

    outcome: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Resource):
    """One page of a list; `next` is the cursor of the page after it."""

    items: tuple[Generation, ...]
    next: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TimelineEntry(Resource):
    """One entry of a timeline; `status` is set for a transition."""

    seq: int
    at: datetime
    event: str
    status: str | None
    version: int | None
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class QuoteItem(Resource):
    """The price of one action; `paid_by` is credits, allowance (Free plan) or plan (included)."""

    stage: str
    model: str
    action: str
    resolution: str | None
    credits: Decimal
    paid_by: str
    included_in_total: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote(Resource):
    """Prices of a generation; an action sent with `quote_id` costs these or is refused."""

    quote_id: str
    expires_at: datetime
    plan: str
    items: tuple[QuoteItem, ...]
    total: Decimal
    balance: Decimal | None
    balance_after: Decimal | None
    watermark: bool
