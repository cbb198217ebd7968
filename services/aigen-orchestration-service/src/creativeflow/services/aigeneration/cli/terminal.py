"""Output, settings and error handling of all commands."""

import os
import sys
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from creativeflow.services.aigeneration.cli.variables import UnknownVariable
    from creativeflow.services.aigeneration.settings import Settings

Result = TypeVar("Result")

_INVALID = "The settings are not valid. .env.example describes every one of them."


def stdout() -> "Console":
    """Return the console for results."""
    from rich.console import Console

    return Console()


def fail(sentence: str) -> NoReturn:
    """Print one error on standard error and exit with 1."""
    _print_error(sentence)
    raise typer.Exit(1)


def warn(sentence: str) -> None:
    """Print one warning on standard error."""
    typer.secho(sentence, fg="yellow", err=True)


def load_settings(*, check_variables: bool = True) -> "Settings":
    """Read the settings from the environment and the env file; exit with 1 if they are not valid.

    Unknown `AIGEN_*` variables are a warning, and an error in the profile `production`.
    """
    from pydantic import ValidationError

    from creativeflow.services.aigeneration.kit.secret_files import SecretFileError
    from creativeflow.services.aigeneration.settings import Settings

    try:
        settings = Settings()
    except SecretFileError as error:
        fail(f"{error}.")
    except ValidationError as error:
        for invalid in error.errors(include_input=False, include_url=False):
            name = "_".join(str(part) for part in invalid["loc"]) or "settings"
            name = name if name.isupper() or name == "settings" else f"AIGEN_{name.upper()}"
            typer.echo(f"{name}: {invalid['msg'].removeprefix('Value error, ')}", err=True)
        fail(_INVALID)
    if check_variables:
        report_unknown_variables(settings)
    return settings


def find_unknown_variables() -> "list[UnknownVariable]":
    """Return the `AIGEN_*` variables that neither the settings nor an option of a command reads."""
    from typer.main import get_command

    from creativeflow.services.aigeneration.cli.main import app
    from creativeflow.services.aigeneration.cli.variables import option_variables, unknown_variables

    return unknown_variables(option_variables(get_command(app)))


def report_unknown_variables(settings: "Settings") -> None:
    """Report every `AIGEN_*` variable that nothing reads, with the closest known name."""
    unknown = find_unknown_variables()
    for variable in unknown:
        warn(str(variable))
    if unknown and settings.profile == "production":
        fail("The profile production refuses unknown AIGEN_ variables. Correct or remove them.")


def log_format() -> str:
    """Return the configured log format, or the one suitable for standard error."""
    return os.environ.get("AIGEN_LOG_FORMAT") or ("console" if sys.stderr.isatty() else "json")


def run(work: Coroutine[Any, Any, Result], settings: "Settings") -> Result:
    """Run a coroutine; exit with 1 and one line for an error that an operator can correct."""
    import uvloop

    from creativeflow.services.aigeneration.cli.start_errors import explain_start_error

    try:
        return uvloop.run(work)
    except Exception as error:
        if (problem := explain_start_error(error, settings)) is None:
            raise
        fail(str(problem))


def open_database_url(settings: "Settings") -> str:
    """Return the URL of the database, starting the embedded one; exit with 1 if that fails."""
    from creativeflow.services.aigeneration.bootstrap.adapters import database_url
    from creativeflow.services.aigeneration.cli.start_errors import explain_start_error

    try:
        return database_url(settings)
    except Exception as error:
        if (problem := explain_start_error(error, settings)) is None:
            raise
        fail(str(problem))


def _print_error(sentence: str) -> None:
    typer.secho(sentence, fg="red", bold=True, err=True)
