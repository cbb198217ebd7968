"""Make sure that PostgreSQL, RabbitMQ and Chromium are available to the tests, or say how to
install them.

`python -m tests.support.services` before the tests. PostgreSQL: AIGEN_TEST_DATABASE_URL, else a
server on 127.0.0.1:5432, else the embedded one. RabbitMQ: AIGEN_TEST_RABBITMQ_URL, else
127.0.0.1:5672, started or installed if possible. Chromium: AIGEN_TEST_CHROMIUM, else one of this
machine, else installed if possible.
"""

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import asyncpg
import pika

from creativeflow.services.aigeneration.storage.embedded import start_embedded

SYSTEM_POSTGRES = "postgresql://postgres@127.0.0.1:5432/postgres"
RABBITMQ = os.environ.get("AIGEN_TEST_RABBITMQ_URL", "amqp://guest:guest@127.0.0.1:5672/%2F")
_START_SECONDS = 60
_HOW = (
    "RabbitMQ is needed for the tests and is not on 127.0.0.1:5672. Install and start it "
    "(Debian, Ubuntu: apt-get install rabbitmq-server; macOS: brew install rabbitmq), "
    "or set AIGEN_TEST_RABBITMQ_URL=amqp://user:password@host/vhost."
)
_CHROMIUM_HOW = (
    "Chromium is needed for the tests of the pages. Install it (Debian: apt-get install chromium;"
    " elsewhere: python -m playwright install --with-deps chromium), or set"
    " AIGEN_TEST_CHROMIUM=/path/to/chromium."
)
_PGBOUNCER_HOW = (
    "PgBouncer is needed for the tests. Install it (Debian, Ubuntu: apt-get install pgbouncer;"
    " macOS: brew install pgbouncer)."
)
_CHROMIUM_NAMES = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
)


def database_admin_url() -> str:
    """Return the URL of a database on the server where tests create theirs."""
    if url := os.environ.get("AIGEN_TEST_DATABASE_URL"):
        return url
    if asyncio.run(_answers(SYSTEM_POSTGRES)):
        return SYSTEM_POSTGRES
    return start_embedded(Path(os.environ.get("TMPDIR", "/tmp")) / "aigen-test-postgres")  # noqa: S108 - tests only


def on_server(admin_url: str, name: str) -> str:
    """Return the URL of another database on the same server."""
    base, question, query = admin_url.partition("?")
    return f"{base.rpartition('/')[0]}/{name}{question}{query}"


async def _answers(url: str) -> bool:
    try:
        connection = await asyncpg.connect(url, timeout=3)
    except (OSError, asyncpg.PostgresError, TimeoutError):
        return False
    await connection.close()
    return True


def unique_names(prefix: str) -> dict[str, str]:
    """Return settings with unique names of exchanges and queues, so that runs do not share them."""
    parts = (
        "job_exchange",
        "topic_exchange",
        "dead_letter_exchange",
        "samples_queue",
        "final_queue",
        "results_queue",
        "dead_queue",
    )
    return {f"AIGEN_RABBITMQ_{part.upper()}": f"{prefix}.{part}" for part in parts}


def delete_names(names: dict[str, str], broker: str = RABBITMQ) -> None:
    """Delete these exchanges and queues; blocking."""
    connection = pika.BlockingConnection(pika.URLParameters(broker))
    channel = connection.channel()
    for setting, name in names.items():
        (channel.queue_delete if setting.endswith("QUEUE") else channel.exchange_delete)(name)
    connection.close()


def ensure_rabbitmq() -> None:
    """Start RabbitMQ, installing it if necessary and possible."""
    if os.environ.get("AIGEN_TEST_RABBITMQ_URL") or _listens():
        return
    if shutil.which("rabbitmq-server") is None and shutil.which("apt-get") and os.geteuid() == 0:
        _install("rabbitmq-server")
    if not _listens() and shutil.which("rabbitmq-server"):
        print("Starting rabbitmq-server ...", flush=True)  # noqa: T201 - a command line
        subprocess.run(["rabbitmq-server", "-detached"], check=False)
    ends = time.monotonic() + _START_SECONDS
    while not _listens():
        if time.monotonic() > ends:
            sys.exit(_HOW)
        time.sleep(0.5)


def chromium() -> str | None:
    """Return the Chromium of the tests; None if there is none yet."""
    named = os.environ.get("AIGEN_TEST_CHROMIUM")
    found = [named] if named else [path for name in _CHROMIUM_NAMES if (path := shutil.which(name))]
    fetched = Path(
        os.environ.get("PLAYWRIGHT_BROWSERS_PATH", Path.home() / ".cache" / "ms-playwright")
    )
    found += [str(path) for path in sorted(fetched.glob("chromium-*/chrome-*/chrome"))]
    return next((path for path in found if Path(path).exists()), None)


def ensure_chromium() -> str:
    """Find or install Chromium; return its path."""
    if chromium() is None and shutil.which("apt-get") and os.geteuid() == 0:
        _install("chromium")
    if chromium() is None:
        print("Fetching Chromium for the tests ...", flush=True)  # noqa: T201 - a command line
        subprocess.run([sys.executable, "-m", "playwright", "install", "chromium"], check=False)
    return chromium() or sys.exit(_CHROMIUM_HOW)


def ensure_pgbouncer() -> str:
    """Find or install PgBouncer; return its path."""
    places = f"{os.environ.get('PATH', '')}:/usr/sbin"
    if shutil.which("pgbouncer", path=places) is None and shutil.which("apt-get"):
        _install("pgbouncer")
    return shutil.which("pgbouncer", path=places) or sys.exit(_PGBOUNCER_HOW)


def _install(package: str) -> None:
    """Install a Debian package as root; its output is shown only on failure."""
    print(f"Installing {package} ...", flush=True)  # noqa: T201 - a command line
    quietly = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in (["apt-get", "update"], ["apt-get", "install", "-y", package]):
        done = subprocess.run(command, check=False, env=quietly, capture_output=True, text=True)
        if done.returncode:
            print(f"{' '.join(command)}:\n{(done.stdout + done.stderr)[-2000:]}", flush=True)  # noqa: T201


def _listens() -> bool:
    try:
        with socket.create_connection(("127.0.0.1", 5672), timeout=2):
            return True
    except OSError:
        return False


if __name__ == "__main__":
    ensure_rabbitmq()
    print(  # noqa: T201 - a command line
        f"PostgreSQL: {database_admin_url().rpartition('@')[2]} · RabbitMQ:"
        f" {RABBITMQ.rpartition('@')[2]} · Chromium: {ensure_chromium()}"
        f" · PgBouncer: {ensure_pgbouncer()}"
    )
