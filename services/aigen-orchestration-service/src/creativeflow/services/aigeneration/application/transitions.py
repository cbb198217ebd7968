"""Run transitions: load, decide, write guarded by the version, and decide anew when another write
was faster.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

import structlog

from creativeflow.services.aigeneration.application.idempotency import Caller
from creativeflow.services.aigeneration.domain import errors
from creativeflow.services.aigeneration.domain.commands import AlreadyDone
from creativeflow.services.aigeneration.domain.events import DomainEvent, Submitted
from creativeflow.services.aigeneration.domain.policy import Policy
from creativeflow.services.aigeneration.domain.request import GenerationRequest
from creativeflow.services.aigeneration.domain.transitions import (
    ApiResponse,
    Context,
    IdempotencyClaim,
    StateChange,
    apply,
)
from creativeflow.services.aigeneration.storage.requests import RequestStore, WriteResult

log = structlog.get_logger(__name__)

_ATTEMPTS = 8
"""How often a request is loaded again when other writes keep being faster."""
_CACHED_MAX = 2_000

Decide = Callable[[GenerationRequest], DomainEvent | AlreadyDone]
"""A command: decides on the request as it is, and may be asked again on a newer version."""
Respond = Callable[[StateChange], ApiResponse | None]
"""The response that is stored with a change under the caller's idempotency key."""


class CreditsNotTakenError(Exception):
    """The credits that a change takes itself are not available; nothing was written."""


@dataclass(frozen=True, slots=True)
class Applied:
    """The request after a command; `change` is None where nothing was to be done."""

    request: GenerationRequest
    change: StateChange | None = None


class RequestCache:
    """What this process wrote last, by id; possibly outdated, which every guarded write finds out.

    A request whose hold is being placed is not kept: its hold is the one thing that changes without
    a new version. Ended requests are not kept either.
    """

    def __init__(self, size: int = _CACHED_MAX) -> None:
        self._size = size
        self._requests: OrderedDict[UUID, GenerationRequest] = OrderedDict()

    def get(self, request_id: UUID) -> GenerationRequest | None:
        """Return the request as it was last written here."""
        return self._requests.get(request_id)

    def put(self, request: GenerationRequest) -> None:
        """Replace what is kept of this request."""
        self.drop(request.id)
        if not request.terminal and request.placing is None:
            self._requests[request.id] = request
            if len(self._requests) > self._size:
                self._requests.popitem(last=False)

    def snapshot(self) -> dict[UUID, GenerationRequest]:
        """Return a copy of what is kept."""
        return dict(self._requests)

    def clear(self) -> None:
        """Forget all requests, as a restart does."""
        self._requests.clear()

    def drop(self, request_id: UUID) -> None:
        """Forget a request."""
        self._requests.pop(request_id, None)


class TransitionRunner:
    """Applies events to requests; any number of processes may run it on one database."""

    def __init__(
        self,
        store: RequestStore,
        *,
        policy: Policy,
        now: Callable[[], datetime],
        new_id: Callable[[], UUID],
        on_committed: Callable[[StateChange], None],
    ) -> None:
        self.store = store
        self.policy = policy
        self.now = now
        self.new_id = new_id
        self.cache = RequestCache()
        self._on_committed = on_committed

    def apply(self, request: GenerationRequest | None, event: DomainEvent) -> StateChange:
        """Return the change that `event` makes now; see `domain.transitions.apply`."""
        context = Context(policy=self.policy, now=self.now(), new_id=self.new_id)
        return apply(request, event, context)

    async def create(
        self,
        event: Submitted,
        claim: IdempotencyClaim | None = None,
        respond: Respond | None = None,
    ) -> GenerationRequest:
        """Write a new request.

        Raises:
            FreeQuotaExhaustedError, CreditsNotTakenError: nothing was written.
            KeyTakenError: the claimed idempotency key exists already.
        """
        change = _with_response(self.apply(None, event), claim, respond)
        self._check_paid(await self.store.write(change))
        self.on_committed(change)
        return change.after

    async def run(
        self,
        request_id: UUID,
        decide: Decide,
        caller: Caller | None = None,
        *,
        respond: Respond | None = None,
        known: GenerationRequest | None = None,
    ) -> Applied:
        """Apply the event that `decide` returns.

        The first attempt is made on `known`, or on what this process wrote last. That may be
        outdated, so only a write that the version guard accepts counts: every other outcome, and
        every refusal, is decided anew on the loaded request.

        Raises:
            NotFoundError, PreconditionFailedError, FreeQuotaExhaustedError, CreditsNotTakenError,
            IllegalTransitionError, and whatever `decide` raises.
            ServiceUnavailableError: other writes kept being faster.
        """
        cached = known or self.cache.get(request_id)
        if cached is not None and (
            change := await self._run_cached(cached, decide, caller, respond)
        ):
            return Applied(change.after, change)
        for _ in range(_ATTEMPTS):
            request = await self.load_owned(request_id, caller)
            change = self._change(request, decide, caller, respond)
            if change is None:
                return Applied(request)
            written = await self.store.write(change)
            self._check_paid(written)
            if written is WriteResult.YES:
                self.on_committed(change)
                return Applied(change.after, change)
        raise errors.ServiceUnavailableError

    async def _run_cached(
        self,
        request: GenerationRequest,
        decide: Decide,
        caller: Caller | None,
        respond: Respond | None,
    ) -> StateChange | None:
        if caller and not caller.may_see(request):
            return None
        try:
            change = self._change(request, decide, caller, respond)
        except errors.AigenError:
            change = None
        if change is not None and await self.store.write(change) is WriteResult.YES:
            self.on_committed(change)
            return change
        self.cache.drop(request.id)
        return None

    def _change(
        self,
        request: GenerationRequest,
        decide: Decide,
        caller: Caller | None,
        respond: Respond | None,
    ) -> StateChange | None:
        if caller:
            caller.check_version(request)
        event = decide(request)
        if isinstance(event, AlreadyDone):
            return None
        claim = caller.claim if caller else None
        return _with_response(self.apply(request, event), claim, respond)

    def _check_paid(self, written: WriteResult) -> None:
        if written is WriteResult.NO_ALLOWANCE:
            raise errors.FreeQuotaExhaustedError(limit=self.policy.free_generations)
        if written is WriteResult.NOT_TAKEN:
            raise CreditsNotTakenError

    def on_committed(self, change: StateChange) -> None:
        """Cache a committed change and signal it; an error in doing so is logged, never raised.

        The next write after a birth, a lease, reads the request anyway.
        """
        if change.before is not None:
            self.cache.put(change.after)
        try:
            self._on_committed(change)
        except Exception:
            log.exception("on_committed_failed", generation_request_id=str(change.after.id))

    async def load_owned(self, request_id: UUID, caller: Caller | None) -> GenerationRequest:
        """Load a request that the caller may see.

        Raises:
            NotFoundError: it does not exist, or belongs to another user.
        """
        request = await self.store.load(request_id)
        if request is None or (caller and not caller.may_see(request)):
            raise errors.NotFoundError
        return request

    async def find_owner(self, request_id: UUID, caller: Caller) -> str:
        """Return the user of a request, which never changes, from the cache if possible.

        Raises:
            NotFoundError: it does not exist, or belongs to another user.
        """
        cached = self.cache.get(request_id)
        if cached is not None and caller.may_see(cached):
            return cached.user_id
        return (await self.load_owned(request_id, caller)).user_id


def _with_response(
    change: StateChange, claim: IdempotencyClaim | None, respond: Respond | None
) -> StateChange:
    if claim is None and respond is None:
        return change
    return replace(change, claim=claim, answer=respond(change) if respond else None)
