"""How a request is moved: look, decide, write guarded by its version, look again when somebody was
faster.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import structlog

from creativeflow.services.aigeneration.domain import errors
from creativeflow.services.aigeneration.domain.lifecycle import Event
from creativeflow.services.aigeneration.domain.policy import Policy
from creativeflow.services.aigeneration.domain.representation import to_resource
from creativeflow.services.aigeneration.domain.request import GenerationRequest
from creativeflow.services.aigeneration.domain.transitions import (
    ApiResponse,
    IdempotencyClaim,
    StateChange,
    apply,
)
from creativeflow.services.aigeneration.storage.requests import (
    KeyTakenError,
    RequestStore,
    StoredResponse,
    WriteResult,
)

log = structlog.get_logger(__name__)

_LOOKS = 8
"""How often a request is looked at again when others keep moving it first."""
_REMEMBERED_MAX = 2_000
"""Of how many live requests this process remembers what it wrote last."""

Decide = Callable[[GenerationRequest], StateChange | None]
"""What is to happen to a request as it stands; None: nothing any more."""


class CreditsNotTakenError(Exception):
    """The credits of a change that takes them itself are not to be had at once; nothing was
    written.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who acts on an existing request: `user_id` limits them to their own, None sees all."""

    name: str
    user_id: str | None = None
    expected_versions: frozenset[int] | None = None
    claim: IdempotencyClaim | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionResult:
    """What a caller is told; `stored` is the exact text of an earlier answer to the same
    idempotency key.

    `acted` is False where there was nothing to do any more.
    """

    answer: ApiResponse
    acted: bool = True
    request: GenerationRequest | None = None
    stored: StoredResponse | None = None


class TransitionRunner:
    """Moves requests, and answers each idempotency key once."""

    def __init__(
        self,
        store: RequestStore,
        *,
        policy: Policy,
        now: Callable[[], datetime],
        new_id: Callable[[], UUID],
        on_written: Callable[[StateChange], None],
    ) -> None:
        self.store = store
        self.policy = policy
        self.now = now
        self.new_id = new_id
        self._on_written = on_written
        self._remembered: OrderedDict[UUID, GenerationRequest] = OrderedDict()

    def on_committed(self, change: StateChange) -> None:
        """A change has been committed: tell whoever waits for it, and remember it for the next one.

        What comes after a submission, a lease, reads the request anyway.
        """
        if change.before is not None:
            self.remember(change.after)
        try:
            self._on_written(change)
        except (
            Exception
        ):  # the change is committed: a fault in counting or waking must not be its caller's
            log.exception("on_written_failed", generation_request_id=str(change.after.id))

    def remember(self, request: GenerationRequest) -> None:
        """What this process knows last of a live request; others may know better, and every write
        finds that out.

        Not while a hold is being placed: that is the one thing of a request which changes without a
        new version.
        """
        self._remembered.pop(request.id, None)
        if not request.terminal and request.placing is None:
            self._remembered[request.id] = request
            if len(self._remembered) > _REMEMBERED_MAX:
                self._remembered.popitem(last=False)

    def apply_event(self, request: GenerationRequest, event: Event, **fields: Any) -> StateChange:
        """The change which an event makes now; see `carry_out`."""
        return apply(
            request, event, policy=self.policy, now=self.now(), new_id=self.new_id, **fields
        )

    async def write_new(self, change: StateChange) -> None:
        """Write a new request.

        Raises:
            FreeQuotaExhaustedError, CreditsNotTakenError: nothing was written.
            KeyTakenError: the key it claims is there already.
        """
        self._check_paid(await self.store.write(change))
        self.on_committed(change)

    async def move(
        self,
        request_id: UUID,
        decide: Decide,
        caller: Caller | None = None,
        known: GenerationRequest | None = None,
    ) -> GenerationRequest:
        """Let happen what `decide` says; the request as it is afterwards.

        It is tried first on what is `known`, or remembered from the last write of this process.
        That may be out of date, so only a write that its version lets through counts; whatever else
        comes of it, and every refusal, is decided anew on the request as it is.

        Raises:
            NotFoundError, PreconditionFailedError, FreeQuotaExhaustedError, CreditsNotTakenError,
            and whatever
            `decide` raises.
            ServiceUnavailableError: others kept moving it first.
        """
        remembered = known or self._remembered.get(request_id)
        if remembered is not None and (
            moved := await self._move_remembered(remembered, decide, caller)
        ):
            return moved
        for _ in range(_LOOKS):
            request = await self.load_owned(request_id, caller)
            check_version(request, caller)
            change = decide(request)
            if change is None:
                return request
            written = await self.store.write(change)
            self._check_paid(written)
            if written is WriteResult.YES:
                self.on_committed(change)
                return change.after
        raise errors.ServiceUnavailableError

    def _check_paid(self, written: WriteResult) -> None:
        if written is WriteResult.NO_ALLOWANCE:
            raise errors.FreeQuotaExhaustedError(limit=self.policy.free_generations)
        if written is WriteResult.NOT_TAKEN:
            raise CreditsNotTakenError

    async def _move_remembered(
        self, request: GenerationRequest, decide: Decide, caller: Caller | None
    ) -> GenerationRequest | None:
        if caller and caller.user_id not in {None, request.user_id}:
            return None
        try:
            check_version(request, caller)
            change = decide(request)
        except errors.AigenError:
            change = None
        if change is not None and await self.store.write(change) is WriteResult.YES:
            self.on_committed(change)
            return change.after
        self._remembered.pop(request.id, None)
        return None

    async def load_owned(self, request_id: UUID, caller: Caller | None) -> GenerationRequest:
        """A request that the caller may see.

        Raises:
            NotFoundError: unknown, or somebody else's.
        """
        request = await self.store.load(request_id)
        if request is None or (caller and caller.user_id not in {None, request.user_id}):
            raise errors.NotFoundError
        return request

    async def owner(self, request_id: UUID, caller: Caller) -> str:
        """Whose request it is, which never changes: so that what is remembered will do.

        Raises:
            NotFoundError: unknown, or somebody else's.
        """
        remembered = self._remembered.get(request_id)
        if remembered is not None and caller.user_id in {None, remembered.user_id}:
            return remembered.user_id
        return (await self.load_owned(request_id, caller)).user_id

    async def run_idempotent(
        self, claim: IdempotencyClaim | None, act: Callable[[], Awaitable[ActionResult]]
    ) -> ActionResult:
        """Act, or give the answer that an earlier call with the same key got.

        Raises:
            IdempotencyKeyReusedError, IdempotencyKeyInFlightError, and whatever `act` raises for
            the first time.
        """
        try:
            reply = await act()
            stored = (
                await self.store.answer(claim.principal, claim.key)
                if claim and not reply.acted
                else None
            )
            return _replay(claim, stored) if claim and stored else reply
        except (KeyTakenError, errors.AigenError) as error:
            stored = await self.store.answer(claim.principal, claim.key) if claim else None
            if stored is None and isinstance(error, KeyTakenError):
                raise errors.IdempotencyKeyInFlightError(retry_after_seconds=1) from None
            if claim is None or stored is None or _is_own_refusal(error, stored):
                raise
            return _replay(claim, stored)


def accepted(request: GenerationRequest) -> ApiResponse:
    """The answer to an action that was taken."""
    return ApiResponse(
        status=202, body=to_resource(request), location=f"/api/v1/generation-requests/{request.id}"
    )


def check_version(request: GenerationRequest, caller: Caller | None) -> None:
    """Whether the caller has seen this version, where that matters to them.

    Raises:
        PreconditionFailedError: another one.
    """
    if (
        caller
        and caller.expected_versions is not None
        and request.version not in caller.expected_versions
    ):
        raise errors.PreconditionFailedError


def _is_own_refusal(error: Exception, stored: StoredResponse) -> bool:
    """Whether the stored answer is the refusal that was written just now: then the first answer is
    the error.
    """
    return isinstance(error, errors.InsufficientCreditsError) and stored.status == error.status


def _replay(claim: IdempotencyClaim, stored: StoredResponse) -> ActionResult:
    if stored.fingerprint != claim.fingerprint:
        raise errors.IdempotencyKeyReusedError
    if stored.status is None:
        raise errors.IdempotencyKeyInFlightError(retry_after_seconds=1)
    return ActionResult(
        answer=ApiResponse(status=stored.status, body={}, location=stored.location), stored=stored
    )
