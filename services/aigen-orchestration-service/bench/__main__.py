"""`make bench`: measure, print a table with the bars, write JSON to bench/results/; exit 1 when a bar is missed."""

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path

import orjson
import uvloop
from rich.console import Console
from rich.table import Table

from bench import accept, lifecycles, publish

ACCEPT_BAR = 0.35
IDLE_BAR_MS = 10.0


async def run(*, quick: bool, only: list[str]) -> dict[str, dict[str, object]]:
    """Every measurement, one after the other."""
    found: dict[str, dict[str, object]] = {}
    if "accept" in only:
        found["accept"] = await accept.measure(rounds=2 if quick else 5, seconds=2 if quick else 4, connections=32)
    if "publish" in only:
        found["publish"] = await publish.measure(rounds=1 if quick else 3, jobs=1000 if quick else 3000)
    if "lifecycles" in only:
        found["lifecycles"] = await lifecycles.measure(
            count=100 if quick else 600, concurrent=32, idle=20 if quick else 100
        )
    return found


def report(found: dict[str, dict[str, object]], console: Console) -> bool:
    """Print the table; whether every bar is reached."""
    table = Table("figure", "value", "bar")
    reached = True
    bars = {
        ("accept", "ratio"): (">=", ACCEPT_BAR),
        ("lifecycles", "idle_commit_to_confirm_p50_ms"): ("<=", IDLE_BAR_MS),
    }
    for part, figures in found.items():
        for name, value in figures.items():
            sign, bar = bars.get((part, name), ("", 0.0))
            good = not sign or (float(str(value)) >= bar if sign == ">=" else float(str(value)) <= bar)
            reached = reached and good
            shown = f"{sign} {bar} {'reached' if good else 'MISSED'}" if sign else ""
            table.add_row(f"{part}.{name}", str(value), shown)
    console.print(table)
    return reached


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="make bench ARGS=", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="short runs: does it work at all?")
    parser.add_argument("only", nargs="*", default=["accept", "publish", "lifecycles"], help="which measurements")
    chosen = parser.parse_args()
    found = uvloop.run(run(quick=chosen.quick, only=chosen.only))
    folder = Path(__file__).parent / "results"
    folder.mkdir(exist_ok=True)
    (folder / f"{datetime.now(UTC):%Y%m%d-%H%M%S}.json").write_bytes(orjson.dumps(found, option=orjson.OPT_INDENT_2))
    sys.exit(0 if report(found, Console()) else 1)


if __name__ == "__main__":
    main()
