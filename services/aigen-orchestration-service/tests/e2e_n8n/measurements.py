"""Measurements with a real n8n: time to the first report, and lifecycles per minute."""

import asyncio
import statistics
import time
from collections.abc import Mapping
from datetime import datetime
from functools import partial

from tests.e2e_n8n import workflows
from tests.e2e_n8n.run import Found, Run


async def latency(run: Run, found: Found) -> None:
    """Time from publishing a job to n8n's first report, one request at a time"""
    user = await run.system.user()
    count = run.count(40)
    milliseconds = []
    for _ in range(count):
        (shown,) = await run.smoothly(found, user, [run.system.live(user)])
        published: datetime | None = None
        for event in await run.system.events(shown["id"]):
            at = datetime.fromisoformat(event["at"])
            if event["event"] == "job_leased":
                published = at
            elif event["event"] in {"samples_started", "final_started"} and published:
                milliseconds.append((at - published).total_seconds() * 1000)
    cuts = statistics.quantiles(milliseconds, n=100)
    found.measurements = {
        "first_report_p50_ms": round(cuts[49]),
        "first_report_p99_ms": round(cuts[98]),
    }
    found.notes.append(f"{len(milliseconds)} jobs: p50 {cuts[49]:.0f} ms, p99 {cuts[98]:.0f} ms")


async def throughput(run: Run, found: Found) -> None:
    """Lifecycles a minute with 1, 5 and 10 parallel messages per queue and pictures that take only
    CPU time
    """
    await _per_minute(run, found, "a lighthouse", {1: 20, 5: 60, 10: 60})


async def throughput_slow(run: Run, found: Found) -> None:
    """The same with pictures that take two seconds of waiting, like a provider over the network"""
    await _per_minute(run, found, "a lighthouse [[slow]]", {1: 5, 5: 20, 10: 30})


async def _per_minute(run: Run, found: Found, prompt: str, counts: Mapping[int, int]) -> None:
    for parallel, full in counts.items():
        for which in (workflows.SAMPLES, workflows.FINAL):
            await run.n8n.change(which, partial(workflows.with_trigger, parallel=parallel))
        while not await asyncio.to_thread(run.listening):
            await asyncio.sleep(0.2)
        user = await run.system.user()
        count = run.count(full)
        began = time.monotonic()
        await run.smoothly(
            found, user, [run.system.live(user, prompt, seconds=600) for _ in range(count)]
        )
        per_minute = count / (time.monotonic() - began) * 60
        found.measurements[f"lifecycles_per_minute_at_{parallel}"] = round(per_minute, 1)
        found.notes.append(f"{parallel} parallel: {per_minute:.0f}/min")


MEASUREMENTS = {"latency": latency, "throughput": throughput, "throughput_slow": throughput_slow}
