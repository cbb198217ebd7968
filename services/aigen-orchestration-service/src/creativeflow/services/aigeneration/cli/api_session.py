"""A command's call to a running service: who calls, how it goes on, and what a person is told when
it fails.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from creativeflow.clients.aigeneration import (
    AsyncClient,
    Generation,
    GenerationEndedError,
    GenerationServiceError,
    NoAnswerError,
    ProblemError,
    Retries,
    WaitedTooLongError,
)
from creativeflow.services.aigeneration.cli.progress import follow

REFUSED, NOT_NOW, ENDED, STILL_GOING, INTERRUPTED = 1, 3, 4, 5, 130

_WHO = "Put the API key of a service into AIGEN_API_KEY, or a user's token into AIGEN_TOKEN."
NEXT = {
    "authentication_required": _WHO,
    "invalid_credentials": _WHO,
    "token_expired": "Put a new token into AIGEN_TOKEN.",
    "invalid_request": "Correct it and ask again.",
    "insufficient_credits": "`aigen quote` says what everything costs; an operator gives credits.",
    "not_found": "Check the id, and with --user for whom you ask.",
    "invalid_state": "`aigen show` with its id says how it stands and what can be done.",
    "already_selected": "`aigen watch` with its id follows what was picked.",
    "quote_expired": "`aigen quote` makes one.",
}
"""What to do next at a terminal, by the code of a problem."""
_TITLE_ONLY = {"authentication_required", "invalid_request", "invalid_state"}
"""Their sentences speak of headers and fields, which nobody sees at a terminal."""
_OPTIONS = {
    "/input_prompt": "PROMPT",
    "/updated_prompt": "--prompt",
    "/output_format": "--format",
    "/user_id": "--user",
    "/custom_dimensions": "--size",
    "/style_guidance": "--style",
    "/emotional_tone": "--tone",
    "/model": "--model",
    "/desired_resolution": "--resolution",
    "/quote_id": "--quote",
    "/header/X-User-ID": "--user",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CliFailure:
    """A failure as it is told: what happened, what to do next, and the exit code."""

    code: str
    sentence: str
    next: str
    exits: int


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ApiSession:
    """Who calls which service, and whether a program reads what comes back."""

    url: str
    key: str | None
    token: str | None
    user: str | None
    as_json: bool

    @property
    def progress(self) -> Console:
        """Where people read: standard error, so that standard output can be kept; nowhere when a
        program reads.
        """
        return Console(stderr=True, quiet=self.as_json)

    def say(self, sentence: str) -> None:
        """A sentence for a person."""
        self.progress.print(sentence, markup=False, highlight=False, soft_wrap=True)

    def run(self, work: Callable[[AsyncClient], Awaitable[None]]) -> None:
        """Do the work with a client; every failure becomes sentences and an exit code."""

        async def calling() -> None:
            async with AsyncClient(
                self.url,
                api_key=self.key,
                token=self.token,
                user_id=self.user,
                retries=Retries(tries=4),
            ) as client:
                await work(client)

        try:
            asyncio.run(calling())
        except GenerationServiceError as error:
            self._fail(describe_failure(error, self.url), getattr(error, "generation", None))
        except OSError as error:
            further = (
                "Whatever was asked for goes on; `aigen watch` with its id and --download"
                " fetches it."
            )
            self._fail(
                CliFailure(
                    code="file_not_written", sentence=str(error), next=further, exits=REFUSED
                ),
                None,
            )
        except KeyboardInterrupt:
            self.say(
                "Stopped watching; what was asked for goes on. `aigen watch` with its id takes it"
                " up again."
            )
            raise typer.Exit(INTERRUPTED) from None

    async def follow(
        self,
        client: AsyncClient,
        generation_id: str,
        until: Collection[str],
        seconds: float,
        *,
        every: bool = False,
    ) -> Generation:
        """Follow it until one of these states; `every` version is written where a program reads."""

        def write(found: Generation) -> None:
            if every and self.as_json:
                self.write(found.raw)

        return await follow(
            client, generation_id, self.progress, until=until, seconds=seconds, on_change=write
        )

    def write(self, said: Mapping[str, Any]) -> None:
        """What the service tells, on one line."""
        sys.stdout.write(json.dumps(said, ensure_ascii=False) + "\n")
        sys.stdout.flush()

    async def keep(self, client: AsyncClient, done: Generation, download: Path | None) -> None:
        """Write the final into a file, or say where it lies."""
        if done.final is None:
            return
        if download is not None:
            picture = await client.download(done.final)
            await asyncio.to_thread(download.write_bytes, picture)
        where = done.final.url if download is None else download
        self.say(f"The final: {done.final.resolution} {done.final.format}, {where}")
        self.say(f"Charged: {done.cost} credits")

    def offer(self, shown: Generation) -> None:
        """The samples to pick from, and how."""
        for number, sample in enumerate(shown.samples, start=1):
            self.say(f"  sample {number}  {sample.resolution:>9}  {sample.url}")
        self.say(
            f"`aigen select {shown.id} 1 --download final.png` picks the first and orders the"
            " final."
        )

    def _fail(self, failure: CliFailure, generation: Generation | None) -> None:
        if self.as_json:
            named = {"id": generation.id, "status": generation.status} if generation else {}
            said: dict[str, Any] = {
                "code": failure.code,
                "message": failure.sentence,
                "next": failure.next,
            }
            sys.stderr.write(json.dumps(said | named, ensure_ascii=False) + "\n")
        else:
            console = Console(stderr=True)
            console.print(
                failure.sentence, style="bold red", markup=False, highlight=False, soft_wrap=True
            )
            if failure.next:
                console.print(failure.next, markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(failure.exits)


def describe_failure(error: GenerationServiceError, url: str) -> CliFailure:
    """What a person is told of a failure."""
    match error:
        case ProblemError():
            passing = "Try again in a moment." if error.retryable else ""
            title_only = error.code in _TITLE_ONLY and error.title
            lines = [f"{error.title}." if title_only else str(error), *map(_fault, error.errors)]
            exits = NOT_NOW if error.retryable else REFUSED
            return CliFailure(
                code=error.code,
                sentence="\n".join(lines),
                next=NEXT.get(error.code, passing),
                exits=exits,
            )
        case GenerationEndedError(generation=ended):
            again = f"`aigen retry {ended.id}` asks again; with --prompt in other words."
            further = (
                again if "retry" in ended.actions else f"`aigen show {ended.id}` says how it ended."
            )
            return CliFailure(
                code=ended.failure_code or ended.status,
                sentence=str(error),
                next=further,
                exits=ENDED,
            )
        case WaitedTooLongError(generation=going):
            further = f"It goes on; `aigen watch {going.id}` takes it up again."
            return CliFailure(
                code="still_going", sentence=str(error), next=further, exits=STILL_GOING
            )
        case NoAnswerError():
            further = "Start it with `aigen serve`, or say where it is with --url or AIGEN_URL."
            return CliFailure(
                code="no_answer", sentence=f"{error} ({url})", next=further, exits=NOT_NOW
            )
        case _:
            raise error


def _fault(fault: dict[str, str]) -> str:
    pointer = fault.get("pointer", "")
    place = next(
        (option for start, option in _OPTIONS.items() if pointer.startswith(start)),
        pointer or "the call",
    )
    message = (
        "Name the user for whom it is."
        if place == "--user"
        else fault.get("message", "does not fit")
    )
    return f"  {place}: {message}"
