"""The workflows of n8n/ with other queues, settings and credentials for a run."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

FOLDER = Path(__file__).parents[4] / "n8n"
CREDENTIALS = FOLDER / "credentials.example.json"
FILES = sorted(path for path in FOLDER.glob("*.json") if path != CREDENTIALS)
SAMPLES, FINAL, SETTINGS = "aigenSamples", "aigenFinal", "aigenSettings"

Workflow = dict[str, Any]


def load() -> list[Workflow]:
    """Load the workflows of the repository."""
    return [json.loads(path.read_text("utf-8")) for path in FILES]


def node(workflow: Workflow, kind: str) -> dict[str, Any]:
    """Return the only node of a kind."""
    found: dict[str, Any]
    (found,) = [each for each in workflow["nodes"] if each["type"] == f"n8n-nodes-base.{kind}"]
    return found


def with_settings(workflow: Workflow, changed: Mapping[str, str]) -> Workflow:
    """Return the settings workflow with other values; an unknown name is an error."""
    values = {
        each["name"]: each
        for each in node(workflow, "set")["parameters"]["assignments"]["assignments"]
    }
    for name, value in changed.items():
        values[name]["value"] = value
    return workflow


def with_trigger(
    workflow: Workflow, *, queue: str | None = None, parallel: int | None = None
) -> Workflow:
    """Return a workflow with another queue, or another number of parallel messages."""
    parameters = node(workflow, "rabbitmqTrigger")["parameters"]
    if queue is not None:
        parameters["queue"] = queue
    if parallel is not None:
        parameters["options"]["parallelMessages"] = parallel
    return workflow


def write(folder: Path, names: Mapping[str, str], settings: Mapping[str, str]) -> list[str]:
    """Write the workflows for a run; return their ids, called workflows first."""
    folder.mkdir(parents=True, exist_ok=True)
    ids = []
    for workflow in load():
        if workflow["id"] == SETTINGS:
            with_settings(
                workflow, {"results_exchange": names["AIGEN_RABBITMQ_TOPIC_EXCHANGE"], **settings}
            )
        elif workflow["id"] == SAMPLES:
            with_trigger(workflow, queue=names["AIGEN_RABBITMQ_SAMPLES_QUEUE"])
        elif workflow["id"] == FINAL:
            with_trigger(workflow, queue=names["AIGEN_RABBITMQ_FINAL_QUEUE"])
        (folder / f"{workflow['id']}.json").write_text(json.dumps(workflow), "utf-8")
        ids.append(workflow["id"])
    return sorted(ids, key=lambda each: each in {SAMPLES, FINAL})


def credentials(
    rabbitmq_url: str, callback_secret: str, *, s3: Mapping[str, str] | None = None
) -> list[dict[str, Any]]:
    """Return the credentials with the placeholders filled in."""
    broker = urlsplit(rabbitmq_url)
    filled: dict[str, dict[str, object]] = {
        "aigenRabbitMQ": {
            "hostname": broker.hostname,
            "port": broker.port or 5672,
            "username": unquote(broker.username or "guest"),
            "password": unquote(broker.password or "guest"),
            "vhost": unquote(broker.path[1:]) or "/",
        },
        "aigenCallbackSecret": {"hmacSecret": callback_secret},
        "aigenOpenAI": {"value": "Bearer a-key-of-the-run"},
        "aigenStability": {"value": "Bearer a-key-of-the-run"},
        "aigenS3": dict(s3 or {}),
    }
    placeholders: list[dict[str, Any]] = json.loads(CREDENTIALS.read_text("utf-8"))
    return [{**each, "data": each["data"] | filled[each["id"]]} for each in placeholders]
