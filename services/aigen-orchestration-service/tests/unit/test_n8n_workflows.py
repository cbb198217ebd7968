"""The n8n workflows in n8n/: importable, complete, without secrets, and with the service's
messages. No services needed.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from creativeflow.services.aigeneration.domain.worker_errors import WORKER_ERRORS
from creativeflow.services.aigeneration.settings import Settings
from creativeflow.services.aigeneration.workers.results_consumer import ROUTES
from tools import generate_docs

FOLDER = generate_docs.ROOT / "n8n"
CREDENTIALS = FOLDER / "credentials.example.json"
IDS = {
    "errors": "aigenErrors",
    "final": "aigenFinal",
    "picture": "aigenPicture",
    "provider_openai_images": "aigenProviderOpenAI",
    "provider_stability": "aigenProviderStability",
    "provider_stub": "aigenProviderStub",
    "report": "aigenReport",
    "samples": "aigenSamples",
    "settings": "aigenSettings",
    "store_s3": "aigenStoreS3",
}
KNOWN_NODES = {
    ("code", 2),
    ("crypto", 2),
    ("editImage", 1.1),
    ("errorTrigger", 1),
    ("executeWorkflow", 1.3),
    ("executeWorkflowTrigger", 1.1),
    ("httpRequest", 4.2),
    ("if", 2.2),
    ("noOp", 1),
    ("rabbitmq", 1.2),
    ("rabbitmqTrigger", 1),
    ("s3", 1),
    ("set", 3.4),
    ("splitInBatches", 3),
    ("stickyNote", 1),
    ("stopAndError", 1),
    ("switch", 3.2),
    ("wait", 1.1),
}
PROVIDERS = ("provider_openai_images", "provider_stability", "provider_stub")
NO_CODES = {"openai_images", "content_policy", "content_filter"}
"""Words with an underscore that are no error codes."""
DEFAULTS = Settings.model_construct()

WORKFLOWS: dict[str, dict[str, Any]] = {
    name: json.loads((FOLDER / f"{name}.json").read_text("utf-8")) for name in IDS
}


def nodes(name: str, *kinds: str) -> Iterator[dict[str, Any]]:
    for node in WORKFLOWS[name]["nodes"]:
        if not kinds or node["type"].removeprefix("n8n-nodes-base.") in kinds:
            yield node


def all_nodes(*kinds: str) -> Iterator[dict[str, Any]]:
    for name in WORKFLOWS:
        yield from nodes(name, *kinds)


def texts(value: Any) -> Iterator[str]:
    """Every text in a value, however deep."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from texts(each)


every_workflow = pytest.mark.parametrize("name", list(IDS))


def test_workflow_files_have_their_fixed_ids() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == {*IDS, "credentials.example"}
    assert {name: workflow["id"] for name, workflow in WORKFLOWS.items()} == IDS


@every_workflow
def test_workflow_file_is_formatted(name: str) -> None:
    written = json.dumps(WORKFLOWS[name], indent=2, ensure_ascii=False) + "\n"
    assert (FOLDER / f"{name}.json").read_text("utf-8") == written
    assert not WORKFLOWS[name]["active"], "import leaves it unpublished"
    assert any(node["type"].endswith("stickyNote") for node in nodes(name)), (
        "it explains itself on the canvas"
    )


@every_workflow
def test_nodes_are_known_and_connected(name: str) -> None:
    known = {
        (node["type"].removeprefix("n8n-nodes-base."), node["typeVersion"]) for node in nodes(name)
    }
    assert known <= KNOWN_NODES
    names = [node["name"] for node in nodes(name)]
    assert len(set(names)) == len(names)
    assert len({node["id"] for node in nodes(name)}) == len(names)
    reached = {
        edge["node"]
        for outputs in WORKFLOWS[name]["connections"].values()
        for output in outputs["main"]
        for edge in output
    }
    assert set(WORKFLOWS[name]["connections"]) <= set(names)
    beginnings = {
        node["name"]
        for node in nodes(name)
        if "rigger" in node["type"] or node["type"].endswith("stickyNote")
    }
    assert set(names) - reached == beginnings


@every_workflow
def test_expressions_name_nodes_that_are_there(name: str) -> None:
    names = {node["name"] for node in nodes(name)}
    text = "\n".join(texts([node["parameters"] for node in nodes(name)]))
    assert set(re.findall(r"\$\('([^']+)'\)", text)) <= names


@pytest.mark.parametrize(
    ("name", "queue"),
    [("samples", DEFAULTS.rabbitmq_samples_queue), ("final", DEFAULTS.rabbitmq_final_queue)],
)
def test_workflow_triggers_acknowledge_late_and_declare_nothing(name: str, queue: str) -> None:
    (trigger,) = nodes(name, "rabbitmqTrigger")
    assert trigger["parameters"] == {
        "queue": queue,
        "options": {"acknowledge": "executionFinishes", "parallelMessages": 10},
    }


def test_credentials_are_placeholders() -> None:
    placeholders = json.loads(CREDENTIALS.read_text("utf-8"))
    by_id = {each["id"]: each for each in placeholders}
    for each in placeholders:
        secret = {
            "password",
            "username",
            "hostname",
            "hmacSecret",
            "value",
            "accessKeyId",
            "secretAccessKey",
            "endpoint",
        }
        for key in secret & set(each["data"]):
            assert "REPLACE-WITH-" in each["data"][key], f"{each['name']}: {key}"
    used = set()
    for node in all_nodes():
        for kind, named in node.get("credentials", {}).items():
            assert named == {key: by_id[named["id"]][key] for key in ("id", "name")}
            assert kind == by_id[named["id"]]["type"]
            used.add(named["id"])
    assert used == set(by_id)
    table = (FOLDER / "README.md").read_text("utf-8")
    assert all(f"`{each['name']}`" in table for each in placeholders)


@every_workflow
def test_workflow_contains_no_secret(name: str) -> None:
    text = (FOLDER / f"{name}.json").read_text("utf-8")
    found = re.findall(
        r"\b(?:sk-\w{8,}|whsec_\w+|eyJ[\w-]{10,}|AKIA\w{12,}|amqps?://[^\s\"]+@[^\s\"]+)", text
    )
    assert found == []
    assert not WORKFLOWS[name].get("staticData")
    assert WORKFLOWS[name]["pinData"] == {}
    assert WORKFLOWS[name]["settings"]["saveDataSuccessExecution"] == "none", (
        "tokens of jobs would be kept"
    )


def test_workflows_use_exactly_the_worker_codes() -> None:
    used = set()
    for node in all_nodes("code", "set"):
        text = "\n".join(texts(node["parameters"]))
        if re.search(r"error_code|\bfail\(", text):
            used |= set(re.findall(r"['\"]([a-z]+_[a-z_]+)['\"]", text)) - NO_CODES
    for node in all_nodes("set"):
        for each in node["parameters"].get("assignments", {}).get("assignments", []):
            if each["name"] == "error_code":
                used.add(each["value"])
    assert used == set(WORKER_ERRORS)


def test_routing_keys_and_exchange_are_ours() -> None:
    text = "\n".join(texts([node["parameters"] for node in nodes("report")]))
    keys = dict(re.findall(r"'?([\w-]+)'?: '(ai\.event[\w.]+)'", text))
    assert {key: kind.value for key, kind in ROUTES.items()} == {
        key: kind for kind, key in keys.items()
    }
    assert _settings()["results_exchange"] == DEFAULTS.rabbitmq_topic_exchange


def test_workflow_settings_that_are_read_exist() -> None:
    text = "\n".join(texts([node["parameters"] for node in all_nodes()]))
    read = set(re.findall(r"\bsettings\??\.(\w+)", text)) | {"s3_bucket", "s3_public_url"}
    assert read == set(_settings())


def _settings() -> dict[str, str]:
    (node,) = nodes("settings", "set")
    return {
        each["name"]: each["value"] for each in node["parameters"]["assignments"]["assignments"]
    }


def test_whoever_is_called_is_there_and_gets_its_inputs() -> None:
    by_id = {workflow["id"]: name for name, workflow in WORKFLOWS.items()}
    for node in all_nodes("executeWorkflow"):
        called = by_id[node["parameters"]["workflowId"]["value"]]
        given = set(node["parameters"]["workflowInputs"]["value"])
        assert given == inputs(called), f"{node['name']} calls {called}"


def inputs(name: str) -> set[str]:
    (trigger,) = nodes(name, "executeWorkflowTrigger")
    return {
        each["name"] for each in trigger["parameters"].get("workflowInputs", {}).get("values", [])
    }


def test_workflow_providers_share_one_interface() -> None:
    assert len({frozenset(inputs(name)) for name in PROVIDERS}) == 1
    (switch,) = [node for node in nodes("picture", "switch") if node["name"] == "Which provider?"]
    offered = {rule["outputKey"] for rule in switch["parameters"]["rules"]["values"]}
    assert {f"provider_{each}" for each in offered} == set(PROVIDERS)


@pytest.mark.parametrize("name", ["samples", "final", "picture"])
def test_workflow_failing_steps_have_a_connected_error_output(name: str) -> None:
    last = {"Settings", "Report the error", "Read the job", "Describe what broke", "Classify"}
    for node in nodes(name, "executeWorkflow", "httpRequest", "code", "editImage"):
        if node["name"] in last or node.get("onError") == "continueRegularOutput":
            continue
        assert node.get("onError") == "continueErrorOutput", node["name"]
        outputs = WORKFLOWS[name]["connections"][node["name"]]["main"]
        assert len(outputs) == 2 and outputs[1], node["name"]  # noqa: PT018


@every_workflow
def test_workflows_name_the_error_workflow(name: str) -> None:
    expected = None if name == "errors" else IDS["errors"]
    assert WORKFLOWS[name]["settings"].get("errorWorkflow") == expected
