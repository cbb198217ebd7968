"""The entry point of the command line stays cheap: commands import what they need."""

import json
import os
import resource
import subprocess
import sys
from typing import get_args

import pytest
from typer.main import get_command

from creativeflow.services.aigeneration.cli import main
from creativeflow.services.aigeneration.cli.fake_worker import _HANDLERS
from creativeflow.services.aigeneration.cli.options import BEHAVIOURS, Behaviour
from creativeflow.services.aigeneration.settings import ROLES

HEAVY = {
    "PIL",
    "alembic",
    "asyncpg",
    "fastapi",
    "httpx",
    "pika",
    "pydantic",
    "sqlalchemy",
    "structlog",
    "uvicorn",
}
CPU_SECONDS_MAX = 0.6
"""Twice the time of a slow machine; importing the server takes several seconds there."""
MODULE = "creativeflow.services.aigeneration"


def test_entry_imported_loads_no_server_module() -> None:
    code = f"import json, sys, {MODULE}.cli.main; print(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(json.loads(done.stdout)) & HEAVY == set()


@pytest.mark.parametrize("arguments", [["version"], ["--help"]])
def test_entry_without_a_service_takes_little_cpu(arguments: list[str]) -> None:
    spent = min(_cpu_seconds(arguments) for _ in range(2))
    assert spent < CPU_SECONDS_MAX


def test_serve_help_names_every_role() -> None:
    command = get_command(main.app).commands["serve"]  # type: ignore[attr-defined]
    described = next(option.help for option in command.params if option.name == "roles")
    assert ", ".join(ROLES) in described


def test_worker_behaviours_all_have_an_answer() -> None:
    assert set(get_args(Behaviour)) == {"mixed", *BEHAVIOURS}
    assert set(BEHAVIOURS) - {"crashes", "never"} == set(_HANDLERS)


def _cpu_seconds(arguments: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-m", MODULE, *arguments], check=True, env=os.environ, capture_output=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime)
