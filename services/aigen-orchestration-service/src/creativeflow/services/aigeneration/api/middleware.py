"""Middleware of every call: request id, trace context, body limits, access log, metrics, unexpected
errors.
"""

import asyncio
import re
import time
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import structlog
from fastapi import Request
from prometheus_client import Histogram
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from creativeflow.services.aigeneration.api.errors import JsonFault, problem
from creativeflow.services.aigeneration.api.http_protocol import STREAM
from creativeflow.services.aigeneration.api.rate_limit import BodyTimeout
from creativeflow.services.aigeneration.api.response_headers import ResponseHeaders
from creativeflow.services.aigeneration.api.services import services_of
from creativeflow.services.aigeneration.application.metrics import HTTP_SECONDS
from creativeflow.services.aigeneration.domain import errors
from creativeflow.services.aigeneration.kit.clock import random_bytes

log = structlog.get_logger(__name__)

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_TRACEPARENT = re.compile(rb"00-((?!0{32})[0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})")
_GONE = 499
"""Status that is counted when the client disconnects while sending the body, as proxies do; no
response is sent.
"""
_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
_API = "/api/v1/"
_CALLBACKS = "/api/v1/n8n-callbacks/"
_TEXT_HEADERS = frozenset(
    {
        b"accept-language",
        b"authorization",
        b"content-type",
        b"host",
        b"idempotency-key",
        b"if-match",
        b"if-none-match",
        b"last-event-id",
        b"origin",
        b"x-csrf-token",
        b"x-internal-api-key",
        b"x-user-id",
    }
)
"""The headers that are read, and must be UTF-8."""
_QUIET = ("/health", "/ready", "/metrics")


def _too_large(limit: int) -> JsonFault:
    """Return the error of a body over its limit, of a type that the framework's body parsing lets
    through.
    """
    return JsonFault(errors.PayloadTooLargeError(limit_bytes=limit))


class RequestContext:
    """A single middleware for everything, because every layer costs each call."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        body_limit: int,
        upload_limits: Mapping[str, int],
        public_url: str | None = None,
        patience: BodyTimeout | None = None,
    ) -> None:
        """`upload_limits`: the body limits of single paths, which accept more than the others."""
        self._app = app
        self._patience = patience or BodyTimeout()
        self._body_limit = body_limit
        self._upload_limits = upload_limits
        self._response_headers = ResponseHeaders(public_url)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one call."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        scope["aigen.request_id"] = request_id = _request_id(headers)
        scope["aigen.traceparent"] = _trace(headers)
        structlog.contextvars.bind_contextvars(request_id=request_id)
        began, status, task = time.perf_counter(), 500, asyncio.current_task()
        limit = self._upload_limits.get(scope["path"], self._body_limit)

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if (b"content-type", b"text/event-stream; charset=utf-8") in message["headers"]:
                    scope[STREAM] = True
                headers_ = self._response_headers.complete(
                    scope["path"], message.get("headers", ())
                )
                message["headers"] = [*headers_, *_extra_headers(scope)]
            await send(message)

        try:
            announced = headers.get(b"content-length", b"")
            await self._guarded(
                scope, _limited(receive, limit, self._patience, task), answer, limit, announced
            )
        except ClientDisconnect:
            status = _GONE
        finally:
            if task:
                self._patience.end(task)
            seconds = time.perf_counter() - began
            self._account(scope, status, seconds)
            structlog.contextvars.unbind_contextvars("request_id")

    async def _guarded(
        self, scope: Scope, receive: Receive, send: Send, limit: int, announced: bytes
    ) -> None:
        begun = False

        async def watch(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            _check_announced(announced, limit)
            _check_headers(scope["headers"])
            await _admit_before_the_body(scope)
            await self._app(scope, receive, watch)
        except ClientDisconnect:
            raise
        except (Exception, asyncio.CancelledError) as found:  # noqa: BLE001 - the last net
            error = _to_problem(found, scope["path"])
        else:
            return
        if not begun:
            await problem(Request(scope), error)(scope, receive, send)

    @staticmethod
    def _account(scope: Scope, status: int, seconds: float) -> None:
        route: Any = scope.get("route")
        path = getattr(route, "path", "unmatched")
        _seconds_of(scope["method"], path, status // 100).observe(seconds)
        if path not in _QUIET:
            log.info(
                "http_request",
                method=scope["method"],
                path=path,
                status=status,
                duration_ms=round(seconds * 1000, 1),
                principal=scope.get("aigen.principal"),
            )


async def _admit_before_the_body(scope: Scope) -> None:
    """Authenticate a call before its body is read, so that only bodies of known callers are parsed.

    The principal is stored in the scope for the endpoint's dependency. Callbacks authenticate with
    their body.

    Raises:
        AigenError: those of `Authenticator.admit`.
    """
    path: str = scope["path"]
    if scope["method"] in _WITH_BODY and path.startswith(_API) and not path.startswith(_CALLBACKS):
        request = Request(scope)
        scope["aigen.admitted"] = await services_of(request).authenticator.admit(request)


def _to_problem(found: BaseException, path: str) -> errors.AigenError:
    """Return the error to respond with; re-raises the cancellation of the call itself."""
    match found:
        case JsonFault():
            return found.error
        case errors.AigenError():
            return found
        case asyncio.CancelledError():
            task = asyncio.current_task()
            if found.args != (BodyTimeout.ENDED,) or task is None:
                raise found
            task.uncancel()
            return errors.BodyTooSlowError()
    log.error("unexpected_error", path=path, exc_info=found)
    return errors.InternalError()


@lru_cache(maxsize=1_000)
def _seconds_of(method: str, path: str, kind: int) -> Histogram:
    """Return the labelled histogram of a call; cached, because the look-up costs more than the
    observation.
    """
    return HTTP_SECONDS.labels(method, path, f"{kind}xx")


def _request_id(headers: dict[bytes, bytes]) -> str:
    given = headers.get(b"x-request-id", b"")
    return given.decode() if _REQUEST_ID.fullmatch(given) else random_bytes().hex()


def _trace(headers: dict[bytes, bytes]) -> str:
    """Continue the caller's trace with a new span, or start one (W3C Trace Context)."""
    match = _TRACEPARENT.fullmatch(headers.get(b"traceparent", b""))
    trace_id, flags = (
        (match[1].decode(), match[2].decode()) if match else (random_bytes().hex(), "01")
    )
    return f"00-{trace_id}-{random_bytes()[:8].hex()}-{flags}"


def _extra_headers(scope: Scope) -> list[tuple[bytes, bytes]]:
    found = [
        (b"x-request-id", scope["aigen.request_id"].encode()),
        (b"traceparent", scope["aigen.traceparent"].encode()),
    ]
    if rate := scope.get("aigen.rate_limit"):
        found += [(b"ratelimit-policy", rate[0].encode()), (b"ratelimit", rate[1].encode())]
    return found


def _check_announced(length: bytes, limit: int) -> None:
    if length.isdigit() and int(length) > limit:
        raise _too_large(limit)


def _check_headers(headers: Iterable[tuple[bytes, bytes]]) -> None:
    for name, value in headers:
        if name in _TEXT_HEADERS and not value.isascii():
            try:
                value.decode()
            except UnicodeDecodeError:
                raise errors.InvalidHeaderError(name=name.decode()) from None


def _limited(
    receive: Receive, limit: int, patience: BodyTimeout, task: "asyncio.Task[Any] | None"
) -> Receive:
    """Counts the bytes of the body and limits the time to receive it; Content-Length is not
    trusted.
    """
    taken, whole = 0, task is None

    async def counted() -> Message:
        nonlocal taken, whole
        if whole:
            return await receive()  # what follows the body is the end of the connection
        assert task is not None  # noqa: S101 - else it was whole from the beginning
        if taken == 0:
            patience.begin(task)
        message = await receive()
        size = len(message.get("body", b""))
        taken += size
        if whole := not message.get("more_body", False):
            patience.end(task)
        else:
            patience.came(task, size)
        if taken > limit:
            patience.end(task)
            raise _too_large(limit)
        return message

    return counted
