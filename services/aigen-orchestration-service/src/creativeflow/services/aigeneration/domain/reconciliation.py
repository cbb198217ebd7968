"""What two books may say of one hold, and what follows where they differ: one table."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from creativeflow.services.aigeneration.domain.request import HoldState


class HoldStatus(StrEnum):
    """What a credit service knows under a key."""

    ABSENT = "absent"
    HELD = "held"
    CAPTURED = "captured"
    RELEASED = "released"


class Difference(StrEnum):
    """How the two books can differ."""

    CAPTURE_MISSING = "capture_missing"
    """Delivered and paid here, still only set aside there."""
    RELEASE_MISSING = "release_missing"
    """Given back or refused here, still set aside there."""
    NOT_CHARGED = "not_charged"
    """Delivered and paid here, nothing taken there."""
    CHARGED_WRONGLY = "charged_wrongly"
    """Given back or refused here, taken there."""
    HOLD_VANISHED = "hold_vanished"
    """Set aside here for unfinished work, and there no longer."""
    UNKNOWN_HERE = "unknown_here"
    """Set aside there under a key that is not ours: another system's, or of a database that was
    lost.
    """
    FREE_COUNT = "free_count"
    """The month's count of free generations is not the number of kept allowances."""


class Compensation(StrEnum):
    """What can be posted without asking anybody, because it only finishes what was decided
    before.
    """

    CAPTURE = "credits.capture"
    RELEASE = "credits.release"


@dataclass(frozen=True, slots=True)
class HoldComparison:
    """A difference, and what mends it; without a compensation a person decides."""

    difference: Difference
    compensation: Compensation | None = None


_NOT_CHARGED = HoldComparison(Difference.NOT_CHARGED)
_CHARGED_WRONGLY = HoldComparison(Difference.CHARGED_WRONGLY)
_VANISHED = HoldComparison(Difference.HOLD_VANISHED)
_RELEASE = HoldComparison(Difference.RELEASE_MISSING, Compensation.RELEASE)
_OURS, _THEIRS = HoldState, HoldStatus

VERDICTS: Mapping[tuple[HoldState, HoldStatus], HoldComparison | None] = MappingProxyType(
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
    """What to think of one hold in two books; None where they agree.

    `owed`: the credit service has not been told yet and will be, so what only awaits the telling is
    no difference.
    """
    found = VERDICTS[ours, theirs]
    return None if owed and found is not None and found.compensation is not None else found
