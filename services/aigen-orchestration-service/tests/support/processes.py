"""Processes of the service and of fake workers, for end-to-end tests and benchmarks."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

MODULE = "creativeflow.services.aigeneration"
ALL_ROLES = "api,dispatcher,results,relay,sweeper"
_START_SECONDS = 40


def service_environment(url: str, folder: Path, port: int, **more: str) -> dict[str, str]:
    """Return the environment of a serving process; `more` are AIGEN_ variables."""
    return {
        "AIGEN_DATABASE_URL": url,
        "AIGEN_DATA_DIR": str(folder),
        "AIGEN_PORT": str(port),
        "AIGEN_PUBLIC_URL": f"http://127.0.0.1:{port}",
        "AIGEN_LOG_FORMAT": "json",
        "AIGEN_LOG_LEVEL": "warning",
        "AIGEN_CALLBACK_SECRET": "test-secret-of-enough-length",
        "AIGEN_ROLES": ALL_ROLES,
        "AIGEN_RESULT_CHECK": "stored",
        **more,
    }


@contextmanager
def process(
    arguments: Sequence[str], environment: dict[str, str], log: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a Python process for the duration of the block; terminate it, then kill it."""
    with (log or Path(os.devnull)).open("ab") as output:
        running = subprocess.Popen(
            [sys.executable, *arguments], env=os.environ | environment, stdout=output, stderr=output
        )
    try:
        yield running
    finally:
        running.send_signal(signal.SIGTERM)
        try:
            running.wait(20)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


async def wait_ready(port: int, running: subprocess.Popen[bytes], path: str = "/ready") -> None:
    """Wait until the process is ready."""
    ends = time.monotonic() + _START_SECONDS
    async with httpx.AsyncClient() as client:
        while time.monotonic() < ends:
            if running.poll() is not None:
                raise RuntimeError(f"the process ended with {running.returncode} while starting")
            try:
                if (await client.get(f"http://127.0.0.1:{port}{path}")).is_success:
                    return
            except httpx.HTTPError:
                pass
            await asyncio.sleep(0.05)
    raise RuntimeError("the process does not answer")


def wait_ready_now(port: int, running: subprocess.Popen[bytes], path: str) -> None:
    """Wait until the process is ready, for synchronous fixtures."""
    asyncio.run(wait_ready(port, running, path))


def free_port() -> int:
    """Return an unused port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
