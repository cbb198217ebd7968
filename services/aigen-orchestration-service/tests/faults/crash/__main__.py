"""`make crash`: kill the service at every seam, start it again, ask after everybody's money; a
table, and JSON.

Exits with 1 when anything was lost, doubled or charged wrongly, and when a seam was never reached.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import orjson
from rich.console import Console
from rich.table import Table

from tests.faults.crash.campaign import CampaignResult, run
from tests.faults.crash.failpoints import Failpoint
from tests.faults.crash.launcher import FAILPOINTS

UNREACHED = {
    "OdooCredits.": "needs an Odoo: tests/contracts/real_odoo runs the credits suite on one",
    "LocalEngine.": "draws in the same process: there is no other side that could know of it",
    "ModerationCheck.": "moves nothing, and is asked before anything is written",
    "LogNotifier.": "writes a line into the log",
    "ReconciliationStore.post": (
        "corrects a credit service that lost an operation: tests/integration/test_accounting.py"
    ),
    "LocalCredits.decide": "the local ledger is never in doubt",
    "LocalCredits.capture": (
        "goes with the delivery; what stays owed: tests/integration/test_ledger_in_transaction.py"
    ),
    "POST /api/v1/n8n-callbacks/assets": "a file, not state: tests/e2e has its faults",
}
"""Seams which the mix of lives does not reach, by their beginning, and why that is right."""
_TIMES = (0.1, 0.4, 0.7)


def planned(
    passed: dict[str, int], starting: dict[str, int], *, elsewhere: set[str], wanted: Sequence[str]
) -> list[tuple[Failpoint, str, int]]:
    """Where it is killed: in the middle of the mix, on the wire also early and late, at the start
    where only that is.

    `elsewhere`: seams that the other books reach.
    """
    plan = []
    for seam in FAILPOINTS:
        if (
            seam.name in elsewhere
            or excused(seam.name)
            or (wanted and not any(text in seam.name for text in wanted))
        ):
            continue
        count = passed[seam.name]
        if not count and not starting[seam.name]:
            continue
        shares = _TIMES if seam.wire else _TIMES[1:2]
        times = [max(1, round(count * share)) for share in shares] if count else [0]
        plan += [(seam, moment, nth) for moment in seam.moments for nth in times]
    return plan


def excused(name: str) -> bool:
    """Whether a seam need not be reached."""
    return any(name.startswith(text) for text in UNREACHED)


def campaign(
    *, every: int, offset: int, wanted: Sequence[str], console: Console
) -> tuple[list[CampaignResult], set[str]]:
    """All kills on both books, or each `every`-th of them from `offset` on; and the names of seams
    never reached.
    """
    results: list[CampaignResult] = []
    reached: set[str] = set()

    def plan(passed: dict[str, int], starting: dict[str, int]) -> list[tuple[Failpoint, str, int]]:
        chosen = planned(passed, starting, elsewhere=set(reached), wanted=wanted)
        reached.update(name for name in passed if passed[name] or starting[name])
        return chosen[offset::every]

    def report(found: CampaignResult) -> None:
        results.append(found)
        wrong = f"[red]{len(found.violations)} violations[/red]" if found.violations else "holds"
        missed = "" if found.reached else " [yellow](not reached)[/yellow]"
        console.print(
            f"{time.strftime('%H:%M:%S')}  {found.books:8}{found.moment:7}{found.seam}:"
            f" {wrong}{missed}"
        )
        for violation in found.violations[:5]:
            console.print(f"    {violation}", markup=False)

    for books in ("local", "billing"):
        results[:0] = asyncio.run(run(plan, books=books, report=report))[
            :1
        ]  # the rehearsal itself is a result
    known = {seam.name for seam in FAILPOINTS if not excused(seam.name)}
    return results, known - reached


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="make crash ARGS=", description=__doc__)
    parser.add_argument(
        "--seam", action="append", default=[], help="only seams with this in their name"
    )
    parser.add_argument("--every", type=int, default=1, help="only each n-th kill")
    parser.add_argument("--offset", type=int, default=0, help="from this one on")
    parser.add_argument("--list", action="store_true", help="name the seams and end")
    told = parser.parse_args()
    console = Console()
    if told.list:
        for seam in FAILPOINTS:
            console.print(f"{seam.name}: {', '.join(seam.moments)}", markup=False)
        return
    began = time.monotonic()
    results, never = campaign(
        every=told.every, offset=told.offset, wanted=told.seam, console=console
    )
    table = Table("seam", "books", "kills", "lives", "not reached", "violations")
    for name in dict.fromkeys(found.seam for found in results):
        of = [found for found in results if found.seam == name]
        table.add_row(
            name,
            "/".join(sorted({found.books for found in of})),
            str(sum(found.kills for found in of)),
            str(sum(found.lives for found in of)),
            ", ".join(
                found.moment for found in of if not found.reached and found.moment != "never"
            ),
            str(sum(len(found.violations) for found in of)),
        )
    console.print(table)
    wrong = sum(len(found.violations) for found in results)
    seconds = round(time.monotonic() - began)
    console.print(
        f"{sum(found.kills for found in results)} kills at {len(table.rows) - 1} seams, "
        f"{sum(found.lives for found in results)} lives, {wrong} violations, {seconds} s; "
        f"never reached: {', '.join(sorted(never)) or 'none'}"
    )
    folder = Path(__file__).parents[3] / "bench" / "results"
    folder.mkdir(exist_ok=True)
    written = {
        "seconds": seconds,
        "never_reached": sorted(never),
        "found": [found.as_dict() for found in results],
    }
    name = f"crash-{datetime.now(UTC):%Y%m%d-%H%M%S}.json"
    (folder / name).write_bytes(orjson.dumps(written, option=orjson.OPT_INDENT_2))
    whole = not told.seam
    sys.exit(1 if wrong or (whole and never) else 0)


if __name__ == "__main__":
    main()
