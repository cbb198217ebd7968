"""How the rate of whole lifecycles grows with processes on one machine, all roles in each."""

from bench.lifecycles import run, serving


async def measure(
    *, counts: tuple[int, ...], lifecycles: int, concurrent: int
) -> dict[str, object]:
    """For each number of processes its own database, queues and worker."""
    found = {}
    for count in counts:
        rate = await _measure(count, lifecycles, concurrent)
        found[f"lifecycles_per_second_with_{count}"] = round(rate, 1)
    return found


async def _measure(count: int, lifecycles: int, concurrent: int) -> float:
    async with serving(count) as (_, ports, topic):
        return lifecycles / await run(ports, topic, count=lifecycles, concurrent=concurrent)
