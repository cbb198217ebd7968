"""The shared trigger survives killed processes."""

import time

import pytest

from tests.faults.crash.launcher import FAILPOINTS, Trigger, context

KILLS = 5


def pass_on(trigger: Trigger) -> None:
    """Pass a failpoint until killed."""
    while True:
        trigger.at("before", FAILPOINTS[0].name)
        trigger.due("after", FAILPOINTS[0].name)


@pytest.mark.timeout(60)
def test_trigger_process_killed_during_a_pass_blocks_no_other() -> None:
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


def test_trigger_armed_failpoint_kills_the_process_and_records_it() -> None:
    trigger = Trigger()
    trigger.arm("before", FAILPOINTS[0].name, 3)
    process = context.Process(target=pass_on, args=(trigger,), daemon=True)
    process.start()
    process.join(30)
    assert process.exitcode == -9
    assert (trigger.fired.value, trigger.armed.value, trigger.passed[0]) == (1, b"", 3)
