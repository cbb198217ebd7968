"""Serving processes, PostgreSQL, RabbitMQ, and workers with every behaviour."""

import asyncio
import time
from collections import Counter

import pytest

from creativeflow.services.aigeneration.storage.database import Database
from tests.support.processes import MODULE, free_port, process, service_environment, wait_ready
from tests.support.running_system import QUICK, USER, Parts
from tests.support.services import RABBITMQ
from tests.support.tcp_proxy import TcpProxy


@pytest.mark.parametrize("over", ["http", "rabbitmq"])
@pytest.mark.parametrize(
    "behaviour", ["well", "twice", "out_of_order", "for_the_wrong_job", "fails", "wrong_size"]
)
async def test_worker_any_behaviour_delivers_and_charges_the_final_once(
    parts: Parts, behaviour: str, over: str
) -> None:
    await parts.serve()
    parts.work(behaviour, over)
    await parts.grant("6.00", "pro")
    ended = await asyncio.gather(*(parts.live() for _ in range(3)))
    assert [request["status"] for request in ended] == ["COMPLETED"] * 3
    assert {request["cost"]["total"] for request in ended} == {"2.00"}
    unreadable = 6 if (behaviour, over) == ("for_the_wrong_job", "rabbitmq") else 0
    await parts.drained(parked=unreadable)


@pytest.mark.parametrize("over", ["http", "rabbitmq"])
async def test_worker_real_pictures_pass_the_default_checks(parts: Parts, over: str) -> None:
    await parts.serve(AIGEN_RESULT_CHECK="fetch")
    parts.work("well", over, "--pictures")
    await parts.grant("2.00", "pro")
    ended = await parts.live()
    assert (ended["status"], ended["final_asset"]["resolution"]) == ("COMPLETED", "4096x4096")
    assert ended["final_asset"]["checksum"].startswith("sha256:")
    await parts.drained()


async def test_worker_partial_samples_are_delivered(parts: Parts) -> None:
    await parts.serve()
    parts.work("partially")
    shown = await parts.until(await parts.create(), "AWAITING_SELECTION")
    assert len(shown["samples"]) == 2
    assert {failure["index"] for failure in shown["sample_failures"]} == {2, 3}
    await parts.drained()


@pytest.mark.parametrize("over", ["http", "rabbitmq"])
async def test_results_unreadable_message_is_dead_lettered(parts: Parts, over: str) -> None:
    await parts.serve()
    parts.work("garbled", over)
    await parts.grant("2.00", "pro")
    assert (await parts.live())["status"] == "COMPLETED"
    await parts.drained(parked=2 if over == "rabbitmq" else 0)


async def test_job_dead_lettered_fails_the_attempt_at_no_cost(parts: Parts) -> None:
    await parts.serve()
    await parts.grant("0.25", "payg")
    parts.work("crashes")
    failed = await parts.until(await parts.create())
    assert failed["status"] == "FAILED"
    assert failed["failure"]["code"] == "workflow_error"
    await parts.drained()
    statement = (await parts.call("GET", f"/operations/users/{USER}/statement")).json()
    assert (statement["balance"], statement["held"]) == ("0.25", "0.00")


async def test_worker_rejected_prompt_has_a_message_for_users(parts: Parts) -> None:
    await parts.serve()
    parts.work("rejects")
    rejected = await parts.until(await parts.create())
    assert rejected["status"] == "CONTENT_REJECTED"
    assert rejected["failure"]["fault"] == "user"
    await parts.drained()


async def test_worker_late_result_is_not_applied(parts: Parts) -> None:
    await parts.serve(AIGEN_SAMPLES_DEADLINE="1", AIGEN_MAX_ATTEMPTS="2")
    parts.work("late")
    await parts.grant("0.25", "payg")
    failed = await parts.until(await parts.create())
    assert (failed["status"], failed["failure"]["code"]) == ("FAILED", "model_timeout")
    path = f"/generation-requests/{failed['id']}/events"
    ends = time.monotonic() + 20
    while not any(
        e["event"] == "stale_result" for e in (await parts.call("GET", path)).json()["items"]
    ):
        assert time.monotonic() < ends
        await asyncio.sleep(0.1)
    assert (await parts.until(failed["id"]))["version"] == failed["version"]
    await parts.drained()


async def test_two_processes_share_the_work_without_duplicates(parts: Parts) -> None:
    first, second = await asyncio.gather(parts.serve(), parts.serve())
    parts.work("mixed", "http", "--seed", "7")
    parts.work("well", "rabbitmq")
    await parts.grant("200.00", "pro")
    ended = await asyncio.gather(*(parts.live(first if n % 2 else second) for n in range(40)))
    assert Counter(request["status"] for request in ended).keys() <= {
        "COMPLETED",
        "CONTENT_REJECTED",
    }
    database = Database(parts.database_url, pool_size=2)
    doubled = await database.fetch(
        """SELECT data->>'job_id' FROM generation_events WHERE event
            IN ('samples_delivered', 'final_delivered')
           GROUP BY 1 HAVING count(*) > 1"""
    )
    await database.close()
    assert doubled == []
    await parts.drained()


async def test_broker_lost_under_load_loses_no_request(parts: Parts) -> None:
    host, _, _ = RABBITMQ.rpartition("@")[2].partition("/")
    address, _, port = host.partition(":")
    async with TcpProxy(address, int(port or 5672)) as proxy:
        engine = RABBITMQ.replace(host, f"127.0.0.1:{proxy.port}")
        await parts.serve(engine=engine)
        parts.work("well", "http")
        await parts.grant("100.00", "pro")
        living = [asyncio.create_task(parts.live(seconds=90)) for _ in range(20)]
        for _ in range(3):
            await asyncio.sleep(0.5)
            await proxy.refuse()
            proxy.cut()
            await asyncio.sleep(2)
            await proxy.accept()
        living += [asyncio.create_task(parts.live(seconds=90)) for _ in range(10)]
        ended = await asyncio.gather(*living)
        assert [request["status"] for request in ended] == ["COMPLETED"] * 30
        await parts.drained()


async def test_database_connections_lost_under_load_lose_no_request(
    parts: Parts, admin_url: str
) -> None:
    await parts.serve()
    parts.work("well", "http")
    parts.work("well", "rabbitmq")
    await parts.grant("100.00", "pro")
    living = [asyncio.create_task(parts.live(seconds=90)) for _ in range(20)]
    admin = Database(admin_url, pool_size=2)
    name = parts.database_url.rpartition("/")[2].partition("?")[0]
    for _ in range(4):
        await asyncio.sleep(0.5)
        await admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name
        )
    await admin.close()
    ended = await asyncio.gather(*living)
    assert [request["status"] for request in ended] == ["COMPLETED"] * 20
    await parts.drained()


async def test_process_killed_leaves_its_work_to_the_others(parts: Parts) -> None:
    survivor = await parts.serve()
    parts.work("well", "http")
    await parts.grant("100.00", "pro")
    port = free_port()
    told = {"AIGEN_ENGINE_URL": RABBITMQ, **QUICK, **parts.names}
    environment = service_environment(parts.database_url, parts.folder, port, **told)
    with process(["-m", MODULE, "serve"], environment, parts.folder / "log") as doomed:
        await wait_ready(port, doomed)
        living = [asyncio.create_task(parts.live(survivor, seconds=90)) for _ in range(20)]
        await asyncio.sleep(0.7)
        doomed.kill()
        ended = await asyncio.gather(*living)
    assert [request["status"] for request in ended] == ["COMPLETED"] * 20
    await parts.leases_end()
    await parts.drained()
