"""Fixtures of the contract tests: fake Odoo processes of both generations."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import fake_odoo
from tests.support.fake_odoo import StandIn
from tests.support.processes import free_port, process, wait_ready

pytest.register_assert_rewrite("credits_suite")


def _running(generation: int) -> Iterator[StandIn]:
    port = free_port()
    with process([str(Path(fake_odoo.__file__)), str(port), str(generation)], {}) as running:
        asyncio.run(wait_ready(port, running, "/web/health"))
        yield StandIn(port)


@pytest.fixture(scope="session")
def odoo_18() -> Iterator[StandIn]:
    """A fake Odoo with JSON-RPC."""
    yield from _running(18)


@pytest.fixture(scope="session")
def odoo_19() -> Iterator[StandIn]:
    """A fake Odoo with JSON-2 and JSON-RPC."""
    yield from _running(19)
