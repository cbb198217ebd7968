"""Calls that fail are retried where that is safe, and end in one of the client's exceptions."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import orjson
import pytest

from creativeflow.clients.aigeneration import (
    ApiConnectionError,
    Asset,
    AsyncClient,
    Client,
    GenerationServiceError,
    ProblemError,
    Retries,
)
from creativeflow.services.aigeneration.domain.lifecycle import State
from creativeflow.services.aigeneration.domain.representation import to_resource
from tests.support.builders import a_request

QUICK = Retries(max_attempts=4, initial_seconds=0.001, max_seconds=0.002)
SQUARE = "InstagramPost_1x1"
ID = "0195940d-0000-7000-8000-000000000001"
OWN = Asset(asset_id="a", url="https://aigen.example/assets/a.png", resolution="1x1", format="png")


class Transport(httpx.BaseTransport):
    """Answers with responses and exceptions in turn; keeps the requests."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.answers = list(answers)
        self.requests: list[httpx.Request] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Return or raise the next answer."""
        self.requests.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def generation(**changes: Any) -> dict[str, Any]:
    return to_resource(a_request()) | changes


def created(**changes: Any) -> httpx.Response:
    return httpx.Response(202, content=orjson.dumps(generation(**changes)))


def event(version: int, state: State = State.PENDING, **changes: Any) -> bytes:
    document = generation(status=state.value, version=version, **changes)
    return b"id: %d\nevent: generation.updated\ndata: %b\n\n" % (version, orjson.dumps(document))


def problem(status: int, code: str, *, retryable: bool = False, **headers: str) -> httpx.Response:
    document = {"code": code, "title": "T", "detail": "D", "retryable": retryable}
    return httpx.Response(status, json=document, headers=headers)


@pytest.fixture
def connect() -> Iterator[Callable[..., tuple[Client, Transport]]]:
    """Builds clients on a transport with these answers."""
    with ExitStack() as stack:

        def build(*answers: httpx.Response | Exception, **more: Any) -> tuple[Client, Transport]:
            transport = Transport(*answers)
            client = Client("https://aigen.example", transport=transport, retries=QUICK, **more)
            return stack.enter_context(client), transport

        yield build


@pytest.mark.parametrize(
    "failure",
    [
        httpx.ConnectError("refused"),
        httpx.ReadTimeout("slow"),
        httpx.RemoteProtocolError("cut"),
        httpx.Response(502),
        problem(503, "storage_unavailable", retryable=True),
        problem(429, "rate_limited", **{"Retry-After": "0"}),
        problem(409, "idempotency_key_in_flight"),
    ],
    ids=str,
)
def test_transient_failure_is_retried_under_the_same_key(connect: Any, failure: Any) -> None:
    client, transport = connect(failure, failure, created())
    assert client.create("A lighthouse", SQUARE).id == ID
    keys = {request.headers["idempotency-key"] for request in transport.requests}
    assert (len(transport.requests), len(keys)) == (3, 1)
    assert len({request.content for request in transport.requests}) == 1


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (402, "insufficient_credits"),
        (409, "quote_expired"),
        (422, "invalid_request"),
        (403, "plan_required"),
    ],
)
def test_refusal_is_raised_at_once(connect: Any, status: int, code: str) -> None:
    client, transport = connect(problem(status, code))
    with pytest.raises(ProblemError) as refused:
        client.create("A lighthouse", SQUARE)
    assert (refused.value.status, refused.value.code, str(refused.value)) == (status, code, "D")
    assert refused.value.raw["title"] == "T"
    assert len(transport.requests) == 1


def test_attempts_are_bounded_and_the_last_failure_is_raised(connect: Any) -> None:
    client, transport = connect(*[httpx.ConnectError("refused")] * 4)
    with pytest.raises(ApiConnectionError) as silent:
        client.get("g")
    assert isinstance(silent.value.__cause__, httpx.ConnectError)
    assert len(transport.requests) == 4
    client, _ = connect(*[problem(503, "storage_unavailable", retryable=True)] * 4)
    with pytest.raises(ProblemError, match="D"):
        client.get("g")


@pytest.mark.parametrize(
    "act",
    [
        lambda client: client.webhook_endpoints.create("https://hooks.example"),
        lambda client: client.webhook_endpoints.rotate_secret("e"),
        lambda client: client.webhook_endpoints.test("e"),
        lambda client: client.webhook_endpoints.redeliver("e", "v"),
        lambda client: client.operations.replay_outbox_message(1),
        lambda client: client.operations.drop_outbox_message(1),
    ],
)
@pytest.mark.parametrize(
    "failure",
    [httpx.ReadTimeout("slow"), httpx.Response(502), problem(503, "x", retryable=True)],
    ids=str,
)
def test_call_without_idempotency_key_is_not_repeated_after_it_was_sent(
    connect: Any, act: Callable[[Client], Any], failure: Any
) -> None:
    client, transport = connect(failure)
    with pytest.raises(GenerationServiceError):
        act(client)
    assert len(transport.requests) == 1


def test_call_that_was_not_sent_or_was_rate_limited_is_repeated(connect: Any) -> None:
    answers = [httpx.ConnectError("refused"), problem(429, "rate_limited")]
    client, transport = connect(*answers, httpx.Response(202, json={"event_id": "v"}))
    assert client.webhook_endpoints.test("e").event_id == "v"
    assert len(transport.requests) == 3


def test_url_without_scheme_is_not_retried() -> None:
    with Client("aigen.example", retries=QUICK) as client, pytest.raises(ApiConnectionError):
        client.get("g")


def test_broken_stream_resumes_after_the_last_version(connect: Any) -> None:
    client, transport = connect(
        httpx.Response(200, content=event(1) + event(2)),
        httpx.ReadError("cut"),
        httpx.Response(200, content=b": keep-alive\n\n" + event(3, State.COMPLETED)),
    )
    assert [found.version for found in client.stream("g")] == [1, 2, 3]
    sent = [request.headers.get("last-event-id") for request in transport.requests]
    assert sent == [None, "2", "2"]


def test_stream_that_is_refused_for_a_moment_is_opened_again(connect: Any) -> None:
    client, _ = connect(
        httpx.Response(502),
        problem(503, "x", retryable=True),
        httpx.Response(200, content=event(2, State.COMPLETED)),
    )
    assert [found.version for found in client.stream("g")] == [2]
    client, transport = connect(problem(404, "not_found"))
    with pytest.raises(ProblemError, match="D"):
        list(client.stream("g"))
    assert len(transport.requests) == 1
    client, transport = connect(*[httpx.ReadError("cut")] * 4)
    with pytest.raises(ApiConnectionError):
        list(client.stream("g"))


def test_quiet_stream_that_is_cut_now_and_then_continues(connect: Any) -> None:
    quiet = [httpx.Response(200, content=b"retry: 2000\n\n: keep-alive\n\n") for _ in range(6)]
    client, _ = connect(*quiet, httpx.Response(200, content=event(2, State.COMPLETED)))
    assert [found.version for found in client.stream("g")] == [2]


def test_stream_that_is_closed_without_an_event_ends_in_an_error(connect: Any) -> None:
    client, _ = connect(*[httpx.Response(200, content=b"retry: 2000\n\n") for _ in range(4)])
    with pytest.raises(ApiConnectionError, match="before the generation has ended"):
        list(client.stream("g"))


def test_line_separators_of_unicode_in_a_prompt_do_not_break_a_stream(connect: Any) -> None:
    prompt = "A\u2028lighthouse\u0085at\u2029dawn"
    content = event(2, State.COMPLETED, brief={"input_prompt": prompt})
    client, _ = connect(httpx.Response(200, content=content))
    (found,) = client.stream("g")
    assert found.brief["input_prompt"] == prompt


def test_download_is_retried(connect: Any) -> None:
    client, transport = connect(
        httpx.ReadError("cut"), httpx.Response(503), httpx.Response(200, content=b"own")
    )
    assert client.download(OWN) == b"own"
    assert len(transport.requests) == 3


@pytest.mark.parametrize(
    ("response", "message"),
    [
        (httpx.Response(200, text="<html>Welcome</html>"), "is not the service"),
        (httpx.Response(200, json={"id": "g"}), "`status` is missing"),
        (httpx.Response(200, json=[]), "it is no object"),
        (httpx.Response(200, content=orjson.dumps(generation(version="1"))), "`version`"),
        (httpx.Response(200, content=orjson.dumps(generation(cost={}))), "`cost`"),
        (httpx.Response(200, content=orjson.dumps(generation(samples=[1]))), "`samples`"),
        (httpx.Response(200, content=orjson.dumps(generation(created_at="x"))), "`created_at`"),
    ],
)
def test_response_of_another_form_is_an_error(connect: Any, response: Any, message: str) -> None:
    client, _ = connect(response)
    with pytest.raises(ApiConnectionError, match=message):
        client.get("g")


def test_list_of_another_form_is_an_error(connect: Any) -> None:
    client, _ = connect(httpx.Response(200, json={"items": None}))
    with pytest.raises(ApiConnectionError, match="not a list"):
        client.webhook_endpoints.list()


@pytest.mark.parametrize("content", [b"id: 1\ndata: {broken\n\n", b"data:[]\n\n"])
def test_event_of_another_form_is_an_error(connect: Any, content: bytes) -> None:
    client, _ = connect(httpx.Response(200, content=content))
    with pytest.raises(ApiConnectionError):
        list(client.stream("g"))


def test_unknown_fields_are_kept_in_raw(connect: Any) -> None:
    client, _ = connect(created(a_new_field=1))
    assert client.create("A lighthouse", SQUARE).raw["a_new_field"] == 1


@pytest.mark.parametrize("wrong", ["", ".", ".."])
def test_id_that_would_address_something_else_is_refused(connect: Any, wrong: str) -> None:
    client, transport = connect()
    with pytest.raises(ValueError, match="is not an id"):
        client.get(wrong)
    assert transport.requests == []


def test_ids_are_quoted(connect: Any) -> None:
    client, transport = connect(problem(404, "not_found"))
    with pytest.raises(ProblemError):
        client.get("../formats?x=1")
    assert transport.requests[0].url.raw_path.endswith(b"/generation-requests/..%2Fformats%3Fx%3D1")


def test_version_of_a_precondition_is_sent_as_an_entity_tag(connect: Any) -> None:
    client, transport = connect(created(outcome="cancelled"))
    client.cancel("g", if_version=3)
    assert transport.requests[0].headers["if-match"] == '"3"'


def test_not_ready_is_a_response(connect: Any) -> None:
    checks = {"database": {"ok": False, "required": True, "detail": "refused"}}
    client, transport = connect(httpx.Response(503, json={"status": "not_ready", "checks": checks}))
    readiness = client.get_readiness()
    assert (readiness.ready, readiness.checks["database"].detail) == (False, "refused")
    assert len(transport.requests) == 1


def test_export_is_retried_only_until_its_first_chunk(connect: Any) -> None:
    class Cut(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            yield b"at,user_id\n"
            raise httpx.ReadError("cut")

    client, transport = connect(
        httpx.ConnectError("refused"),
        problem(503, "x", retryable=True),
        httpx.Response(200, stream=Cut()),
    )
    chunks = client.accounts.export_usage("2026-11")
    assert next(chunks) == b"at,user_id\n"
    with pytest.raises(ApiConnectionError):
        next(chunks)
    assert len(transport.requests) == 3


def test_usage_line_of_another_form_is_an_error(connect: Any) -> None:
    client, _ = connect(httpx.Response(200, content=b"{broken\n"))
    with pytest.raises(ApiConnectionError, match="not JSON"):
        list(client.accounts.list_usage("2026-11"))


@pytest.mark.parametrize(
    "url", ["https://pictures.example/a.png", "https://aigen.example:8443/a.png"]
)
def test_credentials_are_sent_to_the_service_only(
    connect: Any, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    client, transport = connect(
        httpx.Response(200, content=b"own"), api_key="a-secret-key", user_id="ada", language="de"
    )
    assert client.download(OWN) == b"own"
    assert transport.requests[0].headers["x-internal-api-key"] == "a-secret-key"
    elsewhere = Transport(httpx.Response(200, content=b"foreign"))
    monkeypatch.setattr(
        httpx.HTTPTransport, "handle_request", lambda _, request: elsewhere.handle_request(request)
    )
    foreign = Asset(asset_id="a", url=url, resolution="1x1", format="png")
    assert client.download(foreign) == b"foreign"
    assert not {"x-internal-api-key", "x-user-id"} & set(elsewhere.requests[0].headers)
    assert "a-secret-key" not in repr(client)


async def test_asynchronous_client_retries_likewise() -> None:
    answers = [httpx.ConnectError("refused"), problem(503, "x", retryable=True), created()]

    def handle(_: httpx.Request) -> httpx.Response:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    transport = httpx.MockTransport(handle)
    async with AsyncClient("http://aigen", transport=transport, retries=QUICK) as client:
        assert (await client.create("A lighthouse", SQUARE)).id == ID
    assert answers == []
