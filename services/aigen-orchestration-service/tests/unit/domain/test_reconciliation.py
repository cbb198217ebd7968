"""The reconciliation table: complete, and with compensations only for earlier decisions."""

from itertools import product

import pytest

from creativeflow.services.aigeneration.domain.reconciliation import (
    COMPARISONS,
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


def test_compare_hold_every_pair_of_states_is_defined() -> None:
    assert set(COMPARISONS) == set(product(HoldState, HoldStatus))


@pytest.mark.parametrize(("ours", "theirs"), list(COMPARISONS))
def test_they_agree_exactly_where_they_should(ours: HoldState, theirs: HoldStatus) -> None:
    assert (COMPARISONS[ours, theirs] is None) == ((ours, theirs) in AGREE)


@pytest.mark.parametrize(("ours", "theirs"), list(COMPARISONS))
def test_compare_hold_compensation_only_completes_a_decision(
    ours: HoldState, theirs: HoldStatus
) -> None:
    found = COMPARISONS[ours, theirs]
    if found is None or found.compensation is None:
        return
    assert theirs is HoldStatus.HELD
    assert found.compensation is (
        Compensation.CAPTURE if ours is HoldState.CAPTURED else Compensation.RELEASE
    )
    assert ours not in {HoldState.HELD, HoldState.PLACING}


def test_compare_hold_pending_message_is_no_difference() -> None:
    assert compare_hold(HoldState.CAPTURED, HoldStatus.HELD, owed=True) is None
    assert compare_hold(HoldState.RELEASED, HoldStatus.HELD, owed=True) is None
    for ours, theirs, difference in (
        (HoldState.CAPTURED, HoldStatus.RELEASED, Difference.NOT_CHARGED),
        (HoldState.RELEASED, HoldStatus.CAPTURED, Difference.CHARGED_WRONGLY),
    ):
        found = compare_hold(ours, theirs, owed=True)
        assert found is not None
        assert found.difference is difference
