"""`make bench-peers`: all contestants in turn, round by round; a table, JSON in bench/results/,
exit 1 below bar.
"""

import argparse
import asyncio
import logging
import statistics
import sys
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import orjson
import structlog
import uvloop
from rich.console import Console
from rich.table import Table

from bench.peers import contestants, driver
from bench.peers.costs import Cpu, Meter

BAR = 3.0
ALL_ROLES = "api,dispatcher,results,relay,sweeper"
OURS = {"ours": (ALL_ROLES,), "ours-2": ("api", "dispatcher,results,relay,sweeper")}
EVERYBODY = ("ours", "dbos", "celery", "procrastinate", "ours-2")
LOG_LINES = 15


@dataclass(slots=True)
class Figures:
    """What one contestant came to in one round."""

    contestant: str
    failed: str | None = None
    wrong: list[str] = field(default_factory=list)
    lifecycles_per_second: float = 0.0
    told_per_second: float = 0.0
    accept_p50_ms: float = 0.0
    accept_p99_ms: float = 0.0
    lifecycle_p50_ms: float = 0.0
    lifecycle_p99_ms: float = 0.0
    cpu_ms: dict[str, float] = field(default_factory=dict)
    rss_mb: int = 0
    pss_mb: int = 0


def start(
    name: str, log: Path, stub_seconds: float
) -> AbstractAsyncContextManager[contestants.Running]:
    """The contestant of this name, when entered."""
    if name in OURS:
        return contestants.ours(log, stub_seconds, OURS[name])
    return contestants.peer(name, log, stub_seconds)


async def measure(name: str, chosen: argparse.Namespace) -> Figures:
    """One round of one contestant; what goes wrong is told with the end of its log."""
    with TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        log.touch()
        try:
            async with (
                asyncio.timeout(3 * chosen.timeout),
                start(name, log, chosen.stub_seconds) as running,
            ):
                return await _measure(name, running, chosen)
        except Exception as error:  # noqa: BLE001 - whatever it is, the others have their turn
            tail = "\n".join(log.read_text("utf-8", "replace").splitlines()[-LOG_LINES:])
            return Figures(name, failed=f"{type(error).__name__}: {error}\n{tail}")


async def _measure(name: str, running: contestants.Running, chosen: argparse.Namespace) -> Figures:
    meter = Meter(running.processes, running.stub)
    warm = max(40, 2 * chosen.concurrent)
    async with driver.users(running.port, running.topic) as users:
        await users.lead(warm, chosen.concurrent, seconds=chosen.timeout, settled=running.settled)
        watching = asyncio.create_task(meter.watch())
        before = meter.cpu()
        lives = await users.lead(
            chosen.count, chosen.concurrent, seconds=chosen.timeout, settled=running.settled
        )
        used = meter.cpu() - before
        watching.cancel()
    return _figures(name, lives, used, meter, await running.wrong(warm + chosen.count))


def _figures(name: str, lives: driver.Lives, used: Cpu, meter: Meter, wrong: list[str]) -> Figures:
    return Figures(
        name,
        wrong=wrong,
        lifecycles_per_second=round(lives.count / lives.seconds, 1),
        told_per_second=round(lives.count / lives.told_seconds, 1),
        accept_p50_ms=driver.percentile(lives.accepts, 0.5),
        accept_p99_ms=driver.percentile(lives.accepts, 0.99),
        lifecycle_p50_ms=driver.percentile(lives.lives, 0.5),
        lifecycle_p99_ms=driver.percentile(lives.lives, 0.99),
        cpu_ms={
            part: round(1000 * seconds / lives.count, 2) for part, seconds in asdict(used).items()
        },
        rss_mb=round(meter.rss_mb),
        pss_mb=round(meter.pss_mb),
    )


def table(found: Sequence[Figures]) -> Table:
    """One line for each contestant: medians, and the spread of the rate."""
    shown = Table(
        "contestant",
        "lifecycles/s",
        "spread",
        "accept p50 · p99 ms",
        "lifecycle p50 · p99 ms",
        "CPU ms each: own",
        "stub",
        "PostgreSQL",
        "RabbitMQ",
        "MB: RSS · PSS",
        "books",
    )
    for name in dict.fromkeys(figures.contestant for figures in found):
        good = [
            figures for figures in found if figures.contestant == name and figures.failed is None
        ]
        if not good:
            shown.add_row(name, "failed")
            continue
        rates = [figures.lifecycles_per_second for figures in good]
        failed = sum(figures.contestant == name for figures in found) - len(good)
        exact = "exact" if not any(figures.wrong for figures in good) else "WRONG"
        shown.add_row(
            name,
            f"{statistics.median(rates):.1f}",
            f"{min(rates):.1f} to {max(rates):.1f}",
            f"{_median(good, 'accept_p50_ms')} · {_median(good, 'accept_p99_ms')}",
            f"{_median(good, 'lifecycle_p50_ms')} · {_median(good, 'lifecycle_p99_ms')}",
            *(
                f"{statistics.median(figures.cpu_ms[part] for figures in good):.2f}"
                for part in ("contestant", "stub", "postgresql", "rabbitmq")
            ),
            f"{_median(good, 'rss_mb')} · {_median(good, 'pss_mb')}",
            exact + (f", {failed} failed" if failed else ""),
        )
    return shown


def _median(good: Sequence[Figures], name: str) -> str:
    return f"{statistics.median(getattr(figures, name) for figures in good):g}"


def ratios(rounds: Sequence[Sequence[Figures]]) -> list[float]:
    """Ours ÷ the best peer, round by round; a round in which ours or every peer failed has none."""
    found = []
    for figures in rounds:
        rates = {
            each.contestant: each.lifecycles_per_second for each in figures if each.failed is None
        }
        peers = [rate for name, rate in rates.items() if name in contestants.PEERS]
        if "ours" in rates and peers:
            found.append(round(rates["ours"] / max(peers), 2))
    return found


async def run(chosen: argparse.Namespace, console: Console) -> list[list[Figures]]:
    """All rounds."""
    rounds = []
    for number in range(chosen.rounds):
        rounds.append([])
        for name in chosen.contestants:
            figures = await measure(name, chosen)
            rounds[-1].append(figures)
            console.print(
                f"round {number + 1}, {name}:"
                f" {figures.failed or f'{figures.lifecycles_per_second} lifecycles/s'}",
                *figures.wrong,
                highlight=False,
                markup=False,
            )
    return rounds


def report(rounds: list[list[Figures]], chosen: argparse.Namespace, console: Console) -> bool:
    """Print and keep everything; whether the bar is reached and all books are right."""
    found = [figures for figures in rounds for figures in figures]
    pairs = ratios(rounds)
    ratio = round(statistics.median(pairs), 2) if pairs else None
    right = not any(figures.failed or figures.wrong for figures in found)
    complete = "ours" in chosen.contestants and set(contestants.PEERS) <= set(chosen.contestants)
    console.print(table(found))
    if pairs:
        reached = "reached" if ratio is not None and ratio >= BAR else "MISSED"
        spread = f"{min(pairs)} to {max(pairs)}"
        console.print(
            f"ours ÷ best peer: {ratio} ({spread}); bar {BAR}:"
            f" {reached if complete else 'not all took part'}"
        )
    folder = Path(__file__).parents[1] / "results"
    folder.mkdir(exist_ok=True)
    kept = {
        "settings": {key: value for key, value in vars(chosen).items() if key != "contestants"},
        "ratio": ratio,
        "ratios": pairs,
        "bar": BAR,
        "rounds": [[asdict(figures) for figures in each] for each in rounds],
    }
    name = f"peers-{datetime.now(UTC):%Y%m%d-%H%M%S}.json"
    (folder / name).write_bytes(orjson.dumps(kept, option=orjson.OPT_INDENT_2))
    return right and (not complete or (ratio is not None and ratio >= BAR))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="make bench-peers ARGS=", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="turns of every contestant")
    parser.add_argument("--count", type=int, default=300, help="lifecycles in a turn")
    parser.add_argument("--concurrent", type=int, default=32, help="users at once")
    parser.add_argument("--timeout", type=float, default=120, help="seconds a turn may take")
    parser.add_argument(
        "--stub-seconds", type=float, default=0, help="seconds the stub takes for a job"
    )
    parser.add_argument(
        "contestants", nargs="*", default=EVERYBODY, help=f"of {', '.join(EVERYBODY)}"
    )
    chosen = parser.parse_args()
    if unknown := set(chosen.contestants) - set(EVERYBODY):
        parser.error(
            f"no contestant: {', '.join(sorted(unknown))}; there are {', '.join(EVERYBODY)}"
        )
    if not contestants.PEERS_PYTHON.exists():
        parser.error("the peers are not installed; run `make bench-peers`")
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    console = Console()
    rounds = uvloop.run(run(chosen, console))
    sys.exit(0 if report(rounds, chosen, console) else 1)


if __name__ == "__main__":
    main()
