"""What goes wrong in a storm: connections cut and slowed, backends ended, processes killed; at
random, seeded.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from multiprocessing.context import ForkServerProcess
from typing import Self
from urllib.parse import urlsplit

import asyncpg
import httpx

from tests.faults.crash.launcher import Trigger, start
from tests.support.environment import Environment
from tests.support.processes import free_port
from tests.support.servers import Server
from tests.support.tcp_proxy import TcpProxy

CALM_SECONDS = (0.2, 1.2)


class Storm:
    """Several serving processes, each thing between them and the world, and what is done to all of
    it.
    """

    def __init__(
        self, made: Environment, *, processes: int, seed: int, servers: Sequence[Server] = ()
    ) -> None:
        self.yard = made
        self.servers = servers
        self.random = random.Random(seed)  # noqa: S311 - a repeatable storm, no secret
        self.ports = [free_port() for _ in range(processes)]
        self.running: dict[int, ForkServerProcess] = {}
        self.did: Counter[str] = Counter()
        self.trigger = Trigger()  # never armed: kills come from outside
        self.database = TcpProxy(*_address(made.url, 5432))
        self.broker = TcpProxy(*_address(made.broker, 5672))

    async def __aenter__(self) -> Self:
        await self.database.__aenter__()
        await self.broker.__aenter__()
        self.yard.database_url = _through(self.yard.url, self.database.port)
        self.yard.engine_url = _through(self.yard.broker, self.broker.port)
        for port in self.ports:
            await self.start(port)
        await asyncio.gather(*(self.serving(port) for port in self.ports))
        return self

    async def __aexit__(self, *told: object) -> None:
        self.calm()
        for process in self.running.values():
            process.kill()
            process.join()
        await self.database.__aexit__(None, None, None)
        await self.broker.__aexit__(None, None, None)

    async def start(self, port: int) -> None:
        """A process that will serve."""
        environment = self.yard.environment(port, AIGEN_DATABASE_POOL_SIZE="6")
        self.running[port] = await asyncio.to_thread(
            start, environment, self.trigger, str(self.yard.folder / "log")
        )

    async def serving(self, port: int, seconds: float = 60) -> None:
        """Until it serves."""
        async with asyncio.timeout(seconds):
            while True:
                try:
                    if (await self.yard.http.get(f"http://127.0.0.1:{port}/ready")).is_success:
                        return
                except httpx.HTTPError:
                    pass
                await asyncio.sleep(0.05)

    async def rage(self) -> None:
        """One thing after another, for ever."""
        deeds = [
            self.kill,
            self.cut_broker,
            self.cut_database,
            self.refuse_broker,
            self.stall_broker,
            self.stall_database,
            self.end_backends,
            self.bother_receiver,
            self.bother_books,
            self.one_direction,
        ]
        if self.servers:
            deeds = [*deeds * 3, self.kill_server]
        while True:
            await asyncio.sleep(self.random.uniform(*CALM_SECONDS))
            deed = self.random.choice(deeds)
            await deed()
            self.did[deed.__name__] += 1
            await self.tend()

    async def tend(self) -> None:
        """Start again what has died."""
        for port, process in self.running.items():
            if process.exitcode is not None:
                await self.start(port)

    def calm(self) -> None:
        """Everything flows."""
        self.database.resume()
        self.broker.resume()

    async def kill(self) -> None:
        """SIGKILL one of the processes; it is started again at once."""
        process = self.running[self.random.choice(self.ports)]
        process.kill()
        await asyncio.to_thread(process.join)

    async def kill_server(self) -> None:
        """SIGKILL the database or the broker itself, and start it again."""
        server = self.random.choice(self.servers)
        await server.kill()
        await asyncio.sleep(self.random.uniform(0.0, 2.0))
        await server.start()
        self.did[f"kill_{type(server).__name__}"] += 1

    async def cut_broker(self) -> None:
        """All connections to the broker end."""
        self.broker.cut()

    async def cut_database(self) -> None:
        """All connections to the database end."""
        self.database.cut()

    async def refuse_broker(self) -> None:
        """The broker is away for a while."""
        await self.broker.refuse()
        self.broker.cut()
        await asyncio.sleep(self.random.uniform(0.3, 1.5))
        await self.broker.accept()

    async def stall_broker(self) -> None:
        """Nothing comes or goes for a while, and nothing is lost."""
        self.broker.stall()
        await asyncio.sleep(self.random.uniform(0.2, 2.0))
        self.broker.resume()

    async def stall_database(self) -> None:
        """The database is slow."""
        self.database.stall()
        await asyncio.sleep(self.random.uniform(0.2, 2.0))
        self.database.resume()

    async def one_direction(self) -> None:
        """Statements and confirms go through, their answers do not, and then the connections
        end.
        """
        which = self.random.choice([self.broker, self.database])
        which.stall(to_server=False)
        await asyncio.sleep(self.random.uniform(0.1, 0.5))
        which.cut()
        which.resume()

    async def end_backends(self) -> None:
        """The server ends our sessions."""
        connection = await asyncpg.connect(self.yard.url)
        try:
            await connection.execute(
                """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                   WHERE datname = current_database() AND application_name = 'aigen'
                       AND random() < 0.5
                     AND client_port <> 0 AND pid <> pg_backend_pid()"""
            )
        finally:
            await connection.close()

    async def bother_receiver(self) -> None:
        """Receivers of webhooks and notifications fail."""
        self.yard.receiver.answers.extend(self.random.choices([500, 503, 429, 204], k=10))

    async def bother_books(self) -> None:
        """The credit service answers slowly, wrongly, twice or never."""
        if self.yard.books == "billing":
            faults = [
                "slow",
                "error_before",
                "error_after",
                "silent_after",
                "drop_after",
                "wrong_body",
                "turned_away",
            ]
            await self.yard.control(faults=self.random.choices(faults, k=5))


def _address(url: str, port: int) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "127.0.0.1", parts.port or port


def _through(url: str, port: int) -> str:
    parts = urlsplit(url)
    login, at, _ = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{login}{at}127.0.0.1:{port}").geturl()
