"""User commands on a running service: whole generations, refusals, and JSON output."""

import asyncio
import json
import os
import re
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from typer.testing import CliRunner

from creativeflow.services.aigeneration.cli.api_session import NEXT_STEPS
from creativeflow.services.aigeneration.cli.main import app
from creativeflow.services.aigeneration.domain.errors import every_error
from tests.support.processes import MODULE, free_port
from tests.support.running_system import Parts

KEY = "a-key-of-the-shop-that-is-long-enough"
SQUARE = ("--format", "InstagramPost_1x1")
DOCUMENT = Path(__file__).parents[4] / "docs" / "command-line.md"


class CommandResult(NamedTuple):
    """Exit code and output of a command."""

    code: int
    out: str
    err: str

    @property
    def id(self) -> str:
        """The one line of standard output."""
        assert re.fullmatch(r"[0-9a-f-]{36}\n", self.out), self
        return self.out.strip()


@pytest.fixture
def aigen(parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Run `aigen …` by its entry point, on the first serving process."""
    monkeypatch.chdir(tmp_path)

    async def run(*arguments: str, **more: str) -> CommandResult:
        address = f"http://127.0.0.1:{parts.ports[0]}" if parts.ports else "http://127.0.0.1:1"
        environment = {"AIGEN_URL": address, "COLUMNS": "200"} | more
        result = await asyncio.to_thread(
            CliRunner().invoke, app, arguments, env=environment, prog_name="aigen"
        )
        assert result.exception is None or isinstance(result.exception, SystemExit), (
            result.exception
        )
        return CommandResult(result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture
async def drawing(parts: Parts) -> Parts:
    """A serving process with the local engine, for a user on the payg plan."""
    await parts.serve(engine="local://")
    await parts.grant("9.00", "payg")
    return parts


async def test_create_with_select_and_download_writes_the_final(
    aigen, drawing: Parts, tmp_path: Path
) -> None:
    made = await aigen(
        "create",
        "A lighthouse",
        *SQUARE,
        "--user",
        "user",
        "--select",
        "2",
        "--download",
        "final.webp",
    )
    assert made.code == 0, made.err
    assert (tmp_path / "final.webp").read_bytes()[8:12] == b"WEBP"
    steps = ("samples are ready", "done", "1080x1080 webp, final.webp", "Charged: 1.25 credits")
    assert [step for step in steps if step not in made.err] == []
    shown = await aigen("show", made.id)
    assert re.search(r"^status +COMPLETED", shown.out, re.MULTILINE)
    assert len(re.findall(r"^sample \d +\S+ +http", shown.out, re.MULTILINE)) == 4
    expected = json.loads((await aigen("show", made.id, "--json")).out)
    assert expected["selected_sample_id"] == expected["samples"][1]["asset_id"]


async def test_commands_step_by_step_each_name_the_next_command(
    aigen, drawing: Parts, tmp_path: Path
) -> None:
    arguments = ("A windmill", "--format", "Custom", "--size", "800x600", "--user", "user")
    quote = json.loads((await aigen("quote", *arguments, "--json")).out)
    assert "1.25 credits" in (await aigen("quote", *arguments)).err
    started = await aigen("create", *arguments, "--tone", "calm", "--quote", quote["quote_id"])
    assert f"`aigen watch {started.id}` follows it" in started.err
    watched = await aigen("watch", started.id)
    assert (watched.code, watched.out) == (0, "")
    assert f"`aigen select {started.id} 1 --download final.png`" in watched.err
    beyond = await aigen("select", started.id, "5")
    assert (beyond.code, "There are 4 samples" in beyond.err) == (2, True)
    more = json.loads(
        (await aigen("regenerate", started.id, "--prompt", "A mill", "--wait", "--json")).out
    )
    assert (more["status"], more["round"], more["brief"]["emotional_tone"]) == (
        "AWAITING_SELECTION",
        2,
        "calm",
    )
    assert (await aigen("select", started.id, "1", "--file-format", "jpg")).code == 0
    lines = [
        json.loads(line)
        for line in (await aigen("watch", started.id, "--json", "--download", "a")).out.split("\n")[
            :-1
        ]
    ]
    assert lines[-1]["status"] == "COMPLETED"
    assert (tmp_path / "a").read_bytes().startswith(b"\xff\xd8")
    late = await aigen("cancel", started.id)
    assert (late.code, late.err) == (0, "")


async def test_retry_of_a_failed_generation_with_another_prompt_succeeds(
    aigen, drawing: Parts
) -> None:
    failed = await aigen("create", "A lighthouse [[invalid]]", *SQUARE, "--user", "user", "--wait")
    assert failed.code == 4
    assert f"`aigen retry {failed.id}` starts a new one" in failed.err
    expected = await aigen("watch", failed.id, "--json")
    failure = json.loads(expected.err)
    assert (failure["code"], failure["id"], failure["status"]) == (
        "invalid_input",
        failed.id,
        "FAILED",
    )
    assert failure["message"] in failed.err
    again = await aigen("retry", failed.id, "--prompt", "A lighthouse", "--wait")
    assert (again.code, again.id != failed.id) == (0, True)
    assert "sample 4" in again.err
    ended = await aigen("cancel", again.id)
    assert ended.err == "Status: cancelled.\n"
    once = ("create", "A boat", *SQUARE, "--user", "user", "--idempotency-key", "order-7")
    assert (await aigen(*once)).id == (await aigen(*once)).id


async def test_commands_refused_name_the_option_and_the_next_step(aigen, parts: Parts) -> None:
    await parts.serve(engine="local://", AIGEN_ROLES="api")
    unknown = await aigen("create", "A boat", "--format", "Fax", "--user", "user")
    assert (unknown.code, unknown.out) == (1, "")
    assert "--format: Use one of InstagramPost_1x1" in unknown.err
    assert "--user: Name the user to act for." in (await aigen("create", "A boat", *SQUARE)).err
    nobody = await aigen("show", "0195940d-0000-7000-8000-000000000001", "--json")
    assert (nobody.code, json.loads(nobody.err)["code"]) == (1, "not_found")
    waiting = await aigen("create", "A [/] boat", *SQUARE, "--user", "user")
    early = await aigen("select", waiting.id, "1")
    assert early.code == 1
    assert "The request is in another state." in early.err
    assert "aigen show" in early.err
    going = await aigen("watch", waiting.id, "--wait-seconds", "1")
    assert (going.code, f"`aigen watch {waiting.id}` follows it" in going.err) == (5, True)


async def test_credentials_come_from_the_environment_and_are_never_shown(
    aigen, parts: Parts
) -> None:
    await parts.serve(engine="local://", AIGEN_ROLES="api", AIGEN_API_KEYS=f"shop:service:{KEY}")
    arguments = ("create", "A boat", *SQUARE, "--user", "user")
    stranger = await aigen(*arguments)
    assert (stranger.code, "AIGEN_API_KEY" in stranger.err, "X-Internal" in stranger.err) == (
        1,
        True,
        False,
    )
    wrong = await aigen(*arguments, AIGEN_API_KEY="another-key-which-is-wrong")
    odd = await aigen(*arguments, AIGEN_API_KEY="schlüssel-mit-umlaut")
    described = await aigen("create", "--help", AIGEN_API_KEY=KEY)
    assert (wrong.code, odd.code, described.code) == (1, 2, 0)
    made = await aigen(*arguments, AIGEN_API_KEY=KEY)
    assert made.code == 0
    for result in (wrong, odd, described, made):
        assert not any(
            secret in result.out + result.err for secret in (KEY, "another-key", "umlaut")
        )


async def test_create_without_an_answer_names_the_idempotency_key(aigen) -> None:
    address = f"http://127.0.0.1:{free_port()}"
    away = await aigen("create", "A boat", *SQUARE, "--user", "user", "--url", address)
    assert away.code == 3
    assert re.search(r"--idempotency-key [0-9a-f-]{36}: at most one", away.err)
    assert f"({address})" in away.err
    assert "aigen serve" in away.err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["watch", "7"], "UUID"),
        (
            ["show", "0195940d-0000-7000-8000-000000000001", "--url", "aigen.example"],
            "such as http://",
        ),
        (
            ["show", "0195940d-0000-7000-8000-000000000001", "--url", "http://ada:secret@x"],
            "such as http://",
        ),
        (["create", "A boat", *SQUARE, "--download", "final.png"], "--select"),
        (
            ["create", "A boat", *SQUARE, "--select", "1", "--download", "no/such/folder/a.png"],
            "folder that exists",
        ),
        (
            ["create", "A boat", *SQUARE, "--select", "1", "--download", "x" * 300],
            "folder that exists",
        ),
        (["create", "A boat", "--format", "Custom", "--size", "large"], "such as 800x600"),
    ],
)
async def test_arguments_invalid_are_refused_before_any_call(
    aigen, arguments, expected: str
) -> None:
    refused = await aigen(*arguments)
    assert refused.code == 2
    assert expected in " ".join(re.sub(r"[│\s]+", " ", refused.err).split())


async def test_download_to_an_unwritable_file_fails_and_the_generation_continues(
    aigen, drawing: Parts, tmp_path: Path
) -> None:
    made = await aigen(
        "create", "A boat", *SQUARE, "--user", "user", "--select", "1", "--download", "/dev/full"
    )
    assert (made.code, "aigen watch" in made.err) == (1, True)
    assert (await aigen("watch", made.id, "--download", "short.png")).code == 0
    assert (tmp_path / "short.png").exists()


def test_next_steps_are_of_real_problems_only() -> None:
    assert set(NEXT_STEPS) <= {error.code for error in every_error()}


async def test_document_examples_run(drawing: Parts, tmp_path: Path) -> None:
    (tmp_path / "aigen").write_text(f'#!/bin/sh\nexec {sys.executable} -m {MODULE} "$@"\n')
    (tmp_path / "aigen").chmod(0o755)
    examples = re.findall(r"^```sh\n(.*?)^```$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    assert examples
    script = "set -eu\n" + "\n".join(examples).replace(
        "http://127.0.0.1:8000", f"http://127.0.0.1:{drawing.ports[0]}"
    )
    running = await asyncio.create_subprocess_exec(
        "bash",
        "-c",
        script.replace("--user ada", "--user user"),
        cwd=tmp_path,
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await running.communicate()
    assert running.returncode == 0, out.decode()
    assert (tmp_path / "lighthouse.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "windmill.webp").read_bytes()[8:12] == b"WEBP"
