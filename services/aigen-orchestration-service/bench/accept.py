"""Durable accepts per second against the bare FastAPI endpoint with the same model, one process
each.
"""

import statistics

import orjson

from bench.load import Load, post, send
from bench.parts import database, free_port, process, service_process, wait_ready

PATH = "/api/v1/generation-requests"
USERS = 10_000


def order(number: int) -> bytes:
    """One of many users' requests."""
    body = {
        "user_id": f"user-{number % USERS}",
        "input_prompt": "A lighthouse at dawn, calm sea, first light on the rocks",
        "output_format": "InstagramPost_1x1",
        "emotional_tone": "calm",
        "color_scheme": ["#0b3954", "#ff6663"],
        "style_guidance": "minimal, geometric, generous space",
        "industry_template": "luxury",
    }
    return post(PATH, orjson.dumps(body))


async def measure(*, rounds: int, seconds: float, connections: int) -> dict[str, object]:
    """Interleaved runs; the ratio of each pair, its median and its spread."""
    bare_port = free_port()
    pairs: list[tuple[Load, Load]] = []
    async with database() as url, service_process(url) as (port, _):
        with process(["-m", "bench.bare", str(bare_port)], {}) as running:
            await wait_ready(bare_port, running, "/docs")
            for target in (bare_port, port):
                await send(target, order, connections=connections, seconds=1)
            for _ in range(rounds):
                bare = await send(bare_port, order, connections=connections, seconds=seconds)
                ours = await send(port, order, connections=connections, seconds=seconds)
                pairs.append((bare, ours))
    ratios = sorted(ours.per_second / bare.per_second for bare, ours in pairs)
    last = pairs[-1][1]
    return {
        "bare_per_second": round(statistics.median(bare.per_second for bare, _ in pairs)),
        "accept_per_second": round(statistics.median(ours.per_second for _, ours in pairs)),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_spread": [round(ratios[0], 3), round(ratios[-1], 3)],
        "p50_ms": round(last.percentile(0.5), 1),
        "p99_ms": round(last.percentile(0.99), 1),
        "wrong": sum(load.wrong for pair in pairs for load in pair),
    }
