"""The lifecycle on DBOS: an API process that queues workflows, and a worker process that leads
them.

The workflow is queued in the statement that writes the state and the charge, by DBOS's own SQL
function: one round trip and one commit. Each stage is a workflow of one step that makes, stores and
tells: a step whose worker died is done again, which the guarded writes make harmless. Jobs go to
the worker through PostgreSQL alone: a user of DBOS has no broker between the two, so this peer is
spared that hop. Tuning, tried in short runs on a busy machine, most of them in turn: a workflow for
each stage was faster than one that waits for the selection with `recv`, which reads nicer; one step
for a stage was faster than a step for making and one for telling; asking the queue every 5 ms and
every 10 was a little better than every 20. Pools and threads of 10, of 4 and of 32 did not differ
beyond the noise. Steps are asynchronous, so that waiting ones hold no thread; synchronous workflows
were not tried.
"""

import asyncio
import sys

import orjson
import uvloop
from dbos import DBOS, DBOSConfig

from bench.peers import order, web

QUEUE = "generation"
_POOL = web.setting("pool", 10)
books = web.Books()
announcer = web.Announcer()

_ACCEPT = """
SELECT CASE WHEN accept_request($1::text::uuid, $2, $3, $4) THEN
    dbos.enqueue_workflow('samples', 'generation', ARRAY[to_json($1::text)],
                          workflow_id => $1::text || '-samples') END"""
_SELECT = """
SELECT CASE said WHEN 'chosen' THEN
    dbos.enqueue_workflow('final', 'generation', ARRAY[to_json($1::text)], workflow_id => $1::text
        || '-final')
    ELSE said END
FROM select_sample($1::text::uuid, $2::text, $3) AS said"""

app = web.api(books, _POOL, accept=_ACCEPT, select=_SELECT)


@DBOS.workflow(name="samples")
async def samples_stage(request_id: str) -> None:
    """The first stage."""
    await make_samples(request_id)


@DBOS.workflow(name="final")
async def final_stage(request_id: str) -> None:
    """The second stage, once a sample is selected."""
    await make_final(request_id)


@DBOS.step(retries_allowed=True, max_attempts=10)
async def make_samples(request_id: str) -> None:
    """The stub's first stage, stored and told."""
    await asyncio.sleep(order.STUB_SECONDS)
    samples = order.four_samples(request_id)
    made = orjson.dumps(samples).decode()
    user_id = await books.ask("SELECT deliver_samples($1::text::uuid, $2)", request_id, made)
    await announcer.tell(order.event(order.SAMPLES_READY, request_id, user_id, samples))


@DBOS.step(retries_allowed=True, max_attempts=10)
async def make_final(request_id: str) -> None:
    """The stub's second stage, stored and told."""
    await asyncio.sleep(order.STUB_SECONDS)
    made = orjson.dumps(order.final(request_id)).decode()
    user_id = await books.ask("SELECT deliver_final($1::text::uuid, $2)", request_id, made)
    await announcer.tell(order.event(order.COMPLETED, request_id, user_id, []))


def configure() -> None:
    """DBOS as it is tuned here."""
    config: DBOSConfig = {
        "name": "creativeflow",
        "system_database_url": web.DATABASE,
        "log_level": "WARNING",
        "sys_db_pool_size": _POOL,
        "max_executor_threads": web.setting("threads", 10),
        "application_version": "bench",
    }
    DBOS(config=config)


async def work() -> None:
    """The worker process."""
    configure()
    DBOS.listen_queues([QUEUE])
    DBOS.launch()
    await DBOS.register_queue_async(QUEUE, polling_interval_sec=web.setting("poll_ms", 5) / 1000)
    async with books.open(_POOL):
        await announcer.open()
        await asyncio.Event().wait()


def prepare() -> None:
    """The library's own tables."""
    configure()
    DBOS.launch()
    DBOS.destroy()


if __name__ == "__main__":
    match sys.argv[1]:
        case "api":
            web.serve(app)
        case "worker":
            uvloop.run(work())
        case "prepare":
            prepare()
