"""Stalls by the state of jobs and queue; none while workers report."""

from datetime import timedelta
from typing import Any

import pytest

from creativeflow.services.aigeneration.domain.lifecycle import Stage
from creativeflow.services.aigeneration.domain.stalled_workers import (
    LaneWork,
    QueueSeen,
    Stall,
    StallKind,
    stalls,
)
from tests.support.builders import NOW

QUIET = timedelta(minutes=2)
LONG, SHORT = NOW - timedelta(minutes=3), NOW - timedelta(minutes=1)


def kinds(queue: QueueSeen | None = None, **work: Any) -> list[tuple[StallKind, int]]:
    found = stalls(LaneWork(lane=Stage.SAMPLES, **work), queue, now=NOW, quiet_for=QUIET)
    return [(stall.kind, stall.jobs) for stall in found]


@pytest.mark.parametrize(
    ("work", "queue", "expected"),
    [
        ({}, None, []),
        ({}, QueueSeen(ready=5, consumers=0), []),
        ({"unreported": 3, "unreported_since": SHORT}, QueueSeen(ready=3, consumers=0), []),
        (
            {"unreported": 3, "unreported_since": LONG},
            QueueSeen(ready=2, consumers=0),
            [("no_consumer", 2)],
        ),
        (
            {"unreported": 3, "unreported_since": LONG},
            QueueSeen(ready=2, consumers=1),
            [("not_taking", 3)],
        ),
        (
            {"unreported": 3, "unreported_since": LONG},
            QueueSeen(ready=0, consumers=1),
            [("never_started", 3)],
        ),
        ({"unreported": 3, "unreported_since": LONG}, None, [("never_started", 3)]),
        ({"silent": 4, "silent_since": SHORT}, QueueSeen(ready=0, consumers=1), []),
        ({"silent": 4, "silent_since": LONG}, QueueSeen(ready=9, consumers=1), [("silent", 4)]),
        (
            {"unreported": 1, "unreported_since": LONG, "silent": 4, "silent_since": LONG},
            None,
            [("never_started", 1), ("silent", 4)],
        ),
    ],
)
def test_stalls_by_lane_work_and_queue(
    work: Any, queue: QueueSeen | None, expected: list[tuple[str, int]]
) -> None:
    assert kinds(queue, **work) == expected


def test_stalls_have_the_time_of_the_oldest_job() -> None:
    work = LaneWork(lane=Stage.FINAL, unreported=1, unreported_since=LONG)
    assert stalls(work, None, now=NOW, quiet_for=QUIET) == [
        Stall(lane=Stage.FINAL, kind=StallKind.NEVER_STARTED, jobs=1, since=LONG)
    ]
