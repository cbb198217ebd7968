"""The documents are correct: generated from the code, or compared with it here. No services
needed.
"""

import ast
import asyncio
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import httpx
import orjson
import pytest
import typer.main
import yaml
from prometheus_client.metrics import MetricWrapperBase as Metric
from pydantic import BaseModel

from creativeflow.services.aigeneration.adapters.engine.rabbitmq import SCHEMA, RabbitMQEngine
from creativeflow.services.aigeneration.adapters.notifications.http import HttpNotifier
from creativeflow.services.aigeneration.adapters.notifications.rabbitmq import (
    EventPublisher,
    RabbitMQNotifier,
)
from creativeflow.services.aigeneration.adapters.rabbitmq.broker import (
    Broker,
    Message,
    PublishOutcome,
    PublishResult,
    Topology,
)
from creativeflow.services.aigeneration.application import metrics as service_metrics
from creativeflow.services.aigeneration.application.worker_reports import (
    MODELS,
    ReportedAsset,
    ReportedFailure,
)
from creativeflow.services.aigeneration.bootstrap.rabbitmq import topology
from creativeflow.services.aigeneration.cli import api_session, generations, main
from creativeflow.services.aigeneration.domain import webhooks
from creativeflow.services.aigeneration.domain.errors import every_error
from creativeflow.services.aigeneration.domain.formats import Size
from creativeflow.services.aigeneration.domain.lifecycle import TRANSITIONS, Stage, State
from creativeflow.services.aigeneration.domain.policy import Policy
from creativeflow.services.aigeneration.domain.request import GenerationRequest
from creativeflow.services.aigeneration.domain.runbook import DIFFERENCES, FLAGS, INVARIANTS, STALLS
from creativeflow.services.aigeneration.domain.transitions import Context, Topic, apply
from creativeflow.services.aigeneration.domain.worker_errors import SERVICE_ERRORS, WORKER_ERRORS
from creativeflow.services.aigeneration.kit.signing import CallbackSecrets, webhook_headers
from creativeflow.services.aigeneration.settings import Settings
from creativeflow.services.aigeneration.storage import invariants, request_sql
from creativeflow.services.aigeneration.workers.results_consumer import ROUTES
from tests.support.builders import NOW, a_request, an_event, four_samples, new_ids
from tools import generate_docs

ROOT, PACKAGE = generate_docs.ROOT, generate_docs.PACKAGE
SERVICE = ROOT / generate_docs.SERVICE
TESTS = SERVICE / "tests"
DOCS = ROOT / "docs"
PAGES = [
    ROOT / "README.md",
    ROOT / "clients" / "python" / "README.md",
    *(SERVICE / name for name in ("ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted(DOCS.rglob("*.md")),
]
DEFAULTS = Settings.model_construct()

PATHS: dict[str, Any] = orjson.loads((DOCS / "openapi.json").read_bytes())["paths"]

_FENCE = re.compile(r"^```(?P<info>[^\n]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`([^`]+)`")
_LINK = re.compile(r"\[[^]]*\]\(([^)\s]+)\)")
_FILE = re.compile(
    r"(?:[\w.-]+/)*[\w.-]+\.(?:py|md|ya?ml|json|toml|svg|png|lock|example)|(?:[\w.-]+/)+"
)
_VARIABLE = re.compile(r"\b(?:AIGEN_[A-Z0-9_]+|DATABASE_URL|RABBITMQ_URL|N8N_[A-Z_]+)\b")
_ADDRESS = re.compile(
    r"(?:(GET|POST|PUT|PATCH|DELETE) )?(/(?:api/v1|health|ready|metrics|problems)[^\s`?]*)"
)


def page(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def prose(text: str) -> str:
    """Everything outside fenced blocks."""
    return _FENCE.sub("", text)


def code(text: str) -> list[str]:
    """Every fenced block of commands and every inline piece of code."""
    return [fence["text"] for fence in _FENCE.finditer(text) if fence["info"] == "sh"] + inline(
        text
    )


def inline(text: str) -> list[str]:
    return _INLINE.findall(prose(text))


def every_page(function: Any) -> Any:
    return pytest.mark.parametrize("path", [pytest.param(path, id=name(path)) for path in PAGES])(
        function
    )


# Generated documents


@pytest.mark.parametrize("document", generate_docs.GENERATED)
def test_generated_document_is_up_to_date(document: str) -> None:
    path = ROOT / document
    wanted = generate_docs.GENERATED[document]()
    assert path.is_file() and page(path) == wanted, f"{document} is not up to date: run `make docs`"  # noqa: PT018


@pytest.mark.parametrize("name", generate_docs.sql_snapshots())
def test_sql_snapshot_matches_the_composed_statement(name: str) -> None:
    shown = page(ROOT / name)
    assert shown == generate_docs.sql_snapshots()[name], f"{name}: run `make docs`"


def test_sql_snapshots_are_all_composed() -> None:
    shown = {path.stem for path in (PACKAGE / "storage" / "sql").glob("*.sql")}
    assert shown == set(request_sql.snapshots())


def test_generate_docs_writes_missing_and_stale_documents_only(tmp_path: Path) -> None:
    generate_docs.main([str(tmp_path)])
    assert generate_docs.stale(tmp_path) == {}
    (tmp_path / "docs" / "settings.md").write_text("changed by hand", "utf-8")
    assert list(generate_docs.stale(tmp_path)) == [tmp_path / "docs" / "settings.md"]


def test_modules_page_lists_every_module_with_the_first_sentence_of_its_docstring() -> None:
    text = page(DOCS / "modules.md")
    mapped = dict(re.findall(r"^\| `(\S+\.py)` \| (\S.*) \|$", text, re.MULTILINE))
    found = {
        path.relative_to(PACKAGE).as_posix(): path
        for path in PACKAGE.rglob("*.py")
        if path.stem != "__init__"
    }
    assert set(mapped) == set(found)
    for module, path in found.items():
        docstring = " ".join((ast.get_docstring(ast.parse(page(path))) or "").split())
        assert docstring.startswith(mapped[module]), module
        assert mapped[module].endswith("."), (
            f"{module}: the docstring does not begin with a sentence"
        )


def test_settings_and_example_have_every_setting() -> None:
    example = page(SERVICE / ".env.example")
    table = page(DOCS / "settings.md")
    for setting, field in Settings.model_fields.items():
        assert field.description, f"{setting} has no sentence"
        assert f"| `AIGEN_{setting.upper()}`" in table
        assert f"# AIGEN_{setting.upper()}=" in example
    assert all(line.startswith("#") for line in example.splitlines() if line)


def test_env_example_values_are_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    """Uncommenting everything that has a value changes nothing."""
    for variable in list(os.environ):
        if _VARIABLE.fullmatch(variable) or variable.endswith("_SERVICE_API_URL"):
            monkeypatch.delenv(variable)
    for line in page(SERVICE / ".env.example").splitlines():
        if match := re.fullmatch(r"# (AIGEN_\w+)=(.+)", line):
            monkeypatch.setenv(match[1], match[2])
    read = Settings(_env_file=None)  # type: ignore[call-arg]
    wanted = {
        key: field.default for key, field in Settings.model_fields.items() if key != "data_dir"
    }
    assert {key: getattr(read, key) for key in wanted} == wanted


def test_problems_page_lists_every_code() -> None:
    problems = page(DOCS / "problems.md")
    assert [error.code for error in every_error() if f"\n## {error.code}\n" not in problems] == []
    lifecycle = page(DOCS / "lifecycle.md")
    assert [
        fault for fault in [*WORKER_ERRORS, *SERVICE_ERRORS] if f"\n| `{fault}` |" not in lifecycle
    ] == []
    assert [
        move
        for (_, event), move in TRANSITIONS.items()
        if f"| `{event}` | {move.to} |" not in lifecycle
    ] == []


def test_operators_read_the_same_words_in_the_documents_and_at_the_console() -> None:
    text = page(DOCS / "operations.md")
    for name, meaning in [*INVARIANTS.items(), *STALLS.items()]:
        assert f"\n| `{name}` | {meaning.means} | {meaning.then} |\n" in text
    for name, meaning in FLAGS.items():
        assert f"\n| `{name}` | {meaning.means} |\n" in text
    for name, meaning in DIFFERENCES.items():
        assert re.search(
            rf"^\| `{name}` \| {re.escape(meaning.means)} \| [^|]+ \|"
            rf" {re.escape(meaning.then)} \|$",
            text,
            re.MULTILINE,
        )
    anchors = {
        anchor
        for meaning in INVARIANTS.values()
        for anchor in re.findall(r"\(#([a-z-]+)\)", meaning.then)
    }
    needs = page(PACKAGE / "web" / "templates" / "console" / "attention.html")
    assert [anchor for anchor in anchors if f'id="{anchor}"' not in needs] == []


# Names in documents


@every_page
def test_make_targets_exist(path: Path) -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", page(ROOT / "Makefile"), re.MULTILINE))
    named = {
        target
        for text in code(page(path))
        for target in re.findall(r"\bmake ([a-z][a-z0-9-]*)", text)
    }
    assert named <= targets


@every_page
def test_commands_and_their_options_exist(path: Path) -> None:
    for text in code(page(path)):
        for line in text.splitlines():
            if match := re.search(r"\baigen((?: [a-z][a-z-]*)+)(.*)", line):
                assert_command(match[1].split(), match[2])


def assert_command(words: Sequence[str], rest: str) -> None:
    command: Any = typer.main.get_command(main.app)
    for word in words:
        if not hasattr(command, "commands"):
            break
        assert word in command.commands, f"there is no `aigen {' '.join(words)}`"
        command = command.commands[word]
    options = {
        option
        for parameter in command.params
        for option in [*parameter.opts, *parameter.secondary_opts]
    }
    assert set(re.findall(r"(--[a-z-]+)", rest)) <= options | {"--help"}


@every_page
def test_environment_variables_exist(path: Path) -> None:
    known = set(re.findall(r"`([A-Z][A-Z0-9_]+)`", page(DOCS / "settings.md")))
    secrets = [name.upper() for names in Settings.secret_variables().values() for name in names]
    known |= {f"{name}_FILE" for name in secrets}
    known |= set(
        re.findall(r'"(N8N_\w+)"', page(TESTS / "e2e_n8n" / "n8n.py"))
    )  # n8n's own, as they were tried
    known |= set(variables_of(typer.main.get_command(main.app)))
    known |= {
        name for test in TESTS.rglob("*.py") for name in re.findall(r"AIGEN_TEST_\w+", page(test))
    }
    assert set(_VARIABLE.findall(page(path))) <= known


def variables_of(command: Any) -> Iterator[str]:
    """Return the variables that the command line reads beside the settings."""
    for parameter in command.params:
        if parameter.envvar:
            yield parameter.envvar
    for below in getattr(command, "commands", {}).values():
        yield from variables_of(below)


def test_command_line_page_lists_every_command_and_option() -> None:
    text = page(DOCS / "command-line.md")
    described = set(re.findall(r"^\| `aigen ([a-z]+)` \|", text, re.MULTILINE))
    over_the_api = typer.main.get_command(generations.app)
    assert described == set(over_the_api.commands)  # type: ignore[attr-defined]
    assert set(variables_of(over_the_api)) == set(
        re.findall(r"^\| `--\w+` \| `(\w+)` \|", text, re.MULTILINE)
    )
    exits = {
        api_session.REFUSED,
        api_session.NOT_NOW,
        api_session.ENDED,
        api_session.STILL_RUNNING,
        api_session.INTERRUPTED,
    }
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)} == {0, 2, *exits}


def test_variables_outside_the_table_exist() -> None:
    known = set(re.findall(r"`([A-Z][A-Z0-9_]+)`", page(DOCS / "settings.md")))
    assert set(_VARIABLE.findall(page(DOCS / "asyncapi.yaml"))) <= known


@every_page
def test_files_exist(path: Path) -> None:
    bases = (path.parent, ROOT, SERVICE, PACKAGE, TESTS)
    missing = [
        named
        for named in inline(page(path))
        if _FILE.fullmatch(named) and not any((base / named).exists() for base in bases)
    ]
    assert missing == []


@every_page
def test_links_lead_somewhere(path: Path) -> None:
    for target in _LINK.findall(prose(page(path))):
        if re.match(r"[a-z]+://", target):
            continue
        file, _, anchor = target.partition("#")
        linked = path.parent / file if file else path
        assert linked.exists(), f"{target} is not there"
        assert not anchor or anchor in anchors(page(linked)), f"{target} has no such heading"


def anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def addresses(text: str) -> Iterator[tuple[str, str]]:
    for piece in inline(text):
        if match := _ADDRESS.fullmatch(piece):
            yield match[1] or "", match[2]
    for fence in _FENCE.finditer(text):
        if fence["info"] == "http":
            method, _, target = fence["text"].splitlines()[0].partition(" ")
            yield method, target.partition("?")[0]


@every_page
def test_addresses_exist(path: Path) -> None:
    known = {re.sub(r"\{\w+\}", "{}", address): methods for address, methods in PATHS.items()}
    for method, address in addresses(page(path)):
        if address.endswith("…"):
            assert any(other.startswith(address[:-1]) for other in known), address
            continue
        generic = re.sub(r"\{\w+\}", "{}", address)
        assert generic in known, f"{address} is not there"
        assert not method or method.lower() in known[generic], f"{address} does not take {method}"


@every_page
def test_states_exist(path: Path) -> None:
    named = set(
        re.findall(r"\b(?:VALIDATING|PUBLISHING|PROCESSING|AWAITING|CONTENT)_[A-Z_]+\b", page(path))
    )
    assert named <= set(State)


def test_operations_names_every_metric_and_count_and_log_event() -> None:
    text = page(DOCS / "operations.md")
    metrics = [found for found in vars(service_metrics).values() if isinstance(found, Metric)]
    described = {found.describe()[0].name: list(found._labelnames) for found in metrics}  # noqa: SLF001 - no other way
    rows = re.findall(r"^\| `(\w+)` \|(.*)\|.*\|$", section(text, "Health"), re.MULTILINE)
    assert {name.removesuffix("_total"): labels.strip().split(", ") for name, labels in rows} == {
        name: labels or [""] for name, labels in described.items()
    }
    statements = invariants._OPEN + invariants._CHANGED  # noqa: SLF001 - the statements are the list
    counts = set(re.findall(r"\bAS (\w+)", statements))
    assert (
        set(re.findall(r"^\| `(\w+)` \|", section(text, "The invariants"), re.MULTILINE)) == counts
    )
    logged = set(
        re.findall(
            r"`(\w+)`",
            "".join(re.findall(r"^\| (`.+?) \|", section(text, "The log"), re.MULTILINE)),
        )
    )
    source = "".join(page(path) for path in PACKAGE.rglob("*.py"))
    assert [event for event in logged if f'"{event}"' not in source] == []
    roles = re.findall(r"^\| `(\w+)` \|", section(text, "Roles and scaling out"), re.MULTILINE)
    assert sorted(roles) == sorted(DEFAULTS.roles)


def section(text: str, heading: str) -> str:
    return text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize(
    "path", sorted((DOCS / "decisions").glob("*.md")), ids=lambda path: path.stem
)
def test_decision_record_has_all_parts(path: Path) -> None:
    text = page(path)
    parts = ["Context", "Decision", "Consequences", "Alternatives", "Revisit when", "Enforced by"]
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == parts
    title = text.partition("\n")[0].removeprefix(f"# {path.stem[:4]} ")
    assert f"\n{int(path.stem[:4])}. [{title}](../../docs/decisions/{path.name})\n" in page(
        SERVICE / "ARCHITECTURE.md"
    )
    assert "\n> " in section(text, "Decision")
    assert "- Bad: " in section(text, "Consequences")


# Messages


ASYNCAPI: dict[str, Any] = yaml.safe_load(page(DOCS / "asyncapi.yaml"))
CHANNELS: dict[str, Any] = ASYNCAPI["channels"]
SCHEMAS: dict[str, Any] = ASYNCAPI["components"]["schemas"]


class RecordingBroker:
    """Takes every message."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    async def publish(self, messages: Sequence[Message]) -> list[PublishResult]:
        """Confirm all."""
        self.messages += messages
        return [PublishResult(PublishOutcome.CONFIRMED)] * len(messages)


def test_references_in_the_description_lead_somewhere() -> None:
    for reference in re.findall(r"\$ref: '#/([^']+)'", page(DOCS / "asyncapi.yaml")):
        found: Any = ASYNCAPI
        for part in reference.split("/"):
            assert part in found, reference
            found = found[part]


def test_exchanges_queues_and_bindings_are_those_of_the_wiring() -> None:
    declared = topology(DEFAULTS)
    exchanges, queues_, bindings = set(), {}, set()
    for channel in CHANNELS.values():
        bound = channel["bindings"]["amqp"]
        if bound["is"] == "queue":
            continue
        assert bound["exchange"]["durable"]
        exchanges.add((bound["exchange"]["name"], bound["exchange"]["type"]))
        if queue := channel.get("x-queue"):
            queues_[queue] = channel["x-queue-arguments"]
            key = channel.get("x-binding-key", channel["address"])
            bindings.add((bound["exchange"]["name"], queue, key))
    assert exchanges == {(exchange.name, exchange.kind) for exchange in declared.exchanges}
    assert queues_ == {queue.name: dict(queue.arguments) for queue in declared.queues}
    assert bindings == {
        (binding.exchange, binding.queue, binding.routing_key) for binding in declared.bindings
    }


def test_routing_keys_are_those_of_settings_and_results() -> None:
    keys = DEFAULTS.routing_keys()
    assert CHANNELS["samplesJobs"]["address"] == keys[Stage.SAMPLES]
    assert CHANNELS["finalJobs"]["address"] == keys[Stage.FINAL]
    results = {
        channel["address"]: channel
        for channel in CHANNELS.values()
        if channel.get("x-queue") == DEFAULTS.rabbitmq_results_queue
    }
    assert set(results) == set(ROUTES)
    for address, kind in ROUTES.items():
        (message,) = results[address]["messages"].values()
        reference = message["$ref"].rpartition("/")[2]
        payload = ASYNCAPI["components"]["messages"][reference]["payload"]["$ref"]
        assert payload == f"#/components/schemas/{MODELS[kind].__name__}"
    assert CHANNELS["notifications"]["address"] == DEFAULTS.notify_queue


@pytest.mark.parametrize("stage", list(Stage))
def test_asyncapi_job_message_has_exactly_the_described_properties(stage: Stage) -> None:
    job = _job(stage)
    described = SCHEMAS["Job"]
    assert set(described["properties"]) == set(job)
    assert set(described["required"]) == set(job)
    for part in ("user_context", "dimensions", "model"):
        assert set(described["properties"][part]["properties"]) == set(job[part])
    assert described["properties"]["schema"]["const"] == SCHEMA == job["schema"]
    for key, value in job.items():
        assert _fits(described["properties"][key], value), f"{key}: {value!r}"


def _job(stage: Stage) -> dict[str, Any]:
    engine = RabbitMQEngine(
        Broker("amqp://localhost", topology=Topology()),
        exchange=DEFAULTS.rabbitmq_job_exchange,
        routing_keys=DEFAULTS.routing_keys(),
        secrets=CallbackSecrets(["a-secret-of-the-tests"]),
        public_url="https://aigen.example",
        policy=Policy(),
        now=lambda: NOW,
    )
    if stage is Stage.SAMPLES:
        return engine.job(a_request(state=State.PUBLISHING_TO_QUEUE))
    return engine.job(
        a_request(
            state=State.PUBLISHING_TO_QUEUE,
            stage=stage,
            samples=four_samples(),
            selected_sample_id="sample-1",
            final_size=Size(2048, 2048),
        )
    )


_TYPES: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "integer": int,
    "object": dict,
    "array": list,
    "boolean": bool,
    "null": type(None),
}


def _fits(schema: dict[str, Any], value: Any) -> bool:
    """Whether the value has a type, or is one of the values, that the schema names."""
    if "const" in schema or "enum" in schema:
        return value in schema.get("enum", [schema.get("const")])
    if "oneOf" in schema:
        return any(_fits(one, value) for one in schema["oneOf"])
    if "$ref" in schema:
        return _fits(SCHEMAS[schema["$ref"].rpartition("/")[2]], value)
    types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    return any(isinstance(value, _TYPES[each]) for each in types)


REPORTS: list[type[BaseModel]] = [*dict.fromkeys(MODELS.values()), ReportedAsset, ReportedFailure]


@pytest.mark.parametrize("model", REPORTS, ids=lambda model: model.__name__)
def test_result_schemas_are_the_models(model: type[BaseModel]) -> None:
    described = SCHEMAS[model.__name__]
    assert set(described["properties"]) == set(model.model_fields)
    obligatory = {field for field, info in model.model_fields.items() if info.is_required()}
    proof = {"job_id", "callback_token"} if "job_id" in model.model_fields else set()
    assert set(described["required"]) == obligatory | proof


def announced() -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Every notification with its lifecycle event, as the moves cause them."""
    found = {}
    for (state, event), move in TRANSITIONS.items():
        if not any(effect.value.startswith("announce") for effect in move.effects):
            continue
        assert isinstance(state, State)
        request = _in_state(state)
        policy = Policy(publish_events=True)
        context = Context(policy=policy, now=NOW, new_id=new_ids())
        change = apply(request, an_event(request, event), context)
        bodies = {message.topic: dict(message.body) for message in change.messages}
        found[bodies[Topic.NOTIFY]["event_type"]] = (bodies[Topic.NOTIFY], bodies[Topic.EVENT])
    return found


def _in_state(state: State) -> GenerationRequest:
    return a_request(state=state, samples=four_samples(), final_asset=four_samples()[0])


def test_notifications_are_as_described() -> None:
    events = announced()
    table = section(page(DOCS / "notifications.md"), "What is sent, and when")
    rows = {
        row[0]: row[1:]
        for row in re.findall(r"^\| `(\w+)` \| .*? \|(.*?)\| `([\w.]+)` \|$", table, re.MULTILINE)
    }
    assert (
        set(rows) == set(events) == set(SCHEMAS["Notification"]["properties"]["event_type"]["enum"])
    )
    common = set(
        re.findall(r"`(\w+)`", table.partition("The common data: ")[2].partition(".\n")[0])
    ) - {"event_id", "at", "locale"}
    assert common == set(SCHEMAS["EventData"]["required"])
    for event_type, (notification, event) in events.items():
        extra, lifecycle_event = rows[event_type]
        assert lifecycle_event == f"generation.{event['event_type']}"
        assert notification["event_id"] == event["event_id"]
        assert set(notification["data"]) == common | set(re.findall(r"`(\w+)`", extra))
        assert set(notification["data"]) <= set(SCHEMAS["EventData"]["properties"])
    published = {f"generation.{event['event_type']}" for _, event in events.values()}
    assert published == set(SCHEMAS["LifecycleEvent"]["properties"]["eventType"]["enum"])
    assert {
        f"generation.{word}" for word in CHANNELS["lifecycleEvents"]["parameters"]["event"]["enum"]
    } == published


def test_webhooks_are_as_described() -> None:
    text = page(DOCS / "webhooks.md")
    events = {f"generation.{event['event_type']}" for _, event in announced().values()}
    assert (
        set(re.findall(r"^\| `(generation\.\w+)` \|", section(text, "Events"), re.MULTILINE))
        == events
    )
    troubles = re.findall(
        r"^\| (`.+?) \|", section(text, "Deliveries and redelivery"), re.MULTILINE
    )
    assert set(re.findall(r"`(\w+)`", "".join(troubles))) == set(webhooks.DeliveryError) | {
        "last_error"
    }
    waits = re.findall(
        r"(\d+) (seconds?|minutes?|hours?)",
        text.partition("at once, then after ")[2].partition(", each")[0],
    )
    seconds = {"s": 1, "m": 60, "h": 3600}
    assert [int(n) * seconds[unit[0]] for n, unit in waits] == [
        wait.total_seconds() for wait in webhooks.SCHEDULE
    ]
    sent = webhook_headers(["whsec_" + "aa" * 16], "id", 1, b"{}")
    shown = re.findall(r"^\| `(webhook-\w+)` \|", section(text, "Events"), re.MULTILINE)
    assert set(shown) == {header for header in sent if header.startswith("webhook-")}


def test_messages_to_others_are_as_described() -> None:
    broker = RecordingBroker()
    notification, event = announced()["samples_ready"]
    notifier = RabbitMQNotifier(
        cast("Broker", broker), queue=DEFAULTS.notify_queue, channels=DEFAULTS.notify_channels
    )
    publisher = EventPublisher(cast("Broker", broker), exchange=DEFAULTS.rabbitmq_topic_exchange)
    asyncio.run(notifier.send(notification))
    asyncio.run(publisher.publish(event))
    told, published = (orjson.loads(message.body) for message in broker.messages)
    assert set(told) == set(SCHEMAS["Notification"]["properties"])
    assert told["data"].keys() == {*notification["data"], "event_id", "at", "locale"}
    assert set(published) == set(SCHEMAS["LifecycleEvent"]["properties"])
    assert (
        published["sourceService"]
        == SCHEMAS["LifecycleEvent"]["properties"]["sourceService"]["const"]
    )
    assert (
        published["eventVersion"]
        == SCHEMAS["LifecycleEvent"]["properties"]["eventVersion"]["const"]
    )
    assert (broker.messages[0].exchange, broker.messages[0].routing_key) == (
        "",
        DEFAULTS.notify_queue,
    )
    exchange = CHANNELS["lifecycleEvents"]["bindings"]["amqp"]["exchange"]["name"]
    assert (broker.messages[1].exchange, broker.messages[1].routing_key) == (
        exchange,
        "generation.samples_ready",
    )
    examples = [
        orjson.loads(fence["text"]) for fence in _FENCE.finditer(page(DOCS / "notifications.md"))
    ]
    assert [set(example) for example in examples] == [set(told), set(published)]
    assert set(examples[0]["data"]) == set(told["data"])


def test_notification_over_http_has_the_same_body() -> None:
    taken: list[httpx.Request] = []

    def take(request: httpx.Request) -> httpx.Response:
        taken.append(request)
        return httpx.Response(202)

    async def send(notification: dict[str, Any]) -> None:
        async with httpx.AsyncClient(transport=httpx.MockTransport(take)) as client:
            await HttpNotifier(
                client, url="https://n.example", api_key="k", channels=["websocket"]
            ).send(notification)

    notification, _ = announced()["samples_ready"]
    asyncio.run(send(notification))
    assert set(orjson.loads(taken[0].content)) == set(SCHEMAS["Notification"]["properties"])
    assert taken[0].headers["idempotency-key"] == notification["event_id"]
    assert {"x-request-id", "x-internal-api-key"} <= set(taken[0].headers)
