"""Arguments and options of the commands, validated before the first call."""

import re
from pathlib import Path
from typing import Annotated, Literal, get_args
from uuid import UUID

import typer

DEFAULT_URL = "http://127.0.0.1:8000"
Behaviour = Literal[
    "mixed",
    "well",
    "partially",
    "late",
    "twice",
    "out_of_order",
    "garbled",
    "wrong_size",
    "for_the_wrong_job",
    "fails",
    "rejects",
    "crashes",
    "never",
]
"""How the fake worker responds. `late`: only after the job's deadline. `crashes`: it returns the
job unread until the broker dead-letters it. `mixed`: a random one for each job.
"""
BEHAVIOURS = tuple(name for name in get_args(Behaviour) if name != "mixed")


def _validate_url(url: str) -> str:
    import httpx

    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        parsed = httpx.URL()
    if parsed.scheme not in {"http", "https"} or not parsed.host or parsed.userinfo:
        raise typer.BadParameter(f"Give the URL of a service, such as {DEFAULT_URL}.")
    return url


def _validate_header(text: str | None) -> str | None:
    if text is not None and not (text.isascii() and text.isprintable()):
        raise typer.BadParameter("Only visible ASCII characters are allowed.")
    return text


def _validate_file(path: Path | None) -> Path | None:
    try:
        valid = path is None or (not path.is_dir() and path.absolute().parent.is_dir())
    except OSError:
        valid = False
    if not valid:
        raise typer.BadParameter("Name a file in a folder that exists.")
    return path


def _validate_size(text: str | None) -> str | None:
    if text is not None and not re.fullmatch(r"[1-9]\d{0,4}x[1-9]\d{0,4}", text):
        raise typer.BadParameter("A size is width and height in pixels, such as 800x600.")
    return text


Url = Annotated[
    str,
    typer.Option("--url", envvar="AIGEN_URL", callback=_validate_url, help="URL of the service."),
]
Key = Annotated[
    str | None,
    typer.Option(
        "--key",
        envvar="AIGEN_API_KEY",
        callback=_validate_header,
        help="API key of a service or an operator. Prefer the variable: other users of the machine"
        " can read the command line.",
    ),
]
Token = Annotated[
    str | None,
    typer.Option(
        "--token",
        envvar="AIGEN_TOKEN",
        callback=_validate_header,
        help="Token of an end user. Prefer the variable.",
    ),
]
User = Annotated[
    str | None, typer.Option("--user", callback=_validate_header, help="Act for this user.")
]
Json = Annotated[
    bool, typer.Option("--json", help="Write JSON to standard output, and no progress.")
]
Id = Annotated[UUID, typer.Argument(help="Id of the generation.", show_default=False)]
Format = Annotated[
    str,
    typer.Option("--format", help="Output format, such as InstagramPost_1x1; Custom needs --size."),
]
CustomSize = Annotated[
    str | None,
    typer.Option("--size", callback=_validate_size, help="Size of the format Custom: 800x600."),
]
Style = Annotated[str | None, typer.Option("--style", help="Style guidance for the picture.")]
Tone = Annotated[str | None, typer.Option("--tone", help="Emotional tone of the picture.")]
Model = Annotated[
    str | None, typer.Option("--model", help="A model, or one of quality, cost and fastest.")
]
QuoteId = Annotated[
    str | None, typer.Option("--quote", help="Id of a quote, whose prices are then binding.")
]
Wait = Annotated[
    bool, typer.Option("--wait", help="Show progress until samples or the final are ready.")
]
WaitSeconds = Annotated[
    float,
    typer.Option(
        "--wait-seconds",
        min=1,
        help="Stop watching after this many seconds; the generation continues.",
    ),
]
Download = Annotated[
    Path | None,
    typer.Option(
        "--download",
        callback=_validate_file,
        help="Wait for the final and write it to this file.",
        dir_okay=False,
    ),
]
Resolution = Annotated[
    str | None,
    typer.Option("--resolution", help="Resolution of the final: 2048x2048, HD, FHD, 2K or 4K."),
]
FileFormat = Annotated[
    Literal["png", "jpg", "webp"] | None,
    typer.Option(
        "--file-format", help="File format of the final. Default: the suffix of --download."
    ),
]
UpdatedPrompt = Annotated[
    str | None, typer.Option("--prompt", help="Replace the prompt of the generation.")
]
Prompt = Annotated[str, typer.Argument(help="What to draw.")]
SampleNumber = Annotated[int, typer.Argument(min=1, help="Number of the sample, from 1.")]
SelectNumber = Annotated[
    int | None, typer.Option("--select", min=1, help="Select this sample when they are ready.")
]
IdempotencyKey = Annotated[
    str | None,
    typer.Option(
        "--idempotency-key",
        callback=_validate_header,
        help="Repeat an earlier call under its key; at most one generation is started.",
    ),
]
