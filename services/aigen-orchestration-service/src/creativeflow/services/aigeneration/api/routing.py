"""How endpoints read bodies and declare their refusals."""

from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any

from fastapi import Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.responses import Response

from creativeflow.services.aigeneration.api.problems import MEDIA_TYPE, JsonFault
from creativeflow.services.aigeneration.api.schemas import Problem
from creativeflow.services.aigeneration.domain.errors import (
    InvalidJsonError,
    InvalidRequestError,
    UnsupportedMediaTypeError,
)
from creativeflow.services.aigeneration.validation import describe, parse_json, to_invalid_request

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


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

    def get_route_handler(self) -> Handler:
        """The framework's handler, given our request."""
        handler = _short_way(self.dependant) or super().get_route_handler()

        known = {parameter.alias for parameter in self.dependant.query_params}
        has_body = self.body_field is not None

        async def handle(request: Request) -> Response:
            if request.scope["query_string"]:
                _refuse_unknown(request, known)
            if has_body:
                _refuse_other_types(request)
            return await handler(JsonRequest(request.scope, request.receive))

        return handle


def _short_way(dependant: Dependant) -> Handler | None:
    """A call that is a JSON body and nothing else needs few of the framework's steps; None for any other call.

    Steps and refusals are the same and in the same order; leaving the others out saves an eighth of an accept.
    """
    more = (dependant.path_params, dependant.query_params, dependant.header_params, dependant.cookie_params)
    if any(more) or len(dependant.body_params) != 1:
        return None
    field = dependant.body_params[0]
    model: type[BaseModel] = field.field_info.annotation  # type: ignore[assignment]

    async def handle(request: Request) -> Response:
        said = await request.json() if await request.body() else None
        arguments = await _arguments(dependant, request)
        if said is None:
            raise InvalidRequestError(errors=[describe({"type": "missing", "loc": ()})])
        try:
            arguments[field.name] = model.model_validate(said, from_attributes=True)
        except ValidationError as error:
            raise to_invalid_request(error) from None
        answer: Response = await dependant.call(**arguments)  # type: ignore[misc]
        return answer

    return handle


async def _arguments(dependant: Dependant, request: Request) -> dict[str, Any]:
    """What a function is given that asks for the request, and for what others make of the request."""
    found: dict[str, Any] = {}
    if dependant.request_param_name:
        found[dependant.request_param_name] = request
    for part in dependant.dependencies:
        made = await part.call(**await _arguments(part, request))  # type: ignore[misc]
        if part.name:  # one without a name is asked for its refusals alone
            found[part.name] = made
    return found


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
