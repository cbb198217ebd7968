"""What operators read about credits: statements, flags, holds, usage, reconciliation."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from creativeflow.clients.aigeneration.resources.parsing import Resource


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountFlag(Resource):
    """An open flag that restricts an account."""

    id: int
    user_id: str
    reason: str
    hold_key: str | None
    request_id: str | None
    raised_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Movement(Resource):
    """A movement of credits; `amount` is the change of the balance."""

    operation: str
    kind: str
    amount: Decimal
    reason: str
    at: datetime
    request_id: str | None
    stage: str | None
    round: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement(Resource):
    """The credits of a user, movements newest first; `balance` is None if it is not known."""

    plan: str
    balance: Decimal | None
    held: Decimal
    restricted: bool
    flags: tuple[AccountFlag, ...]
    entries: tuple[Movement, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ParkedHold(Resource):
    """A hold whose charge the credit service cannot confirm."""

    key: str
    request_id: str
    user_id: str
    action: str
    amount: Decimal
    parked_at: datetime
    parked_reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldDecided(Resource):
    """A decided hold, and how many parked messages of its key are replayed."""

    status: str
    messages_replayed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FlagsCleared(Resource):
    """The number of flags that were cleared."""

    cleared: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRecord(Resource):
    """One chargeable action of the usage log."""

    at: datetime
    user_id: str
    project_id: str | None
    generation_request_id: str
    stage: str
    round: int
    action: str
    paid_by: str
    credits: Decimal
    plan: str
    model: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Discrepancy(Resource):
    """A difference to the credit service; `mends` is the compensation, if there is one."""

    difference: str
    key: str
    user_id: str
    credits: Decimal
    ours: str
    theirs: str
    mends: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconciliationReport(Resource):
    """The result of a reconciliation; `unanswered` holds could not be looked up."""

    compared: int
    unanswered: int
    posted: int
    complete: bool
    findings: tuple[Discrepancy, ...]
