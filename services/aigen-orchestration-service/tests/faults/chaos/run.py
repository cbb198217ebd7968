"""Random, seeded faults: cut and stalled connections, terminated backends, killed processes."""

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

PAUSE_SECONDS = (0.2, 1.2)


class ChaosRun:
    """Several serving processes behind TCP proxies, and the faults injected into them."""

    def __init__(
        self, made: Environment, *, processes: int, seed: int, servers: Sequence[Server] = ()
    ) -> None:
        self.environment = made
        self.servers = servers
        self.random = random.Random(seed)  # noqa: S311 - repeatable faults, no secret
        self.ports = [free_port() for _ in range(processes)]
        self.running: dict[int, ForkServerProcess] = {}
        self.injected: Counter[str] = Counter()
        self.trigger = Trigger()  # never armed: kills come from outside
        self.database = TcpProxy(*_address(made.url, 5432))
        self.broker = TcpProxy(*_address(made.broker, 5672))

    async def __aenter__(self) -> Self:
        await self.database.__aenter__()
        await self.broker.__aenter__()
        self.environment.database_url = _through(self.environment.url, self.database.port)
        self.environment.engine_url = _through(self.environment.broker, self.broker.port)
        for port in self.ports:
            await self.start(port)
        await asyncio.gather(*(self.serving(port) for port in self.ports))
        return self

    async def __aexit__(self, *told: object) -> None:
        self.restore()
        for process in self.running.values():
            process.kill()
            process.join()
        await self.database.__aexit__(None, None, None)
        await self.broker.__aexit__(None, None, None)

    async def start(self, port: int) -> None:
        """Start a serving process."""
        variables = self.environment.variables(port, AIGEN_DATABASE_POOL_SIZE="6")
        self.running[port] = await asyncio.to_thread(
            start, variables, self.trigger, str(self.environment.folder / "log")
        )

    async def serving(self, port: int, seconds: float = 60) -> None:
        """Wait until the process is ready."""
        async with asyncio.timeout(seconds):
            while True:
                try:
                    if (
                        await self.environment.http.get(f"http://127.0.0.1:{port}/ready")
                    ).is_success:
                        return
                except httpx.HTTPError:
                    pass
                await asyncio.sleep(0.05)

    async def inject_faults(self) -> None:
        """Inject one fault after another until cancelled."""
        actions = [
            self.kill,
            self.cut_broker,
            self.cut_database,
            self.refuse_broker,
            self.stall_broker,
            self.stall_database,
            self.end_backends,
            self.disturb_receiver,
            self.disturb_credits,
            self.one_direction,
        ]
        if self.servers:
            actions = [*actions * 3, self.kill_server]
        while True:
            await asyncio.sleep(self.random.uniform(*PAUSE_SECONDS))
            action = self.random.choice(actions)
            await action()
            self.injected[action.__name__] += 1
            await self.restart_dead()

    async def restart_dead(self) -> None:
        """Restart the processes that have ended."""
        for port, process in self.running.items():
            if process.exitcode is not None:
                await self.start(port)

    def restore(self) -> None:
        """Resume all connections."""
        self.database.resume()
        self.broker.resume()

    async def kill(self) -> None:
        """SIGKILL one of the processes."""
        process = self.running[self.random.choice(self.ports)]
        process.kill()
        await asyncio.to_thread(process.join)

    async def kill_server(self) -> None:
        """SIGKILL the database or the broker, and start it again."""
        server = self.random.choice(self.servers)
        await server.kill()
        await asyncio.sleep(self.random.uniform(0.0, 2.0))
        await server.start()
        self.injected[f"kill_{type(server).__name__}"] += 1

    async def cut_broker(self) -> None:
        """Close all connections to the broker."""
        self.broker.cut()

    async def cut_database(self) -> None:
        """Close all connections to the database."""
        self.database.cut()

    async def refuse_broker(self) -> None:
        """Make the broker unavailable for a while."""
        await self.broker.refuse()
        self.broker.cut()
        await asyncio.sleep(self.random.uniform(0.3, 1.5))
        await self.broker.accept()

    async def stall_broker(self) -> None:
        """Stall the connections to the broker for a while; lose nothing."""
        self.broker.stall()
        await asyncio.sleep(self.random.uniform(0.2, 2.0))
        self.broker.resume()

    async def stall_database(self) -> None:
        """Stall the connections to the database for a while."""
        self.database.stall()
        await asyncio.sleep(self.random.uniform(0.2, 2.0))
        self.database.resume()

    async def one_direction(self) -> None:
        """Let requests through but not their responses, then close the connections."""
        which = self.random.choice([self.broker, self.database])
        which.stall(to_server=False)
        await asyncio.sleep(self.random.uniform(0.1, 0.5))
        which.cut()
        which.resume()

    async def end_backends(self) -> None:
        """Terminate backends at the database server."""
        connection = await asyncpg.connect(self.environment.url)
        try:
            await connection.execute(
                """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                   WHERE datname = current_database() AND application_name = 'aigen'
                       AND random() < 0.5
                     AND client_port <> 0 AND pid <> pg_backend_pid()"""
            )
        finally:
            await connection.close()

    async def disturb_receiver(self) -> None:
        """Make receivers of webhooks and notifications fail."""
        self.environment.receiver.answers.extend(self.random.choices([500, 503, 429, 204], k=10))

    async def disturb_credits(self) -> None:
        """Make the credit service answer slowly, wrongly or not at all."""
        if self.environment.credit_service == "billing":
            faults = [
                "slow",
                "error_before",
                "error_after",
                "silent_after",
                "drop_after",
                "wrong_body",
                "turned_away",
            ]
            await self.environment.control(faults=self.random.choices(faults, k=5))


def _address(url: str, port: int) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "127.0.0.1", parts.port or port


def _through(url: str, port: int) -> str:
    parts = urlsplit(url)
    login, at, _ = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{login}{at}127.0.0.1:{port}").geturl()
