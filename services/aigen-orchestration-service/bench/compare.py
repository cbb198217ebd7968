"""`make bench-compare`: the cost of a paid lifecycle here and on another commit, in turns.

Both run as one process with every role, on databases of one PostgreSQL server, with the same users
and the same stub worker. A figure of the base stands beside the same figure of this tree; only
their ratio within one run means anything on a noisy machine.
"""

import argparse
import asyncio
import logging
import statistics
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import asyncpg
import psutil
import structlog
import uvloop
from rich.console import Console
from rich.table import Table

from bench.parts import ADMIN
from bench.peers import contestants, driver
from bench.peers.costs import Meter

ROLES = "api,dispatcher,results,relay,sweeper"
SERVICE = "services/aigen-orchestration-service"
BASE = "0d2378b"
"""The commit that the bars of a lifecycle's cost refer to."""
_STATISTICS_SECONDS = 1.5
"""A backend reports what it wrote at most once a second."""
_WRITTEN = """
SELECT (SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()) AS commits,
       (SELECT wal_bytes::bigint FROM pg_stat_wal) AS wal_bytes,
       (SELECT COALESCE(sum(n_tup_ins + n_tup_upd + n_tup_del), 0)::bigint
        FROM pg_stat_user_tables) AS rows"""


@dataclass(slots=True)
class Costs:
    """One round of one tree; each figure per lifecycle, CPU in milliseconds."""

    figures: dict[str, float] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    tables: list[dict[str, object]] = field(default_factory=list)
    statements: list[dict[str, object]] = field(default_factory=list)


@contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """Check a commit out beside this tree; yields the folder of the service."""
    root = Path(__file__).parents[3]
    with TemporaryDirectory() as folder:
        tree = Path(folder) / "base"
        git = ["git", "-C", str(root), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(tree), commit], check=True)
        try:
            yield tree / SERVICE
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)


async def measure(source: Path, chosen: argparse.Namespace) -> Costs:
    """Lead `--count` lifecycles against the service of this source, after some to warm up."""
    with TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        log.touch()
        try:
            async with contestants.ours(log, 0, (ROLES,), source=source) as running:
                return await _measure(running, chosen)
        except Exception as error:
            lines = log.read_text("utf-8", "replace").splitlines()[-20:]
            raise RuntimeError("\n".join([f"{source} failed: {error}", *lines])) from error


async def _measure(running: contestants.Running, chosen: argparse.Namespace) -> Costs:
    connection = await asyncpg.connect(running.database)
    meter = Meter(running.processes, running.stub, postmaster=await _postmaster(connection))
    warm = 2 * chosen.concurrent
    async with driver.users(running.port, running.topic) as users:
        await users.lead(warm, chosen.concurrent, seconds=100, settled=running.settled)
        await asyncio.sleep(_STATISTICS_SECONDS)
        before, cpu = dict(await connection.fetchrow(_WRITTEN)), meter.cpu()
        lives = await users.lead(
            chosen.count, chosen.concurrent, seconds=300, settled=running.settled
        )
        used = meter.cpu() - cpu
        await asyncio.sleep(_STATISTICS_SECONDS)
        after = dict(await connection.fetchrow(_WRITTEN))
    figures = {
        "lifecycles/s": lives.count / lives.seconds,
        "accept p50 ms": driver.percentile(lives.accepts, 0.5),
        "lifecycle p50 ms": driver.percentile(lives.lives, 0.5),
        "own CPU": 1000 * used.contestant / lives.count,
        "PostgreSQL CPU": 1000 * used.postgresql / lives.count,
        "RabbitMQ CPU": 1000 * used.rabbitmq / lives.count,
        "commits": (after["commits"] - before["commits"]) / lives.count,
        "WAL KB": (after["wal_bytes"] - before["wal_bytes"]) / lives.count / 1024,
        "rows written": (after["rows"] - before["rows"]) / lives.count,
    }
    found = Costs(figures, await running.wrong(warm + chosen.count))
    if chosen.tables:
        rows = await connection.fetch(
            """SELECT relname, n_tup_ins, n_tup_upd, n_tup_hot_upd, n_tup_del
               FROM pg_stat_user_tables WHERE n_tup_ins + n_tup_upd > 0 ORDER BY 1"""
        )
        found.tables = [dict(row) for row in rows]
    if chosen.statements:
        await connection.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
        rows = await connection.fetch(
            """SELECT calls, round(total_exec_time::numeric, 1) AS ms,
                      round((1000 * mean_exec_time)::numeric) AS us_each, rows,
                      left(regexp_replace(query, '\\s+', ' ', 'g'), 110) AS statement
               FROM pg_stat_statements WHERE dbid = (
                   SELECT oid FROM pg_database WHERE datname = current_database())
               ORDER BY total_exec_time DESC LIMIT 25"""
        )
        found.statements = [dict(row) for row in rows]
    await connection.close()
    return found


async def _postmaster(connection: asyncpg.Connection) -> int | None:
    """Return the process of this server, where it runs on this machine."""
    backend: int = await connection.fetchval("SELECT pg_backend_pid()")
    try:
        process = psutil.Process(backend)
        parent = process.parent() if process.name() == "postgres" else None
    except psutil.Error:
        return None
    return parent.pid if parent is not None else None


def table(found: dict[str, list[Costs]]) -> Table:
    """One line for each figure: medians, and the median of the rounds' ratios."""
    shown = Table("per paid lifecycle", "base", "here", "here ÷ base", "least", "most")
    for name in found["here"][0].figures:
        base, here = ([costs.figures[name] for costs in found[tree]] for tree in ("base", "here"))
        ratios = [ours / theirs for theirs, ours in zip(base, here, strict=True) if theirs]
        shown.add_row(
            name,
            f"{statistics.median(base):.2f}",
            f"{statistics.median(here):.2f}",
            *(
                f"{figure:.2f}"
                for figure in (statistics.median(ratios), min(ratios), max(ratios))
                if ratios
            ),
        )
    return shown


async def compare(chosen: argparse.Namespace, console: Console) -> int:
    """Measure both trees in turns; return the number of trees whose books are wrong."""
    here = Path(__file__).parents[1]
    found: dict[str, list[Costs]] = {"base": [], "here": []}
    with checked_out(chosen.base) as base:
        trees = [("base", base), ("here", here)]
        if chosen.only_here:
            trees = [("here", here)]
        for number in range(chosen.rounds):
            for name, source in trees if number % 2 == 0 else reversed(trees):
                costs = await measure(source, chosen)
                found[name].append(costs)
                figures = "  ".join(f"{k} {v:.2f}" for k, v in costs.figures.items())
                console.print(f"{number + 1} {name}: {figures}", *costs.wrong, highlight=False)
                for row in (*costs.tables, *costs.statements):
                    console.print("   ", *row.values(), highlight=False)
    if not chosen.only_here:
        console.print(f"PostgreSQL server: {ADMIN.rpartition('@')[2]}", table(found))
    return sum(bool(costs.wrong) for rounds in found.values() for costs in rounds)


def main() -> int:
    """Parse the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", default=BASE, help="the commit to compare with")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=400, help="lifecycles of a round")
    parser.add_argument("--concurrent", type=int, default=32, help="users at once")
    parser.add_argument("--only-here", action="store_true", help="leave the base out")
    parser.add_argument("--tables", action="store_true", help="show the rows written by table")
    parser.add_argument("--statements", action="store_true", help="show pg_stat_statements")
    chosen = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    return uvloop.run(compare(chosen, Console()))


if __name__ == "__main__":
    raise SystemExit(main())
