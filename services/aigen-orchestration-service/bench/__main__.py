"""`make bench`: measure, print a table with the bars, write JSON to bench/results/; exit 1 when a
bar is missed.
"""

import argparse
import sys
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import uvloop
from rich.console import Console
from rich.table import Table

from bench import accept, fairness, growth, lifecycles, memory, processes, publish, steady

Figures = dict[str, dict[str, Any]]

MEASUREMENTS: Mapping[str, Callable[[bool], Awaitable[dict[str, object]]]] = {
    "accept": lambda quick: accept.measure(
        rounds=2 if quick else 5, seconds=2 if quick else 4, connections=32
    ),
    "publish": lambda quick: publish.measure(
        rounds=2 if quick else 5, jobs=1000 if quick else 3000
    ),
    "lifecycles": lambda quick: lifecycles.measure(
        count=100 if quick else 600, concurrent=32, idle=20 if quick else 100
    ),
    "steady": lambda quick: steady.measure(seconds=10 if quick else 60),
    "fairness": lambda quick: fairness.measure(jobs=1000 if quick else 10_000),
    "memory": lambda quick: memory.measure(
        requests=1000 if quick else 10_000, streams=100 if quick else 1000
    ),
    "processes": lambda quick: processes.measure(
        counts=(1, 2) if quick else (1, 2, 4), lifecycles=200 if quick else 1500, concurrent=64
    ),
    "growth": lambda quick: growth.measure(
        stored=20_000 if quick else 1_000_000, rounds=3 if quick else 6, seconds=2 if quick else 4
    ),
}

BARS: Mapping[tuple[str, str], tuple[str, float]] = {
    ("accept", "ratio"): (">=", 0.5),
    ("publish", "ratio"): (">=", 0.5),
    ("lifecycles", "idle_commit_to_confirm_p50_ms"): ("<=", 10.0),
    ("steady", "accept_p95_ms"): ("<=", 25.0),
    ("steady", "accept_p99_ms"): ("<=", 100.0),
    ("steady", "errors"): ("<=", 0),
    ("fairness", "dispatched_before_the_other"): ("<=", fairness.WINDOW),
    ("memory", "resident_mb"): ("<=", 250.0),
    ("growth", "ratio"): (">=", 0.9),
}
"""What is good enough; `bench.peers` has the bar against other systems."""


async def run(*, quick: bool, only: list[str]) -> Figures:
    """These measurements, one after the other."""
    found: Figures = {}
    for name in only:
        print(f"{name} ...", flush=True)
        found[name] = await MEASUREMENTS[name](quick)
    return found


def report(found: Figures, console: Console) -> bool:
    """Print the table; whether every bar is reached."""
    table = Table("figure", "value", "bar")
    reached = True
    for part, figures in found.items():
        for name, value in figures.items():
            sign, bar = BARS.get((part, name), ("", 0.0))
            good = not sign or (float(value) >= bar if sign == ">=" else float(value) <= bar)
            reached = reached and good
            table.add_row(
                f"{part}.{name}",
                str(value),
                f"{sign} {bar} {'reached' if good else 'MISSED'}" if sign else "",
            )
    console.print(table)
    return reached


def keep(found: Figures, name: str) -> Path:
    """Write the figures to bench/results/, named by the time."""
    folder = Path(__file__).parent / "results"
    folder.mkdir(exist_ok=True)
    path = folder / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{name}.json"
    path.write_bytes(orjson.dumps(found, option=orjson.OPT_INDENT_2))
    return path


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="make bench ARGS=", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="short runs: does it work at all?")
    parser.add_argument(
        "only", nargs="*", choices=[*MEASUREMENTS, []], help="which measurements; all without"
    )
    chosen = parser.parse_args()
    found = uvloop.run(run(quick=chosen.quick, only=chosen.only or list(MEASUREMENTS)))
    keep(found, "bench")
    sys.exit(0 if report(found, Console()) else 1)


if __name__ == "__main__":
    main()
