"""The environment of fault tests: database, broker names, worker, receivers, credit service and
users.

Everything here is outside the service and survives its processes.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from traceback import format_exception
from typing import Any
from uuid import uuid4

import httpx
import orjson
import pika

from creativeflow.services.aigeneration.domain.pricing import credits_amount, credits_text
from creativeflow.services.aigeneration.kit.clock import now
from creativeflow.services.aigeneration.settings import Settings
from creativeflow.services.aigeneration.storage.database import Database
from creativeflow.services.aigeneration.storage.migrations import migrate
from creativeflow.services.aigeneration.storage.webhook_deliveries import DeliveryStore
from tests.support.databases import a_database
from tests.support.fake_billing import KEY
from tests.support.fake_billing_client import billing_process
from tests.support.invariants import violations
from tests.support.processes import free_port, service_environment
from tests.support.scenarios import SCENARIOS, ObedientWorker, RetryingClient, ScenarioError, User
from tests.support.services import RABBITMQ, database_admin_url, delete_names, unique_names
from tests.support.webhook_receiver import Call, Receiver

QUICK = {
    "AIGEN_RETRY_DELAY": "0.2",
    "AIGEN_SWEEP_INTERVAL": "0.2",
    "AIGEN_POLL_INTERVAL": "0.2",
    "AIGEN_JOB_LEASE": "5",
    "AIGEN_HOLD_TIMEOUT": "2",
    "AIGEN_CREDITS_CALL_TIMEOUT": "1",
    "AIGEN_RECONCILE_INTERVAL": "3600",
    "AIGEN_WEBHOOK_ALLOWED_NETWORKS": "127.0.0.0/8",
    "AIGEN_WEBHOOK_TIMEOUT": "2",
}

# Expire leases and waits of killed processes.
_TIME_PASSES = (
    "UPDATE outbox SET leased_until = now() WHERE leased_until > now()",
    "UPDATE outbox SET due_at = now() WHERE due_at > now() AND parked_reason IS NULL",
    "UPDATE generation_requests SET lease_until = now() WHERE lease_until > now()",
    "UPDATE generation_requests SET due_at = now() WHERE due_at > now()",
    "UPDATE holds SET began_at = began_at - interval '1 minute' WHERE state = 'placing'",
    (
        "UPDATE billing_journal SET since = since - interval '1 minute' WHERE state IN ('asking',"
        " 'refunding')"
    ),
    "UPDATE periodic_work SET began_at = began_at - interval '2 hours'",
)
# Treat calls as ended, and webhook endpoints as failing for days, without the wait.
_LONG_AGO = (
    """UPDATE billing_journal SET since = since - interval '1 minute'
       WHERE state IN ('asking', 'refunding') AND since BETWEEN now() - interval '30 s' AND now()
           - interval '3 s'""",
    """UPDATE holds SET began_at = began_at - interval '1 minute'
       WHERE state = 'placing' AND began_at < now() - interval '3 s'""",
    """UPDATE outbox SET attempts = 20, due_at = now()
       WHERE topic LIKE 'webhook:%' AND attempts > 0 AND last_error IS NOT NULL AND parked_reason
           IS NULL""",
)
_UNSETTLED = """SELECT count(*) FROM holds WHERE state IN ('captured', 'released')
    AND funding = 'credits'
                AND settled_at IS NULL"""
_ROUND_SECONDS = 10.0
_END_EVENTS = {
    "final_asset_ready",
    "generation_failed",
    "generation_cancelled",
    "generation_expired",
}


class Receivers(Receiver):
    """A receiver that responds 410 to paths with `gone`, 500 to those with `broken`, and normally
    to others.
    """

    async def _answer(self, call: Call, writer: asyncio.StreamWriter) -> None:
        for name, status in (("gone", 410), ("broken", 500)):
            if f"/{name}/" in call.target:
                writer.write(f"HTTP/1.1 {status} Said\r\nContent-Length: 0\r\n\r\n".encode())
                await writer.drain()
                return
        await super()._answer(call, writer)


class Environment:
    """Everything that survives the service; `credit_service` is `local` or `billing`, a fake
    billing adapter.
    """

    def __init__(
        self,
        url: str,
        folder: Path,
        names: dict[str, str],
        *,
        credit_service: str,
        receiver: Receiver,
        billing_port: int = 0,
        broker: str = RABBITMQ,
    ) -> None:
        self.url, self.folder, self.names, self.credit_service = url, folder, names, credit_service
        self.receiver, self.billing_port = receiver, billing_port
        self.database = Database(url, pool_size=3)
        self.broker = self.engine_url = broker
        self.database_url = url
        # No idle connections: the server may close one at the moment it is reused.
        self.http = httpx.AsyncClient(
            timeout=10, trust_env=False, limits=httpx.Limits(max_keepalive_connections=0)
        )
        self.users: dict[str, str] = {}
        self.findings: list[str] = []
        self.mishaps: Counter[str] = Counter()
        self.notify_queue = _notify_queue(names)
        self.told: dict[tuple[str, str], set[str]] = {}
        self._read = 0
        self._read_again: set[int] = set()

    def variables(self, port: int, **more: str) -> dict[str, str]:
        """Return the environment variables of a serving process."""
        told = {
            "AIGEN_ENGINE_URL": self.engine_url,
            "AIGEN_NOTIFY_URL": self.engine_url,
            **QUICK,
            **self.names,
        }
        told["AIGEN_NOTIFY_QUEUE"] = self.notify_queue
        if self.credit_service == "billing":
            told |= {
                "AIGEN_CREDITS_URL": f"http://127.0.0.1:{self.billing_port}/api/v1",
                "AIGEN_CREDITS_API_KEY": KEY,
                "AIGEN_CREDITS_LOOKUP_PATH": "none",
                "AIGEN_NOTIFY_URL": f"http://127.0.0.1:{self.receiver.port}/notify",
            }
        return service_environment(self.database_url, self.folder, port, **told, **more)

    def worker(self, port: int) -> ObedientWorker:
        """Return a worker that survives the service."""
        variables = self.variables(port)
        told = {name.removeprefix("AIGEN_").lower(): value for name, value in variables.items()}
        told |= {"engine_url": self.broker, "notify_url": "log://", "credits_url": "local://"}
        return ObedientWorker(Settings(_env_file=None, **told), pictures=False, parallel=50)  # type: ignore[arg-type,call-arg]

    async def give(self, user_id: str, amount: int, plan: str) -> None:
        """Give a user credits at the credit service."""
        if self.credit_service == "billing":
            subscription = {
                "current_plan_name": plan.title(),
                "status": "Active",
                "features": {},
                "freemium_generations_remaining": 0,
            }
            faults = list(SCENARIOS[user_id.partition("-")[0]].faults)
            account = {
                "balance": credits_text(amount),
                "subscription": subscription,
                "faults": faults,
            }
            await self.control(accounts={user_id: account})
        elif plan != "free":
            told = {"user_id": user_id, "amount": credits_text(amount), "plan": plan}
            answer = await self.line.call("POST", "/operations/credits/grants", told=told)
            assert answer.status_code == httpx.codes.CREATED, answer.text

    async def control(self, **told: Any) -> dict[str, Any]:
        """Control the fake billing adapter and return its state."""
        answer = await self.http.post(f"http://127.0.0.1:{self.billing_port}/_control", json=told)
        found: dict[str, Any] = answer.raise_for_status().json()
        return found

    def call_at(self, ports: list[int], patience_seconds: float = 60.0) -> None:
        """Set the ports of the service."""
        hooks = f"http://127.0.0.1:{self.receiver.port}/hook"
        self.line = RetryingClient(ports, hooks=hooks, patience_seconds=patience_seconds)

    async def run_scenario(self, kind: str, tag: str) -> bool:
        """Run one scenario; return False, and record a finding, if its outcome is wrong."""
        scenario = SCENARIOS[kind]
        user = User(self.line, self.give, f"{kind}-{tag}")
        try:
            await self.give(user.id, scenario.given, scenario.plan)
            self.users[user.id] = kind
            await scenario.lead(user)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding
            told = (
                str(error)[:400]
                if isinstance(error, ScenarioError)
                else "".join(format_exception(error))[-1500:]
            )
            self.findings.append(f"{user.id}: {type(error).__name__}: {told}")
            return False
        return True

    async def time_passes(self) -> None:
        """Expire all leases and waits."""
        for statement in _TIME_PASSES:
            await self.database.execute(statement)

    async def operate(self) -> None:
        """Act as operator: decide holds in doubt by the truth, replay parked messages,
        clear flags.
        """
        for statement in _LONG_AGO:
            await self.database.execute(statement)
        flagged = await self.database.fetch("""SELECT DISTINCT user_id FROM account_flags
               WHERE cleared_at IS NULL AND reason <> 'content_abuse' LIMIT 50""")
        await asyncio.gather(*(self._clear(row["user_id"]) for row in flagged))
        with_truth = (
            await self.control() if self.credit_service == "billing" else {"operations": {}}
        )
        for row in await self.database.fetch("SELECT key FROM holds WHERE parked_at IS NOT NULL"):
            charged = with_truth["operations"].get(row["key"]) == "charged"
            await self.line.call(
                "POST", f"/operations/holds/{row['key']}/decide", told={"charged": charged}
            )
        for row in await self.database.fetch(
            """SELECT id, topic, body FROM outbox WHERE parked_reason IS NOT NULL
               ORDER BY topic LIKE 'credits.%' DESC, id"""
        ):
            await self._handle(row["id"], row["topic"], row["body"], with_truth["operations"])

    async def _clear(self, user_id: str) -> None:
        await self.line.call(
            "POST", f"/operations/users/{user_id}/clear", told={"note": "looked into"}
        )

    async def operate_somehow(self) -> None:
        """Run `operate` with a time limit; errors are counted and the next round retries.

        Scenarios wait for operators, so one that blocks on a call, or stops after an error, would
        delay them.
        """
        try:
            async with asyncio.timeout(_ROUND_SECONDS):
                await self.operate()
        except Exception as error:  # noqa: BLE001 - whatever it is, the next round comes
            self.mishaps[type(error).__name__] += 1

    async def _handle(
        self, message: int, topic: str, body: dict[str, Any], truth: dict[str, str]
    ) -> None:
        """Replay a parked message, or drop it if it is a webhook; never drop credit messages.

        An unreadable dead letter is replayed once by half of the operators and then dropped,
        because endless replays would grow and delay the scenarios.
        """
        given_up = topic.startswith("webhook:") or (
            topic == "dead_letter" and (message % 2 or message in self._read_again)
        )
        self._read_again.add(message)
        if topic.startswith("credits."):
            charged = truth.get(body["key"]) == "charged"
            await self.line.call(
                "POST", f"/operations/holds/{body['key']}/decide", told={"charged": charged}
            )
        await self.line.call(
            "POST", f"/operations/outbox/{message}/{'drop' if given_up else 'replay'}"
        )

    async def drained(self, *, seconds: float = 30.0) -> None:
        """Wait until no message, hold in doubt or unsettled hold is left, while operating on parked
        ones.
        """
        ends = time.monotonic() + seconds
        tries = 0
        while True:
            owed = await self.database.fetch(
                "SELECT topic, attempts, last_error, parked_reason FROM outbox LIMIT 5"
            )
            placing = await self.database.fetch("SELECT key FROM holds WHERE state = 'placing'")
            if not owed and not placing and not await self.database.fetchval(_UNSETTLED):
                return
            if time.monotonic() > ends:
                self.findings.append(
                    f"not drained after {seconds} s: {[tuple(row) for row in [*owed, *placing]]}"
                )
                return
            tries += 1
            if tries > 3:
                await self.database.execute("DELETE FROM outbox WHERE topic = 'dead_letter'")
            await self.operate()
            await asyncio.sleep(0.15)
            if tries % 4 == 0:
                await self.time_passes()
                await DeliveryStore(self.database).tidy(
                    now() - timedelta(days=30), now()
                )  # like the hourly task

    async def check(self) -> list[str]:
        """Return everything that is wrong: scenarios, invariants, and each user's credits by three
        independent sums.
        """
        found, self.findings = [*self.findings, *self.line.faults], []
        self.line.faults = []
        found += self._unexpected()
        found += await violations(self.database, now())
        found += await self._unfinished()
        found += await self._money()
        found += await self._announcements()
        self.users = {}
        return found

    def _unexpected(self) -> list[str]:
        """Return unexpected exceptions that the processes have logged since the last call."""
        with (self.folder / "log").open("rb") as log:
            log.seek(self._read)
            lines = log.read().splitlines()
            self._read = log.tell()
        return [line.decode(errors="replace")[-1000:] for line in lines if b'"exception"' in line]

    async def _unfinished(self) -> list[str]:
        """Return requests that have not ended, although every scenario ends its requests."""
        rows = await self.database.fetch(
            "SELECT id, user_id, state FROM generation_requests WHERE deadline_at IS NOT NULL"
        )
        return [
            f"{row['user_id']}: {row['id']} is still {row['state']}"
            for row in rows
            if row["user_id"] in self.users
        ]

    async def _money(self) -> list[str]:
        """Compare each user's balance, holds and usage log with the price of the scenario."""
        left = await self._left()
        taken = await self._sum(
            "SELECT user_id, sum(amount) FROM holds WHERE state = 'captured' GROUP BY 1"
        )
        used = await self._sum(
            "SELECT user_id, sum(amount) FROM usage_log WHERE paid_by = 'credits' GROUP BY 1"
        )
        free = await self._sum("SELECT user_id, sum(used) FROM free_usage GROUP BY 1")
        found = []
        for user_id, kind in self.users.items():
            scenario = SCENARIOS[kind]
            told = {
                "spent": scenario.given - left.get(user_id, scenario.given),
                "captured": taken.get(user_id, 0),
                "used": used.get(user_id, 0),
            }
            wrong = {name: amount for name, amount in told.items() if amount != scenario.costs}
            found += [
                f"{user_id}: {name} {amount}, costs {scenario.costs}"
                for name, amount in wrong.items()
            ]
            if free.get(user_id, 0) != scenario.free:
                found.append(
                    f"{user_id}: {free.get(user_id, 0)} free generations, not {scenario.free}"
                )
        return found

    async def _announcements(self) -> list[str]:
        """Check that the notification service received exactly one kind of end, under one id, for
        each request.
        """
        for note in await asyncio.to_thread(self._notes):
            of = (note["data"].get("generation_request_id", ""), note["event_type"])
            self.told.setdefault(of, set()).add(note["id"])
        ends: dict[str, dict[str, set[str]]] = {}
        for (request_id, kind), ids in self.told.items():
            if kind in _END_EVENTS:
                ends.setdefault(request_id, {})[kind] = ids
        found = []
        for row in await self.database.fetch(
            "SELECT id, state FROM generation_requests WHERE deadline_at IS NULL"
        ):
            said = ends.get(str(row["id"]), {})
            if len(said) != 1 or len(*said.values()) != 1:
                found.append(f"{row['id']} ended as {row['state']}; its user was told {said}")
        return found

    def _notes(self) -> list[dict[str, Any]]:
        if self.credit_service == "billing":
            calls, self.receiver.calls = self.receiver.calls, []
            told = [orjson.loads(call.body) for call in calls if call.target == "/notify"]
            return [note | {"id": note["data"]["event_id"]} for note in told]
        found = []
        connection = pika.BlockingConnection(pika.URLParameters(self.broker))
        channel = connection.channel()
        while (got := channel.basic_get(self.notify_queue, auto_ack=True))[0] is not None:
            found.append(orjson.loads(got[2]) | {"id": got[1].message_id})
        connection.close()
        return found

    def declare(self) -> None:
        """Declare the queue of the notification service; blocking."""
        connection = pika.BlockingConnection(pika.URLParameters(self.broker))
        connection.channel().queue_declare(self.notify_queue, durable=True)
        connection.close()

    async def _left(self) -> dict[str, int]:
        if self.credit_service == "billing":
            return {
                user: credits_amount(told)
                for user, told in (await self.control())["balances"].items()
            }
        return await self._sum("SELECT user_id, balance FROM credit_accounts")

    async def _sum(self, statement: str) -> dict[str, int]:
        return {row[0]: int(row[1]) for row in await self.database.fetch(statement)}

    async def outcomes(self) -> Counter[str]:
        """Return the number of ended requests by state."""
        found = await self.database.fetch(
            "SELECT state, count(*) FROM generation_requests GROUP BY 1 ORDER BY 1"
        )
        return Counter({row["state"]: row["count"] for row in found})


@asynccontextmanager
async def environment(
    *, credit_service: str = "local", database: str | None = None, broker: str = RABBITMQ
) -> AsyncIterator[Environment]:
    """Create an environment and remove it afterwards; `database` and `broker`: servers other than
    those of the tests.
    """
    admin = database or await asyncio.to_thread(database_admin_url)
    names = unique_names(f"environment.{uuid4().hex[:8]}")
    try:
        async with AsyncExitStack() as stack:
            url = await stack.enter_async_context(a_database(admin, "aigen_environment"))
            await migrate(url)
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="aigen-environment-")))
            receiver = await stack.enter_async_context(Receivers())
            port = 0
            if credit_service == "billing":
                billing = billing_process(complete=True)
                port = await asyncio.to_thread(billing.__enter__)
                stack.callback(billing.__exit__, None, None, None)
            made = Environment(
                url,
                folder,
                names,
                credit_service=credit_service,
                receiver=receiver,
                billing_port=port,
                broker=broker,
            )
            await asyncio.to_thread(made.declare)
            stack.push_async_callback(made.database.close)
            stack.push_async_callback(made.http.aclose)
            yield made
    finally:
        await asyncio.to_thread(
            delete_names, names | {"NOTIFY_QUEUE": _notify_queue(names)}, broker
        )


def _notify_queue(names: dict[str, str]) -> str:
    return names["AIGEN_RABBITMQ_DEAD_QUEUE"].replace("dead", "notify")


__all__ = ["Environment", "environment", "free_port"]
