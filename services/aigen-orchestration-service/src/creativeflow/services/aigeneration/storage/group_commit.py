"""Group commit: calls that wait at the same moment go to the database as one statement."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Generic, TypeVar

from creativeflow.services.aigeneration.domain.errors import StorageUnavailableError

Item = TypeVar("Item")
BatchOutcome = TypeVar("BatchOutcome")


class GroupCommit(Generic[Item, BatchOutcome]):
    """Collects items while earlier ones are being written, and writes them together.

    An idle batcher writes at once, so nothing waits for company. No batch holds two items of one
    key, and keys take turns. A batch that fails falls apart into single items, so that one bad row
    harms only its own caller: `write` must therefore raise only where it has written nothing. Where
    the outcome is unknown because the connection was lost, nothing is written a second time and
    every caller gets the error.
    """

    def __init__(
        self,
        write: Callable[[Sequence[Item]], Awaitable[Sequence[BatchOutcome]]],
        *,
        key: Callable[[Item], Hashable],
        max_size: int = 64,
        max_concurrent: int = 2,
    ) -> None:
        self._write = write
        self._key = key
        self._max_size = max_size
        self._max_concurrent = max_concurrent
        self._waiting: OrderedDict[Hashable, deque[tuple[Item, asyncio.Future[BatchOutcome]]]] = (
            OrderedDict()
        )
        self._writing = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def submit(self, item: Item) -> BatchOutcome:
        """Write one item and return its outcome; raises what its own write raised.

        A caller that is cancelled does not take its item back: it may already be on its way.
        """
        future: asyncio.Future[BatchOutcome] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(self._key(item), deque()).append((item, future))
        if self._writing < self._max_concurrent:
            self._writing += 1
            task = asyncio.create_task(self._drain())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await future

    async def _drain(self) -> None:
        # The count falls in the same step in which nothing was found to take: an item submitted
        # between the two would otherwise wait for a writer that has already left.
        try:
            while batch := self._take():
                await self._write_batch(batch)
        finally:
            self._writing -= 1

    def _take(self) -> list[tuple[Item, asyncio.Future[BatchOutcome]]]:
        batch = []
        for key in list(self._waiting)[: self._max_size]:
            queue = self._waiting[key]
            batch.append(queue.popleft())
            if queue:
                self._waiting.move_to_end(
                    key
                )  # busy keys must not keep their places before everybody else
            else:
                del self._waiting[key]
        return batch

    async def _write_batch(self, batch: list[tuple[Item, asyncio.Future[BatchOutcome]]]) -> None:
        try:
            outcomes = await self._write([item for item, _ in batch])
        except Exception as error:  # noqa: BLE001 - handed to the callers, each its own
            if len(batch) == 1 or isinstance(error, StorageUnavailableError):
                for _, future in batch:
                    _fail(future, error)
                return
            for entry in batch:
                await self._write_batch([entry])
            return
        for (_, future), outcome in zip(batch, outcomes, strict=True):
            if not future.done():
                future.set_result(outcome)


def _fail(future: asyncio.Future[BatchOutcome], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
