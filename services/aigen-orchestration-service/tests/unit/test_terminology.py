"""The names that the glossary replaced do not come back: not in the code, the tests, the documents
or the public interfaces. The lists are data, each name with the term that took its place.
"""

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import orjson
import pytest

from tools import generate_docs

ROOT = generate_docs.ROOT
SERVICE = ROOT / generate_docs.SERVICE
SOURCES = SERVICE / "src" / "creativeflow" / "services"
STORAGE = SOURCES / "aigeneration" / "storage"
PYTHON = sorted(
    path
    for folder in (SOURCES, SERVICE / "tests", SERVICE / "tools", ROOT / "clients" / "python")
    for path in folder.rglob("*.py")
    if path != Path(__file__)
)
TEXTS = [
    ROOT / "README.md",
    ROOT / "Makefile",
    *(SERVICE / name for name in ("ARCHITECTURE.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "docs").rglob("*.yaml")),
    *sorted(SOURCES.rglob("*.html")),
]
"""The changelog is not among them: it records what was renamed."""

CLASSES: Mapping[str, str] = {
    "ActionNotPossibleError": "InvalidStateError",
    "Again": "RetryLater",
    "Answer": "ApiResponse",
    "Books": "Accounting",
    "Calling": "ApiSession",
    "Catalogue": "Translations",
    "Change": "StateChange",
    "Clearance": "ClearFlagsRequest",
    "Comparison": "ReconciliationStore",
    "Debt": "OutboxMessage",
    "Decision": "HoldDecision",
    "Desk": "FakeBilling",
    "Entry": "TimelineEntry",
    "EventOwed": "DeliveryScheduled",
    "Fault": "WorkerError",
    "Figures": "Statistics",
    "FormRefusedError": "CsrfError",
    "Gate": "Authenticator",
    "Gift": "CreditGrant",
    "Glance": "Snapshot",
    "Hub": "UpdateBroadcaster",
    "ImpossibleMoveError": "IllegalTransitionError",
    "Kept": "TimedCache",
    "KeyClaim": "IdempotencyClaim",
    "Knob": "SettingRow",
    "LeasedDebt": "LeasedMessage",
    "Listener": "Subscription",
    "Loop": "Poller",
    "MOVES": "TRANSITIONS",
    "Meaning": "Explanation",
    "Move": "Transition",
    "Mover": "TransitionRunner",
    "NewTarget": "WebhookEndpointCreate",
    "Orchestrator": "GenerationService",
    "Ownership": "EndpointScope",
    "Party": "Responsibility",
    "Patience": "BodyTimeout",
    "Pulse": "ChangeFeed",
    "Reply": "ActionResult",
    "Request": "GenerationRequest; Request is Starlette's",
    "Said": "CliFailure",
    "Seam": "Failpoint",
    "Sent": "Delivered",
    "Service": "Container",
    "StepError": "BrokerCommandError",
    "Store": "RequestStore",
    "Storm": "ChaosRun",
    "Told": "StatusText",
    "Trouble": "DeliveryError",
    "UnknownHostError": "HostNotAllowedError",
    "Verdict": "AckDecision",
    "Way": "Link",
    "World": "ServiceUnderTest",
    "Written": "WriteResult",
    "Yard": "Environment",
}
"""Classes, type aliases and schemas of the API. They are compared as whole names only, because many
are common words.
"""

FUNCTIONS: Mapping[str, str] = {
    "acting": "build_caller",
    "chance": "random_bytes",
    "happen": "apply",
    "held": "a verb, such as held_amount",
    "judge": "classify_attempt",
    "look_over": "fetch_report",
    "note": "append_timeline",
    "once": "run_idempotent",
    "ordered": "a verb",
    "own": "get_owned_request",
    "owned": "load_owned",
    "provided": "a verb, such as provide_services",
    "routed": "a verb, such as choose_model",
    "shown": "a verb, such as to_resource",
    "tried": "call_with_retry",
    "wrote": "on_committed",
}
"""Functions, methods and fixtures, compared as whole names without leading underscores."""

WORDS: Mapping[str, str] = {
    "canceled": "cancelled",
    "chore": "periodic task",
    "chores": "periodic tasks",
    "debt": "outbox message",
    "debts": "outbox messages",
    "deed": "action",
    "deeds": "actions",
    "desk": "fake billing",
    "hub": "broadcaster",
    "mover": "transition runner",
    "orchestrator": "generations",
    "party": "responsibility",
    "seam": "failpoint",
    "seams": "failpoints",
    "storm": "chaos run",
    "world": "test app",
    "worlds": "test apps",
    "yard": "environment",
}
"""Words of identifiers in snake or camel case, of file names, and of the documents. No common
English use is left for them here.
"""

PHRASES: Mapping[str, str] = {
    "carry_out": "apply_event",
    "own_servers": "servers",
    "unknown-host": "host-not-allowed",
    "ways_on": "next_steps",
    "ways on": "next steps",
    "webhook target": "webhook endpoint",
    "webhook-target": "webhook-endpoints",
    "webhook_target": "webhook_endpoint",
}
"""Parts of identifiers, addresses and sentences that are longer than a word."""

KEPT_COLUMNS = {"webhook_targets", "target_id"}
"""Names in the database that stay: renaming them would rewrite tables for no one's benefit. They
appear only in the storage, in statements of tests, and where a document names the table.
"""

WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def words(text: str) -> set[str]:
    """The lower-case words of an identifier or a sentence."""
    return {word.lower() for word in WORD.findall(text)}


def definitions(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield kind and name of every class, type alias and function of a module."""
    for node in ast.walk(tree):
        match node:
            case ast.ClassDef():
                yield "class", node.name
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                yield "function", node.name
            case ast.Module():
                for statement in node.body:
                    if isinstance(statement, ast.Assign):
                        for target in statement.targets:
                            if isinstance(target, ast.Name):
                                yield "class", target.id


def identifiers(tree: ast.AST) -> Iterator[str]:
    """Yield every name that a module defines or uses."""
    for node in ast.walk(tree):
        match node:
            case ast.Name():
                yield node.id
            case ast.Attribute():
                yield node.attr
            case ast.arg():
                yield node.arg
            case ast.keyword() if node.arg is not None:
                yield node.arg
            case ast.alias():
                yield node.name
                yield node.asname or ""
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                yield node.name


@cache
def identifiers_of(path: Path) -> frozenset[str]:
    return frozenset(identifiers(ast.parse(path.read_text("utf-8"))))


def retired_definitions(source: str) -> list[str]:
    """Return the retired names that a module defines, each with its replacement."""
    lists = {"class": CLASSES, "function": FUNCTIONS}
    return [
        f"{kind} {found}: {lists[kind][found.strip('_')]}"
        for kind, found in definitions(ast.parse(source))
        if found.strip("_") in lists[kind]
    ]


def retired_words(texts: Iterable[str]) -> list[str]:
    """Return the retired words and phrases in identifiers or sentences, with their replacements."""
    found = []
    for text in texts:
        cleaned = re.sub("|".join(KEPT_COLUMNS), "", text)
        found += [f"{text}: {WORDS[word]}" for word in sorted(words(cleaned) & WORDS.keys())]
        found += [
            f"{text}: {better}" for phrase, better in PHRASES.items() if phrase in cleaned.lower()
        ]
    return found


def strings_of(value: Any) -> Iterator[str]:
    """Yield every string of a JSON document, including the names of its members."""
    match value:
        case str():
            yield value
        case dict():
            for key, inner in value.items():
                yield key
                yield from strings_of(inner)
        case list():
            for inner in value:
                yield from strings_of(inner)


def test_code_defines_no_retired_name() -> None:
    found = {name(path): retired_definitions(path.read_text("utf-8")) for path in PYTHON}
    assert {path: names for path, names in found.items() if names} == {}


def test_code_uses_no_retired_word() -> None:
    found = {name(path): retired_words([path.stem, *identifiers_of(path)]) for path in PYTHON}
    assert {path: names for path, names in found.items() if names} == {}


def test_database_names_that_stay_are_identifiers_of_the_storage_only() -> None:
    found = {path for path in PYTHON if KEPT_COLUMNS & identifiers_of(path)}
    assert {path for path in found if not path.is_relative_to(STORAGE)} == set()


def test_documents_have_no_retired_word() -> None:
    found = {name(path): retired_words(path.read_text("utf-8").splitlines()) for path in TEXTS}
    assert {path: lines for path, lines in found.items() if lines} == {}


def test_api_description_has_no_retired_name() -> None:
    described = orjson.loads((ROOT / "docs" / "openapi.json").read_bytes())
    assert described["components"]["schemas"].keys() & CLASSES.keys() == set()
    assert retired_words(strings_of(described)) == []


@pytest.mark.parametrize("word", sorted(WORDS))
def test_retired_words_reports_each_word_in_every_notation(word: str) -> None:
    for text in (word, f"parked_{word}", f"Parked{word.title()}", f"The {word}, too."):
        assert retired_words([text]) == [f"{text}: {WORDS[word]}"]


def test_retired_words_reports_phrases_but_not_the_kept_columns() -> None:
    assert retired_words(["/api/v1/webhook-targets", "ways_on"]) == [
        "/api/v1/webhook-targets: webhook-endpoints",
        "ways_on: next_steps",
    ]
    assert retired_words(["UPDATE webhook_targets", "third_parties", "worldwide"]) == []


def test_retired_definitions_reports_classes_functions_and_fixtures() -> None:
    source = (
        "class Mover: ...\ndef _tried(): ...\nasync def look_over(): ...\nVerdict = int | str\n"
    )
    assert sorted(retired_definitions(source)) == [
        "class Mover: TransitionRunner",
        "class Verdict: AckDecision",
        "function _tried: call_with_retry",
        "function look_over: fetch_report",
    ]
