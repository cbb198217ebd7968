"""`make chaos N=5000`: thousands of lives in a storm; what was lost, doubled, charged wrongly or
parked, as a table.

Exits with 1 when anything was.
"""

import argparse
import asyncio
import re
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table

from tests.faults.chaos.run import Storm
from tests.support.environment import Environment, environment
from tests.support.scenarios import SCENARIOS
from tests.support.servers import own_servers

PATIENCE_SECONDS = 120.0
"""How long a step of a life may take before it counts as lost."""
_DOUBLED = """SELECT count(*) FROM (SELECT data->>'job_id' FROM generation_events
              WHERE event
                  IN ('samples_delivered',
                  'final_delivered') GROUP BY 1 HAVING count(*) > 1) twice"""


async def soak(
    *,
    count: int,
    at_once: int,
    processes: int,
    seed: int,
    books: str,
    console: Console,
    kinds: Sequence[str] = tuple(SCENARIOS),
    servers: bool = False,
    patience_seconds: float = PATIENCE_SECONDS,
) -> dict[str, Any]:
    """So many lives, so many of them at once; the figures, with every violation in words.

    `servers`: on a PostgreSQL and a RabbitMQ of their own, which are killed too. A step of a life
    that takes longer than `patience_seconds` is lost.
    """
    began = time.monotonic()
    async with AsyncExitStack() as stack:
        own = await stack.enter_async_context(own_servers()) if servers else ()
        places = {"database": own[0].url, "broker": own[1].url} if own else {}
        made = await stack.enter_async_context(environment(books=books, **places))
        storm = await stack.enter_async_context(
            Storm(made, processes=processes, seed=seed, servers=own)
        )
        made.call_at(storm.ports, patience_seconds)
        stop = asyncio.Event()
        working = [asyncio.create_task(made.worker(port).run(stop)) for port in storm.ports]
        raging = asyncio.create_task(storm.rage())
        operating = asyncio.create_task(_operate(made))
        lengths = await _live(
            made, [kinds[number % len(kinds)] for number in range(count)], at_once, console
        )
        for task in (raging, operating):
            task.cancel()
        ended = await asyncio.gather(raging, operating, return_exceptions=True)
        made.findings += [
            f"the storm itself failed: {error!r}" for error in ended if isinstance(error, Exception)
        ]
        for server in own:
            await server.kill()
            await server.start()
        storm.calm()
        await storm.broker.accept()
        await storm.tend()
        await asyncio.gather(*(storm.serving(port) for port in storm.ports))
        await made.time_passes()
        await made.drained(seconds=90)
        parked = await made.database.fetchval(
            "SELECT count(*) FROM outbox WHERE parked_reason IS NOT NULL"
        )
        doubled = await made.database.fetchval(_DOUBLED)
        violations = await made.check()
        stop.set()
        await asyncio.gather(*working, return_exceptions=True)
        await made.line.close()
        return {
            "books": books,
            "lives": count,
            "seed": seed,
            "seconds": round(time.monotonic() - began, 1),
            "outcomes": dict(await made.outcomes()),
            "lost": count - len(lengths),
            "doubled": doubled,
            "wrong_money": sum(bool(re.search(r" costs \d+$", text)) for text in violations),
            "parked": parked,
            "longest_life_seconds": round(max(lengths, default=0), 1),
            "longest_stall_seconds": round(made.line.longest_stall, 1),
            "storm": dict(storm.did),
            "deadlocks": own[0].deadlocks() if own else "not counted",
            "violations": violations,
        }


async def _live(
    made: Environment, kinds: Sequence[str], at_once: int, console: Console
) -> list[float]:
    """Lead all lives; how long each took that ended well."""
    room = asyncio.Semaphore(at_once)
    lengths: list[float] = []
    began = time.monotonic()

    async def one(number: int, kind: str) -> None:
        async with room:
            started = time.monotonic()
            well = await made.live(kind, str(number))
            ended = time.monotonic()
            if not well:
                console.print(f"{ended - began:6.0f} s  {made.findings[-1]}", markup=False)
                return
            lengths.append(ended - started)
            if len(lengths) % 250 == 0:
                console.print(f"{ended - began:6.0f} s  {len(lengths)} of {len(kinds)} lives")

    await asyncio.gather(*(one(number, kind) for number, kind in enumerate(kinds)))
    return lengths


async def _operate(made: Environment) -> None:
    while True:
        await asyncio.sleep(1)
        await made.operate_somehow()


def failed(figures: dict[str, Any]) -> bool:
    """Whether anything was lost, doubled, charged wrongly, parked or otherwise wrong."""
    return any(figures[name] for name in ("lost", "doubled", "wrong_money", "parked", "violations"))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="make chaos N=…", description=__doc__)
    parser.add_argument("count", type=int, nargs="?", default=5000, help="how many lives")
    parser.add_argument("--at-once", type=int, default=40, help="how many of them at the same time")
    parser.add_argument("--processes", type=int, default=2, help="how many serving processes")
    parser.add_argument("--seed", type=int, default=1, help="of the storm")
    parser.add_argument(
        "--books",
        choices=["local", "billing"],
        help="all of them pay from these; else half from each",
    )
    parser.add_argument(
        "--patience",
        type=float,
        default=PATIENCE_SECONDS,
        help="seconds after which a step counts as lost",
    )
    parser.add_argument(
        "--spare-servers", action="store_true", help="do not kill the database and the broker"
    )
    told = parser.parse_args()
    console = Console()
    # Half of the lives pay from the local ledger, half through the billing adapter.
    halves = {"local": told.count - told.count // 2, "billing": told.count // 2}
    runs = []
    for books, part in ({told.books: told.count} if told.books else halves).items():
        if part:
            found = soak(
                count=part,
                at_once=told.at_once,
                processes=told.processes,
                seed=told.seed,
                books=books,
                console=console,
                servers=not told.spare_servers,
                patience_seconds=told.patience,
            )
            runs.append(asyncio.run(found))
            console.print(
                f"{books}: {part} lives in {runs[-1]['seconds']} s, {len(runs[-1]['violations'])}"
                " violations"
            )
    table = Table("figure", *(run["books"] for run in runs))
    for name in runs[0]:
        table.add_row(name, *(_shown(name, run[name]) for run in runs))
    console.print(table)
    for run in runs:
        for violation in run["violations"][:20]:
            console.print(f"  {violation}", markup=False)
    folder = Path(__file__).parents[3] / "bench" / "results"
    folder.mkdir(exist_ok=True)
    (folder / f"chaos-{datetime.now(UTC):%Y%m%d-%H%M%S}.json").write_bytes(
        orjson.dumps(runs, option=orjson.OPT_INDENT_2)
    )
    sys.exit(1 if any(failed(run) for run in runs) else 0)


def _shown(name: str, value: Any) -> str:
    if name == "violations":
        return str(len(value))
    if isinstance(value, dict):
        return ", ".join(f"{key} {count}" for key, count in Counter(value).most_common())
    return str(value)


if __name__ == "__main__":
    main()
