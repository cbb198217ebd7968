"""Run transitions: load, decide, write guarded by the version, and decide anew when another write
was faster.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
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
    LeaseOffer,
    StateChange,
    apply,
)
from creativeflow.services.aigeneration.storage.batch_writer import WriteResult
from creativeflow.services.aigeneration.storage.requests import RequestStore

log = structlog.get_logger(__name__)

_ATTEMPTS = 8
"""How often a request is loaded again when other writes keep being faster."""
_CACHED_MAX = 2_000
_CONFIRM_SECONDS = 0.5
"""How long a confirm waits for the worker's first report."""

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


class ConfirmBuffer:
    """The broker's confirms that are not written yet: each waits a moment for the report of its
    worker, and is written with it.

    A confirm changes nothing that anybody waits for. One that is lost with its process is like a
    confirm that never came: the job's lease ends, and the same job is published again.
    """

    def __init__(self, write: Callable[[Sequence[StateChange]], Awaitable[None]]) -> None:
        self._write = write
        self._changes: dict[UUID, StateChange] = {}
        self._writing: asyncio.Task[None] | None = None

    def add(self, changes: Sequence[StateChange]) -> None:
        """Keep confirms until a report takes them, or for `_CONFIRM_SECONDS`."""
        self._changes |= {change.after.id: change for change in changes}
        if self._changes and (self._writing is None or self._writing.done()):
            self._writing = asyncio.create_task(self._write_later())

    def take(self, request_id: UUID) -> StateChange | None:
        """Return and forget the confirm of this request, to be written with what comes next."""
        return self._changes.pop(request_id, None)

    async def flush(self) -> None:
        """Write all confirms now; one that cannot be written is lost, as with the process."""
        changes, self._changes = list(self._changes.values()), {}
        try:
            if changes:
                await self._write(changes)
        except errors.ServiceUnavailableError as error:
            log.warning("confirms_not_written", count=len(changes), reason=error.code)
        except Exception:
            log.exception("confirms_not_written", count=len(changes))

    async def _write_later(self) -> None:
        while self._changes:
            await asyncio.sleep(_CONFIRM_SECONDS)
            await self.flush()


class TransitionRunner:
    """Applies events to requests; any number of processes may run it on one database.

    `offer_lease` and `on_leased`, where a dispatcher of this process sets them: the lease that is
    offered with every job that is queued, and the jobs that were leased so.
    """

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
        self.confirms = ConfirmBuffer(self.write_all)
        self.offer_lease: Callable[[GenerationRequest], LeaseOffer | None] | None = None
        self.on_leased: Callable[[GenerationRequest], None] | None = None
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
        change = self._with_lease(_with_response(self.apply(None, event), claim, respond))
        await self._write(change)
        return change.after

    async def write_all(self, changes: Sequence[StateChange]) -> None:
        """Write transitions of different requests together; one that another write overtook is
        dropped.
        """
        written = await self.store.write_moves(changes)
        for change, is_written in zip(changes, written, strict=True):
            if is_written:
                self.on_committed(change)

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
        confirm = self.confirms.take(request_id)
        cached = confirm.after if confirm else known or self.cache.get(request_id)
        if cached is not None and (
            change := await self._run_cached(cached, decide, caller, respond, confirm)
        ):
            return Applied(change.after, change)
        for _ in range(_ATTEMPTS):
            request = await self.load_owned(request_id, caller)
            change = self._change(request, decide, caller, respond)
            if change is None:
                return Applied(request)
            if await self._write(change):
                return Applied(change.after, change)
        raise errors.ServiceUnavailableError

    async def _run_cached(
        self,
        request: GenerationRequest,
        decide: Decide,
        caller: Caller | None,
        respond: Respond | None,
        confirm: StateChange | None,
    ) -> StateChange | None:
        """Apply the event to what this process knows, written with the confirm that it knows of."""
        change = None
        try:
            if not caller or caller.may_see(request):
                change = self._change(request, decide, caller, respond)
        except errors.AigenError:
            pass
        if confirm is not None:
            change = confirm.then(change) if change else confirm
        if change is not None and await self._write(change, raising=False):
            return change if change is not confirm else None
        self.cache.drop(request.id)
        return None

    async def _write(self, change: StateChange, *, raising: bool = True) -> bool:
        """Write a change and tell of it; return whether it was written.

        Raises:
            FreeQuotaExhaustedError, CreditsNotTakenError: if `raising`; nothing was written.
        """
        written = await self.store.write(change)
        if raising:
            self._check_paid(written)
        if written not in (WriteResult.YES, WriteResult.LEASED):
            return False
        leased = change.lease.change if written is WriteResult.LEASED and change.lease else None
        self.on_committed(change if leased else replace(change, lease=None))
        if leased is not None:
            self.on_committed(leased)
            if self.on_leased is not None:
                self.on_leased(leased.after)
        return True

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
        # Without a caller the response completes the key under which the action began. A caller
        # without a key must not: it is another action.
        respond = respond if claim or caller is None else None
        return self._with_lease(_with_response(self.apply(request, event), claim, respond))

    def _with_lease(self, change: StateChange) -> StateChange:
        """Offer the lease of a job that is queued, so that it may go to the broker at once."""
        if not change.queues or self.offer_lease is None:
            return change
        return replace(change, lease=self.offer_lease(change.after))

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
