"""Route classes of the JSON API, and the declaration of problem responses."""

import re
from collections.abc import Callable, Coroutine, Iterable
from copy import copy
from http import HTTPStatus
from inspect import iscoroutinefunction
from typing import Any
from uuid import UUID

from fastapi import APIRouter, FastAPI, Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, request_response
from pydantic import BaseModel, ValidationError
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

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

_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""An id as the service writes it; other forms are left to the framework."""


class JsonRequest(Request):
    """A request whose JSON is parsed with a depth limit."""

    async def json(self) -> Any:
        """Return the parsed body.

        Raises:
            JsonFault: the body is not JSON, or is nested too deeply.
        """
        if not hasattr(self, "_json"):
            try:
                self._json = parse_json(await self.body())
            except InvalidJsonError as error:
                raise JsonFault(error) from None
        return self._json


class LeanRoute(APIRoute):
    """A route whose handler skips what its endpoint does not need.

    If the endpoint takes only the request, ids of the path and a JSON body, the handler skips the
    framework's dependency machinery, an eighth of the cost of an accept. Routing and middleware are
    unchanged, and with dependency overrides the framework's own handler is used.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.lean = _lean_handler(self.dependant)
        self._literal_prefix = self.path.partition("{")[0]

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match a call; most other paths are excluded without a regular expression."""
        if not scope.get("root_path") and not scope["path"].startswith(self._literal_prefix):
            return Match.NONE, {}
        return super().matches(scope)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a matched call."""
        if (
            self.lean is None
            or scope["app"].dependency_overrides
            or scope["method"] not in (self.methods or ())
            or not all(map(_ID.fullmatch, scope["path_params"].values()))
        ):
            await super().handle(scope, receive, send)
            return
        request = JsonRequest(scope, receive, send)
        self.check(request)
        response = await self.lean(request)
        await response(scope, receive, send)

    def check(self, request: Request) -> None:
        """Check a call before its body is read."""


class JsonRoute(LeanRoute):
    """A route that limits the depth of JSON bodies and rejects unknown query parameters."""

    def get_route_handler(self) -> Handler:
        """Return the framework's handler, behind the same checks."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            self.check(request)
            return await handler(JsonRequest(request.scope, request.receive))

        return handle

    def check(self, request: Request) -> None:
        """Check the query parameters and the content type.

        Raises:
            InvalidRequestError: a query parameter is unknown.
            UnsupportedMediaTypeError: the body is not JSON.
        """
        if request.scope["query_string"]:
            _refuse_unknown(request, {each.alias for each in self.dependant.query_params})
        if self.body_field is not None:
            _refuse_other_types(request)


def add_routes(app: FastAPI, routers: Iterable[APIRouter]) -> None:
    """Add the routes of these routers to the application's own router.

    An included router would match every call at two levels. The copies refer to the application, so
    that its dependency overrides apply.
    """
    for router in routers:
        for route in router.routes:
            assert isinstance(route, APIRoute)  # noqa: S101 - routers of this package have no others
            own = copy(route)
            own.dependency_overrides_provider = app
            own.unique_id = own.operation_id or own.name
            own.app = request_response(own.get_route_handler())
            app.router.routes.append(own)


def _lean_handler(dependant: Dependant) -> Handler | None:
    """Return a handler without the dependency machinery, or None if the endpoint needs it."""
    ids = [
        parameter for parameter in dependant.path_params if parameter.field_info.annotation is UUID
    ]
    if not _needs_only_the_request(dependant) or len(ids) != len(dependant.path_params):
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
        sent = bool(await request.body())
        body = await request.json() if sent else None
        arguments = await _arguments(dependant, request)
        if not sent:
            raise InvalidRequestError(errors=[describe({"type": "missing", "loc": ()})])
        try:
            arguments[field.name] = model.model_validate(body, from_attributes=True)
        except ValidationError as error:
            raise to_invalid_request(error) from None
        answer: Response = await dependant.call(**arguments)  # type: ignore[misc]
        return answer

    return handle


def _needs_only_the_request(dependant: Dependant) -> bool:
    """Return whether an endpoint and its dependencies take only the request, ids and a body."""
    more = (dependant.query_params, dependant.header_params, dependant.cookie_params)
    inside = all(
        not part.body_params and not part.path_params and _needs_only_the_request(part)
        for part in dependant.dependencies
    )
    return iscoroutinefunction(dependant.call) and not any(more) and inside


async def _arguments(dependant: Dependant, request: Request) -> dict[str, Any]:
    """Resolve the arguments of a dependency that needs only the request."""
    found: dict[str, Any] = {}
    if dependant.request_param_name:
        found[dependant.request_param_name] = request
    for parameter in dependant.path_params:
        found[parameter.name] = UUID(request.path_params[parameter.alias])
    for part in dependant.dependencies:
        value = await part.call(**await _arguments(part, request))  # type: ignore[misc]
        if part.name:  # a dependency without a name is called only for its errors
            found[part.name] = value
    return found


def _refuse_unknown(request: Request, known: set[str]) -> None:
    """Reject unknown query parameters: a misspelt filter must not silently return everything."""
    if unknown := [name for name in request.query_params if name not in known]:
        invalid = [
            describe({"type": "extra_forbidden", "loc": (name[:100],)}, "/query")
            for name in unknown[:10]
        ]
        raise InvalidRequestError(errors=invalid)


def _refuse_other_types(request: Request) -> None:
    headers = request.headers
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    sent = "transfer-encoding" in headers or headers.get("content-length", "0") != "0"
    if sent and kind != "application/json" and not kind.endswith("+json"):
        raise UnsupportedMediaTypeError(expected="application/json")


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the problem responses of an endpoint for its description; 500 is always possible."""
    schema = {"schema": {"$ref": "#/components/schemas/Problem"}}
    return {
        status: {
            "model": Problem,
            "description": HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: schema},
        }
        for status in (*statuses, 500)
    }
