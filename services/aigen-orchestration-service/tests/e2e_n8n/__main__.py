"""`make e2e-n8n`: run every scenario with a real n8n and print a table; exit with 1 on any
violation.
"""

import argparse
import asyncio
import json
import signal
import sys
import time
import traceback
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.e2e_n8n.measurements import MEASUREMENTS
from tests.e2e_n8n.run import Found, a_run
from tests.e2e_n8n.scenarios import SCENARIOS
from tests.e2e_n8n.tools import MissingToolError, Tools, tools
from tests.support.services import database_admin_url, ensure_rabbitmq

ALL = SCENARIOS | MEASUREMENTS
RESULTS = Path(__file__).parent / "results"


async def run_all(
    programs: Tools, admin_url: str, chosen: list[str], *, quick: bool, keep: bool
) -> dict[str, Found]:
    """Run the scenarios one after another; an error in one does not stop the others."""
    found: dict[str, Found] = {}
    async with a_run(programs, admin_url, quick=quick, keep=keep) as run:
        for name in chosen:
            found[name] = Found()
            began = time.monotonic()
            try:
                await ALL[name](run, found[name])
                await run.settle(found[name])
            except Exception as error:  # noqa: BLE001 - whatever breaks is a finding
                traceback.print_exc()
                found[name].violations.append(f"{type(error).__name__}: {error}")
            said = "BROKEN" if found[name].violations else "ok"
            print(f"{name}: {said}, {time.monotonic() - began:.0f} s", flush=True)
    return found


def report(found: dict[str, Found], console: Console) -> bool:
    """Print the table and every violation; return whether there is none."""
    table = Table("scenario", "tried", "ended", "lost", "charged wrongly", "notes")
    for name, each in found.items():
        numbers = (each.tried, each.ended, each.lost, each.charged_wrongly)
        said = "; ".join([(ALL[name].__doc__ or "").strip(), *each.notes])
        table.add_row(f"{'✗' if each.violations else '✓'} {name}", *map(str, numbers), said)
    console.print(table)
    violations = [
        f"{name}: {violation}" for name, each in found.items() for violation in each.violations
    ]
    for violation in violations:
        console.print(violation, style="red", markup=False)
    return not violations


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="make e2e-n8n ARGS=", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="a fifth of the requests and short pauses"
    )
    parser.add_argument("--keep", action="store_true", help="keep the folder with the logs")
    parser.add_argument(
        "only", nargs="*", metavar="scenario", help=f"of {', '.join(ALL)}; all if none is named"
    )
    chosen = parser.parse_args()
    if unknown := set(chosen.only) - set(ALL):
        parser.error(f"no such scenario: {', '.join(sorted(unknown))}")
    for asked in (
        signal.SIGTERM,
        signal.SIGINT,
    ):  # an interrupted run removes everything it created
        signal.signal(asked, signal.default_int_handler)
    try:
        programs = tools()
    except MissingToolError as error:
        sys.exit(str(error))
    ensure_rabbitmq()
    names = chosen.only or list(ALL)
    found = asyncio.run(
        run_all(programs, database_admin_url(), names, quick=chosen.quick, keep=chosen.keep)
    )
    RESULTS.mkdir(exist_ok=True)
    measurements = {name: each.measurements for name, each in found.items() if each.measurements}
    if measurements:
        (RESULTS / f"{datetime.now(UTC):%Y%m%d-%H%M%S}.json").write_text(
            json.dumps(measurements, indent=2), "utf-8"
        )
    sys.exit(0 if report(found, Console(width=160)) else 1)


if __name__ == "__main__":
    main()
