"""What a run costs: CPU and memory of a contestant's processes, and CPU of the servers that all of
them share.
"""

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import psutil

_SAMPLE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Cpu:
    """Seconds of CPU, user and system; `stub` is a worker that stands beside the contestant."""

    contestant: float
    stub: float
    postgresql: float
    rabbitmq: float

    def __sub__(self, before: "Cpu") -> "Cpu":
        return Cpu(
            self.contestant - before.contestant,
            self.stub - before.stub,
            self.postgresql - before.postgresql,
            self.rabbitmq - before.rabbitmq,
        )


class Meter:
    """Measures the processes with these ids and their children."""

    def __init__(
        self, contestant: Iterable[int], stub: Iterable[int], *, postmaster: int | None = None
    ) -> None:
        """`postmaster`: the PostgreSQL server to measure; None measures all of this machine."""
        self._contestant, self._stub = list(contestant), list(stub)
        self._postmaster = postmaster
        self.rss_mb = 0.0
        """The highest sum of resident memory seen; pages that processes share are counted in each.
        """
        self.pss_mb = 0.0
        """The same with shared pages divided among those who share them, where the system tells."""

    def cpu(self) -> Cpu:
        """What was used until now."""
        return Cpu(
            _seconds(_trees(self._contestant)),
            _seconds(_trees(self._stub)),
            _seconds(_trees([self._postmaster]) if self._postmaster else _named("postgres")),
            _seconds(_named("beam.smp")),
        )

    async def watch(self) -> None:
        """Look at the memory now and then, until cancelled."""
        while True:
            rss, pss = 0, 0
            for process in _trees(self._contestant):
                with suppress(psutil.Error):
                    memory = process.memory_full_info()
                    rss += memory.rss
                    pss += getattr(memory, "pss", memory.rss)
            self.rss_mb, self.pss_mb = max(self.rss_mb, rss / 2**20), max(self.pss_mb, pss / 2**20)
            await asyncio.sleep(_SAMPLE_SECONDS)


def _trees(roots: Iterable[int]) -> Iterator[psutil.Process]:
    for root in roots:
        with suppress(psutil.Error):
            process = psutil.Process(root)
            yield process
            yield from process.children(recursive=True)


def _named(name: str) -> Iterator[psutil.Process]:
    return (process for process in psutil.process_iter(["name"]) if process.info["name"] == name)


def _seconds(processes: Iterable[psutil.Process]) -> float:
    """Of the processes and of their children that have ended: a closed connection's backend stays
    counted.
    """
    total = 0.0
    for process in processes:
        with suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total
