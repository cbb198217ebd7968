"""A short chaos run: some dozens of the scenarios of `make chaos`."""

import asyncio
from pprint import pformat

import pytest
from rich.console import Console

from tests.faults.chaos.__main__ import failed, soak


@pytest.mark.timeout(240)
@pytest.mark.parametrize(("credit_service", "seed"), [("local", 3), ("billing", 4)])
def test_chaos_run_loses_doubles_and_mischarges_nothing(credit_service: str, seed: int) -> None:
    figures = asyncio.run(
        soak(
            count=84,
            at_once=20,
            processes=2,
            seed=seed,
            credit_service=credit_service,
            console=Console(quiet=True),
        )
    )
    if failed(figures):
        pytest.fail(pformat(figures))  # complete: the lost requests are at its end
    assert sum(figures["faults"].values()) >= 3
