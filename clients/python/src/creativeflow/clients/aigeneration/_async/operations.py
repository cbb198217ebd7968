"""Work, for operators: outbox, reviews, stuck generations, queues and invariants."""

from typing import Literal

from creativeflow.clients.aigeneration._async.session import AsyncSession
from creativeflow.clients.aigeneration.calls import Call, new_key
from creativeflow.clients.aigeneration.resources.generations import Generation
from creativeflow.clients.aigeneration.resources.operations import Invariants, OutboxMessage, Queues

_OPERATIONS = "/api/v1/operations"


class AsyncOperations:
    """Calls for operators on work."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def list_stuck(self, *, limit: int | None = None) -> tuple[Generation, ...]:
        """Return generations whose deadline or lease passed more than a minute ago."""
        call = Call(method="GET", path=f"{_OPERATIONS}/stuck", query={"limit": limit})
        return Generation.parse_items(await self._session.request(call))

    async def list_outbox(
        self, *, parked: bool | None = None, limit: int | None = None
    ) -> tuple[OutboxMessage, ...]:
        """Return the parked outbox messages; with `parked=False` all open ones."""
        query = {"parked": parked, "limit": limit}
        call = Call(method="GET", path=f"{_OPERATIONS}/outbox", query=query)
        return OutboxMessage.parse_items(await self._session.request(call))

    async def replay_outbox_message(self, message_id: int) -> None:
        """Make a parked message due at once."""
        await self._decide_message("replay", message_id)

    async def drop_outbox_message(self, message_id: int) -> None:
        """Delete a parked message."""
        await self._decide_message("drop", message_id)

    async def fail_generation(
        self,
        generation_id: str,
        reason: str,
        *,
        note: str | None = None,
        idempotency_key: str | None = None,
        if_version: int | None = None,
    ) -> Generation:
        """End a live generation as FAILED and release its hold; its user does not see the note."""
        call = Call(
            method="POST",
            path=f"{_OPERATIONS}/generation-requests/{{request_id}}/fail",
            path_parameters={"request_id": generation_id},
            body={"reason": reason, "note": note},
            idempotency_key=idempotency_key or new_key(),
            if_version=if_version,
        )
        return Generation.parse(await self._session.request(call))

    async def list_reviews(self, *, limit: int | None = None) -> tuple[Generation, ...]:
        """Return generations whose prompt waits for a review, oldest first."""
        call = Call(method="GET", path=f"{_OPERATIONS}/reviews", query={"limit": limit})
        return Generation.parse_items(await self._session.request(call))

    async def review_generation(
        self, generation_id: str, decision: Literal["accept", "reject"]
    ) -> Generation:
        """Accept or reject a prompt; a generation that is not in review stays as it is."""
        call = Call(
            method="POST",
            path=f"{_OPERATIONS}/generation-requests/{{request_id}}/review",
            path_parameters={"request_id": generation_id},
            body={"decision": decision},
        )
        return Generation.parse(await self._session.request(call))

    async def get_queues(self) -> Queues:
        """Return the depths of the fair queue, the outbox and the broker, and silent lanes."""
        call = Call(method="GET", path=f"{_OPERATIONS}/queues")
        return Queues.parse(await self._session.request(call))

    async def get_invariants(self, *, days: int | None = None) -> Invariants:
        """Return counts that must be 0; ended generations are counted for so many days back."""
        call = Call(method="GET", path=f"{_OPERATIONS}/invariants", query={"days": days})
        return Invariants.parse(await self._session.request(call))

    async def _decide_message(self, action: str, message_id: int) -> None:
        call = Call(
            method="POST",
            path=f"{_OPERATIONS}/outbox/{{message_id}}/{action}",
            path_parameters={"message_id": message_id},
            repeatable=False,
        )
        await self._session.request(call)
