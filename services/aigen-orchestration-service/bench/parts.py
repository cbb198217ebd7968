"""The parts of a measurement: a database, a broker, and processes of their own, all gone afterwards."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

import asyncpg
import httpx

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from creativeflow.services.aigeneration.settings import Settings
from creativeflow.services.aigeneration.storage.migrations import migrate
from services import RABBITMQ, database_admin_url, delete_names, own_names

__all__ = ["RABBITMQ", "bench_settings", "database", "delete_names", "own_names", "process", "service_process"]

ADMIN = database_admin_url()


@asynccontextmanager
async def database() -> AsyncIterator[str]:
    """A migrated database; its URL."""
    name = f"aigen_bench_{uuid4().hex[:8]}"
    base, question, query = ADMIN.partition("?")
    url = f"{base.rpartition('/')[0]}/{name}{question}{query}"
    connection = await asyncpg.connect(ADMIN)
    try:
        await connection.execute(f"CREATE DATABASE {name}")
        await migrate(url)
        yield url
    finally:
        await connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        await connection.close()


@contextmanager
def process(arguments: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A Python process that ends with the block."""
    log = environment.get("BENCH_LOG", os.devnull)
    with Path(log).open("ab") as output:
        running = subprocess.Popen(
            [sys.executable, *arguments], env=os.environ | environment, stdout=output, stderr=output
        )
    try:
        yield running
    finally:
        running.send_signal(signal.SIGTERM)
        try:
            running.wait(15)
        except subprocess.TimeoutExpired:
            running.kill()


@asynccontextmanager
async def service_process(
    url: str, *, engine: str = "local://", roles: str = "api", **more: str
) -> AsyncIterator[tuple[int, dict[str, str]]]:
    """`aigen serve` in one process; its port and environment."""
    port = free_port()
    with TemporaryDirectory() as folder:
        environment = {
            "AIGEN_DATABASE_URL": url, "AIGEN_ENGINE_URL": engine, "AIGEN_DATA_DIR": folder, "AIGEN_PORT": str(port),
            "AIGEN_ROLES": roles, "AIGEN_LOG_LEVEL": "warning", "AIGEN_LOG_FORMAT": "json", "AIGEN_PUBLIC_URL":
            f"http://127.0.0.1:{port}", "AIGEN_CALLBACK_SECRET": "bench-secret-of-enough-length", **more,
        }  # fmt: skip
        with process(["-m", "creativeflow.services.aigeneration", "serve"], environment) as running:
            await wait_for(port, "/ready", running)
            yield port, environment


def bench_settings(environment: dict[str, str]) -> Settings:
    """The settings which a process with this environment has."""
    names = {name.removeprefix("AIGEN_").lower(): value for name, value in environment.items() if "AIGEN" in name}
    return Settings(_env_file=None, **names)  # type: ignore[arg-type,call-arg]


async def wait_for(port: int, path: str, running: subprocess.Popen[bytes], seconds: float = 30) -> None:
    """Until the process answers."""
    ends = time.monotonic() + seconds
    async with httpx.AsyncClient() as client:
        while time.monotonic() < ends:
            if running.poll() is not None:
                raise RuntimeError("the process under measurement ended while starting; set BENCH_LOG to a file")
            try:
                if (await client.get(f"http://127.0.0.1:{port}{path}")).status_code < 500:
                    return
            except httpx.HTTPError:
                pass
            await asyncio.sleep(0.05)
    raise RuntimeError("the process under measurement does not answer")


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
