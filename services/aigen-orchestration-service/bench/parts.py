"""The parts of a measurement: a database, a broker, and processes of their own, all gone
afterwards.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from creativeflow.services.aigeneration.settings import Settings
from creativeflow.services.aigeneration.storage.migrations import migrate
from tests.support.databases import a_database
from tests.support.processes import free_port, process, service_environment, wait_ready
from tests.support.services import RABBITMQ, database_admin_url, delete_names, unique_names

__all__ = [
    "RABBITMQ",
    "bench_settings",
    "database",
    "delete_names",
    "empty_database",
    "free_port",
    "process",
    "service_process",
    "unique_names",
    "wait_ready",
]

ADMIN = database_admin_url()
LOG = Path(os.environ.get("BENCH_LOG", os.devnull))
"""Where the measured processes write, to see why one does not start."""


@asynccontextmanager
async def database() -> AsyncIterator[str]:
    """A migrated database; its URL."""
    async with empty_database() as url:
        await migrate(url)
        yield url


@asynccontextmanager
async def empty_database() -> AsyncIterator[str]:
    """A database with nothing in it; its URL."""
    async with a_database(ADMIN, "aigen_bench") as url:
        yield url


@asynccontextmanager
async def service_process(
    url: str, *, engine: str = "local://", roles: str = "api", **more: str
) -> AsyncIterator[tuple[int, dict[str, str]]]:
    """`aigen serve` in one process; its port and environment, in which `PID` is the process's
    own.
    """
    port = free_port()
    with TemporaryDirectory() as folder:
        told = {"AIGEN_ENGINE_URL": engine, "AIGEN_ROLES": roles, **more}
        environment = service_environment(url, Path(folder), port, **told)
        with process(
            ["-m", "creativeflow.services.aigeneration", "serve"], environment, LOG
        ) as running:
            await wait_ready(port, running)
            yield port, environment | {"PID": str(running.pid)}


def bench_settings(environment: dict[str, str]) -> Settings:
    """The settings which a process with this environment has."""
    names = {
        name.removeprefix("AIGEN_").lower(): value
        for name, value in environment.items()
        if "AIGEN" in name
    }
    return Settings(_env_file=None, **names)  # type: ignore[arg-type,call-arg]
