"""Show the progress of a generation on a terminal."""

import asyncio
from collections.abc import Callable, Collection
from contextlib import aclosing
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from creativeflow.clients.aigeneration import (
    AsyncClient,
    Generation,
    GenerationEndedError,
    WaitTimeoutError,
)
from creativeflow.services.aigeneration.cli.status_texts import status_text


async def follow(
    client: AsyncClient,
    generation_id: str,
    console: Console,
    *,
    until: Collection[str],
    seconds: float,
    on_change: Callable[[Generation], None] | None = None,
) -> Generation:
    """Show every step until one of the states `until`; call `on_change` with every version.

    Raises:
        GenerationEndedError: it has ended in another state. WaitTimeoutError: it is still running
        after `seconds`.
    """
    found: Generation | None = None
    try:
        async with asyncio.timeout(seconds), aclosing(client.stream(generation_id)) as versions:
            with _Steps(console) as steps:
                async for found in versions:
                    if on_change is not None:
                        on_change(found)
                    steps.show(found, reached=found.status in until)
                    if found.status in until:
                        return found
    except TimeoutError:
        raise WaitTimeoutError(found or await client.get(generation_id)) from None
    raise GenerationEndedError(found or await client.get(generation_id))


class _Steps:
    """A progress bar on a terminal, and a line for every new step."""

    def __init__(self, console: Console) -> None:
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
        )
        self._bar = Progress(
            *columns, console=console, transient=True, disable=not console.is_terminal
        )
        self._task = self._bar.add_task("waiting", total=100)
        self._last_text = ""

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, found: Generation, *, reached: bool) -> None:
        words = status_text(found.status)
        percent = found.progress.percent if found.progress else None
        self._bar.update(self._task, description=words, completed=percent or 0)
        if words != self._last_text:
            self._bar.console.print(f"[green]✓[/] {words}" if reached else f"[dim]·[/] {words}")
            self._last_text = words
