"""Every call of the client with all its arguments, and the API description."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from creativeflow.clients.aigeneration import parameters

ROOT = Path(__file__).parents[5]
DESCRIPTION = orjson.loads((ROOT / "docs" / "openapi.json").read_bytes())
SCHEMAS: dict[str, Any] = DESCRIPTION["components"]["schemas"]
UNCOVERED = {
    "upload_asset": "called by workers",
    "report_error": "called by workers",
    "report_final": "called by workers",
    "report_progress": "called by workers",
    "report_samples": "called by workers",
    "report_started": "called by workers",
    "get_metrics": "text for Prometheus",
}
COMPOSED = {"download": "an asset's URL is not in the description", "wait": "polls `get`"}

ID = "0195940d-0000-7000-8000-000000000001"
SINCE = datetime(2026, 11, 1, tzinfo=UTC)
TIME = "2026-11-01T00:00:00Z"


def example(schema: dict[str, Any]) -> Any:
    """Return a document of a schema, with every property."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return (
            {**example(SCHEMAS[name]), "next": None} if name == "Page" else example(SCHEMAS[name])
        )
    if "anyOf" in schema:
        return example(schema["anyOf"][0])
    match schema["type"]:
        case "object":
            return {name: example(each) for name, each in schema.get("properties", {}).items()}
        case "array":
            return [example(schema["items"])]
        case "string":
            text = TIME if schema.get("format") == "date-time" else "1.25"
            return schema.get("enum", [text])[0]
    return {"integer": 1, "boolean": True}[schema["type"]]


BRIEF: dict[str, Any] = {
    name: 1 for name in parameters.BriefOptions.__annotations__ if name != "input_prompt"
}
CHANGES: dict[str, Any] = dict.fromkeys(parameters.BriefChanges.__annotations__, "x")
ACTION: dict[str, Any] = {"idempotency_key": "key", "if_version": 3}

GENERATIONS = {"items": [example({"$ref": "#/components/schemas/GenerationRequest"})]}
STATEMENT = {
    "plan": "payg",
    "balance": "2.50",
    "held": "0.00",
    "restricted": True,
    "flags": [
        {
            "id": 1,
            "user_id": "ada",
            "reason": "charge_failed",
            "hold_key": None,
            "request_id": ID,
            "raised_at": TIME,
        }
    ],
    "entries": [
        {
            "operation": "grant-1",
            "kind": "grant",
            "amount": "2.50",
            "reason": "goodwill",
            "at": TIME,
            "request_id": None,
            "stage": None,
            "round": None,
        }
    ],
}
MESSAGE = {
    "id": 1,
    "request_id": ID,
    "topic": "notification.send",
    "attempts": 3,
    "due_at": TIME,
    "last_error": "refused",
    "parked_reason": "refused",
    "created_at": TIME,
}
USAGE = {
    "at": TIME,
    "user_id": "ada",
    "project_id": None,
    "generation_request_id": ID,
    "stage": "samples",
    "round": 1,
    "action": "sample_generation",
    "paid_by": "credits",
    "credits": "0.25",
    "plan": "payg",
    "model": "atelier",
}


@dataclass(frozen=True)
class Case:
    """A method of the client, its arguments, and the response if the description has no schema."""

    operation: str
    method: str
    arguments: tuple[Any, ...] = ()
    options: dict[str, Any] | None = None
    response: Any = None

    def call(self, client: Any) -> Any:
        """Call the method."""
        function = client
        for name in self.method.split("."):
            function = getattr(function, name)
        return function(*self.arguments, **(self.options or {}))


CASES = [
    Case("create_generation", "create", ("p", "f"), {**BRIEF, "idempotency_key": "key"}),
    Case("quote_generation", "quote", ("p", "f"), BRIEF),
    Case("get_generation", "get", (ID,)),
    Case(
        "list_generations",
        "list",
        (),
        {
            "status": ["FAILED", "EXPIRED"],
            "user_id": "ada",
            "project_id": "p",
            "created_from": SINCE,
            "created_to": SINCE,
            "page_size": 10,
        },
    ),
    Case("list_generation_events", "list_events", (ID,)),
    Case(
        "select_sample",
        "select_sample",
        (ID, "sample-1"),
        {
            "desired_resolution": "4K",
            "output_format": "png",
            "user_id": "user-1",
            "quote_id": "q",
            **ACTION,
        },
    ),
    Case("regenerate_samples", "regenerate", (ID,), {**CHANGES, **ACTION}),
    Case("retry_generation", "retry", (ID,), {**CHANGES, **ACTION}),
    Case("cancel_generation", "cancel", (ID,), {"user_id": "user-1"} | ACTION),
    Case("stream_generation", "stream", (ID,)),
    Case(
        "list_formats",
        "list_formats",
        response={
            "formats": [{"name": "XPost", "width": 1600, "height": 900, "sample": "512x288"}],
            "custom": {"name": "Custom", "side_min": 64, "side_max": 4096},
            "file_formats": ["png"],
        },
    ),
    Case(
        "list_prices",
        "list_prices",
        response={
            "high_resolution_above": 2048,
            "plans": [
                {
                    "plan": "free",
                    "title": "Free",
                    "samples": "0.25",
                    "final": "1.00",
                    "final_high_resolution": None,
                    "monthly_generations": 100,
                    "brand_kit": False,
                    "watermark": True,
                }
            ],
        },
    ),
    Case(
        "list_models",
        "list_models",
        response={
            "default": "atelier",
            "strategies": ["quality"],
            "models": [
                {
                    "name": "atelier",
                    "title": "Atelier",
                    "strategy": "quality",
                    "provider": "local",
                    "quality": 5,
                    "economy": 1,
                    "speed": 3,
                    "surcharge": "0.00",
                    "fallbacks": [],
                    "stages": ["samples", "final"],
                    "plans": ["free"],
                }
            ],
        },
    ),
    Case(
        "get_problem_type",
        "get_problem_type",
        ("not_found",),
        response={
            "code": "not_found",
            "title": "Not found",
            "status": 404,
            "meaning": "…",
            "what_to_do": "…",
            "retryable": False,
        },
    ),
    Case("get_health", "get_health", response={"status": "ok", "version": "0.2.0"}),
    Case(
        "get_readiness",
        "get_readiness",
        response={
            "status": "ready",
            "checks": {"database": {"ok": True, "required": True, "detail": "16.1"}},
        },
    ),
    Case(
        "create_webhook_endpoint",
        "webhook_endpoints.create",
        ("https://hooks.example",),
        {"description": "shop", "secret": "whsec_x"},
    ),
    Case("list_webhook_endpoints", "webhook_endpoints.list"),
    Case("get_webhook_endpoint", "webhook_endpoints.get", (ID,)),
    Case("delete_webhook_endpoint", "webhook_endpoints.delete", (ID,)),
    Case("enable_webhook_endpoint", "webhook_endpoints.enable", (ID,)),
    Case("disable_webhook_endpoint", "webhook_endpoints.disable", (ID,)),
    Case("rotate_webhook_secret", "webhook_endpoints.rotate_secret", (ID,), {"secret": "whsec_x"}),
    Case("test_webhook_endpoint", "webhook_endpoints.test", (ID,)),
    Case(
        "list_webhook_deliveries",
        "webhook_endpoints.list_deliveries",
        (ID,),
        {"status": "parked", "limit": 5},
    ),
    Case("redeliver_webhook_event", "webhook_endpoints.redeliver", (ID, ID)),
    Case("list_stuck_generations", "operations.list_stuck", (), {"limit": 5}, GENERATIONS),
    Case(
        "list_outbox_messages",
        "operations.list_outbox",
        (),
        {"parked": False, "limit": 5},
        {"items": [MESSAGE]},
    ),
    Case(
        "replay_outbox_message",
        "operations.replay_outbox_message",
        (1,),
        response={"status": "due"},
    ),
    Case(
        "drop_outbox_message",
        "operations.drop_outbox_message",
        (1,),
        response={"status": "dropped"},
    ),
    Case("fail_generation", "operations.fail_generation", (ID, "stuck"), {"note": "n", **ACTION}),
    Case("list_reviews", "operations.list_reviews", (), {"limit": 5}, GENERATIONS),
    Case("review_generation", "operations.review_generation", (ID, "accept")),
    Case(
        "get_queues",
        "operations.get_queues",
        response={
            "lanes": [
                {"lane": "final", "waiting": 1, "in_flight": 2, "oldest_waiting_since": TIME}
            ],
            "outbox": {"open": 1, "parked": 0, "webhooks": 0, "webhooks_parked": 0},
            "broker": {"jobs": {"messages": 1, "consumers": 1}, "results": None},
            "stalled": [{"lane": "final", "kind": "silent", "jobs": 2, "since": TIME}],
        },
    ),
    Case(
        "get_invariants",
        "operations.get_invariants",
        (),
        {"days": 7},
        {"counts": {"messages_parked": 0}},
    ),
    Case(
        "grant_credits",
        "accounts.grant_credits",
        ("ada", "2.50"),
        {"reason": "goodwill", "plan": "payg", "status": "active", "idempotency_key": "key"},
        STATEMENT,
    ),
    Case("get_statement", "accounts.get_statement", ("ada",), response=STATEMENT),
    Case(
        "list_flagged_accounts",
        "accounts.list_flagged",
        (),
        {"limit": 5},
        {"items": STATEMENT["flags"]},
    ),
    Case("clear_flags", "accounts.clear_flags", ("ada", "paid"), response={"cleared": 1}),
    Case(
        "list_parked_holds",
        "accounts.list_parked_holds",
        (),
        {"limit": 5},
        {
            "items": [
                {
                    "key": f"{ID}:samples:1:1",
                    "request_id": ID,
                    "user_id": "ada",
                    "action": "sample_generation",
                    "amount": "0.25",
                    "parked_at": TIME,
                    "parked_reason": None,
                }
            ]
        },
    ),
    Case(
        "decide_hold",
        "accounts.decide_hold",
        (f"{ID}:samples:1:1",),
        {"charged": False},
        {"status": "decided", "messages_replayed": 1},
    ),
    Case(
        "export_usage",
        "accounts.export_usage",
        ("2026-11",),
        {"format": "csv", "user_id": "ada", "project_id": "p"},
        b"at,user_id\r\n",
    ),
    Case(
        "export_usage",
        "accounts.list_usage",
        ("2026-11",),
        {"user_id": "ada", "project_id": "p"},
        orjson.dumps(USAGE) + b"\n" + orjson.dumps(USAGE) + b"\n",
    ),
    Case(
        "reconcile_credits",
        "accounts.reconcile",
        (),
        {"hours": 48, "apply": True},
        {
            "compared": 3,
            "unanswered": 0,
            "posted": 1,
            "complete": True,
            "findings": [
                {
                    "difference": "not_charged",
                    "key": f"{ID}:final:1:1",
                    "user_id": "ada",
                    "credits": "1.00",
                    "ours": "captured",
                    "theirs": "absent",
                    "mends": "capture",
                }
            ],
        },
    ),
]
