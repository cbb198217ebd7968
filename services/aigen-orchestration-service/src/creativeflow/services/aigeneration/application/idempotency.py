"""Callers, preconditions and idempotency keys."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from creativeflow.services.aigeneration.domain import errors
from creativeflow.services.aigeneration.domain.representation import to_resource
from creativeflow.services.aigeneration.domain.request import GenerationRequest
from creativeflow.services.aigeneration.domain.transitions import (
    ApiResponse,
    IdempotencyClaim,
    StateChange,
)
from creativeflow.services.aigeneration.storage.requests import (
    KeyTakenError,
    RequestStore,
    StoredResponse,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """The caller of an action on an existing request; with `user_id` None they may see every
    user's.
    """

    name: str
    user_id: str | None = None
    expected_versions: frozenset[int] | None = None
    claim: IdempotencyClaim | None = None

    def may_see(self, request: GenerationRequest) -> bool:
        """Return whether the caller may see the request."""
        return self.user_id in {None, request.user_id}

    def check_version(self, request: GenerationRequest) -> None:
        """Check the caller's `If-Match`.

        Raises:
            PreconditionFailedError: the request has another version.
        """
        if self.expected_versions is not None and request.version not in self.expected_versions:
            raise errors.PreconditionFailedError


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionResult:
    """The response to a caller; `stored` is the exact text of the earlier response for the same
    key.

    `acted` is False if the order had been carried out before.
    """

    answer: ApiResponse
    acted: bool = True
    request: GenerationRequest | None = None
    stored: StoredResponse | None = None


async def run_idempotent(
    store: RequestStore, claim: IdempotencyClaim | None, act: Callable[[], Awaitable[ActionResult]]
) -> ActionResult:
    """Act, or return the response stored for the same key.

    Raises:
        IdempotencyKeyReusedError, IdempotencyKeyInFlightError, and the errors of `act`.
    """
    try:
        result = await act()
        stored = (
            await store.answer(claim.principal, claim.key) if claim and not result.acted else None
        )
        return await _replay(store, claim, stored) if claim and stored else result
    except (KeyTakenError, errors.AigenError) as error:
        stored = await store.answer(claim.principal, claim.key) if claim else None
        if stored is None and isinstance(error, KeyTakenError):
            raise errors.IdempotencyKeyInFlightError(retry_after_seconds=1) from None
        if claim is None or stored is None or _is_own_refusal(error, stored):
            raise
        return await _replay(store, claim, stored)


def accepted(request: GenerationRequest) -> ApiResponse:
    """Return the response to an action that was accepted."""
    location = f"/api/v1/generation-requests/{request.id}"
    return ApiResponse(status=202, body=to_resource(request), location=location)


def accept_unless_placing(change: StateChange) -> ApiResponse | None:
    """Return the response to store with an order; None while its hold is being placed."""
    return None if change.after.placing else accepted(change.after)


def _is_own_refusal(error: Exception, stored: StoredResponse) -> bool:
    """Return whether the stored response is the refusal that this call has just written."""
    return isinstance(error, errors.InsufficientCreditsError) and stored.status == error.status


async def _replay(
    store: RequestStore, claim: IdempotencyClaim, stored: StoredResponse
) -> ActionResult:
    if stored.fingerprint != claim.fingerprint:
        raise errors.IdempotencyKeyReusedError
    if stored.status is None:
        stored = await _complete(store, claim, stored)
    return ActionResult(
        answer=ApiResponse(status=stored.status or 0, body={}, location=stored.location),
        stored=stored,
    )


async def _complete(
    store: RequestStore, claim: IdempotencyClaim, stored: StoredResponse
) -> StoredResponse:
    """Store the response of an action whose process died before it had one, and whose hold is no
    longer being placed: that it was accepted, and what became of the request.

    Raises:
        IdempotencyKeyInFlightError: the hold is still being placed.
    """
    request = await store.load(stored.request_id)
    if request is not None and (request.terminal or request.placing is None):
        await store.complete_key(request.id, accepted(request))
        stored = await store.answer(claim.principal, claim.key) or stored
    if stored.status is None:
        raise errors.IdempotencyKeyInFlightError(retry_after_seconds=1)
    return stored
