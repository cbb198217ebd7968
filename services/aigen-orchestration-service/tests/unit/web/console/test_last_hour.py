"""The cached last hour and its percentiles."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from creativeflow.services.aigeneration.storage.statistics import MinuteCounts
from creativeflow.services.aigeneration.web.console.last_hour import LastHourCache, compute_latency

NOON = datetime(2026, 3, 14, 12, 0, tzinfo=UTC)


def test_compute_latency_any_count_uses_nearest_rank() -> None:
    empty, three = compute_latency([]), compute_latency([3, 1, 2])
    hundred = compute_latency(range(1, 101))
    assert (empty.p50, empty.p95) == (None, None)
    assert (three.p50, three.p95) == (2, 3)
    assert (hundred.p50, hundred.p95) == (50, 95)


async def test_last_hour_cache_settled_minutes_are_loaded_once() -> None:
    now = NOON
    loaded: list[tuple[datetime, datetime]] = []

    async def load(since: datetime, until: datetime) -> Sequence[MinuteCounts]:
        loaded.append((since, until))
        first = int((since - NOON).total_seconds() // 60)
        return [
            MinuteCounts(at=NOON + timedelta(minutes=n), accepted=1)
            for n in range(first, first + 70)
            if NOON + timedelta(minutes=n) < until
        ]

    cache = LastHourCache(load, lambda: now)
    first = await cache()
    assert (len(first.minutes), first.total("accepted")) == (60, 60)
    assert first.minutes[0].at == NOON - timedelta(minutes=59)
    now += timedelta(minutes=3, seconds=20)
    assert (await cache()).total("accepted") == 60
    assert loaded[1][0] == NOON - timedelta(minutes=2)
    now += timedelta(hours=3)
    assert (await cache()).total("accepted") == 60
    assert loaded[2][0] == now.replace(second=0) - timedelta(minutes=59)
    now -= timedelta(hours=2)  # the clock was set back
    assert (await cache()).total("accepted") == 60
