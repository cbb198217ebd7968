"""Calls of a command to a running service: credentials, progress, output and exit codes."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from creativeflow.clients.aigeneration import (
    ApiConnectionError,
    AsyncClient,
    Generation,
    GenerationEndedError,
    GenerationServiceError,
    ProblemError,
    Quote,
    Retries,
    WaitTimeoutError,
)
from creativeflow.services.aigeneration.cli.progress import follow
from creativeflow.services.aigeneration.cli.status_texts import (
    COMPLETED,
    SAMPLES_READY,
    status_text,
)

REFUSED, NOT_NOW, ENDED, STILL_RUNNING, INTERRUPTED = 1, 3, 4, 5, 130

_CREDENTIALS = "Set AIGEN_API_KEY to the API key of a service, or AIGEN_TOKEN to a user's token."
NEXT_STEPS = {
    "authentication_required": _CREDENTIALS,
    "invalid_credentials": _CREDENTIALS,
    "token_expired": "Set AIGEN_TOKEN to a new token.",
    "invalid_request": "Correct it and repeat the command.",
    "insufficient_credits": "`aigen quote` shows every price; an operator grants credits.",
    "not_found": "Check the id, and the user of --user.",
    "invalid_state": "`aigen show` with its id shows its status and the possible actions.",
    "already_selected": "`aigen watch` with its id follows the selected sample.",
    "quote_expired": "`aigen quote` makes a new one.",
}
"""The next step at a terminal, by the code of a problem."""
_TITLE_ONLY = {"authentication_required", "invalid_request", "invalid_state"}
"""Problems whose text names headers and fields that the command line does not have."""
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
_FILE_FORMATS = {"png": "png", "jpg": "jpg", "jpeg": "jpg", "webp": "webp"}


@dataclass(frozen=True, slots=True, kw_only=True)
class CliFailure:
    """A failure as shown: the message, the next step, and the exit code."""

    code: str
    message: str
    next_step: str
    exit_code: int


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ApiSession:
    """The calls and the output of one command; `as_json` is for programs that read the output."""

    url: str
    key: str | None
    token: str | None
    user: str | None
    as_json: bool

    @property
    def console(self) -> Console:
        """The console for messages: standard error, so that standard output contains results only.
        Quiet with `as_json`.
        """
        return Console(stderr=True, quiet=self.as_json)

    def run(self, work: Callable[[AsyncClient], Awaitable[None]]) -> None:
        """Run `work` with a client; show a failure and exit with its code."""
        try:
            asyncio.run(self._call(work))
        except GenerationServiceError as error:
            self._fail(describe_failure(error, self.url), getattr(error, "generation", None))
        except OSError as error:
            self._fail(
                CliFailure(
                    code="file_not_written",
                    message=str(error),
                    next_step="The generation continues; `aigen watch` with its id and --download"
                    " fetches the final.",
                    exit_code=REFUSED,
                )
            )
        except KeyboardInterrupt:
            self.print_line(
                "Stopped watching; the generation continues. `aigen watch` with its id follows it."
            )
            raise typer.Exit(INTERRUPTED) from None

    async def create(
        self,
        client: AsyncClient,
        prompt: str,
        output_format: str,
        idempotency_key: str,
        brief: Mapping[str, Any],
    ) -> Generation:
        """Start a generation and print its id; without an answer, the error names the key."""
        try:
            found = await client.create(
                prompt, output_format, idempotency_key=idempotency_key, **brief
            )
        except ApiConnectionError as error:
            raise ApiConnectionError(
                f"{error} Repeat the command with --idempotency-key {idempotency_key}: at most one"
                " generation is started."
            ) from error
        self.print_id(found)
        return found

    async def select(
        self,
        client: AsyncClient,
        shown: Generation,
        number: int,
        download: Path | None,
        **choice: Any,
    ) -> Generation:
        """Select the sample of this number.

        Raises:
            typer.BadParameter: there are fewer samples; nothing is ordered.
        """
        if shown.samples and number > len(shown.samples):
            raise typer.BadParameter(
                f"There are {len(shown.samples)} samples of {shown.id}; select one of them."
            )
        sample = shown.samples[number - 1] if shown.samples else "none"
        if download and not choice.get("output_format"):
            choice["output_format"] = _FILE_FORMATS.get(download.suffix.removeprefix(".").lower())
        return await client.select_sample(shown.id, sample, **choice)

    async def finish(
        self,
        client: AsyncClient,
        found: Generation,
        download: Path | None,
        seconds: float,
        *,
        wait: bool,
    ) -> Generation:
        """Wait for the final if the command waits or downloads, and save it."""
        if wait or download is not None:
            found = await self.follow(client, found, {COMPLETED}, seconds)
            await self.save_final(client, found, download)
        return found

    async def follow(
        self, client: AsyncClient, found: Generation, until: Collection[str], seconds: float
    ) -> Generation:
        """Show progress until one of these states; do nothing without any."""
        if not until:
            return found
        return await follow(client, found.id, self.console, until=until, seconds=seconds)

    async def watch(
        self, client: AsyncClient, generation_id: str, until: Collection[str], seconds: float
    ) -> Generation:
        """Show progress until one of these states; with `as_json`, print every version."""
        return await follow(
            client,
            generation_id,
            self.console,
            until=until,
            seconds=seconds,
            on_change=self._print_version,
        )

    async def save_final(
        self, client: AsyncClient, done: Generation, download: Path | None
    ) -> None:
        """Write the final to a file, or show its URL."""
        if done.final_asset is None:
            return
        if download is not None:
            picture = await client.download(done.final_asset)
            await asyncio.to_thread(download.write_bytes, picture)
        place = done.final_asset.url if download is None else download
        self.print_line(
            f"The final: {done.final_asset.resolution} {done.final_asset.format}, {place}"
        )
        self.print_line(f"Charged: {done.cost.total} credits")

    def print_line(self, sentence: str) -> None:
        """Print a message."""
        self.console.print(sentence, markup=False, highlight=False, soft_wrap=True)

    def print_json(self, document: Mapping[str, Any]) -> None:
        """Print a document of the service on one line of standard output."""
        sys.stdout.write(json.dumps(document, ensure_ascii=False) + "\n")
        sys.stdout.flush()

    def print_id(self, found: Generation) -> None:
        """Print the id on standard output, except with `as_json`."""
        if not self.as_json:
            typer.echo(found.id)

    def show_quote(self, quote: Quote) -> None:
        """Print the price of each part."""
        if self.as_json:
            self.print_json(quote.raw)
            return
        table = Table("for", "size", "model", "credits", "paid by")
        for item in quote.items:
            size = item.resolution or ""
            table.add_row(item.stage, size, item.model, str(item.credits), item.paid_by)
        Console().print(table)
        balance = "" if quote.balance is None else f"; the balance is {quote.balance}"
        self.print_line(
            f"{quote.total} credits for samples and the final in its own size{balance}."
        )

    def show(self, found: Generation) -> None:
        """Print the fields of a generation, one a line."""
        if self.as_json:
            self.print_json(found.raw)
            return
        for name, value in describe_generation(found):
            typer.echo(f"{name:<12}  {value}")

    def show_samples(self, found: Generation) -> None:
        """Print the samples and the command that selects one."""
        for number, sample in enumerate(found.samples, start=1):
            self.print_line(f"  sample {number}  {sample.resolution:>9}  {sample.url}")
        self.print_line(
            f"`aigen select {found.id} 1 --download final.png` selects the first and orders the"
            " final."
        )

    def conclude(self, found: Generation) -> None:
        """Print the result of a command: the document, or the status and the next step."""
        if self.as_json:
            self.print_json(found.raw)
        elif found.status == SAMPLES_READY:
            self.show_samples(found)
        elif not found.ended:
            follows = f"`aigen watch {found.id}` follows it."
            self.print_line(f"Status: {status_text(found.status)}. {follows}")
        elif found.status != COMPLETED:
            self.print_line(f"Status: {status_text(found.status)}.")

    async def _call(self, work: Callable[[AsyncClient], Awaitable[None]]) -> None:
        async with AsyncClient(
            self.url,
            api_key=self.key,
            token=self.token,
            user_id=self.user,
            retries=Retries(max_attempts=4),
        ) as client:
            await work(client)

    def _print_version(self, found: Generation) -> None:
        if self.as_json:
            self.print_json(found.raw)

    def _fail(self, failure: CliFailure, generation: Generation | None = None) -> None:
        if self.as_json:
            known = {"id": generation.id, "status": generation.status} if generation else {}
            document: dict[str, Any] = {
                "code": failure.code,
                "message": failure.message,
                "next": failure.next_step,
            }
            sys.stderr.write(json.dumps(document | known, ensure_ascii=False) + "\n")
        else:
            console = Console(stderr=True)
            plain: dict[str, Any] = {"markup": False, "highlight": False, "soft_wrap": True}
            console.print(failure.message, style="bold red", **plain)
            if failure.next_step:
                console.print(failure.next_step, **plain)
        raise typer.Exit(failure.exit_code)


def describe_failure(error: GenerationServiceError, url: str) -> CliFailure:
    """Return message, next step and exit code of a failure."""
    match error:
        case ProblemError():
            return _describe_problem(error)
        case GenerationEndedError(generation=ended):
            retry = f"`aigen retry {ended.id}` starts a new one; --prompt changes the prompt."
            show = f"`aigen show {ended.id}` shows how it ended."
            return CliFailure(
                code=ended.failure.code if ended.failure else ended.status,
                message=str(error),
                next_step=retry if "retry" in ended.actions else show,
                exit_code=ENDED,
            )
        case WaitTimeoutError(generation=running):
            return CliFailure(
                code="still_running",
                message=str(error),
                next_step=f"The generation continues; `aigen watch {running.id}` follows it.",
                exit_code=STILL_RUNNING,
            )
        case ApiConnectionError():
            return CliFailure(
                code="no_answer",
                message=f"{error} ({url})",
                next_step="Start the service with `aigen serve`, or set --url or AIGEN_URL.",
                exit_code=NOT_NOW,
            )
    raise error


def describe_generation(found: Generation) -> list[tuple[str, str]]:
    """Return the fields of a generation with their values."""
    lines = [
        ("status", f"{found.status}: {status_text(found.status)}"),
        ("prompt", found.brief["input_prompt"]),
        ("format", found.brief["output_format"]),
        ("cost", f"{found.cost.total} credits, {found.cost.held} of them held"),
        ("actions", ", ".join(found.actions) or "none"),
    ]
    lines += [("failure", found.failure.message)] if found.failure else []
    lines += [
        (f"sample {number}", f"{sample.resolution}  {sample.url}")
        for number, sample in enumerate(found.samples, 1)
    ]
    final = found.final_asset
    return lines + ([("final", f"{final.resolution} {final.format}  {final.url}")] if final else [])


def _describe_problem(error: ProblemError) -> CliFailure:
    passing = "Repeat the command in a moment." if error.retryable else ""
    title_only = error.code in _TITLE_ONLY and error.title
    lines = [f"{error.title}." if title_only else str(error), *map(_describe_field, error.errors)]
    return CliFailure(
        code=error.code,
        message="\n".join(lines),
        next_step=NEXT_STEPS.get(error.code, passing),
        exit_code=NOT_NOW if error.retryable else REFUSED,
    )


def _describe_field(field: dict[str, str]) -> str:
    pointer = field.get("pointer", "")
    option = next(
        (option for start, option in _OPTIONS.items() if pointer.startswith(start)),
        pointer or "the call",
    )
    message = field.get("message", "is not valid")
    return f"  {option}: {'Name the user to act for.' if option == '--user' else message}"
