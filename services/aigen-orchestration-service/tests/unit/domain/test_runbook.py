"""The operator explanations are complete."""

from creativeflow.services.aigeneration.domain.reconciliation import Difference
from creativeflow.services.aigeneration.domain.runbook import (
    DIFFERENCES,
    INVARIANTS,
    OUTBOX_MESSAGES,
    STALLS,
)
from creativeflow.services.aigeneration.domain.stalled_workers import StallKind


def test_runbook_every_finding_has_explanation() -> None:
    assert set(STALLS) == set(StallKind)
    assert set(DIFFERENCES) == set(Difference)
    assert all(
        explanation.means and explanation.then
        for explanation in [*INVARIANTS.values(), *OUTBOX_MESSAGES.values()]
    )
