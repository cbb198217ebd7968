"""The documents that are made from the code, and what writes them: `make docs`."""

import ast
import json
import sys
import textwrap
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from creativeflow.services.aigeneration.app import create_app
from creativeflow.services.aigeneration.domain.errors import AigenError, every_error
from creativeflow.services.aigeneration.domain.lifecycle import (
    ON_DEADLINE,
    TERMINAL,
    TRANSITIONS,
    Effect,
    Event,
    Origin,
    State,
    Transition,
)
from creativeflow.services.aigeneration.domain.policy import Policy
from creativeflow.services.aigeneration.domain.pricing import credits_text
from creativeflow.services.aigeneration.domain.worker_errors import (
    SERVICE_ERRORS,
    WORKER_ERRORS,
    WorkerError,
)
from creativeflow.services.aigeneration.settings import Credits, Seconds, Settings, Words
from creativeflow.services.aigeneration.storage import request_sql

ROOT = Path(__file__).parents[3]
SERVICE = "services/aigen-orchestration-service"
PACKAGE = ROOT / SERVICE / "src" / "creativeflow" / "services" / "aigeneration"
MAP_BEGINS, MAP_ENDS = "<!-- map -->", "<!-- /map -->"

_MADE = "<!-- Made from the code by `make docs`: change the code, not this file. -->"

_LIFECYCLE = f"""{_MADE}
# The life of a request

A request is always in exactly one state. What can happen to it is a table of moves, and this page is made from that
table, which is the code. An event for which a state has no line cannot happen in it: a caller gets a conflict, a
worker's report is kept as evidence and changes nothing.

- **A terminal state never changes.** A retry of a failed request is a new request with `retry_of`.
- **Effects are written together with the new state**, in one statement, or not at all. What is owed to others,
  such as a notification or a capture, is written as a message and paid after the commit.
- **A job is one attempt.** Every round and every further attempt has a new `job_id`. A result for any other job is
  refused with `stale_result`.
- **Every state that waits has a deadline**, so nothing is stuck for ever.
"""

_EFFECTS = """The effects in words:

| effect | what it does |
|---|---|
| queue job | a new job with its first attempt takes its place in the fair queue |
| requeue job | a new job for the next attempt; it keeps its place and waits longer each time |
| capture | what is held is charged |
| release | what is held is given back |
| settle rejected | a held sample set is charged where `AIGEN_CHARGE_REJECTED` says so; a held final is given back |
| announce … | the user is told ([notifications](notifications.md)), the calling service too if it has a target \
([webhooks](webhooks.md)); with a broker the event is published |
"""

_DEADLINES = """## Deadlines

Each can be set ([settings](settings.md)). PENDING and PUBLISHING_TO_QUEUE share one deadline: a job that goes to
the broker and comes back does not wait anew.
"""

_LEASES = """A worker that misses its deadline has failed this attempt, with the code `model_timeout`.

A dispatcher's lease (`AIGEN_JOB_LEASE`) is shorter than the deadline: when it passes, the same job is published again
(`job_returned`). `AIGEN_EXPIRY_REMINDER` before the deadline of AWAITING_SELECTION the user is reminded once
(`expiry_neared`).
"""

_FAULTS = """## Faults: who caused it, what happens next, and what it costs

The codes of the first table come from workers; a code that is not in it counts as `workflow_error`, so it never
costs credits. The message is what the user reads; what the provider said stays in the worker.
"""

_PROBLEMS = f"""{_MADE}
# Problems

Every error is a problem document (RFC 9457, `application/problem+json`) with `type`, `title`, `status`, `detail`,
`instance`, `code`, `retryable` and `request_id`; `invalid_request` also has `errors`, one entry with `pointer`, `code`
and `message` for each place that does not fit. Act on `code`, show `title` and `detail`. `retryable` means that the
same call may succeed later; with `Retry-After` the answer says when. `GET /problems/{{code}}` answers with the same
words as this page.
"""

_SETTINGS = f"""{_MADE}
# Settings

Settings are read once, at the start, from the environment and from a file `.env` in the directory where the service is
started; the environment wins. The scheme of a URL chooses the adapter, so no switch can contradict a URL. The older
names work too; the first name wins. `{SERVICE}/.env.example` has all of them as comments.

An `AIGEN_` variable that is not in this table, nor read by an option of `aigen`, is named at start with the closest
known name: a warning in the profile `embedded`, refused in `production`. In Kubernetes, set `enableServiceLinks: false`:
a Service named `aigen` otherwise puts such variables into every pod.
"""

_ENV = """# Made from the code by `make docs`: change the code, not this file.
# Copy it to `.env` in the directory where you start the service, and uncomment what you want to
# change. Every value below is the default; one without a value is not set. docs/settings.md has the
# types and bounds.
"""


def lifecycle() -> str:
    """States, moves, deadlines and faults."""
    parts = [
        _LIFECYCLE,
        "```mermaid",
        *_diagram(),
        "```\n",
        "## Moves\n",
        _table(
            ("state", "event", "next state", "effects", "because"),
            [
                (state, f"`{event}`", move.to, ", ".join(move.effects), move.because)
                for (state, event), move in TRANSITIONS.items()
            ],
        ),
        _EFFECTS,
        _DEADLINES,
        _deadlines(),
        _LEASES,
        _FAULTS,
        _faults(WORKER_ERRORS),
        "What we find ourselves:\n",
        _faults(SERVICE_ERRORS),
    ]
    return "\n".join(parts).rstrip() + "\n"


def problems() -> str:
    """Every error a caller can meet."""
    by_code: dict[str, list[type[AigenError]]] = defaultdict(list)
    for error in every_error():
        if error.__module__.startswith(f"{Settings.__module__.rpartition('.')[0]}."):
            by_code[error.code].append(error)
    overview = _table(
        ("code", "status", "title", "retryable"),
        [
            (f"[`{code}`](#{code})", str(first.status), first.title, _yes(first.retryable))
            for code, (first, *_) in by_code.items()
        ],
    )
    return (
        "\n".join(
            [_PROBLEMS, overview, *(_problem(code, found) for code, found in by_code.items())]
        ).rstrip()
        + "\n"
    )


def settings() -> str:
    """Every setting in a table."""
    lines = [
        (
            _names(name),
            _type(name),
            f"`{default}`" if (default := _default(name)) else "not set",
            _sentence(name),
        )
        for name in Settings.model_fields
    ]
    return f"{_SETTINGS}\n{_table(('variable', 'type', 'default', 'meaning'), lines)}"


def env_example() -> str:
    """Every setting as a comment with its sentence and default."""
    lines = [
        f"# {_sentence(name)}\n# {_variable(name)}={_default(name)}\n"
        for name in Settings.model_fields
    ]
    return "\n".join([_ENV, *lines])


def openapi() -> str:
    """The description of the HTTP interface; the environment has no part in it."""
    described = create_app(Settings.model_construct()).openapi()
    return json.dumps(described, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def module_map() -> str:
    """One line for each module: its path and the first sentence of its docstring."""
    listed = list(_modules(PACKAGE))
    width = max(len(path) for path, _ in listed) + 2
    return "\n".join(
        ["```", *(f"{path:<{width}}{sentence}".rstrip() for path, sentence in listed), "```"]
    )


def architecture(text: str) -> str:
    """The overview with its map brought up to date.

    Raises:
        ValueError: the markers are not there.
    """
    before, begins, rest = text.partition(MAP_BEGINS)
    _, ends, after = rest.partition(MAP_ENDS)
    if not (begins and ends):
        raise ValueError(f"ARCHITECTURE.md needs a line {MAP_BEGINS} and a line {MAP_ENDS}")
    return f"{before}{begins}\n{module_map()}\n{ends}{after}"


GENERATED: Mapping[str, Callable[[], str]] = {
    "docs/lifecycle.md": lifecycle,
    "docs/problems.md": problems,
    "docs/settings.md": settings,
    "docs/openapi.json": openapi,
    f"{SERVICE}/.env.example": env_example,
}
ARCHITECTURE = f"{SERVICE}/ARCHITECTURE.md"


def stale(root: Path = ROOT) -> dict[Path, str]:
    """The documents that are not up to date, each with the text it should have."""
    wanted = {root / name: make() for name, make in GENERATED.items()}
    wanted |= {root / name: text for name, text in sql_snapshots().items()}
    overview = root / ARCHITECTURE
    wanted[overview] = architecture(overview.read_text(encoding="utf-8"))
    return {
        path: text
        for path, text in wanted.items()
        if not path.is_file() or path.read_text("utf-8") != text
    }


def sql_snapshots() -> dict[str, str]:
    """Return the composed statements of the storage as files of `storage/sql/`."""
    folder = f"{SERVICE}/src/creativeflow/services/aigeneration/storage/sql"
    return {
        f"{folder}/{name}.sql": "\n".join(
            ["-- Generated by `make docs` from storage/request_sql.py.", *_comment(why), statement]
        )
        + ";\n"
        for name, (statement, why) in request_sql.snapshots().items()
    }


def _comment(text: str) -> list[str]:
    return [f"-- {line}" for line in textwrap.wrap(text, 95)]


def first_sentence(docstring: str) -> str:
    """The text up to the first full stop that a new sentence or the end follows."""
    sentence, stop, _ = _paragraph(docstring).partition(". ")
    return f"{sentence}{stop}".strip()


def _diagram() -> Iterator[str]:
    yield "stateDiagram-v2"
    arrows: dict[tuple[State | str, State], list[str]] = defaultdict(list)
    for (state, event), row in TRANSITIONS.items():
        if isinstance(state, Origin):
            arrows["[*]", row.to].append(f"{event} ({state})")
        else:
            arrows[state, row.to].append(event.value)
    for (before, to), events in arrows.items():
        yield f"    {before} --> {to} : {', '.join(events)}"
    for state in State:
        if state in TERMINAL:
            yield f"    {state} --> [*]"


def _deadlines() -> str:
    policy = Policy()
    lines = []
    for state, event in ON_DEADLINE.items():
        name, wait = _deadline_of(policy, state)
        then = _follow(state, event)
        if event is Event.ATTEMPT_FAILED:
            then += f"; after the last attempt {_follow(state, Event.ATTEMPTS_EXHAUSTED)}"
        lines.append((state.value, _duration(wait), f"`AIGEN_{name.upper()}`", then))
    return _table(("state", "may last", "setting", "then"), lines)


def _follow(state: State, event: Event) -> str:
    return f"`{event}` → {TRANSITIONS[state, event].to}"


def _deadline_of(policy: Policy, state: State) -> tuple[str, timedelta]:
    """The field of the policy that bounds a state: the one whose change changes the state's
    deadline.
    """
    probe = timedelta(microseconds=1)
    for field in fields(Policy):
        wait = getattr(policy, field.name)
        probed: dict[str, Any] = {field.name: probe} if isinstance(wait, timedelta) else {}
        changed = replace(policy, **probed)
        if changed.deadline(state) == probe:
            return field.name, wait
    raise ValueError(f"{state} has no deadline")


def _duration(wait: timedelta) -> str:
    seconds = int(wait.total_seconds())
    unit, size = next(
        (u, s) for u, s in (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)) if seconds % s == 0
    )
    return f"{seconds // size} {unit}"


def _faults(faults: Mapping[str, WorkerError]) -> str:
    return _table(
        ("code", "caused by", "what happens next", "money", "what the user reads", "ways on"),
        [
            (
                f"`{code}`",
                fault.responsibility.value,
                _next(fault),
                _money(fault),
                fault.message,
                ", ".join(fault.next_steps),
            )
            for code, fault in faults.items()
        ],
    )


def _next(fault: WorkerError) -> str:
    if fault.transient:
        return f"another attempt; after the last one {_ends(Event.ATTEMPTS_EXHAUSTED)}"
    return _ends(fault.event)


def _ends(event: Event) -> str:
    """Where a request with a failure ends; one that merely expires has none."""
    return " or ".join(
        dict.fromkeys(
            move.to.value for move in _moves_of(event) if Effect.ANNOUNCE_FAILURE in move.effects
        )
    )


def _money(fault: WorkerError) -> str:
    last = Event.ATTEMPTS_EXHAUSTED if fault.transient else fault.event
    effects = {effect for move in _moves_of(last) for effect in move.effects}
    if Effect.SETTLE_REJECTED in effects:
        return "a sample set is charged (a setting); a final is given back"
    if Effect.RELEASE in effects:
        return "given back"
    return "nothing was held"


def _moves_of(event: Event) -> list[Transition]:
    return [move for (_, happened), move in TRANSITIONS.items() if happened is event]


def _problem(code: str, found: Sequence[type[AigenError]]) -> str:
    first = found[0]
    meanings = [_paragraph(error.__doc__ or "") for error in found]
    sentences = dict.fromkeys(error.sentence for error in found)
    return "\n".join(
        [
            f"## {code}\n",
            f"**{first.status}** · {first.title} · retryable: {_yes(first.retryable)}\n",
            *(f"{meaning}\n" for meaning in meanings),
            *(f"> {sentence}\n" for sentence in sentences),
        ]
    )


def _paragraph(docstring: str) -> str:
    return " ".join(docstring.split("\n\n", maxsplit=1)[0].split())


def _yes(truth: bool) -> str:
    return "yes" if truth else "no"


def _aliases(name: str) -> list[str]:
    """The names in the environment, the best first; the last choice of an alias is the field's own
    name.
    """
    choices = getattr(Settings.model_fields[name].validation_alias, "choices", None)
    return [str(choice) for choice in choices[:-1]] if choices else [f"AIGEN_{name.upper()}"]


def _variable(name: str) -> str:
    return _aliases(name)[0]


def _names(name: str) -> str:
    first, *older = _aliases(name)
    return f"`{first}`" + (
        f" (older: {', '.join(f'`{other}`' for other in older)})" if older else ""
    )


def _sentence(name: str) -> str:
    return _paragraph(Settings.model_fields[name].description or "")


def _default(name: str) -> str:
    value: Any = Settings.model_fields[name].default
    if hasattr(value, "get_secret_value"):
        value = value.get_secret_value()
    if Settings.__annotations__[name] == Credits:
        return credits_text(value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(str(part) for part in value)
    if isinstance(value, dict):
        return ",".join(f"{name}={said}" for name, said in value.items())
    return "" if value is None else str(value)


def _type(name: str) -> str:
    annotation, field = Settings.__annotations__[name], Settings.model_fields[name]
    origin: Any = get_origin(annotation)
    named = {str(Credits): "credits", str(Seconds): "seconds", str(Words): "words, comma separated"}
    if found := named.get(str(annotation)):
        return found
    if origin is Literal:
        return " or ".join(f"`{choice}`" for choice in get_args(annotation))
    if "SecretStr" in str(annotation):
        return "texts, comma separated, secret" if "tuple" in str(annotation) else "text, secret"
    if field.annotation is bool:
        return "`true` or `false`"
    if field.annotation is int:
        return f"whole number{_bounds(field.metadata)}"
    return "path" if field.annotation is Path else "text"


def _bounds(metadata: Sequence[Any]) -> str:
    least = next((found.ge for found in metadata if hasattr(found, "ge")), None)
    most = next((found.le for found in metadata if hasattr(found, "le")), None)
    if most is None:
        return "" if least is None else f", at least {least}"
    return f", {least} to {most}"


def _modules(folder: Path) -> Iterator[tuple[str, str]]:
    """Modules first, then folders, each under the sentence of its `__init__`."""
    for path in sorted(folder.glob("*.py")):
        if path.name != "__init__.py":
            yield path.relative_to(PACKAGE).as_posix(), _docstring(path)
    for below in sorted(path for path in folder.iterdir() if path.is_dir()):
        if any(below.rglob("*.py")):
            yield f"{below.relative_to(PACKAGE).as_posix()}/", _docstring(below / "__init__.py")
            yield from _modules(below)


def _docstring(path: Path) -> str:
    if not path.is_file():
        return ""
    return first_sentence(ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "")


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return (
        "\n".join(
            "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows
        )
        + "\n"
    )


def main(arguments: Sequence[str]) -> None:
    """Write what is not up to date; the one argument there may be is the root of the repository."""
    root = Path(arguments[0]) if arguments else ROOT
    written = stale(root)
    for path, text in written.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        sys.stdout.write(f"written: {path.relative_to(root).as_posix()}\n")
    if not written:
        sys.stdout.write("Every document is up to date.\n")


if __name__ == "__main__":
    main(sys.argv[1:])
