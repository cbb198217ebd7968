"""Around every call: request id, trace context, body limit, access log, metrics, and the last net for faults."""

import re
import secrets
import time
from typing import Any

import structlog
from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from creativeflow.services.aigeneration.api.problems import JsonFault, problem
from creativeflow.services.aigeneration.domain import errors
from creativeflow.services.aigeneration.observability import HTTP_SECONDS

log = structlog.get_logger(__name__)

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_TRACEPARENT = re.compile(rb"00-((?!0{32})[0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})")
_QUIET = ("/health", "/ready", "/metrics")


def _too_large(limit: int) -> JsonFault:
    """The body went over its limit; of a kind which the framework lets through while it reads the body."""
    return JsonFault(errors.PayloadTooLargeError(limit_bytes=limit))


class Context:
    """One middleware for all of it: every layer costs each call."""

    def __init__(self, app: ASGIApp, *, body_limit: int, asset_limit: int) -> None:
        self._app = app
        self._body_limit = body_limit
        self._asset_limit = asset_limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one call."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        scope["aigen.request_id"] = request_id = _request_id(headers)
        scope["aigen.traceparent"] = _trace(headers)
        structlog.contextvars.bind_contextvars(request_id=request_id)
        began, status = time.perf_counter(), 500
        limit = self._asset_limit if scope["path"].endswith("/n8n-callbacks/assets") else self._body_limit

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *_extra_headers(scope)]
            await send(message)

        try:
            await self._guarded(scope, _limited(receive, limit), answer, limit)
        finally:
            seconds = time.perf_counter() - began
            self._account(scope, status, seconds)
            structlog.contextvars.unbind_contextvars("request_id")

    async def _guarded(self, scope: Scope, receive: Receive, send: Send, limit: int) -> None:
        begun = False

        async def watch(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        error: errors.AigenError
        try:
            _check_announced(scope, limit)
            await self._app(scope, receive, watch)
        except JsonFault as fault:
            error = fault.error
        except errors.AigenError as found:
            error = found
        except Exception:
            log.exception("unexpected_error", path=scope["path"])
            error = errors.InternalError()
        else:
            return
        if not begun:
            await problem(Request(scope), error)(scope, receive, send)

    @staticmethod
    def _account(scope: Scope, status: int, seconds: float) -> None:
        route: Any = scope.get("route")
        path = getattr(route, "path", "unmatched")
        HTTP_SECONDS.labels(scope["method"], path, f"{status // 100}xx").observe(seconds)
        if path not in _QUIET:
            log.info(
                "http_request", method=scope["method"], path=path, status=status,
                duration_ms=round(seconds * 1000, 1), principal=scope.get("aigen.principal"),
            )  # fmt: skip


def _request_id(headers: dict[bytes, bytes]) -> str:
    given = headers.get(b"x-request-id", b"")
    return given.decode() if _REQUEST_ID.fullmatch(given) else secrets.token_hex(16)


def _trace(headers: dict[bytes, bytes]) -> str:
    """The trace goes on under a span of our own; without one a new trace begins (W3C Trace Context)."""
    match = _TRACEPARENT.fullmatch(headers.get(b"traceparent", b""))
    trace_id, flags = (match[1].decode(), match[2].decode()) if match else (secrets.token_hex(16), "01")
    return f"00-{trace_id}-{secrets.token_hex(8)}-{flags}"


def _extra_headers(scope: Scope) -> list[tuple[bytes, bytes]]:
    found = [
        (b"x-request-id", scope["aigen.request_id"].encode()),
        (b"traceparent", scope["aigen.traceparent"].encode()),
        (b"x-content-type-options", b"nosniff"),
    ]
    if rate := scope.get("aigen.rate_limit"):
        found += [(b"ratelimit-policy", rate[0].encode()), (b"ratelimit", rate[1].encode())]
    return found


def _check_announced(scope: Scope, limit: int) -> None:
    length = dict(scope["headers"]).get(b"content-length", b"0")
    if length.isdigit() and int(length) > limit:
        raise _too_large(limit)


def _limited(receive: Receive, limit: int) -> Receive:
    """Counts the body as it comes: what was announced need not be true."""
    taken = 0

    async def counted() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > limit:
            raise _too_large(limit)
        return message

    return counted
