"""A sample of `make crash`: processes killed at some failpoints of each kind."""

import pytest
from rich.console import Console

from tests.faults.crash.__main__ import campaign

EVERY = 36
"""Every n-th of some 230 kills is run, which takes a minute."""


@pytest.mark.timeout(240)
def test_service_killed_at_a_failpoint_keeps_all_invariants() -> None:
    # Only the whole campaign can tell whether every failpoint is reached: a sample depends on the
    # moment of each kill.
    results, _ = campaign(every=EVERY, offset=11, wanted=(), console=Console(quiet=True))
    assert [text for found in results for text in found.violations] == []
    assert sum(found.kills for found in results) >= 4
