"""How calls find their endpoints, how endpoints read bodies, and how they declare their
refusals.
"""

import re
from collections.abc import Callable, Coroutine, Sequence
from http import HTTPStatus
from inspect import iscoroutinefunction
from typing import Any
from uuid import UUID

from fastapi import Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from creativeflow.services.aigeneration.api.errors import MEDIA_TYPE, JsonFault
from creativeflow.services.aigeneration.api.schemas.generations import Problem
from creativeflow.services.aigeneration.domain.errors import (
    InvalidJsonError,
    InvalidRequestError,
    UnsupportedMediaTypeError,
)
from creativeflow.services.aigeneration.kit.json_input import (
    describe,
    parse_json,
    to_invalid_request,
)

Handler = Callable[[Request], Coroutine[Any, Any, Response]]

_WITH_ID = re.compile(r"(/.+/)([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})(/.+)?")
"""A path with one id, in the form in which ids are given out; any other form is the framework's
business.
"""


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


class ShortRoute(APIRoute):
    """A route whose calls skip the framework's steps where nothing is asked for but the request,
    the id in its path and a JSON body.

    Steps and refusals are the same and in the same order; leaving the others out saves an eighth of
    an accept.
    """

    straight: Handler | None = None
    """Answers a call that was found by its path alone; see `ShortWay`."""

    def get_route_handler(self) -> Handler:
        """The short way, or the framework's, which reads ids in any form."""
        self.straight = _short_handler(self.dependant)
        has_id = bool(self.dependant.path_params)
        return super().get_route_handler() if has_id or not self.straight else self.straight

    @property
    def parts(self) -> tuple[str, ...]:
        """Its path, cut where the id stands."""
        return tuple(re.split(r"\{[^}]+\}", self.path))

    def named(self, found: str) -> dict[str, str]:
        """The id in its path by its name."""
        return {parameter.alias: found for parameter in self.dependant.path_params}


class JsonRoute(ShortRoute):
    """A route whose request reads JSON that way."""

    def get_route_handler(self) -> Handler:
        """The handler of either way, given our request."""
        handler = super().get_route_handler()
        self.straight = self._reading(self.straight) if self.straight else None
        return self._reading(handler)

    def _reading(self, handler: Handler) -> Handler:
        known = {parameter.alias for parameter in self.dependant.query_params}
        has_body = self.body_field is not None

        async def handle(request: Request) -> Response:
            if request.scope["query_string"]:
                _refuse_unknown(request, known)
            if has_body:
                _refuse_other_types(request)
            if not isinstance(request, JsonRequest):
                request = JsonRequest(request.scope, request.receive)
            return await handler(request)

        return handle


class ShortWay:
    """Leads a call whose path is a name of its own, or has one id, to its endpoint at once; any
    other goes through the framework.

    `around` is what stands around every call; errors are told there, as they are for all others.
    """

    def __init__(self, routes: Sequence[BaseRoute], around: Callable[[ASGIApp], ASGIApp]) -> None:
        self.around = around
        self._lead = around(self._answer)
        self.routes: dict[tuple[str, ...], ShortRoute] = {}
        for route in routes:
            if isinstance(route, ShortRoute) and route.straight:
                for method in route.methods or ():
                    self.routes.setdefault((method, *route.parts), route)

    def find(self, scope: Scope) -> tuple[ShortRoute, dict[str, str]] | None:
        """The route of this call and the id in its path by its name, if its way is short."""
        if scope["type"] != "http":
            return None
        method, path = scope["method"], scope["path"]
        if (route := self.routes.get((method, path))) is not None:
            return route, {}
        if (match := _WITH_ID.fullmatch(path)) is None:
            return None
        before, found, after = match.groups("")
        route = self.routes.get((method, before, after))
        return (route, route.named(found)) if route is not None else None

    async def lead(
        self, found: tuple[ShortRoute, dict[str, str]], scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Answer a call of the route that was found."""
        scope["route"], scope["path_params"] = found
        await self._lead(scope, receive, send)

    @staticmethod
    async def _answer(scope: Scope, receive: Receive, send: Send) -> None:
        answer = await scope["route"].straight(JsonRequest(scope, receive, send))
        await answer(scope, receive, send)


def _short_handler(dependant: Dependant) -> Handler | None:
    ids = [
        parameter for parameter in dependant.path_params if parameter.field_info.annotation is UUID
    ]
    if not _asks_for_little(dependant) or len(ids) != len(dependant.path_params) or len(ids) > 1:
        return None
    if len(dependant.body_params) > 1 or any(
        not body.field_info.is_required() for body in dependant.body_params
    ):
        return None

    async def handle_bare(request: Request) -> Response:
        answer: Response = await dependant.call(**await _arguments(dependant, request))  # type: ignore[misc]
        return answer

    if not dependant.body_params:
        return handle_bare
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


def _asks_for_little(dependant: Dependant) -> bool:
    """Whether a function, and whatever it depends on, asks for the request alone, beside an id and
    a body.
    """
    more = (dependant.query_params, dependant.header_params, dependant.cookie_params)
    inside = all(
        not part.body_params and not part.path_params and _asks_for_little(part)
        for part in dependant.dependencies
    )
    return iscoroutinefunction(dependant.call) and not any(more) and inside


async def _arguments(dependant: Dependant, request: Request) -> dict[str, Any]:
    """What a function is given that asks for the request, and for what others make of the
    request.
    """
    found: dict[str, Any] = {}
    if dependant.request_param_name:
        found[dependant.request_param_name] = request
    for parameter in dependant.path_params:
        found[parameter.name] = UUID(request.path_params[parameter.alias])
    for part in dependant.dependencies:
        made = await part.call(**await _arguments(part, request))  # type: ignore[misc]
        if part.name:  # one without a name is asked for its refusals alone
            found[part.name] = made
    return found


def _refuse_unknown(request: Request, known: set[str]) -> None:
    """A misspelt filter must not silently show everything."""
    if unknown := [name for name in request.query_params if name not in known]:
        told = [
            describe({"type": "extra_forbidden", "loc": (name[:100],)}, "/query")
            for name in unknown[:10]
        ]
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
        status: {
            "model": Problem,
            "description": HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: schema},
        }
        for status in (*statuses, 500)
    }
