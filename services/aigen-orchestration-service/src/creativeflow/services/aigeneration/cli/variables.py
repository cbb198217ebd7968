"""`AIGEN_*` environment variables that nothing reads, such as misspelt settings."""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from dotenv import dotenv_values

from creativeflow.services.aigeneration.settings import Settings

_PREFIX = "AIGEN_"
_OF_TESTS = "AIGEN_TEST_"


@dataclass(frozen=True, slots=True)
class UnknownVariable:
    """A variable that nothing reads; `closest` is the known name that it resembles."""

    name: str
    source: str
    closest: str | None

    def __str__(self) -> str:
        hint = f"; did you mean {self.closest}?" if self.closest else "."
        return f"Unknown variable {self.name} in {self.source}{hint}"


def unknown_variables(
    options: Iterable[str],
    environment: Mapping[str, str] | None = None,
    env_file: str | Path | None = ".env",
) -> list[UnknownVariable]:
    """Return the `AIGEN_*` variables of the environment and the env file that nothing reads.

    `options` are the variables that command-line options read.
    """
    known = {*Settings.variables(), *options}
    in_file = dotenv_values(env_file) if env_file else {}
    return [
        UnknownVariable(name, source, _closest(name.upper(), known))
        for source, names in (
            ("the environment", os.environ if environment is None else environment),
            (str(env_file), in_file),
        )
        for name in sorted(names)
        if name.upper().startswith(_PREFIX)
        and not name.upper().startswith(_OF_TESTS)
        and name.upper() not in known
    ]


def option_variables(command: Any) -> Iterator[str]:
    """Yield the variables that the options of a command and its subcommands read."""
    for parameter in command.params:
        if isinstance(parameter.envvar, str):
            yield parameter.envvar
        elif parameter.envvar:
            yield from parameter.envvar
    for subcommand in getattr(command, "commands", {}).values():
        yield from option_variables(subcommand)


def _closest(name: str, known: set[str]) -> str | None:
    """Return the known name that resembles most; the common prefix does not count."""
    names = sorted(each.removeprefix(_PREFIX) for each in known if each.startswith(_PREFIX))
    found = get_close_matches(name.removeprefix(_PREFIX), names, n=1)
    return f"{_PREFIX}{found[0]}" if found else None
