"""What is shared with processes that are killed outlives them."""

import time

import pytest

from tests.faults.crash.launcher import FAILPOINTS, Trigger, context

KILLS = 5


def pass_on(trigger: Trigger) -> None:
    """Pass a seam again and again, for as long as one lives."""
    while True:
        trigger.at("before", FAILPOINTS[0].name)
        trigger.due("after", FAILPOINTS[0].name)


@pytest.mark.timeout(60)
def test_who_is_killed_while_it_passes_a_seam_holds_up_nobody() -> None:
    trigger = Trigger()
    trigger.arm("during", FAILPOINTS[0].name, 1)
    for _ in range(KILLS):
        process = context.Process(target=pass_on, args=(trigger,), daemon=True)
        process.start()
        while not trigger.passed[0]:
            time.sleep(0.002)
        process.kill()
        process.join()
        assert trigger.passes()[FAILPOINTS[0].name] > 0
    assert trigger.due("during", FAILPOINTS[0].name)


def test_who_is_due_dies_and_says_so() -> None:
    trigger = Trigger()
    trigger.arm("before", FAILPOINTS[0].name, 3)
    process = context.Process(target=pass_on, args=(trigger,), daemon=True)
    process.start()
    process.join(30)
    assert process.exitcode == -9
    assert (trigger.fired.value, trigger.armed.value, trigger.passed[0]) == (1, b"", 3)
