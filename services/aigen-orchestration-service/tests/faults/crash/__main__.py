"""`make crash`: kill the service at every failpoint, restart it and check the invariants; print a
table and write JSON.

Exits with 1 if an invariant is violated or a failpoint is never reached.
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
    "LocalEngine.": "draws in the same process, so no other process can be out of step",
    "ModerationCheck.": "changes nothing and is called before anything is written",
    "LogNotifier.": "writes a line into the log",
    "ReconciliationStore.post": (
        "corrects a credit service that lost an operation: tests/integration/test_accounting.py"
    ),
    "LocalCredits.decide": "the local ledger is never in doubt",
    "LocalCredits.capture": (
        "part of the delivery statement: tests/integration/test_ledger_in_transaction.py"
    ),
    "POST /api/v1/n8n-callbacks/assets": "a file, not state: tests/e2e has its faults",
}
"""Prefixes of failpoints that the scenarios need not reach, with the reason."""
_TIMES = (0.1, 0.4, 0.7)


def planned(
    passed: dict[str, int], starting: dict[str, int], *, elsewhere: set[str], wanted: Sequence[str]
) -> list[tuple[Failpoint, str, int]]:
    """Choose the kills: in the middle of the scenarios, for wire failpoints also early and late,
    and at the start for failpoints that only the start passes.

    `elsewhere`: failpoints that the run with the other credit service reached.
    """
    plan = []
    for failpoint in FAILPOINTS:
        if (
            failpoint.name in elsewhere
            or excused(failpoint.name)
            or (wanted and not any(text in failpoint.name for text in wanted))
        ):
            continue
        count = passed[failpoint.name]
        if not count and not starting[failpoint.name]:
            continue
        shares = _TIMES if failpoint.wire else _TIMES[1:2]
        times = [max(1, round(count * share)) for share in shares] if count else [0]
        plan += [(failpoint, moment, nth) for moment in failpoint.moments for nth in times]
    return plan


def excused(name: str) -> bool:
    """Return whether a failpoint need not be reached."""
    return any(name.startswith(text) for text in UNREACHED)


def campaign(
    *, every: int, offset: int, wanted: Sequence[str], console: Console
) -> tuple[list[CampaignResult], set[str]]:
    """Run every `every`-th kill from `offset` on with both credit services.

    Returns the results and the names of the failpoints that were never reached.
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
            f"{time.strftime('%H:%M:%S')}  {found.credit_service:8}{found.moment:7}"
            f"{found.failpoint}: {wrong}{missed}"
        )
        for violation in found.violations[:5]:
            console.print(f"    {violation}", markup=False)

    for credit_service in ("local", "billing"):
        results[:0] = asyncio.run(run(plan, credit_service=credit_service, report=report))[
            :1
        ]  # the rehearsal itself is a result
    known = {failpoint.name for failpoint in FAILPOINTS if not excused(failpoint.name)}
    return results, known - reached


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="make crash ARGS=", description=__doc__)
    parser.add_argument(
        "--failpoint",
        action="append",
        default=[],
        help="only failpoints whose name contains this text",
    )
    parser.add_argument("--every", type=int, default=1, help="only every n-th kill")
    parser.add_argument("--offset", type=int, default=0, help="skip this many kills")
    parser.add_argument("--list", action="store_true", help="list the failpoints and exit")
    told = parser.parse_args()
    console = Console()
    if told.list:
        for failpoint in FAILPOINTS:
            console.print(f"{failpoint.name}: {', '.join(failpoint.moments)}", markup=False)
        return
    began = time.monotonic()
    results, never = campaign(
        every=told.every, offset=told.offset, wanted=told.failpoint, console=console
    )
    table = Table("failpoint", "credits", "kills", "scenarios", "not reached", "violations")
    for name in dict.fromkeys(found.failpoint for found in results):
        of = [found for found in results if found.failpoint == name]
        table.add_row(
            name,
            "/".join(sorted({found.credit_service for found in of})),
            str(sum(found.kills for found in of)),
            str(sum(found.scenarios for found in of)),
            ", ".join(
                found.moment for found in of if not found.reached and found.moment != "never"
            ),
            str(sum(len(found.violations) for found in of)),
        )
    console.print(table)
    wrong = sum(len(found.violations) for found in results)
    seconds = round(time.monotonic() - began)
    console.print(
        f"{sum(found.kills for found in results)} kills at {len(table.rows) - 1} failpoints, "
        f"{sum(found.scenarios for found in results)} scenarios, {wrong} violations, {seconds} s; "
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
    whole = not told.failpoint
    sys.exit(1 if wrong or (whole and never) else 0)


if __name__ == "__main__":
    main()
