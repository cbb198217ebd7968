"""Unknown `AIGEN_*` variables are found; what a setting or an option reads is known."""

from pathlib import Path

import pytest
from typer.main import get_command

from creativeflow.services.aigeneration.cli.main import app
from creativeflow.services.aigeneration.cli.variables import option_variables, unknown_variables
from creativeflow.services.aigeneration.settings import Settings

OPTIONS = frozenset(option_variables(get_command(app)))


@pytest.mark.parametrize(
    ("name", "closest"),
    [
        ("AIGEN_DATABSE_URL", "AIGEN_DATABASE_URL"),
        ("AIGEN_APIKEYS", "AIGEN_API_KEYS"),
        ("aigen_credit_url", "AIGEN_CREDITS_URL"),
        ("AIGEN_XYZZY", None),
    ],
)
def test_unknown_variables_misspelt_names_the_closest(name: str, closest: str | None) -> None:
    (found,) = unknown_variables(OPTIONS, {name: "x"}, None)
    assert (found.name, found.closest) == (name, closest)
    assert name in str(found)
    assert "x" not in str(found).removeprefix(f"Unknown variable {name}").split()


def test_unknown_variables_all_known_finds_none() -> None:
    known = dict.fromkeys(Settings.variables() | OPTIONS | {"AIGEN_TEST_DATABASE_URL", "PATH"}, "x")
    assert {"AIGEN_URL", "AIGEN_API_KEY", "AIGEN_TOKEN", "RABBITMQ_URL"} <= set(known)
    assert unknown_variables(OPTIONS, known, None) == []


def test_unknown_variables_in_env_file_names_the_file(tmp_path: Path) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text("AIGEN_PORT=8001\nexport AIGEN_PROT=8001\nOTHER=1\n")
    (found,) = unknown_variables(OPTIONS, {}, env_file)
    assert str(found) == f"Unknown variable AIGEN_PROT in {env_file}; did you mean AIGEN_PORT?"
