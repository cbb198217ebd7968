"""Invalid input: the response names the error and the remedy; nothing is stored or charged."""

import base64
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from uuid import uuid4

import httpx
import jwt
import pytest

from creativeflow.services.aigeneration.domain.pricing import PLANS
from tests.e2e.journey import (
    CALLBACKS,
    NOBODY,
    OPERATIONS,
    PLAIN,
    PROMPT,
    REQUESTS,
    Caller,
    Footprint,
    assert_problem,
)

JWT_SECRET = "the secret of the end users' tokens"
API_KEY = "a-key-of-enough-length"
AUDIENCE = "aigen"
LARGE = 262_144


@pytest.fixture(scope="module")
async def shared(make_shared: Callable[..., Awaitable[Caller]]) -> Caller:
    """A client of an open service, with a payg user, one on the Free plan, and one on Pro."""
    caller = await make_shared()
    for user, plan in (("user", "payg"), ("free", "free"), ("pro", "pro")):
        await caller.test_app.grant(user, 1000, plan)
    return caller


@pytest.fixture
async def open_service(shared: Caller) -> AsyncIterator[Caller]:
    """The shared client; checks at the end that nothing stored has changed."""
    before = await Footprint.of(shared.test_app)
    yield shared
    assert await Footprint.of(shared.test_app) == before


@pytest.fixture(scope="module")
async def locked(make_shared: Callable[..., Awaitable[Caller]]) -> Caller:
    """A client of a service with authentication."""
    return await make_shared(
        api_keys=f"odoo:service:{API_KEY}",
        jwt_secret=JWT_SECRET,
        jwt_audience=AUDIENCE,
        jwt_issuer="login",
    )


@pytest.fixture(scope="module")
async def awaiting_selection(shared: Caller) -> dict[str, Any]:
    """A request of `free` in its second round of samples; `old` is a sample of the first."""
    first = await shared.with_samples("free")
    assert (await shared.act(first["id"], "regenerate-samples")).status_code == httpx.codes.ACCEPTED
    await shared.test_app.deliver(await shared.test_app.next_job())
    return await shared.look(first["id"]) | {"old": first["samples"][0]["asset_id"]}


# The body of a create

TEXT: list[Any] = [5, 1.5, True, [], {}, ["a"]]
LIST: list[Any] = [5, True, "a", {}]
OBJECT: list[Any] = [5, True, "a", []]
WRONG_TYPES: dict[str, list[Any]] = {
    "user_id": TEXT,
    "project_id": TEXT,
    "input_prompt": [*TEXT, None],
    "style_guidance": TEXT,
    "output_format": [*TEXT, None],
    "custom_dimensions": OBJECT,
    "brand_kit_id": TEXT,
    "uploaded_image_references": [*LIST, [5], [None], [{}]],
    "target_platform_hints": [*LIST, [5], [None]],
    "emotional_tone": TEXT,
    "industry_template": TEXT,
    "cultural_adaptation_parameters": OBJECT,
    "color_scheme": [*LIST, [5], [None]],
    "model": TEXT,
    "locale": TEXT,
    "metadata": OBJECT,
}


@pytest.mark.parametrize("name", WRONG_TYPES)
async def test_create_value_of_wrong_type_is_reported_at_its_pointer(
    open_service: Caller, name: str
) -> None:
    for value in WRONG_TYPES[name]:
        document = assert_problem(
            await open_service.create(**{name: value}), 422, "invalid_request"
        )
        assert {fault["pointer"].split("/")[1] for fault in document["errors"]} == {name}, value


UNFIT: list[tuple[dict[str, Any], str, str]] = [
    ({"input_prompt": ""}, "/input_prompt", "string_too_short"),
    ({"input_prompt": " \n\t "}, "/input_prompt", "string_too_short"),
    ({"input_prompt": "otter " * 1000}, "/input_prompt", "string_too_long"),
    ({"input_prompt": "o" * 4001}, "/input_prompt", "string_too_long"),
    ({"input_prompt": f"{PROMPT}\x00"}, "/input_prompt", "control_characters"),
    ({"input_prompt": f"{PROMPT}\x1b[31m in red"}, "/input_prompt", "control_characters"),
    ({"input_prompt": f"{PROMPT}\x7f."}, "/input_prompt", "control_characters"),
    ({"input_prompt": f"{PROMPT}\x85."}, "/input_prompt", "control_characters"),
    ({"style_guidance": ""}, "/style_guidance", "string_too_short"),
    ({"style_guidance": "o" * 2001}, "/style_guidance", "string_too_long"),
    ({"user_id": "u" * 201}, "/user_id", "string_too_long"),
    ({"user_id": ""}, "/user_id", "string_too_short"),
    ({"user_id": "u\x00"}, "/user_id", "control_characters"),
    ({"project_id": "p\x00"}, "/project_id", "control_characters"),
    ({"brand_kit_id": "b\x00", "user_id": "pro"}, "/brand_kit_id", "control_characters"),
    ({"output_format": "MySpacePost"}, "/output_format", "unknown_format"),
    ({"output_format": "instagrampost_1x1"}, "/output_format", "unknown_format"),
    ({"output_format": ""}, "/output_format", "unknown_format"),
    (
        {"custom_dimensions": {"width": 800}, "output_format": "Custom"},
        "/custom_dimensions/height",
        "missing",
    ),
    ({"model": "clairvoyant"}, "/model", "unknown_model"),
    ({"locale": "english"}, "/locale", "string_pattern_mismatch"),
    ({"locale": "en-us"}, "/locale", "string_pattern_mismatch"),
    ({"color_scheme": ["#12345"]}, "/color_scheme/0", "invalid_colour"),
    ({"color_scheme": ["#fff", "url(x)"]}, "/color_scheme/1", "invalid_colour"),
    ({"color_scheme": ["#fff"] * 13}, "/color_scheme", "too_long"),
    ({"target_platform_hints": ["web"] * 21}, "/target_platform_hints", "too_long"),
    (
        {"uploaded_image_references": ["bucket/key.png"] * 11},
        "/uploaded_image_references",
        "too_long",
    ),
    ({"metadata": {str(n): n for n in range(51)}}, "/metadata", "too_long"),
    ({"metadata": {"note": "a\x00b"}}, "/metadata/note", "control_characters"),
    ({"metadata": {"a\x00b": 1}}, "/metadata", "control_characters"),
    ({"metadata": {"deep": [{"er": "a\x00b"}]}}, "/metadata/deep/0/er", "control_characters"),
    (
        {"cultural_adaptation_parameters": {"region": "a\x00b"}},
        "/cultural_adaptation_parameters/region",
        "control_characters",
    ),
    ({"input_promt": PROMPT}, "/input_promt", "extra_forbidden"),
    ({"status": "COMPLETED"}, "/status", "extra_forbidden"),
    ({"a/b~c": 1}, "/a~1b~0c", "extra_forbidden"),
]


@pytest.mark.parametrize(("changes", "pointer", "code"), UNFIT)
async def test_create_invalid_field_is_reported_at_its_pointer(
    open_service: Caller, changes: dict[str, Any], pointer: str, code: str
) -> None:
    document = assert_problem(
        await open_service.create(**changes), 422, "invalid_request", pointer=pointer
    )
    assert [fault["code"] for fault in document["errors"] if fault["pointer"] == pointer] == [code]


@pytest.mark.parametrize("missing", ["input_prompt", "output_format", "user_id"])
async def test_create_missing_field_is_reported_at_its_pointer(
    open_service: Caller, missing: str
) -> None:
    body = {name: value for name, value in {"user_id": "user", **PLAIN}.items() if name != missing}
    answer = await open_service.post(REQUESTS, json=body)
    document = assert_problem(answer, 422, "invalid_request", pointer=f"/{missing}")
    assert [fault["code"] for fault in document["errors"]] == ["missing"]


async def test_create_several_invalid_fields_are_all_reported(open_service: Caller) -> None:
    answer = await open_service.create(
        input_prompt="", output_format="MySpacePost", model=5, colour="red"
    )
    document = assert_problem(answer, 422, "invalid_request")
    assert {fault["pointer"] for fault in document["errors"]} == {
        "/input_prompt",
        "/output_format",
        "/model",
        "/colour",
    }


@pytest.mark.parametrize(
    ("width", "height"),
    [(63, 800), (800, 4097), (0, 0), (-800, 800), ("800", 800), (800.5, 800), (True, 800)],
)
async def test_dimensions_out_of_bounds_or_fractional_are_reported(
    open_service: Caller, width: object, height: object
) -> None:
    size = {"width": width, "height": height}
    answer = await open_service.create("pro", output_format="Custom", custom_dimensions=size)
    document = assert_problem(answer, 422, "invalid_request")
    assert {fault["pointer"] for fault in document["errors"]} <= {
        "/custom_dimensions/width",
        "/custom_dimensions/height",
    }


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"output_format": "Custom"}, "dimensions_required"),
        ({"output_format": "Custom", "custom_dimensions": None}, "dimensions_required"),
        ({"custom_dimensions": {"width": 800, "height": 800}}, "dimensions_not_allowed"),
    ],
)
async def test_dimensions_are_required_for_custom_and_refused_otherwise(
    open_service: Caller, changes: dict[str, Any], code: str
) -> None:
    document = assert_problem(await open_service.create(**changes), 422, "invalid_request")
    assert [fault["code"] for fault in document["errors"]] == [code]


@pytest.mark.parametrize(
    "reference",
    [
        "http://example.com/a.png",
        "ftp://example.com/a.png",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "data:image/png;base64,AAAA",
        "../../etc/passwd",
        "bucket/../../etc/passwd",
        "/absolute/path.png",
        "bucket/",
        "ab/key.png",
        "Bucket/key.png",
        "bucket/a key.png",
        "s3://",
        "s3://b",
        "https://",
        "https:///a.png",
        "short",
        "",
        "bucket/\u200bkey.png",
        "bucket/key\n.png",
    ],
)
async def test_reference_that_cannot_be_fetched_is_refused(
    open_service: Caller, reference: str
) -> None:
    answer = await open_service.create(uploaded_image_references=["bucket/fine.png", reference])
    assert_problem(answer, 422, "invalid_request", pointer="/uploaded_image_references/1")


# Unreadable bodies


@pytest.mark.parametrize(
    "body",
    [
        b"not json",
        b"{",
        b'{"input_prompt": "otter"',
        b"{\"input_prompt\": 'otter'}",
        b"\xff\xfe\x00",
        b"\x80",
        b'{"input_prompt": "otter\\ud800", "output_format": "FacebookAd"}',
        b'{"input_prompt": NaN}',
        b'{"metadata": {"otter": "\\udc00"}}',
        b'{"input_prompt": "otter\x01"}',
        b'{"metadata": {"x": 1e999}}',
        b'{"a": 1}{"b": 2}',
        b"{'otter': 1}",
    ],
)
@pytest.mark.parametrize(
    "path", [REQUESTS, f"{REQUESTS}/quote", f"{REQUESTS}/{NOBODY}/select-sample"]
)
async def test_body_not_json_is_invalid_json(open_service: Caller, path: str, body: bytes) -> None:
    answer = await open_service.post(
        path, content=body, headers={"Content-Type": "application/json"}
    )
    assert_problem(answer, 422, "invalid_json")


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 40_000 + b"1" + b"}" * 40_000,
        json.dumps({**PLAIN, "metadata": {"a": json.loads("[" * 20 + "]" * 20)}}).encode(),
    ],
    ids=["unclosed", "lists", "objects", "inside a field"],
)
@pytest.mark.parametrize("path", [REQUESTS, f"{CALLBACKS}/sample-result"])
async def test_body_deeply_nested_is_refused(open_service: Caller, path: str, body: bytes) -> None:
    began = time.monotonic()
    answer = await open_service.post(
        path, content=body, headers={"Content-Type": "application/json"}
    )
    assert_problem(answer, 422, "invalid_json")
    assert time.monotonic() - began < 1


@pytest.mark.parametrize("body", [[], "otter", 5, True, None, [PLAIN]])
@pytest.mark.parametrize("path", [REQUESTS, f"{CALLBACKS}/started"])
async def test_body_not_an_object_is_refused(open_service: Caller, path: str, body: object) -> None:
    answer = await open_service.post(
        path, content=json.dumps(body), headers={"Content-Type": "application/json"}
    )
    assert_problem(answer, 422, "invalid_request")


@pytest.mark.parametrize(
    "path", [REQUESTS, f"{REQUESTS}/quote", f"{REQUESTS}/{NOBODY}/select-sample"]
)
async def test_body_missing_is_refused(open_service: Caller, path: str) -> None:
    assert_problem(await open_service.post(path), 422, "invalid_request")


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "application/xml", None]
)
async def test_body_with_another_content_type_is_415(
    open_service: Caller, kind: str | None
) -> None:
    headers = {"Content-Type": kind} if kind else {}
    answer = await open_service.post(
        REQUESTS, content=json.dumps({"user_id": "user", **PLAIN}), headers=headers
    )
    document = assert_problem(answer, 415, "unsupported_media_type")
    assert "application/json" in document["detail"]


def _large(chunk: int) -> AsyncIterator[bytes]:
    async def chunks() -> AsyncIterator[bytes]:
        yield b'{"input_prompt": "'
        for _ in range(LARGE // chunk + 1):
            yield b"o" * chunk
        yield b'"}'

    return chunks()


PLACES_WITH_BODIES = [
    REQUESTS,
    f"{REQUESTS}/quote",
    f"{REQUESTS}/{NOBODY}/regenerate-samples",
    f"{CALLBACKS}/error",
    f"{OPERATIONS}/credits/grants",
]


@pytest.mark.parametrize("path", PLACES_WITH_BODIES)
async def test_body_with_excessive_content_length_is_413(open_service: Caller, path: str) -> None:
    body = json.dumps({"input_prompt": "o" * LARGE})
    answer = await open_service.post(
        path, content=body, headers={"Content-Type": "application/json"}
    )
    document = assert_problem(answer, 413, "payload_too_large")
    assert str(LARGE) in document["detail"]


@pytest.mark.parametrize("path", PLACES_WITH_BODIES)
async def test_body_huge_and_chunked_is_413(open_service: Caller, path: str) -> None:
    answer = await open_service.post(
        path, content=_large(65_536), headers={"Content-Type": "application/json"}
    )
    assert_problem(answer, 413, "payload_too_large")


@pytest.mark.parametrize("path", PLACES_WITH_BODIES)
async def test_body_longer_than_its_content_length_is_refused(
    open_service: Caller, path: str
) -> None:
    headers = {"Content-Type": "application/json", "Content-Length": "10"}
    answer = await open_service.post(path, content=_large(65_536), headers=headers)
    assert_problem(answer, 413, "payload_too_large")


async def test_body_at_the_limit_is_accepted(open_service: Caller) -> None:
    padded = json.dumps({"user_id": "user", **PLAIN}).ljust(LARGE)
    assert len(padded) == LARGE
    answer = await open_service.post(
        f"{REQUESTS}/quote", content=padded, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == httpx.codes.OK


# Features of plans


@pytest.mark.parametrize("path", [REQUESTS, f"{REQUESTS}/quote"])
@pytest.mark.parametrize(
    "changes",
    [
        {"brand_kit_id": "kit-1"},
        {"model": "advanced"},
        {"output_format": "Custom", "custom_dimensions": {"width": 4096, "height": 4096}},
        {"output_format": "Custom", "custom_dimensions": {"width": 1921, "height": 1080}},
    ],
)
async def test_free_plan_refusal_names_the_required_plan(
    open_service: Caller, path: str, changes: dict[str, Any]
) -> None:
    answer = await open_service.post(path, json={"user_id": "free", **PLAIN, **changes})
    document = assert_problem(answer, 403, "plan_required")
    assert PLANS["pro"].title in document["detail"]


async def test_free_plan_high_resolution_final_names_the_required_plan(
    awaiting_selection: dict[str, Any], open_service: Caller
) -> None:
    answer = await open_service.act(
        awaiting_selection["id"],
        "select-sample",
        selected_sample_id=awaiting_selection["samples"][0]["asset_id"],
        desired_resolution="4K",
    )
    document = assert_problem(answer, 403, "plan_required")
    assert PLANS["pro"].title in document["detail"]


# Actions on a request


async def test_select_sample_of_another_round_is_refused(
    awaiting_selection: dict[str, Any], open_service: Caller
) -> None:
    answer = await open_service.act(
        awaiting_selection["id"], "select-sample", selected_sample_id=awaiting_selection["old"]
    )
    document = assert_problem(answer, 422, "invalid_request", pointer="/selected_sample_id")
    assert [fault["code"] for fault in document["errors"]] == ["unknown_sample"]


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"selected_sample_id": 5}, "/selected_sample_id"),
        ({"selected_sample_id": ""}, "/selected_sample_id"),
        ({"selected_sample_id": "a\x00"}, "/selected_sample_id"),
        ({"selected_sample_id": "s" * 201}, "/selected_sample_id"),
        ({"selected_sample_id": None}, "/selected_sample_id"),
        ({"desired_resolution": "huge"}, "/desired_resolution"),
        ({"desired_resolution": "8K"}, "/desired_resolution"),
        ({"desired_resolution": "5000x5000"}, "/desired_resolution"),
        ({"desired_resolution": "10x10"}, "/desired_resolution"),
        ({"desired_resolution": "1000x500"}, "/desired_resolution"),
        ({"desired_resolution": 1000}, "/desired_resolution"),
        ({"output_format": "gif"}, "/output_format"),
        ({"output_format": 5}, "/output_format"),
        ({"format": "png"}, "/format"),
    ],
)
async def test_select_invalid_field_is_reported_at_its_pointer(
    awaiting_selection: dict[str, Any], open_service: Caller, changes: dict[str, Any], pointer: str
) -> None:
    body = {"selected_sample_id": awaiting_selection["samples"][0]["asset_id"]} | changes
    assert_problem(
        await open_service.act(awaiting_selection["id"], "select-sample", **body),
        422,
        "invalid_request",
        pointer=pointer,
    )


@pytest.mark.parametrize("action", ["regenerate-samples", "retry"])
@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"updated_prompt": ""}, "/updated_prompt"),
        ({"updated_prompt": "o" * 4001}, "/updated_prompt"),
        ({"updated_prompt": f"{PROMPT}\x00"}, "/updated_prompt"),
        ({"updated_prompt": 5}, "/updated_prompt"),
        ({"updated_style_guidance": [PROMPT]}, "/updated_style_guidance"),
        ({"model": "clairvoyant"}, "/model"),
        ({"input_prompt": PROMPT}, "/input_prompt"),
    ],
)
async def test_brief_change_invalid_field_is_reported_at_its_pointer(
    awaiting_selection: dict[str, Any],
    open_service: Caller,
    action: str,
    changes: dict[str, Any],
    pointer: str,
) -> None:
    assert_problem(
        await open_service.act(awaiting_selection["id"], action, **changes),
        422,
        "invalid_request",
        pointer=pointer,
    )


ACTIONS: list[tuple[str, str, dict[str, Any] | None]] = [
    ("GET", "", None),
    ("GET", "/events", None),
    ("GET", "/stream", None),
    ("POST", "/select-sample", {"selected_sample_id": "a"}),
    ("POST", "/regenerate-samples", None),
    ("POST", "/retry", None),
    ("POST", "/cancel", None),
]


@pytest.mark.parametrize(("method", "action", "body"), ACTIONS)
async def test_path_with_invalid_id_is_refused(
    open_service: Caller, method: str, action: str, body: dict[str, Any] | None
) -> None:
    for wrong in ("nonsense", "123", f"{NOBODY}0", "%00", "..%2f..%2fetc"):
        answer = await open_service.request(method, f"{REQUESTS}/{wrong}{action}", json=body)
        if wrong == "..%2f..%2fetc":
            assert_problem(answer, 404, "not_found")
        else:
            assert_problem(answer, 422, "invalid_request", pointer="/path/request_id")


@pytest.mark.parametrize(("method", "action", "body"), ACTIONS)
async def test_request_of_another_user_looks_like_an_unknown_one(
    awaiting_selection: dict[str, Any],
    open_service: Caller,
    method: str,
    action: str,
    body: dict[str, Any] | None,
) -> None:
    documents = []
    for request_id in (awaiting_selection["id"], str(uuid4())):
        answer = await open_service.request(
            method,
            f"{REQUESTS}/{request_id}{action}",
            json=body,
            headers={"X-User-ID": "somebody else"},
        )
        document = assert_problem(answer, 404, "not_found")
        documents.append({k: v for k, v in document.items() if k not in {"instance", "request_id"}})
    assert documents[0] == documents[1]


@pytest.mark.parametrize("user", ["", "u" * 201, "a\x01b"])
async def test_user_header_invalid_is_refused(open_service: Caller, user: str) -> None:
    answer = await open_service.get(REQUESTS, headers={"X-User-ID": user})
    assert_problem(answer, 422, "invalid_request", pointer="/header/X-User-ID")


async def test_user_in_body_and_header_different_is_refused(open_service: Caller) -> None:
    answer = await open_service.create("user", headers={"X-User-ID": "free"})
    assert_problem(answer, 403, "user_mismatch")


# Lists


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("limit=0", "/query/limit"),
        ("limit=101", "/query/limit"),
        ("limit=-1", "/query/limit"),
        ("limit=many", "/query/limit"),
        ("limit=1.5", "/query/limit"),
        ("limit=", "/query/limit"),
        ("status=DONE", "/query/status/0"),
        ("status=completed", "/query/status/0"),
        ("status=", "/query/status/0"),
        ("status=FAILED&status=otter", "/query/status/1"),
        ("cursor=otter", "/query/cursor"),
        ("cursor=", "/query/cursor"),
        ("cursor=%00", "/query/cursor"),
        ("cursor=%C3%A9", "/query/cursor"),
        ("cursor=" + "A" * 201, "/query/cursor"),
        ("cursor=AAAA", "/query/cursor"),
        ("created_from=yesterday", "/query/created_from"),
        ("created_to=2026-13-01", "/query/created_to"),
        ("created_from=2026-01-01T00:00:00", "/query/created_from"),
        ("created_to=2026-01-01T00:00:00", "/query/created_to"),
        ("user_id=" + "u" * 201, "/query/user_id"),
        ("project_id=" + "p" * 201, "/query/project_id"),
        ("user_id=a%00b", "/query/user_id"),
        ("project_id=a%00b", "/query/project_id"),
        ("state=FAILED", "/query/state"),
        ("statu=FAILED", "/query/statu"),
        ("page=2", "/query/page"),
    ],
)
async def test_list_invalid_parameters_are_refused(
    open_service: Caller, query: str, pointer: str
) -> None:
    assert_problem(
        await open_service.get(f"{REQUESTS}?{query}"), 422, "invalid_request", pointer=pointer
    )


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00%2B14:00", "9999-12-31T23:59:59-14:00"])
@pytest.mark.parametrize("bound", ["created_from", "created_to"])
async def test_list_dates_at_the_ends_of_time_are_refused(
    open_service: Caller, bound: str, moment: str
) -> None:
    answer = await open_service.get(f"{REQUESTS}?{bound}={moment}")
    assert answer.status_code in {200, 422}, answer.text


# Tokens


def _token(
    secret: str = JWT_SECRET, *, without: str = "", algorithm: str = "HS256", **claims: Any
) -> str:
    whole = {"sub": "user", "exp": int(time.time()) + 600, "aud": AUDIENCE, "iss": "login"} | claims
    return jwt.encode({k: v for k, v in whole.items() if k != without}, secret, algorithm=algorithm)


def _unsigned() -> str:
    head, payload = (
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()
        for part in (
            {"alg": "none", "typ": "JWT"},
            {
                "sub": "user",
                "exp": int(time.time()) + 600,
                "aud": AUDIENCE,
                "iss": "login",
                "roles": ["operator"],
            },
        )
    )
    return f"{head}.{payload}."


TOKENS: dict[str, Callable[[], str]] = {
    "wrong secret": lambda: _token("another secret of enough length for HS256"),
    "no algorithm": _unsigned,
    "no exp": lambda: _token(without="exp"),
    "no sub": lambda: _token(without="sub"),
    "no audience": lambda: _token(without="aud"),
    "no issuer": lambda: _token(without="iss"),
    "wrong audience": lambda: _token(aud="another service"),
    "wrong issuer": lambda: _token(iss="somebody else"),
    "not yet": lambda: _token(nbf=int(time.time()) + 600),
    "HS512": lambda: _token(
        "an even longer secret for an algorithm that nobody asked for, 64", algorithm="HS512"
    ),
    "empty sub": lambda: _token(sub=""),
    "long sub": lambda: _token(sub="u" * 201),
    "sub that no database takes": lambda: _token(sub="user\x00"),
    "sub is a number": lambda: _token(sub=5),
    "exp is a text": lambda: _token(exp="tomorrow"),
    "cut": lambda: _token()[:-2],
    "two parts": lambda: _token().rpartition(".")[0],
    "not a token": lambda: "otter",
    "dots": lambda: "..",
    "changed claims": lambda: ".".join(
        [_token().split(".")[0], _unsigned().split(".")[1], _token().split(".")[2]]
    ),
}


@pytest.mark.parametrize("kind", TOKENS)
async def test_token_of_another_issuer_is_refused(locked: Caller, kind: str) -> None:
    before = await Footprint.of(locked.test_app)
    answer = await locked.create(headers={"Authorization": f"Bearer {TOKENS[kind]()}"})
    assert_problem(answer, 401, "invalid_credentials")
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert await Footprint.of(locked.test_app) == before


async def test_token_expired_is_reported(locked: Caller) -> None:
    answer = await locked.get(
        REQUESTS, headers={"Authorization": f"Bearer {_token(exp=int(time.time()) - 60)}"}
    )
    assert_problem(answer, 401, "token_expired")


@pytest.mark.parametrize("value", ["", "Bearer", "Bearer ", "Basic dXNlcjpwYXNz", "otter"])
async def test_token_missing_is_401(locked: Caller, value: str) -> None:
    answer = await locked.get(REQUESTS, headers={"Authorization": value})
    assert_problem(answer, 401, "authentication_required")


@pytest.mark.parametrize(
    "key", ["otter", f"{API_KEY}x", API_KEY[:-1], "odoo:service:" + API_KEY, "ü" * 20]
)
async def test_api_key_wrong_is_refused(locked: Caller, key: str) -> None:
    answer = await locked.get(REQUESTS, headers=[(b"X-Internal-API-Key", key.encode())])
    assert_problem(answer, 401, "invalid_credentials")


async def test_token_user_naming_another_user_in_the_body_is_refused(locked: Caller) -> None:
    before = await Footprint.of(locked.test_app)
    answer = await locked.create("somebody else", headers={"Authorization": f"Bearer {_token()}"})
    assert_problem(answer, 403, "user_mismatch")
    assert await Footprint.of(locked.test_app) == before


# Callbacks

KINDS = ["started", "progress", "sample-result", "final-result", "error"]
SAID: dict[str, dict[str, Any]] = {
    "started": {},
    "progress": {"percent": 10},
    "sample-result": {"samples": []},
    "final-result": {
        "final_asset": {
            "asset_id": "a",
            "url": "https://s/a.png",
            "resolution": "1080x1080",
            "format": "png",
        }
    },
    "error": {"error_code": "provider_error"},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("body", [b"otter", b"{", b"", b"\xff", b'{"error_code": "\\ud800"}'])
async def test_report_not_json_is_refused(open_service: Caller, kind: str, body: bytes) -> None:
    answer = await open_service.post(
        f"{CALLBACKS}/{kind}",
        content=body,
        headers={"Content-Type": "application/json", "Authorization": "Bearer x"},
    )
    assert_problem(answer, 422, "invalid_json")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "authorization", [None, "", "Bearer", "Bearer otter", "Basic otter", "Bearer ü"]
)
async def test_report_without_job_token_is_refused(
    awaiting_selection: dict[str, Any], open_service: Caller, kind: str, authorization: str | None
) -> None:
    headers = [] if authorization is None else [(b"Authorization", authorization.encode())]
    body = {"generation_request_id": awaiting_selection["id"], "job_id": str(uuid4()), **SAID[kind]}
    answer = await open_service.post(f"{CALLBACKS}/{kind}", json=body, headers=headers)
    assert_problem(answer, 401, "invalid_credentials")


@pytest.mark.parametrize("kind", KINDS)
async def test_report_with_token_of_another_job_is_refused(
    awaiting_selection: dict[str, Any], open_service: Caller, kind: str
) -> None:
    token = open_service.test_app.service.secrets.token(uuid4())
    body = {"generation_request_id": awaiting_selection["id"], "job_id": str(uuid4()), **SAID[kind]}
    answer = await open_service.post(
        f"{CALLBACKS}/{kind}", json=body, headers={"Authorization": f"Bearer {token}"}
    )
    assert_problem(answer, 401, "invalid_credentials")


@pytest.mark.parametrize("kind", KINDS)
async def test_report_for_unknown_request_is_not_found(open_service: Caller, kind: str) -> None:
    job_id = uuid4()
    token = open_service.test_app.service.secrets.token(job_id)
    body = {"generation_request_id": str(uuid4()), "job_id": str(job_id), **SAID[kind]}
    answer = await open_service.post(
        f"{CALLBACKS}/{kind}", json=body, headers={"Authorization": f"Bearer {token}"}
    )
    assert_problem(answer, 404, "not_found")


ASSET = {"asset_id": "a", "url": "https://s/a.png", "resolution": "512x512", "format": "png"}


@pytest.mark.parametrize(
    ("kind", "said", "pointer"),
    [
        ("started", {"generation_request_id": "otter"}, "/generation_request_id"),
        ("started", {"job_id": "otter"}, "/job_id"),
        ("started", {"job_id": None}, "/job_id"),
        ("progress", {"percent": 101}, "/percent"),
        ("progress", {"percent": "half"}, "/percent"),
        ("progress", {"step": "a\x00b"}, "/step"),
        ("sample-result", {}, "/samples"),
        ("sample-result", {"samples": {}}, "/samples"),
        ("sample-result", {"samples": [ASSET] * 9}, "/samples"),
        ("sample-result", {"samples": [ASSET | {"url": "file:///etc/passwd"}]}, "/samples/0/url"),
        ("sample-result", {"samples": [ASSET | {"url": "javascript:alert(1)"}]}, "/samples/0/url"),
        ("sample-result", {"samples": [ASSET | {"url": "https://s/\x00"}]}, "/samples/0/url"),
        ("sample-result", {"samples": [ASSET | {"resolution": "large"}]}, "/samples/0/resolution"),
        ("sample-result", {"samples": [ASSET | {"asset_id": ""}]}, "/samples/0/asset_id"),
        ("sample-result", {"samples": [ASSET | {"asset_id": "a\x00b"}]}, "/samples/0/asset_id"),
        ("sample-result", {"samples": [ASSET | {"format": "p\x00g"}]}, "/samples/0/format"),
        (
            "sample-result",
            {"samples": [ASSET | {"metadata": {"a": "\x00"}}]},
            "/samples/0/metadata/a",
        ),
        ("sample-result", {"samples": [ASSET], "ai_model_used": "m\x00"}, "/ai_model_used"),
        ("sample-result", {"samples": [ASSET], "provider": "m\x00"}, "/provider"),
        (
            "sample-result",
            {"samples": [ASSET], "failures": [{"error_code": "x"}]},
            "/failures/0/index",
        ),
        (
            "sample-result",
            {"samples": [ASSET], "failures": [{"index": 1, "error_code": "x\x00"}]},
            "/failures/0/error_code",
        ),
        ("final-result", {}, "/final_asset"),
        ("final-result", {"final_asset": ASSET | {"checksum": "\x00"}}, "/final_asset/checksum"),
        ("error", {}, "/error_code"),
        ("error", {"error_code": "a\x00b"}, "/error_code"),
        ("error", {"error_code": "provider_error", "failed_stage": "a\x00b"}, "/failed_stage"),
    ],
)
async def test_report_invalid_field_is_reported_at_its_pointer(
    open_service: Caller, kind: str, said: dict[str, Any], pointer: str
) -> None:
    created = (await open_service.create("pro")).json()
    job = await open_service.test_app.next_job()
    answer = await open_service.report(kind, job, **said)
    problem = (answer, (await open_service.look(created["id"]))["status"])
    await _forget(open_service, created["id"])
    assert_problem(problem[0], 422, "invalid_request", pointer=pointer)
    assert problem[1] == "PROCESSING_SAMPLES"


async def _forget(caller: Caller, request_id: str) -> None:
    """Delete a request, so that only the effects of a refusal can remain."""
    for table, column in (
        ("generation_requests", "id"),
        ("generation_events", "request_id"),
        ("holds", "request_id"),
        ("outbox", "request_id"),
        ("idempotency_keys", "request_id"),
    ):
        await caller.test_app.database.execute(
            f"DELETE FROM {table} WHERE {column} = $1::uuid",  # noqa: S608 - constants
            request_id,
        )


# Operations


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"user_id": "user", "amount": 5.0}, "/amount"),
        ({"user_id": "user", "amount": "much"}, "/amount"),
        ({"user_id": "user", "amount": "0.001"}, "/amount"),
        ({"user_id": "user", "amount": "9" * 30}, "/amount"),
        ({"user_id": "user", "amount": "-99999"}, "/amount"),
        ({"user_id": "nobody-yet", "amount": "-1"}, "/amount"),
        ({"user_id": "user", "amount": "1", "plan": "gold"}, "/plan"),
        ({"user_id": "", "amount": "1"}, "/user_id"),
        ({"user_id": "u\x00", "amount": "1"}, "/user_id"),
        ({"user_id": "user", "amount": "1", "reason": "\x00"}, "/reason"),
        ({"user_id": "user"}, "/amount"),
        ({"user_id": "user", "amount": "1", "credits": "1"}, "/credits"),
    ],
)
async def test_grant_invalid_field_is_reported_at_its_pointer(
    open_service: Caller, body: dict[str, Any], pointer: str
) -> None:
    answer = await open_service.post(f"{OPERATIONS}/credits/grants", json=body)
    assert_problem(answer, 422, "invalid_request", pointer=pointer)


@pytest.mark.parametrize(
    ("path", "pointer"),
    [
        ("users/a%00b/statement", "/path/user_id"),
        (f"users/{'u' * 201}/statement", "/path/user_id"),
        ("stuck?limit=0", "/query/limit"),
        ("outbox?limit=501", "/query/limit"),
        ("outbox?parked=perhaps", "/query/parked"),
        ("outbox?park=true", "/query/park"),
    ],
)
async def test_operation_invalid_field_is_reported_at_its_pointer(
    open_service: Caller, path: str, pointer: str
) -> None:
    assert_problem(
        await open_service.get(f"{OPERATIONS}/{path}"), 422, "invalid_request", pointer=pointer
    )


@pytest.mark.parametrize("what", ["replay", "drop"])
async def test_outbox_unknown_message_is_not_found(open_service: Caller, what: str) -> None:
    assert_problem(await open_service.post(f"{OPERATIONS}/outbox/1/{what}"), 404, "not_found")
    for wrong in ("0", "-1", "first", "99999999999999999999"):
        answer = await open_service.post(f"{OPERATIONS}/outbox/{wrong}/{what}")
        assert_problem(answer, 422, "invalid_request", pointer="/path/message_id")


@pytest.mark.parametrize(
    "body", [{}, {"reason": ""}, {"reason": 5}, {"reason": "r" * 501}, {"reason": "\x00"}]
)
async def test_fail_without_reason_is_refused_by_the_api(
    awaiting_selection: dict[str, Any], open_service: Caller, body: dict[str, Any]
) -> None:
    answer = await open_service.post(
        f"{OPERATIONS}/generation-requests/{awaiting_selection['id']}/fail", json=body
    )
    assert_problem(answer, 422, "invalid_request", pointer="/reason")


# Paths and methods


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", REQUESTS, {"GET", "POST"}),
        ("PUT", f"{REQUESTS}/{NOBODY}", {"GET"}),
        ("GET", f"{REQUESTS}/{NOBODY}/cancel", {"POST"}),
        ("POST", f"{REQUESTS}/{NOBODY}/events", {"GET"}),
        ("GET", f"{CALLBACKS}/started", {"POST"}),
        ("POST", "/health", {"GET"}),
        ("PATCH", f"{OPERATIONS}/invariants", {"GET"}),
    ],
)
async def test_method_not_allowed_lists_the_allowed_ones(
    open_service: Caller, method: str, path: str, allowed: set[str]
) -> None:
    answer = await open_service.request(method, path)
    assert_problem(answer, 405, "method_not_allowed")
    assert allowed & set(answer.headers["allow"].split(", "))


@pytest.mark.parametrize(
    "path",
    [
        "/nowhere",
        "/api/v1",
        "/api/v1/nowhere",
        "/api/v2/generation-requests",
        f"{REQUESTS}/{NOBODY}/nowhere",
        f"{CALLBACKS}/nowhere",
        f"{OPERATIONS}/nowhere",
        "/problems/nowhere",
        "/assets/nowhere.png",
        "/assets/..%2f..%2fcallback_secret",
        "/assets/" + "0" * 32 + ".png",
        "/%00",
        "/assets/%00",
    ],
)
async def test_path_unknown_is_not_found(open_service: Caller, path: str) -> None:
    assert_problem(await open_service.get(path), 404, "not_found")
