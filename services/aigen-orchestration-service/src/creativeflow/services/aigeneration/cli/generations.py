"""Commands for users, over the API of a running service."""

from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import typer

from creativeflow.services.aigeneration.cli.options import (
    DEFAULT_URL,
    CustomSize,
    Download,
    FileFormat,
    Format,
    Id,
    IdempotencyKey,
    Json,
    Key,
    Model,
    Prompt,
    QuoteId,
    Resolution,
    SampleNumber,
    SelectNumber,
    Style,
    Token,
    Tone,
    UpdatedPrompt,
    Url,
    User,
    Wait,
    WaitSeconds,
)
from creativeflow.services.aigeneration.cli.status_texts import COMPLETED, SAMPLES_READY

if TYPE_CHECKING:
    from creativeflow.clients.aigeneration import AsyncClient
    from creativeflow.services.aigeneration.cli.api_session import ApiSession

app = typer.Typer()
_PANEL = "For users, over the API of a running service"


@app.command(rich_help_panel=_PANEL)
def quote(
    prompt: Prompt,
    output_format: Format,
    size: CustomSize = None,
    style: Style = None,
    tone: Tone = None,
    model: Model = None,
    url: Url = DEFAULT_URL,
    key: Key = None,
    token: Token = None,
    user: User = None,
    as_json: Json = False,
) -> None:
    """Show the price of a generation without starting it."""
    session = _open_session(url, key, token, user, as_json=as_json)
    brief = _brief(size, style, tone, model)

    async def work(client: "AsyncClient") -> None:
        session.show_quote(await client.quote(prompt, output_format, **brief))

    session.run(work)


@app.command(rich_help_panel=_PANEL)
def create(
    prompt: Prompt,
    output_format: Format,
    size: CustomSize = None,
    style: Style = None,
    tone: Tone = None,
    model: Model = None,
    quote_id: QuoteId = None,
    idempotency_key: IdempotencyKey = None,
    wait: Wait = False,
    number: SelectNumber = None,
    resolution: Resolution = None,
    file_format: FileFormat = None,
    download: Download = None,
    wait_seconds: WaitSeconds = 600.0,
    url: Url = DEFAULT_URL,
    key: Key = None,
    token: Token = None,
    user: User = None,
    as_json: Json = False,
) -> None:
    """Start a generation and print its id; --wait, --select and --download follow it further."""
    _check_download(download, number)
    session = _open_session(url, key, token, user, as_json=as_json)
    brief = _brief(size, style, tone, model, quote_id)
    until = {SAMPLES_READY} if wait or number is not None else set()

    async def work(client: "AsyncClient") -> None:
        request_key = idempotency_key or str(uuid4())
        found = await session.create(client, prompt, output_format, request_key, brief)
        found = await session.follow(client, found, until, wait_seconds)
        if number is not None:
            choice = {"desired_resolution": resolution, "output_format": file_format}
            found = await session.select(client, found, number, download, **choice)
            found = await session.finish(client, found, download, wait_seconds, wait=wait)
        session.conclude(found)

    session.run(work)


@app.command(rich_help_panel=_PANEL)
def watch(
    generation: Id,
    download: Download = None,
    wait_seconds: WaitSeconds = 600.0,
    url: Url = DEFAULT_URL,
    key: Key = None,
    token: Token = None,
    user: User = None,
    as_json: Json = False,
) -> None:
    """Show progress until samples or the final are ready; --json prints every version."""
    session = _open_session(url, key, token, user, as_json=as_json)
    until = {COMPLETED} if download else {COMPLETED, SAMPLES_READY}

    async def work(client: "AsyncClient") -> None:
        found = await session.watch(client, str(generation), until, wait_seconds)
        await session.save_final(client, found, download)
        if found.status == SAMPLES_READY:
            session.show_samples(found)

    session.run(work)


@app.command(rich_help_panel=_PANEL)
def show(
    generation: Id,
    url: Url = DEFAULT_URL,
    key: Key = None,
    token: Token = None,
    user: User = None,
    as_json: Json = False,
) -> None:
    """Show status, pictures, cost and possible actions of a generation."""
    session = _open_session(url, key, token, user, as_json=as_json)

    async def work(client: "AsyncClient") -> None:
        session.show(await client.get(str(generation)))

    session.run(work)


@app.command(rich_help_panel=_PANEL)
def select(
    generation: Id,
    number: SampleNumber,
    resolution: Resolution = None,
    file_format: FileFormat = None,
    quote_id: QuoteId = None,
    wait: Wait = False,
    download: Download = None,
    wait_seconds: WaitSeconds = 600.0,
    url: Url = DEFAULT_URL,
    key: Key = None,
    token: Token = None,
    user: User = None,
    as_json: Json = False,
) -> None:
    """Select a sample and order the final."""
    session = _open_session(url, key, token, user, as_json=as_json)
    choice = {"desired_resolution": resolution, "output_format": file_format, "quote_id": quote_id}

    async def work(client: "AsyncClient") -> None:
        shown = await client.get(str(generation))
        found = await session.select(client, shown, number, download, **choice)
        session.conclude(await session.finish(client, found, download, wait_seconds, wait=wait))

    session.run(work)


@app.command(rich_help_panel=_PANEL)
def regenerate(
    generation: Id,
    prompt: UpdatedPrompt = None,
    wait: Wait = False,
    wait_seconds: WaitSeconds = 600.0,
    url: Url = DEFAULT_URL,
    key: Key = None,
    token: Token = None,
    user: User = None,
    as_json: Json = False,
) -> None:
    """Order another round of samples, at the price of samples."""
    session = _open_session(url, key, token, user, as_json=as_json)
    until = {SAMPLES_READY} if wait else set()

    async def work(client: "AsyncClient") -> None:
        found = await client.regenerate(str(generation), updated_prompt=prompt)
        session.conclude(await session.follow(client, found, until, wait_seconds))

    session.run(work)


@app.command(rich_help_panel=_PANEL)
def retry(
    generation: Id,
    prompt: UpdatedPrompt = None,
    wait: Wait = False,
    wait_seconds: WaitSeconds = 600.0,
    url: Url = DEFAULT_URL,
    key: Key = None,
    token: Token = None,
    user: User = None,
    as_json: Json = False,
) -> None:
    """Start a new generation in place of one that has failed, and print its id."""
    session = _open_session(url, key, token, user, as_json=as_json)
    until = {SAMPLES_READY} if wait else set()

    async def work(client: "AsyncClient") -> None:
        found = await client.retry(str(generation), updated_prompt=prompt)
        session.print_id(found)
        session.conclude(await session.follow(client, found, until, wait_seconds))

    session.run(work)


@app.command(rich_help_panel=_PANEL)
def cancel(
    generation: Id,
    url: Url = DEFAULT_URL,
    key: Key = None,
    token: Token = None,
    user: User = None,
    as_json: Json = False,
) -> None:
    """Cancel a generation and release its holds; no effect on one that has ended."""
    session = _open_session(url, key, token, user, as_json=as_json)

    async def work(client: "AsyncClient") -> None:
        session.conclude(await client.cancel(str(generation)))

    session.run(work)


def _open_session(
    url: str, key: str | None, token: str | None, user: str | None, *, as_json: bool
) -> "ApiSession":
    from creativeflow.services.aigeneration.cli.api_session import ApiSession

    return ApiSession(url=url, key=key, token=token, user=user, as_json=as_json)


def _check_download(download: Path | None, number: int | None) -> None:
    if download is not None and number is None:
        raise typer.BadParameter("Only a final can be downloaded; select a sample with --select.")


def _brief(
    size: str | None,
    style: str | None,
    tone: str | None,
    model: str | None,
    quote_id: str | None = None,
) -> dict[str, Any]:
    """Return the optional fields of a brief that are set."""
    width, _, height = (size or "").partition("x")
    fields: dict[str, Any] = {
        "style_guidance": style,
        "emotional_tone": tone,
        "model": model,
        "custom_dimensions": {"width": int(width), "height": int(height)} if size else None,
        "quote_id": quote_id,
    }
    return {name: value for name, value in fields.items() if value is not None}
