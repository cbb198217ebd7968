"""The table of two books: complete, and never taking money that nobody decided to take."""

from itertools import product

import pytest

from creativeflow.services.aigeneration.domain.reconciliation import (
    VERDICTS,
    Compensation,
    Difference,
    HoldStatus,
    compare_hold,
)
from creativeflow.services.aigeneration.domain.request import HoldState

AGREE = {
    ("placing", "absent"),
    ("placing", "held"),
    ("placing", "released"),
    ("held", "held"),
    ("captured", "captured"),
    ("released", "absent"),
    ("released", "released"),
    ("refused", "absent"),
    ("refused", "released"),
}


def test_every_pair_has_a_line() -> None:
    assert set(VERDICTS) == set(product(HoldState, HoldStatus))


@pytest.mark.parametrize(("ours", "theirs"), list(VERDICTS))
def test_they_agree_exactly_where_they_should(ours: HoldState, theirs: HoldStatus) -> None:
    assert (VERDICTS[ours, theirs] is None) == ((ours, theirs) in AGREE)


@pytest.mark.parametrize(("ours", "theirs"), list(VERDICTS))
def test_a_compensation_only_finishes_what_was_decided_and_is_still_set_aside(
    ours: HoldState, theirs: HoldStatus
) -> None:
    found = VERDICTS[ours, theirs]
    if found is None or found.compensation is None:
        return
    assert theirs is HoldStatus.HELD
    assert found.compensation is (
        Compensation.CAPTURE if ours is HoldState.CAPTURED else Compensation.RELEASE
    )
    assert ours not in {HoldState.HELD, HoldState.PLACING}


def test_what_is_still_owed_is_no_difference_but_a_wrong_end_is() -> None:
    assert compare_hold(HoldState.CAPTURED, HoldStatus.HELD, owed=True) is None
    assert compare_hold(HoldState.RELEASED, HoldStatus.HELD, owed=True) is None
    for ours, theirs, difference in (
        (HoldState.CAPTURED, HoldStatus.RELEASED, Difference.NOT_CHARGED),
        (HoldState.RELEASED, HoldStatus.CAPTURED, Difference.CHARGED_WRONGLY),
    ):
        found = compare_hold(ours, theirs, owed=True)
        assert found is not None
        assert found.difference is difference
