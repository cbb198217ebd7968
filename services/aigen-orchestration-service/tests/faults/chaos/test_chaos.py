"""A short storm: what `make chaos` does for thousands of lives, for some dozens."""

import asyncio
from pprint import pformat

import pytest
from rich.console import Console

from tests.faults.chaos.__main__ import failed, soak


@pytest.mark.timeout(240)
@pytest.mark.parametrize(("books", "seed"), [("local", 3), ("billing", 4)])
def test_in_a_storm_nothing_is_lost_doubled_or_charged_wrongly(books: str, seed: int) -> None:
    figures = asyncio.run(
        soak(count=84, at_once=20, processes=2, seed=seed, books=books, console=Console(quiet=True))
    )
    if failed(figures):
        pytest.fail(pformat(figures))  # whole: what was lost stands at its end
    assert sum(figures["storm"].values()) >= 3
