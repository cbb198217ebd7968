"""Reconciliation rules: the difference, if any, between a hold here and at the credit service."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from creativeflow.services.aigeneration.domain.request import HoldState


class HoldStatus(StrEnum):
    """The status of a key at the credit service."""

    ABSENT = "absent"
    HELD = "held"
    CAPTURED = "captured"
    RELEASED = "released"


class Difference(StrEnum):
    """A kind of difference between a hold here and at the credit service."""

    CAPTURE_MISSING = "capture_missing"
    """Delivered and captured here, still held there."""
    RELEASE_MISSING = "release_missing"
    """Released or refused here, still held there."""
    NOT_CHARGED = "not_charged"
    """Delivered and captured here, not charged there."""
    CHARGED_WRONGLY = "charged_wrongly"
    """Released or refused here, charged there."""
    HOLD_VANISHED = "hold_vanished"
    """Held here for unfinished work, not held there."""
    UNKNOWN_HERE = "unknown_here"
    """Held there under an unknown key: of another system, or of a lost database."""
    FREE_COUNT = "free_count"
    """The month's count of free generations differs from the captured allowances."""


class Compensation(StrEnum):
    """Operations that can be posted without a decision, because they only complete an earlier
    one.
    """

    CAPTURE = "credits.capture"
    RELEASE = "credits.release"


@dataclass(frozen=True, slots=True)
class HoldComparison:
    """A difference and its compensation; without one an operator decides."""

    difference: Difference
    compensation: Compensation | None = None


_NOT_CHARGED = HoldComparison(Difference.NOT_CHARGED)
_CHARGED_WRONGLY = HoldComparison(Difference.CHARGED_WRONGLY)
_VANISHED = HoldComparison(Difference.HOLD_VANISHED)
_RELEASE = HoldComparison(Difference.RELEASE_MISSING, Compensation.RELEASE)
_OURS, _THEIRS = HoldState, HoldStatus

COMPARISONS: Mapping[tuple[HoldState, HoldStatus], HoldComparison | None] = MappingProxyType(
    {
        (_OURS.PLACING, _THEIRS.ABSENT): None,
        (_OURS.PLACING, _THEIRS.HELD): None,
        (_OURS.PLACING, _THEIRS.CAPTURED): _CHARGED_WRONGLY,
        (_OURS.PLACING, _THEIRS.RELEASED): None,
        (_OURS.HELD, _THEIRS.ABSENT): _VANISHED,
        (_OURS.HELD, _THEIRS.HELD): None,
        (_OURS.HELD, _THEIRS.CAPTURED): _CHARGED_WRONGLY,
        (_OURS.HELD, _THEIRS.RELEASED): _VANISHED,
        (_OURS.CAPTURED, _THEIRS.ABSENT): _NOT_CHARGED,
        (_OURS.CAPTURED, _THEIRS.HELD): HoldComparison(
            Difference.CAPTURE_MISSING, Compensation.CAPTURE
        ),
        (_OURS.CAPTURED, _THEIRS.CAPTURED): None,
        (_OURS.CAPTURED, _THEIRS.RELEASED): _NOT_CHARGED,
        (_OURS.RELEASED, _THEIRS.ABSENT): None,
        (_OURS.RELEASED, _THEIRS.HELD): _RELEASE,
        (_OURS.RELEASED, _THEIRS.CAPTURED): _CHARGED_WRONGLY,
        (_OURS.RELEASED, _THEIRS.RELEASED): None,
        (_OURS.REFUSED, _THEIRS.ABSENT): None,
        (_OURS.REFUSED, _THEIRS.HELD): _RELEASE,
        (_OURS.REFUSED, _THEIRS.CAPTURED): _CHARGED_WRONGLY,
        (_OURS.REFUSED, _THEIRS.RELEASED): None,
    }
)


def compare_hold(ours: HoldState, theirs: HoldStatus, *, owed: bool) -> HoldComparison | None:
    """Compare a hold with the credit service; None if they agree.

    `owed`: an outbox message for the hold is pending, so a missing capture or release is no
    difference.
    """
    found = COMPARISONS[ours, theirs]
    return None if owed and found is not None and found.compensation is not None else found
