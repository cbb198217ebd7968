"""An n8n with its own database, directory and process; workflows are imported and published
automatically.
"""

import asyncio
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import httpx

from tests.e2e_n8n.tools import Tools
from tests.e2e_n8n.workflows import Workflow
from tests.support.processes import free_port

_START_SECONDS = 180
_STOP_SECONDS = 60
_OWNER = {
    "email": "e2e@aigen.example",
    "firstName": "E",
    "lastName": "E",
    "password": "Only-For-This-Run-1",
}


class N8n:
    """An n8n; `running` is its process, if any."""

    def __init__(self, tools: Tools, database_url: str, folder: Path) -> None:
        self._tools = tools
        self._database_url = database_url
        self.folder = folder
        self.port = free_port()
        self.log = folder / "n8n.log"
        self.running: subprocess.Popen[bytes] | None = None
        self._client: httpx.AsyncClient | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def environment(self) -> dict[str, str]:
        """Return n8n's environment variables, explained in docs/n8n.md."""
        return {
            **os.environ,
            **self._tools.environment(),
            **_database(self._database_url),
            "N8N_USER_FOLDER": str(self.folder),
            "N8N_PORT": str(self.port),
            "N8N_LISTEN_ADDRESS": "127.0.0.1",
            "N8N_HOST": "127.0.0.1",
            "N8N_SECURE_COOKIE": "false",
            "N8N_USE_WORKFLOW_PUBLICATION_SERVICE": "false",
            "NODE_FUNCTION_ALLOW_BUILTIN": "zlib",
            "N8N_RUNNERS_BROKER_PORT": str(free_port()),
            "N8N_DIAGNOSTICS_ENABLED": "false",
            "N8N_VERSION_NOTIFICATIONS_ENABLED": "false",
            "N8N_TEMPLATES_ENABLED": "false",
            "N8N_PERSONALIZATION_ENABLED": "false",
            "N8N_HIRING_BANNER_ENABLED": "false",
            "EXECUTIONS_DATA_PRUNE": "true",
            "DB_POSTGRESDB_POOL_SIZE": "10",
            "N8N_LOG_LEVEL": "info",
        }

    def command(self, *words: str) -> None:
        """Run n8n's command line.

        Raises:
            RuntimeError: it failed; the message has its last lines.
        """
        done = subprocess.run(
            [self._tools.n8n, *words],
            env=self.environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        said = done.stdout + done.stderr
        with self.log.open("a", encoding="utf-8") as log:
            log.write(said)
        lines = said.strip().splitlines()
        if done.returncode or any(line.startswith(("Error", "An error")) for line in lines):
            raise RuntimeError(f"n8n {' '.join(words)}: {' | '.join(lines[-5:])}")

    def set_up(self, workflows: Path, ids: list[str], credentials: list[dict[str, Any]]) -> None:
        """Import credentials and workflows and publish them; takes about five seconds each."""
        secrets = self.folder / "credentials.json"
        secrets.touch(mode=0o600)
        secrets.write_text(json.dumps(credentials), "utf-8")
        self.command("import:credentials", f"--input={secrets}")
        secrets.unlink()
        self.command("import:workflow", "--separate", f"--input={workflows}")
        for each in ids:
            self.command("publish:workflow", f"--id={each}")

    async def start(self, listening: Callable[[], bool]) -> float:
        """Start it and wait until its triggers listen; return the seconds."""
        began = time.monotonic()
        self._spawn()
        assert self.running is not None
        while time.monotonic() < began + _START_SECONDS:
            if self.running.poll() is not None:
                raise RuntimeError(
                    f"n8n ended with {self.running.returncode} while starting; see {self.log}"
                )
            if await asyncio.to_thread(listening):
                return time.monotonic() - began
            await asyncio.sleep(0.5)
        raise RuntimeError(f"n8n's triggers do not listen after {_START_SECONDS} s; see {self.log}")

    def _spawn(self) -> None:
        """Start it in its own session, so that its task runner can be killed with it."""
        with self.log.open("ab") as log:
            self.running = subprocess.Popen(
                [self._tools.n8n, "start"],
                env=self.environment(),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self) -> None:
        """SIGKILL it with its task runner, like a crash of the machine."""
        if self.running:
            os.killpg(self.running.pid, signal.SIGKILL)
            self.running.wait()
            self.running = None

    def stop(self) -> None:
        """Terminate it; takes up to half a minute."""
        if self.running is None:
            return
        self.running.send_signal(signal.SIGTERM)
        try:
            self.running.wait(_STOP_SECONDS)
            self.running = None
        except subprocess.TimeoutExpired:
            self.kill()

    async def change(self, workflow_id: str, change: Callable[[Workflow], Workflow]) -> None:
        """Save and publish a changed workflow in the running n8n, as the editor does."""
        client = await self._editor()
        path = f"/rest/workflows/{workflow_id}"
        found = (await client.get(path)).raise_for_status().json()["data"]
        changed = change(found)
        sent = {key: changed[key] for key in ("name", "nodes", "connections", "settings")}
        saved = (await client.patch(path, json=sent)).raise_for_status().json()["data"]
        (
            await client.post(f"{path}/activate", json={"versionId": saved["versionId"]})
        ).raise_for_status()

    async def executions(self, status: str) -> int:
        """Return the number of stored executions with this status."""
        client = await self._editor()
        answer = await client.get(
            "/rest/executions", params={"filter": json.dumps({"status": [status]}), "limit": 1}
        )
        return int(answer.raise_for_status().json()["data"]["count"])

    async def _editor(self) -> httpx.AsyncClient:
        """Return a session of the owner, who is created the first time."""
        if self._client is None:
            client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", timeout=60)
            settled = await client.post("/rest/owner/setup", json=_OWNER)
            if not settled.is_success:
                login = {"emailOrLdapLoginId": _OWNER["email"], "password": _OWNER["password"]}
                (await client.post("/rest/login", json=login)).raise_for_status()
            self._client = client
        return self._client

    async def close(self) -> None:
        """End it, and close its connections."""
        if self._client:
            await self._client.aclose()
        await asyncio.to_thread(self.stop)


def _database(url: str) -> Mapping[str, str]:
    """Return a PostgreSQL URL as n8n's variables; a socket directory counts as host."""
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    return {
        "DB_TYPE": "postgresdb",
        "DB_POSTGRESDB_HOST": parts.hostname or query.get("host", ["127.0.0.1"])[0],
        "DB_POSTGRESDB_PORT": str(parts.port or 5432),
        "DB_POSTGRESDB_DATABASE": parts.path[1:],
        "DB_POSTGRESDB_USER": unquote(parts.username or "postgres"),
        "DB_POSTGRESDB_PASSWORD": unquote(parts.password or ""),
    }
