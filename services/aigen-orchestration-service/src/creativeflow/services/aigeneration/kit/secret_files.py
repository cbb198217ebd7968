"""Secrets from files: `NAME_FILE` names the file with the value of the variable `NAME`."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

SUFFIX = "_file"
_BYTES_MAX = 65_536


class SecretFileError(ValueError):
    """A file of a secret cannot be used; the message names the variable and never the content."""


def read_secret_files(
    variables: Mapping[str, str | None], names: Iterable[str]
) -> Iterator[tuple[str, str]]:
    """Yield name and value of each secret whose file a variable names; names are in lower case.

    Several lines are joined by commas, as lists are written in a variable.

    Raises:
        SecretFileError: the file is missing, unreadable, empty or larger than 64 KiB, or the
        variable itself is set as well.
    """
    for name in names:
        path = variables.get(f"{name}{SUFFIX}")
        if not path:
            continue
        variable = f"{name}{SUFFIX}".upper()
        if variables.get(name):
            raise SecretFileError(f"{variable}: {name.upper()} is set as well; remove one of them")
        yield name, _read(variable, Path(path))


def _read(variable: str, path: Path) -> str:
    try:
        with path.expanduser().open("rb") as file:
            data = file.read(_BYTES_MAX + 1)
        if len(data) > _BYTES_MAX:
            raise SecretFileError(f"{variable}: {path} is larger than 64 KiB")
        lines = [line.strip() for line in data.decode().splitlines()]
    except UnicodeDecodeError:
        raise SecretFileError(f"{variable}: {path} is not UTF-8 text") from None
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise SecretFileError(f"{variable}: {path} cannot be read ({reason})") from None
    if not (value := ",".join(line for line in lines if line)):
        raise SecretFileError(f"{variable}: {path} is empty")
    return value
