"""Who looks at a page, and what they may do: sessions become the principals of the API, forms are
checked.
"""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from creativeflow.services.aigeneration.api.auth import Authenticator, Principal, count
from creativeflow.services.aigeneration.domain import errors
from creativeflow.services.aigeneration.web.forms import FormFields, from_own_page, read_form
from creativeflow.services.aigeneration.web.sessions import Session, Sessions

_READS = frozenset({"GET", "HEAD"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Visitor:
    """A session that was let in; `begun` is one that this very answer begins, so its cookie goes
    out with it.
    """

    session: Session
    principal: Principal
    csrf: str
    begun: bool = False


async def _visit(request: Request) -> Visitor:
    gate: Authenticator = request.app.state.gate
    sessions: Sessions = request.app.state.sessions
    gate.check_name(request)
    session, begun = sessions.open(request.cookies.get(sessions.cookie)), False
    if session is None and gate.open and request.method in _READS:
        session, begun = sessions.guest(), True
    if session is None:
        raise errors.CsrfError if gate.open else errors.AuthenticationRequiredError
    visitor = Visitor(
        session=session, principal=session.principal(), csrf=sessions.csrf(session), begun=begun
    )
    request.scope["aigen.visitor"] = visitor
    count(request, visitor.principal)
    if request.method not in _READS:
        await _check_ours(request, sessions, session)
    return visitor


async def _check_ours(request: Request, sessions: Sessions, session: Session) -> None:
    """Whether what changes something comes from a page of this session: by its token, and by the
    browser's word.
    """
    token = request.headers.get("x-csrf-token")
    if token is None:
        token = (await read_form(request)).get("csrf")
    if not from_own_page(request) or not sessions.csrf_fits(session, token):
        raise errors.CsrfError


async def _operate(visitor: Annotated[Visitor, Depends(_visit)]) -> Visitor:
    if not visitor.principal.operator:
        raise errors.ForbiddenError(role="operator")
    return Visitor(
        session=visitor.session,
        principal=visitor.session.operator(),
        csrf=visitor.csrf,
        begun=visitor.begun,
    )


StudioVisitor = Annotated[Visitor, Depends(_visit)]
"""Anybody who is signed in; the principal acts for one user and sees only what is theirs."""
OperatorVisitor = Annotated[Visitor, Depends(_operate)]
"""An operator; the principal acts for nobody in particular and sees all."""
Form = Annotated[FormFields, Depends(read_form)]
"""The fields of a form; whether it is ours is decided with the visitor."""
