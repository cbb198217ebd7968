"""Authentication of page visitors: sessions become API principals, forms are checked for CSRF."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from creativeflow.services.aigeneration.api.auth import Principal, count
from creativeflow.services.aigeneration.api.services import services_of
from creativeflow.services.aigeneration.domain import errors
from creativeflow.services.aigeneration.web.forms import FormFields, is_same_origin, read_form
from creativeflow.services.aigeneration.web.services import web_services_of
from creativeflow.services.aigeneration.web.sessions import Session, Sessions

_SAFE_METHODS = frozenset({"GET", "HEAD"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Visitor:
    """An authenticated session; the response to a new one sets its cookie."""

    session: Session
    principal: Principal
    csrf: str
    is_new: bool = False


async def _authenticate_visitor(request: Request) -> Visitor:
    authenticator = services_of(request).authenticator
    sessions = web_services_of(request).sessions
    authenticator.check_name(request)
    session, is_new = await sessions.open(request.cookies.get(sessions.cookie)), False
    if session is None and authenticator.open and request.method in _SAFE_METHODS:
        session, is_new = sessions.create_guest(), True
    if session is None:
        raise errors.CsrfError if authenticator.open else errors.AuthenticationRequiredError
    visitor = Visitor(
        session=session,
        principal=session.to_user_principal(),
        csrf=sessions.create_csrf_token(session),
        is_new=is_new,
    )
    request.scope["aigen.visitor"] = visitor
    count(request, visitor.principal)
    if request.method not in _SAFE_METHODS:
        await _check_csrf(request, sessions, session)
    return visitor


async def _check_csrf(request: Request, sessions: Sessions, session: Session) -> None:
    """Check that a request was sent by a page of this session: its token and its origin.

    Raises:
        CsrfError: it was not.
    """
    token = request.headers.get("x-csrf-token")
    if token is None:
        token = (await read_form(request)).get("csrf")
    if not is_same_origin(request) or not sessions.is_csrf_token_valid(session, token):
        raise errors.CsrfError


async def _require_operator(visitor: Annotated[Visitor, Depends(_authenticate_visitor)]) -> Visitor:
    if not visitor.principal.operator:
        raise errors.ForbiddenError(role="operator")
    return Visitor(
        session=visitor.session,
        principal=visitor.session.to_operator_principal(),
        csrf=visitor.csrf,
        is_new=visitor.is_new,
    )


StudioVisitor = Annotated[Visitor, Depends(_authenticate_visitor)]
"""A signed-in visitor; the principal acts as one user and sees only what is theirs."""
OperatorVisitor = Annotated[Visitor, Depends(_require_operator)]
"""An operator; the principal acts as no particular user and sees everything."""
Form = Annotated[FormFields, Depends(read_form)]
"""The fields of a form; CSRF is checked with the visitor."""
