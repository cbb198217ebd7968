"""A sample of `make crash`: real processes killed at some seams of each kind, under every kind of
life.
"""

import pytest
from rich.console import Console

from tests.faults.crash.__main__ import campaign

EVERY = 36
"""Of some 230 kills so many are left out after each one that is made: a minute's worth."""


@pytest.mark.timeout(240)
def test_a_service_that_is_killed_at_a_seam_loses_nothing_and_charges_nobody_wrongly() -> None:
    # Whether every seam is reached is asked of the whole campaign: a sample depends on the moment
    # of each kill.
    results, _ = campaign(every=EVERY, offset=11, wanted=(), console=Console(quiet=True))
    assert [text for found in results for text in found.violations] == []
    assert sum(found.kills for found in results) >= 4
