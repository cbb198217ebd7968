"""The contract of generation requests, for successful and ended requests."""

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import httpx
import pytest

from creativeflow.services.aigeneration.domain.formats import FORMATS
from creativeflow.services.aigeneration.domain.lifecycle import LIVE, Stage, State
from creativeflow.services.aigeneration.domain.model_routing import STANDARD
from creativeflow.services.aigeneration.domain.pricing import PLANS
from tests.e2e.journey import OPERATIONS, PLAIN, PROMPT, REQUESTS, Caller, Footprint, assert_problem
from tests.support.app import four_samples

RESOURCE = {
    "id",
    "status",
    "stage",
    "round",
    "attempt",
    "user_id",
    "project_id",
    "plan",
    "brief",
    "samples",
    "sample_failures",
    "selected_sample_id",
    "final_resolution",
    "final_asset",
    "progress",
    "cost",
    "failure",
    "queue_position",
    "actions",
    "ai_model_used",
    "metadata",
    "retry_of",
    "deadline_at",
    "created_at",
    "updated_at",
    "version",
}
WHOLE: dict[str, Any] = {
    "project_id": "project-1",
    "input_prompt": f"  {PROMPT}\nin the rain\t",
    "style_guidance": "soft light",
    "output_format": "Custom",
    "custom_dimensions": {"width": 800, "height": 400},
    "brand_kit_id": "kit-1",
    "uploaded_image_references": [
        "bucket/key.png",
        "s3://bucket/key",
        "https://example.com/a.png",
        "asset-12345",
    ],
    "target_platform_hints": ["web"],
    "emotional_tone": "playful",
    "industry_template": "luxury",
    "cultural_adaptation_parameters": {"region": "JP", "avoid": ["colour of mourning"]},
    "color_scheme": ["#fff", "#12AB34", "teal"],
    "model": "fast",
    "locale": "de-DE",
    "metadata": {"order": 7, "nested": {"ok": [True, None, 1.5, "ü"]}},
}


@pytest.fixture
async def paying(client: Caller) -> Caller:
    """An open service; `user` is on the payg plan with 20 credits, `pro` on the Pro plan."""
    await client.test_app.grant("user", 2000, "payg")
    await client.test_app.grant("pro", 2000, "pro")
    return client


@pytest.fixture(scope="module")
async def crowded(make_shared: Callable[..., Awaitable[Caller]]) -> Caller:
    """An open service with requests in every state; `user` is on the payg plan with many
    credits.
    """
    caller = await make_shared()
    await caller.test_app.grant("user", 100_000, "payg")
    return caller


# Create and follow


async def test_create_returns_202_with_location_and_etag(paying: Caller) -> None:
    answer = await paying.create()
    assert answer.status_code == httpx.codes.ACCEPTED
    created = answer.json()
    assert answer.headers["location"] == f"{REQUESTS}/{created['id']}"
    assert answer.headers["etag"] == f'"{created["version"]}"'
    assert answer.headers["content-type"] == "application/json"
    assert set(created) == RESOURCE
    assert (created["status"], created["stage"], created["round"], created["attempt"]) == (
        "PENDING",
        "samples",
        1,
        1,
    )
    assert created["cost"] == {"samples": "0.25", "final": "0.00", "total": "0.25", "held": "0.25"}
    looked = (await paying.get(answer.headers["location"])).json()
    assert looked | {"queue_position": None} == created
    assert looked["queue_position"] == 1


async def test_get_returns_every_documented_field(paying: Caller) -> None:
    described = (await paying.get("/openapi.json")).json()["components"]["schemas"][
        "GenerationRequest"
    ]
    assert set(described["properties"]) == RESOURCE
    assert set(await paying.completed()) == RESOURCE


async def test_create_full_brief_is_stored_and_sent_to_the_worker(paying: Caller) -> None:
    created = (await paying.create("pro", **WHOLE)).json()
    assert (created["project_id"], created["metadata"]) == ("project-1", WHOLE["metadata"])
    brief = {name: value for name, value in WHOLE.items() if name not in {"project_id", "metadata"}}
    brief["input_prompt"] = f"{PROMPT}\nin the rain"
    assert created["brief"] == brief
    assert (await paying.test_app.next_job()).brief == brief


async def test_create_text_is_normalised(paying: Caller) -> None:
    created = (await paying.create(input_prompt="cafe\u0301")).json()
    assert created["brief"]["input_prompt"] == "caf\u00e9"


async def test_get_with_current_etag_is_304(paying: Caller) -> None:
    shown = await paying.with_samples()
    first = await paying.get(f"{REQUESTS}/{shown['id']}")
    for known in (
        first.headers["etag"],
        f"W/{first.headers['etag']}",
        f'"1", {first.headers["etag"]}',
        "*",
    ):
        again = await paying.get(f"{REQUESTS}/{shown['id']}", headers={"If-None-Match": known})
        assert (again.status_code, again.content) == (304, b""), known
        assert again.headers["etag"] == first.headers["etag"]
    for unknown in ('"otter"', "", '"0"'):
        sent = await paying.get(f"{REQUESTS}/{shown['id']}", headers={"If-None-Match": unknown})
        assert sent.status_code == httpx.codes.OK, unknown
    await paying.act(shown["id"], "cancel")
    changed = await paying.get(
        f"{REQUESTS}/{shown['id']}", headers={"If-None-Match": first.headers["etag"]}
    )
    assert changed.status_code == httpx.codes.OK
    assert changed.headers["etag"] != first.headers["etag"]


async def test_get_queue_position_counts_down(paying: Caller) -> None:
    waiting = [(await paying.create()).json()["id"] for _ in range(3)]
    assert [(await paying.look(each))["queue_position"] for each in waiting] == [1, 2, 3]
    await paying.act(waiting[0], "cancel")
    assert [(await paying.look(each))["queue_position"] for each in waiting] == [None, 1, 2]
    await paying.test_app.dispatch()
    assert (await paying.look(waiting[2]))["queue_position"] is None


async def test_lifecycle_by_callbacks_costs_the_shown_price(paying: Caller) -> None:
    created = (await paying.create()).json()
    job = await paying.test_app.next_job()
    assert (await paying.report("started", job)).json() == {"status": "received"}
    await paying.report("progress", job, percent=40, step="painting")
    looked = await paying.look(created["id"])
    assert (looked["status"], looked["progress"]) == (
        "PROCESSING_SAMPLES",
        {"percent": 40, "step": "painting"},
    )
    assert (await paying.report_result(job)).json() == {"status": "received"}
    shown = await paying.look(created["id"])
    assert (shown["status"], shown["progress"]) == ("AWAITING_SELECTION", None)
    assert [set(sample) for sample in shown["samples"]] == [
        {"asset_id", "url", "resolution", "format", "index"}
    ] * 4
    assert shown["cost"] == {"samples": "0.25", "final": "0.00", "total": "0.25", "held": "0.00"}
    picked = shown["samples"][2]["asset_id"]
    chosen = await paying.act(
        created["id"], "select-sample", selected_sample_id=picked, output_format="webp"
    )
    assert chosen.status_code == httpx.codes.ACCEPTED
    assert chosen.headers["location"] == f"{REQUESTS}/{created['id']}"
    assert chosen.headers["etag"] == f'"{chosen.json()["version"]}"'
    assert chosen.json()["cost"] == {
        "samples": "0.25",
        "final": "1.00",
        "total": "1.25",
        "held": "1.00",
    }
    final = await paying.test_app.next_job()
    assert (final.selected_sample_id, final.file_format, str(final.final_size)) == (
        picked,
        "webp",
        "1080x1080",
    )
    await paying.report_result(final)
    done = await paying.look(created["id"])
    assert (done["status"], done["stage"], done["deadline_at"], done["actions"]) == (
        "COMPLETED",
        "final",
        None,
        [],
    )
    assert (done["final_asset"]["resolution"], done["final_asset"]["format"]) == (
        "1080x1080",
        "webp",
    )
    assert done["cost"] == {"samples": "0.25", "final": "1.00", "total": "1.25", "held": "0.00"}
    await paying.test_app.drain()
    assert await paying.test_app.balance() == 2000 - 125
    assert paying.test_app.notifier.types() == ["samples_ready", "final_asset_ready"]


async def test_result_repeated_changes_nothing_and_late_is_stale(paying: Caller) -> None:
    created = (await paying.create()).json()
    job = await paying.test_app.next_job()
    await paying.report_result(job)
    before = await paying.look(created["id"])
    assert (await paying.report_result(job)).json() == {"status": "received"}
    assert await paying.look(created["id"]) == before
    await paying.act(created["id"], "cancel")
    assert_problem(await paying.report_result(job), 409, "stale_result")
    assert_problem(await paying.report("started", job), 409, "stale_result")
    events = (await paying.get(f"{REQUESTS}/{created['id']}/events")).json()["items"]
    (stale,) = (entry for entry in events if entry["event"] == "stale_result")
    assert stale["data"]["count"] == 2


async def test_timeline_lists_states_credits_broker_and_notifications_in_order(
    paying: Caller,
) -> None:
    done = await paying.completed()
    await paying.test_app.drain()
    answer = await paying.get(f"{REQUESTS}/{done['id']}/events")
    assert answer.status_code == httpx.codes.OK
    entries = answer.json()["items"]
    assert [set(entry) for entry in entries] == [
        {"seq", "at", "event", "status", "version", "data"}
    ] * len(entries)
    assert [entry["event"] for entry in entries if entry["version"]] == [
        "submitted",
        "credits_held",
        "job_leased",
        "samples_job_confirmed",
        "samples_delivered",
        "credits_asked",
        "sample_selected",
        "job_leased",
        "final_job_confirmed",
        "final_delivered",
    ]
    assert {entry["event"] for entry in entries if not entry["version"]} == {
        "credits_captured",
        "notification_sent",
    }
    assert [entry["seq"] for entry in entries] == sorted(entry["seq"] for entry in entries)
    assert "otter" not in answer.text


# Lists


async def test_list_pages_return_every_request_once_newest_first(paying: Caller) -> None:
    made = [(await paying.create()).json()["id"] for _ in range(7)]
    found: list[str] = []
    pages = 0
    address: str | None = f"{REQUESTS}?limit=3&status=PENDING&status=FAILED&user_id=user"
    while address:
        page = await paying.get(address)
        assert set(page.json()) == {"items", "next"}
        found += [item["id"] for item in page.json()["items"]]
        address = page.links["next"]["url"] if "next" in page.links else None
        assert (address is None) == (page.json()["next"] is None)
        if address:
            assert httpx.URL(address).params["cursor"] == page.json()["next"]
            assert httpx.URL(address).params.get_list("status") == ["PENDING", "FAILED"]
            await paying.create()  # newer requests do not change later pages
        pages += 1
    assert found == made[::-1]
    assert pages == 3


async def test_list_exactly_full_page_has_no_next(paying: Caller) -> None:
    for _ in range(2):
        await paying.create()
    page = await paying.get(REQUESTS, params={"limit": 2})
    assert (len(page.json()["items"]), page.json()["next"], page.links) == (2, None, {})


async def test_list_filters_select_matching_requests(paying: Caller) -> None:
    mine = (await paying.create(project_id="one")).json()
    other = (await paying.create("pro", project_id="two")).json()
    ended = (await paying.create("pro")).json()
    await paying.act(ended["id"], "cancel")

    async def ids(**query: Any) -> list[str]:
        return [item["id"] for item in (await paying.get(REQUESTS, params=query)).json()["items"]]

    assert await ids() == [ended["id"], other["id"], mine["id"]]
    assert await ids(user_id="pro") == [ended["id"], other["id"]]
    assert await ids(project_id="one") == [mine["id"]]
    assert await ids(status="CANCELLED") == [ended["id"]]
    assert await ids(status=["CANCELLED", "PENDING"], user_id="user") == [mine["id"]]
    assert await ids(created_from=other["created_at"]) == [ended["id"], other["id"]]
    assert await ids(created_to=other["created_at"]) == [mine["id"]]
    always = {"created_from": "0001-01-01T00:00:00Z", "created_to": "9999-12-31T23:59:59Z"}
    assert await ids(**always) == [ended["id"], other["id"], mine["id"]]
    assert await ids(user_id="nobody") == []
    assert await ids(status="COMPLETED") == []


# Prices


async def test_quote_equals_the_charge_on_every_plan_and_stores_nothing(client: Caller) -> None:
    for plan in PLANS:
        for model in ("standard",) if plan == "free" else ("standard", "advanced"):
            await client.test_app.grant(f"{plan}-{model}", 1000, plan)
            await _charged_as_quoted(client, f"{plan}-{model}", plan, model)


async def _charged_as_quoted(client: Caller, user: str, plan: str, model: str) -> None:
    before = await Footprint.of(client.test_app)
    body = {"user_id": user, **PLAIN, "model": model}
    answer = await client.post(f"{REQUESTS}/quote", json=body)
    assert answer.status_code == httpx.codes.OK, answer.text
    quote = answer.json()
    assert await Footprint.of(client.test_app) == before
    assert (quote["plan"], quote["balance"], quote["watermark"]) == (plan, "10.00", plan == "free")
    done = await client.completed(user, model=model)
    await client.test_app.drain()
    charged = 1000 - await client.test_app.balance(user)
    assert done["cost"]["total"] == quote["total"] == f"{charged / 100:.2f}"
    assert quote["balance_after"] == f"{(1000 - charged) / 100:.2f}"
    counted = [item for item in quote["items"] if item["included_in_total"]]
    assert [(item["stage"], item["credits"]) for item in counted] == [
        ("samples", done["cost"]["samples"]),
        ("final", done["cost"]["final"]),
    ]


async def test_quote_high_resolution_equals_the_charge(paying: Caller) -> None:
    client = paying
    quote = (await client.post(f"{REQUESTS}/quote", json={"user_id": "user", **PLAIN})).json()
    (large,) = [item for item in quote["items"] if item["action"] == "hd_export"]
    shown = await client.with_samples()
    chosen = await client.act(
        shown["id"],
        "select-sample",
        selected_sample_id=shown["samples"][0]["asset_id"],
        desired_resolution="4K",
    )
    assert chosen.json()["cost"]["final"] == large["credits"] == "2.00"
    assert chosen.json()["final_resolution"] == large["resolution"] == "4096x4096"
    await client.test_app.deliver(await client.test_app.next_job())
    assert (await client.look(shown["id"]))["final_asset"]["resolution"] == "4096x4096"


async def test_catalogue_lists_formats_models_and_prices(client: Caller) -> None:
    formats = (await client.get("/api/v1/formats")).json()
    assert {
        entry["name"]: (entry["width"], entry["height"]) for entry in formats["formats"]
    } == dict(FORMATS)
    assert formats["custom"] == {"name": "Custom", "side_min": 64, "side_max": 4096}
    assert formats["file_formats"] == ["png", "jpg", "webp"]
    prices = {
        entry["plan"]: entry for entry in (await client.get("/api/v1/prices")).json()["plans"]
    }
    assert {
        name: (p["samples"], p["final"], p["final_high_resolution"]) for name, p in prices.items()
    } == {
        "free": ("0.00", "0.00", None),
        "payg": ("0.25", "1.00", "2.00"),
        "pro": ("0.00", "0.00", "2.00"),
        "team": ("0.00", "0.00", "2.00"),
        "enterprise": ("0.00", "0.00", "2.00"),
    }
    assert prices["free"]["monthly_generations"] == 100
    models = (await client.get("/api/v1/models")).json()
    assert {entry["name"] for entry in models["models"]} == set(STANDARD.models)
    assert models["default"] in STANDARD.models


async def test_catalogue_every_format_is_accepted(client: Caller) -> None:
    for output_format, size in FORMATS.items():
        created = await client.create(output_format=output_format)
        assert created.status_code == httpx.codes.ACCEPTED
        assert (await client.test_app.next_job()).dimensions == size


async def test_problem_types_are_described_at_their_url(client: Caller) -> None:
    refused = (await client.get(f"{REQUESTS}/{uuid4()}")).json()
    about = (await client.get(refused["type"])).json()
    assert (about["code"], about["status"], about["what_to_do"]) == (
        "not_found",
        404,
        refused["detail"],
    )


# Insufficient credits


async def test_create_without_credits_is_402_with_the_price(client: Caller) -> None:
    await client.test_app.grant("user", 24, "payg")
    document = assert_problem(await client.create(), 402, "insufficient_credits")
    assert "0.25" in document["detail"]
    assert await client.test_app.balance() == 24
    assert not client.test_app.engine.published


async def test_select_without_credits_keeps_the_samples(client: Caller) -> None:
    await client.test_app.grant("user", 30, "payg")
    shown = await client.with_samples()
    pick = {"selected_sample_id": shown["samples"][0]["asset_id"]}
    assert_problem(
        await client.act(shown["id"], "select-sample", **pick), 402, "insufficient_credits"
    )
    refused = await client.look(shown["id"])
    assert (refused["status"], refused["selected_sample_id"]) == ("AWAITING_SELECTION", None)
    assert refused["actions"] == ["select-sample", "regenerate-samples", "cancel"]
    await client.test_app.grant("user", 95)
    assert (
        await client.act(shown["id"], "select-sample", **pick)
    ).status_code == httpx.codes.ACCEPTED


async def test_free_plan_used_up_quota_is_refused_and_counts_regenerations(
    make_client: Callable[..., Awaitable[Caller]],
) -> None:
    caller = await make_client(free_generations=2)
    shown = await caller.with_samples("free")
    assert shown["plan"] == "free"
    assert (await caller.act(shown["id"], "regenerate-samples")).status_code == httpx.codes.ACCEPTED
    document = assert_problem(await caller.create("free"), 402, "free_quota_exhausted")
    assert "2 generations" in document["detail"]
    assert "Upgrade" in document["detail"]


# Select, regenerate, retry, cancel


async def test_select_same_sample_again_is_202_and_another_is_409(paying: Caller) -> None:
    shown = await paying.with_samples()
    first, second = (sample["asset_id"] for sample in shown["samples"][:2])
    chosen = await paying.act(shown["id"], "select-sample", selected_sample_id=first)
    again = await paying.act(shown["id"], "select-sample", selected_sample_id=first)
    assert (again.status_code, again.json()) == (chosen.status_code, chosen.json())
    assert (again.headers["location"], again.headers["etag"]) == (
        chosen.headers["location"],
        chosen.headers["etag"],
    )
    other = await paying.act(shown["id"], "select-sample", selected_sample_id=second)
    assert_problem(other, 409, "already_selected")
    assert_problem(await paying.act(shown["id"], "regenerate-samples"), 409, "invalid_state")
    assert await paying.test_app.balance() == 2000 - 125
    await paying.test_app.dispatch()
    assert len(paying.test_app.engine.jobs) == 1


async def test_select_same_sample_in_another_size_is_409(paying: Caller) -> None:
    shown = await paying.with_samples()
    sample = shown["samples"][0]["asset_id"]
    await paying.act(shown["id"], "select-sample", selected_sample_id=sample)
    larger = await paying.act(
        shown["id"], "select-sample", selected_sample_id=sample, desired_resolution="4K"
    )
    assert_problem(larger, 409, "already_selected")
    assert (await paying.look(shown["id"]))["final_resolution"] == "1080x1080"


async def test_regenerate_changed_prompt_applies_to_the_next_round(paying: Caller) -> None:
    shown = await paying.with_samples(style_guidance="soft light")
    answer = await paying.act(
        shown["id"],
        "regenerate-samples",
        updated_prompt="A green otter",
        updated_style_guidance="hard",
        model="fast",
    )
    assert answer.status_code == httpx.codes.ACCEPTED
    again = answer.json()
    assert (again["id"], again["round"], again["samples"], again["status"]) == (
        shown["id"],
        2,
        [],
        "PENDING",
    )
    assert again["cost"] == {"samples": "0.50", "final": "0.00", "total": "0.50", "held": "0.25"}
    job = await paying.test_app.next_job()
    assert (job.brief["input_prompt"], job.brief["style_guidance"]) == ("A green otter", "hard")
    assert job.model == "fast"
    await paying.test_app.deliver(job)
    renewed = await paying.look(shown["id"])
    assert {sample["asset_id"] for sample in renewed["samples"]}.isdisjoint(
        sample["asset_id"] for sample in shown["samples"]
    )


async def test_regenerate_without_changes_keeps_the_prompt(paying: Caller) -> None:
    shown = await paying.with_samples(style_guidance="soft light")
    assert (await paying.act(shown["id"], "regenerate-samples")).json()["brief"] == shown["brief"]


async def test_regenerate_beyond_the_limit_is_refused_and_not_offered(
    make_client: Callable[..., Awaitable[Caller]],
) -> None:
    caller = await make_client(max_rounds=1)
    await caller.test_app.grant("user", 0, "pro")
    shown = await caller.with_samples()
    assert_problem(await caller.act(shown["id"], "regenerate-samples"), 409, "too_many_rounds")
    assert shown["actions"] == ["select-sample", "cancel"]


async def test_get_partial_samples_lists_failures(paying: Caller) -> None:
    created = (await paying.create()).json()
    job = await paying.test_app.next_job()
    failures = [{"index": 2, "error_code": "unsafe_output", "error_message": "score 0.97"}]
    samples = [*four_samples(job)[:2], four_samples(job)[3] | {"resolution": "512x100"}]
    assert (
        await paying.report("sample-result", job, samples=samples, failures=failures)
    ).is_success
    shown = await paying.look(created["id"])
    assert shown["status"] == "AWAITING_SELECTION"
    assert [sample["index"] for sample in shown["samples"]] == [0, 1]
    assert [(f["index"], f["error_code"]) for f in shown["sample_failures"]] == [
        (2, "unsafe_output"),
        (3, "invalid_output"),
    ]
    assert all(failure["message"].endswith(".") for failure in shown["sample_failures"])
    assert "0.97" not in str(shown)
    assert shown["cost"]["samples"] == "0.25"


async def test_failed_request_has_failure_details_and_can_be_retried(paying: Caller) -> None:
    created = (await paying.create(metadata={"order": 7}, project_id="one")).json()
    for _ in range(3):
        await paying.report(
            "error",
            await paying.test_app.next_job(),
            error_code="model_unavailable",
            error_message="x",
        )
        paying.test_app.clock.advance(minutes=1)
    failed = await paying.look(created["id"])
    assert (failed["status"], failed["actions"]) == ("FAILED", ["retry"])
    assert failed["failure"] == {
        "code": "model_unavailable",
        "fault": "provider",
        "retryable": True,
        "message": "The AI model is not available right now. Try again, or choose another model.",
        "next_steps": ["retry", "adjust_prompt", "other_model"],
    }
    assert failed["cost"] == {"samples": "0.00", "final": "0.00", "total": "0.00", "held": "0.00"}
    answer = await paying.act(created["id"], "retry", model="fast", updated_prompt="Another otter")
    assert answer.status_code == httpx.codes.ACCEPTED
    fresh = answer.json()
    assert fresh["id"] != created["id"]
    assert answer.headers["location"] == f"{REQUESTS}/{fresh['id']}"
    assert (fresh["retry_of"], fresh["metadata"], fresh["project_id"]) == (
        created["id"],
        {"order": 7},
        "one",
    )
    assert fresh["brief"] == created["brief"] | {"model": "fast", "input_prompt": "Another otter"}
    assert await paying.look(created["id"]) == failed
    assert (await paying.test_app.next_job()).model == "fast"


async def test_retry_rejected_prompt_must_be_changed(paying: Caller) -> None:
    created = (await paying.create()).json()
    await paying.report(
        "error",
        await paying.test_app.next_job(),
        error_code="prompt_rejected",
        error_message=PROMPT,
    )
    rejected = await paying.look(created["id"])
    assert (rejected["status"], rejected["failure"]["fault"]) == ("CONTENT_REJECTED", "user")
    assert rejected["cost"]["total"] == "0.25"
    answer = await paying.act(created["id"], "retry")
    assert_problem(answer, 422, "invalid_request", pointer="/updated_prompt")
    assert (await paying.act(created["id"], "retry", updated_prompt="A calm otter")).is_success


async def test_cancel_has_three_outcomes(paying: Caller) -> None:
    waiting = (await paying.create()).json()
    answer = await paying.act(waiting["id"], "cancel")
    assert answer.status_code == httpx.codes.OK
    assert set(answer.json()) == RESOURCE | {"outcome"}
    assert (answer.json()["outcome"], answer.json()["status"]) == ("cancelled", "CANCELLED")
    working = (await paying.create()).json()
    await paying.test_app.next_job()
    assert (await paying.act(working["id"], "cancel")).json()["outcome"] == "cancellation_requested"
    shown = await paying.with_samples()
    assert (await paying.act(shown["id"], "cancel")).json()["outcome"] == "cancelled"
    again = (await paying.act(shown["id"], "cancel")).json()
    assert (again["outcome"], again["status"]) == ("already_terminal", "CANCELLED")
    done = await paying.completed()
    assert (await paying.act(done["id"], "cancel")).json()["outcome"] == "already_terminal"
    assert (await paying.look(done["id"]))["status"] == "COMPLETED"
    await paying.test_app.drain()
    assert await paying.test_app.balance() == 2000 - 25 - 125


# If-Match


async def test_if_match_outdated_version_is_412(paying: Caller) -> None:
    for action in ("select-sample", "regenerate-samples", "cancel"):
        shown = await paying.with_samples()
        version = shown["version"]
        body = (
            {"selected_sample_id": shown["samples"][0]["asset_id"]}
            if action == "select-sample"
            else {}
        )
        for wrong in (
            f'"{version - 1}"',
            f'"{version + 1}"',
            '"otter"',
            '""',
            '"99999999999999999999"',
        ):
            answer = await paying.act(shown["id"], action, headers={"If-Match": wrong}, **body)
            assert_problem(answer, 412, "precondition_failed")
        assert await paying.look(shown["id"]) == shown
        right = await paying.act(shown["id"], action, headers={"If-Match": f'"{version}"'}, **body)
        assert right.is_success
        star = await paying.act(shown["id"], "cancel", headers={"If-Match": "*"})
        assert star.is_success


async def test_if_match_list_matches_any_version(paying: Caller) -> None:
    shown = await paying.with_samples()
    answer = await paying.act(
        shown["id"], "cancel", headers={"If-Match": f'"1", "{shown["version"]}"'}
    )
    assert answer.is_success


async def test_if_match_applies_to_retry_and_fail(paying: Caller) -> None:
    ended = (await paying.create()).json()
    await paying.act(ended["id"], "cancel")
    assert_problem(
        await paying.act(ended["id"], "retry", headers={"If-Match": '"1"'}),
        412,
        "precondition_failed",
    )
    live = (await paying.create()).json()
    answer = await paying.post(
        f"{OPERATIONS}/generation-requests/{live['id']}/fail",
        json={"reason": "why"},
        headers={"If-Match": '"99"'},
    )
    assert_problem(answer, 412, "precondition_failed")


# Offered actions


async def _lease(caller: Caller, _request_id: str) -> None:
    await caller.test_app.jobs.lease(Stage.SAMPLES, window=10, most=10)


async def _work(caller: Caller, _request_id: str) -> None:
    await caller.test_app.next_job()


async def _choose(caller: Caller, request_id: str) -> None:
    sample = (await caller.look(request_id))["samples"][0]["asset_id"]
    await caller.act(request_id, "select-sample", selected_sample_id=sample)
    await caller.test_app.next_job()


async def _fail(caller: Caller, _request_id: str) -> None:
    await caller.test_app.fail(await caller.test_app.next_job(), "invalid_input")


async def _reject(caller: Caller, _request_id: str) -> None:
    await caller.test_app.fail(await caller.test_app.next_job(), "prompt_rejected")


async def _cancel(caller: Caller, request_id: str) -> None:
    await caller.act(request_id, "cancel")


async def _expire(caller: Caller, _request_id: str) -> None:
    caller.test_app.clock.advance(days=31)
    await caller.test_app.sweep()


_WAYS: dict[State, Callable[[Caller, str], Awaitable[None]]] = {
    State.PUBLISHING_TO_QUEUE: _lease,
    State.PROCESSING_SAMPLES: _work,
    State.PROCESSING_FINAL: _choose,
    State.FAILED: _fail,
    State.CONTENT_REJECTED: _reject,
    State.CANCELLED: _cancel,
    State.EXPIRED: _expire,
}


async def _bring_to(caller: Caller, state: State) -> str:
    """Bring a new request into a state; other jobs do not interfere."""
    await caller.test_app.dispatch()
    caller.test_app.engine.jobs.clear()
    if state is State.VALIDATING_CREDITS:
        caller.test_app.credits.faults.append("before")
    if state is State.COMPLETED:
        request_id = (await caller.completed())["id"]
    elif state in {State.AWAITING_SELECTION, State.PROCESSING_FINAL, State.EXPIRED}:
        request_id = (await caller.with_samples())["id"]
    else:
        request_id = (await caller.create()).json()["id"]
    if state in _WAYS:
        await _WAYS[state](caller, request_id)
    return str(request_id)


@pytest.mark.parametrize("state", State)
async def test_actions_offered_are_accepted_and_others_refused(
    crowded: Caller, state: State
) -> None:
    for action in ("select-sample", "regenerate-samples", "retry", "cancel"):
        request_id = await _bring_to(crowded, state)
        before = await crowded.look(request_id)
        assert before["status"] == state
        answer = await crowded.act(request_id, action, **_fitting(action, before))
        if action in before["actions"]:
            assert answer.is_success, answer.text
            continue
        if action == "cancel":
            assert answer.json()["outcome"] == "already_terminal"
        else:
            assert answer.json()["code"] in {
                "invalid_state",
                "already_selected",
                "action_in_progress",
            }
            assert_problem(answer, 409, answer.json()["code"])
        assert await crowded.look(request_id) == before
    await _settle(crowded)


def _fitting(action: str, shown: dict[str, Any]) -> dict[str, Any]:
    """Return a valid body for an action."""
    match action:
        case "select-sample":
            others = [sample["asset_id"] for sample in shown["samples"]] or ["any"]
            return {
                "selected_sample_id": next(
                    one for one in others if one != shown["selected_sample_id"]
                )
            }
        case "retry":
            return {"updated_prompt": "A calm otter"}
        case _:
            return {}


async def _settle(caller: Caller) -> None:
    """Let the sweeper settle unknown holds."""
    caller.test_app.clock.advance(minutes=1)
    await caller.test_app.sweep()


async def test_actions_every_live_state_can_cancel_and_every_failure_retry(crowded: Caller) -> None:
    for state in State:
        offered = (await crowded.look(await _bring_to(crowded, state)))["actions"]
        assert ("cancel" in offered) == (state in LIVE)
        assert ("retry" in offered) == (state not in LIVE and state is not State.COMPLETED)
        assert ("select-sample" in offered) == (state is State.AWAITING_SELECTION)
    await _settle(crowded)


async def test_actions_while_the_hold_is_placing_offer_only_cancel(paying: Caller) -> None:
    shown = await paying.with_samples()
    paying.test_app.credits.faults.append("before")
    body = {"selected_sample_id": shown["samples"][0]["asset_id"]}
    waiting = (await paying.act(shown["id"], "select-sample", **body)).json()
    assert (waiting["status"], waiting["actions"]) == ("AWAITING_SELECTION", ["cancel"])
    assert_problem(await paying.act(shown["id"], "regenerate-samples"), 409, "action_in_progress")
    assert (await paying.act(shown["id"], "cancel")).json()["outcome"] == "cancelled"
    await _settle(paying)


async def test_create_unknown_model_is_refused_with_the_known_ones(client: Caller) -> None:
    document = assert_problem(
        await client.create(model="gpt"), 422, "invalid_request", pointer="/model"
    )
    assert "standard, fast, advanced" in document["errors"][0]["message"]


async def test_create_strategy_selects_a_model(client: Caller) -> None:
    created = (await client.create(model="fastest")).json()
    (submitted, *_) = (await client.get(f"{REQUESTS}/{created['id']}/events")).json()["items"]
    assert submitted["data"]["route"]["chosen"] == "fast"
    assert submitted["data"]["route"]["reason"] == "fastest"
