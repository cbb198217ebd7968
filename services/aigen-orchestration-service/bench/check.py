"""`make bench-check`: the ratios of this machine now against those of the last good state; exit 1
at a real loss.

Only ratios are compared, because both halves of one are measured in the same run on the same
machine. The whole lifecycle is set against the bare endpoint. A loss must show twice to count: a
busy machine loses now and then.
"""

import argparse
import sys
from pathlib import Path

import orjson
import uvloop
from rich.console import Console
from rich.table import Table

from bench.__main__ import Figures, run

BASELINE = Path(__file__).parent / "baseline.json"
LOSS_MAX = 0.15
MEASURED = ["accept", "publish", "lifecycles"]


def ratios(found: Figures) -> dict[str, float]:
    """The figures that mean the same on every machine; more is better."""
    return {
        "accept": found["accept"]["ratio"],
        "publish_engine": found["publish"]["engine_ratio"],
        "publish": found["publish"]["ratio"],
        "lifecycles": round(
            found["lifecycles"]["lifecycles_per_second"] / found["accept"]["bare_per_second"], 4
        ),
    }


def lost(now: dict[str, float], before: dict[str, float]) -> list[str]:
    """What has lost more than is allowed."""
    return [name for name, ratio in before.items() if now[name] < ratio * (1 - LOSS_MAX)]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="make bench-check ARGS=", description=__doc__)
    parser.add_argument(
        "--accept", action="store_true", help="make what is measured now the new baseline"
    )
    accepted = parser.parse_args().accept
    console, before = Console(), orjson.loads(BASELINE.read_bytes())
    now = ratios(uvloop.run(run(quick=False, only=MEASURED)))
    if accepted:
        BASELINE.write_bytes(orjson.dumps(now, option=orjson.OPT_INDENT_2) + b"\n")
    elif lost(now, before):
        console.print(f"{', '.join(lost(now, before))}: below the baseline; measuring once more")
        again = ratios(uvloop.run(run(quick=False, only=MEASURED)))
        now = {name: max(now[name], again[name]) for name in now}
    table = Table("ratio", "baseline", "now", "")
    bad = [] if accepted else lost(now, before)
    for name, ratio in now.items():
        table.add_row(name, str(before.get(name)), str(ratio), "LOST" if name in bad else "")
    console.print(table)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
