"""`make chaos N=5000`: run thousands of scenarios while faults are injected, and print a table.

Exits with 1 if a request was lost, doubled or parked, or if an amount is wrong.
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

from tests.faults.chaos.run import ChaosRun
from tests.support.environment import Environment, environment
from tests.support.scenarios import SCENARIOS
from tests.support.servers import servers

PATIENCE_SECONDS = 120.0
"""Time limit of a step of a scenario; after it the request counts as lost."""
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
    credit_service: str,
    console: Console,
    kinds: Sequence[str] = tuple(SCENARIOS),
    kill_servers: bool = False,
    patience_seconds: float = PATIENCE_SECONDS,
) -> dict[str, Any]:
    """Run `count` scenarios, `at_once` of them concurrently; return the results and violations.

    `kill_servers`: start a separate PostgreSQL and RabbitMQ, and kill these too. A step that takes
    longer than `patience_seconds` counts as lost.
    """
    began = time.monotonic()
    async with AsyncExitStack() as stack:
        own = await stack.enter_async_context(servers()) if servers else ()
        places = {"database": own[0].url, "broker": own[1].url} if own else {}
        made = await stack.enter_async_context(environment(credit_service=credit_service, **places))
        chaos = await stack.enter_async_context(
            ChaosRun(made, processes=processes, seed=seed, servers=own)
        )
        made.call_at(chaos.ports, patience_seconds)
        stop = asyncio.Event()
        working = [asyncio.create_task(made.worker(port).run(stop)) for port in chaos.ports]
        injecting = asyncio.create_task(chaos.inject_faults())
        operating = asyncio.create_task(_operate(made))
        lengths = await _run_all(
            made, [kinds[number % len(kinds)] for number in range(count)], at_once, console
        )
        for task in (injecting, operating):
            task.cancel()
        ended = await asyncio.gather(injecting, operating, return_exceptions=True)
        made.findings += [
            f"fault injection failed: {error!r}" for error in ended if isinstance(error, Exception)
        ]
        for server in own:
            await server.kill()
            await server.start()
        chaos.restore()
        await chaos.broker.accept()
        await chaos.restart_dead()
        await asyncio.gather(*(chaos.serving(port) for port in chaos.ports))
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
            "credit_service": credit_service,
            "scenarios": count,
            "seed": seed,
            "seconds": round(time.monotonic() - began, 1),
            "outcomes": dict(await made.outcomes()),
            "lost": count - len(lengths),
            "doubled": doubled,
            "wrong_money": sum(bool(re.search(r" costs \d+$", text)) for text in violations),
            "parked": parked,
            "longest_scenario_seconds": round(max(lengths, default=0), 1),
            "longest_stall_seconds": round(made.line.longest_stall, 1),
            "faults": dict(chaos.injected),
            "deadlocks": own[0].deadlocks() if own else "not counted",
            "violations": violations,
        }


async def _run_all(
    made: Environment, kinds: Sequence[str], at_once: int, console: Console
) -> list[float]:
    """Run all scenarios; return the durations of those that succeeded."""
    room = asyncio.Semaphore(at_once)
    lengths: list[float] = []
    began = time.monotonic()

    async def one(number: int, kind: str) -> None:
        async with room:
            started = time.monotonic()
            well = await made.run_scenario(kind, str(number))
            ended = time.monotonic()
            if not well:
                console.print(f"{ended - began:6.0f} s  {made.findings[-1]}", markup=False)
                return
            lengths.append(ended - started)
            if len(lengths) % 250 == 0:
                console.print(f"{ended - began:6.0f} s  {len(lengths)} of {len(kinds)} scenarios")

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
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="make chaos N=…", description=__doc__)
    parser.add_argument("count", type=int, nargs="?", default=5000, help="number of scenarios")
    parser.add_argument("--at-once", type=int, default=40, help="number of concurrent scenarios")
    parser.add_argument("--processes", type=int, default=2, help="number of serving processes")
    parser.add_argument("--seed", type=int, default=1, help="of the fault injection")
    parser.add_argument(
        "--credit-service",
        choices=["local", "billing"],
        help="credit service of all scenarios; by default half of them use each",
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
    # Half of the scenarios use the local ledger, half the billing adapter.
    halves = {"local": told.count - told.count // 2, "billing": told.count // 2}
    runs = []
    for credit_service, part in (
        {told.credit_service: told.count} if told.credit_service else halves
    ).items():
        if part:
            found = soak(
                count=part,
                at_once=told.at_once,
                processes=told.processes,
                seed=told.seed,
                credit_service=credit_service,
                console=console,
                kill_servers=not told.spare_servers,
                patience_seconds=told.patience,
            )
            runs.append(asyncio.run(found))
            console.print(
                f"{credit_service}: {part} scenarios in {runs[-1]['seconds']} s,"
                f" {len(runs[-1]['violations'])} violations"
            )
    table = Table("figure", *(run["credit_service"] for run in runs))
    for name in runs[0]:
        table.add_row(name, *(_format(name, run[name]) for run in runs))
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


def _format(name: str, value: Any) -> str:
    if name == "violations":
        return str(len(value))
    if isinstance(value, dict):
        return ", ".join(f"{key} {count}" for key, count in Counter(value).most_common())
    return str(value)


if __name__ == "__main__":
    main()
