"""How endpoints read bodies and declare their refusals."""

from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.responses import Response

from creativeflow.services.aigeneration.api.problems import MEDIA_TYPE, JsonFault
from creativeflow.services.aigeneration.api.schemas import Problem
from creativeflow.services.aigeneration.domain.errors import (
    InvalidJsonError,
    InvalidRequestError,
    UnsupportedMediaTypeError,
)
from creativeflow.services.aigeneration.validation import describe, parse_json


class JsonRequest(Request):
    """Reads JSON with a bound on its depth."""

    async def json(self) -> Any:
        """The body's value; a fault leaves as our own error through the framework."""
        if not hasattr(self, "_json"):
            try:
                self._json = parse_json(await self.body())
            except InvalidJsonError as error:
                raise JsonFault(error) from None
        return self._json


class JsonRoute(APIRoute):
    """A route whose request reads JSON that way."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The framework's handler, given our request."""
        handler = super().get_route_handler()

        known = {parameter.alias for parameter in self.dependant.query_params}
        has_body = self.body_field is not None

        async def handle(request: Request) -> Response:
            if request.scope["query_string"]:
                _refuse_unknown(request, known)
            if has_body:
                _refuse_other_types(request)
            return await handler(JsonRequest(request.scope, request.receive))

        return handle


def _refuse_unknown(request: Request, known: set[str]) -> None:
    """A misspelt filter must not silently show everything."""
    if unknown := [name for name in request.query_params if name not in known]:
        told = [describe({"type": "extra_forbidden", "loc": (name[:100],)}, "/query") for name in unknown[:10]]
        raise InvalidRequestError(errors=told)


def _refuse_other_types(request: Request) -> None:
    headers = request.headers
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    sent = "transfer-encoding" in headers or headers.get("content-length", "0") != "0"
    if sent and kind != "application/json" and not kind.endswith("+json"):
        raise UnsupportedMediaTypeError(expected="application/json")


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The refusals of an endpoint, for its description; 500 is always possible."""
    schema = {"schema": {"$ref": "#/components/schemas/Problem"}}
    return {
        status: {"model": Problem, "description": HTTPStatus(status).phrase, "content": {MEDIA_TYPE: schema}}
        for status in (*statuses, 500)
    }
