"""The lifecycle on procrastinate: an API process that defers jobs, and a worker process that does
them.

The job is deferred in the statement that writes the state and the charge, by procrastinate's own
SQL function: one round trip and one commit. A job makes, stores and tells; it is done when the
broker has confirmed the event, and one whose worker died is retried from the start, which the
guarded writes make harmless. Jobs go to the worker through PostgreSQL alone: a user of
procrastinate has no broker between the two, so this peer is spared that hop. Tuning, tried in short
runs on a busy machine, two turns each: 32 jobs at once were a little better than 10 and than 64
with a larger pool; keeping finished jobs was as fast as deleting them. LISTEN/NOTIFY is on. The
books are asked over asyncpg, the library's own tables over its psycopg pool.
"""

import asyncio
import sys

import orjson
import procrastinate
import uvloop

from bench.peers import order, web

QUEUE = "generation"
_POOL = web.setting("pool", 10)
_AGAIN = procrastinate.RetryStrategy(max_attempts=10, exponential_wait=2)
jobs = procrastinate.App(
    connector=procrastinate.PsycopgConnector(conninfo=web.DATABASE, min_size=_POOL, max_size=_POOL)
)
books = web.Books()
announcer = web.Announcer()

_ACCEPT = """
SELECT CASE WHEN accept_request($1::text::uuid, $2, $3, $4)
    THEN procrastinate_defer_jobs_v1(ARRAY[ROW(
    'generation', 'make_samples', 0, NULL, NULL, jsonb_build_object('request_id', $1::text), NULL
)::procrastinate_job_to_defer_v1]) END"""
_SELECT = """
SELECT CASE said WHEN 'chosen' THEN procrastinate_defer_jobs_v1(ARRAY[ROW(
    'generation', 'make_final', 0, NULL, NULL, jsonb_build_object('request_id', $1::text), NULL
)::procrastinate_job_to_defer_v1])::text ELSE said END
FROM select_sample($1::text::uuid, $2, $3) AS said"""

app = web.api(books, _POOL, accept=_ACCEPT, select=_SELECT)


@jobs.task(name="make_samples", queue=QUEUE, retry=_AGAIN)
async def make_samples(request_id: str) -> None:
    """The stub's first stage."""
    await asyncio.sleep(order.STUB_SECONDS)
    samples = order.four_samples(request_id)
    made = orjson.dumps(samples).decode()
    user_id = await books.ask("SELECT deliver_samples($1::text::uuid, $2)", request_id, made)
    await announcer.tell(order.event(order.SAMPLES_READY, request_id, user_id, samples))


@jobs.task(name="make_final", queue=QUEUE, retry=_AGAIN)
async def make_final(request_id: str) -> None:
    """The stub's second stage."""
    await asyncio.sleep(order.STUB_SECONDS)
    made = orjson.dumps(order.final(request_id)).decode()
    user_id = await books.ask("SELECT deliver_final($1::text::uuid, $2)", request_id, made)
    await announcer.tell(order.event(order.COMPLETED, request_id, user_id, []))


@jobs.periodic(cron="*/5 * * * *")
@jobs.task(queueing_lock="retry_stalled", queue=QUEUE, pass_context=True)
async def retry_stalled(_context: procrastinate.JobContext, timestamp: int) -> None:  # noqa: ARG001 - given by name
    """Jobs whose worker died are done again; costs nothing while all live."""
    for job in await jobs.job_manager.get_stalled_jobs():
        await jobs.job_manager.retry_job(job)


async def work() -> None:
    """The worker process."""
    async with jobs.open_async(), books.open(_POOL):
        await announcer.open()
        await jobs.run_worker_async(
            queues=[QUEUE], concurrency=web.setting("concurrency", 32), listen_notify=True
        )


async def prepare() -> None:
    """The library's own tables."""
    async with jobs.open_async():
        await jobs.schema_manager.apply_schema_async()


if __name__ == "__main__":
    match sys.argv[1]:
        case "api":
            web.serve(app)
        case "worker":
            uvloop.run(work())
        case "prepare":
            asyncio.run(prepare())
