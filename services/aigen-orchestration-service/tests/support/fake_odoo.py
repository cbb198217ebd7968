"""A fake Odoo with the addon, in a separate process, with an in-memory ledger and faults on demand.

`python tests/support/fake_odoo.py PORT 18|19`. It has /jsonrpc in both generations and /json/2 in
19. Its responses are those observed on real Odoos; tests/contracts/real_odoo makes the same calls
to a real one.
"""

import asyncio
import sys
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from creativeflow.services.aigeneration.adapters.credits.odoo import MODEL, OdooCredits
from creativeflow.services.aigeneration.adapters.credits.odoo_rpc import OdooApi, OdooCalls
from creativeflow.services.aigeneration.domain.pricing import credits_amount, credits_text

DATABASE, LOGIN, KEY, UID = "creative", "aigen-bot", "0123456789abcdef", 7
PREFIX = "creativeflow_"
TRACEBACK = "Traceback (most recent call last): the-secret-of-the-tests"


PAGES = {
    "error": (500, "Internal Server Error"),
    "pool_full": (500, "The Connection Pool Is Full"),
    "error_after_work": (502, "Bad Gateway"),
    "timeout_after_work": (504, "Gateway Time-out"),
    "page": (200, "Maintenance"),
}
ERRORS = {
    "serialization": "psycopg2.errors.SerializationFailure",
    "denied": "odoo.exceptions.AccessDenied",
    "refused": "odoo.exceptions.ValidationError",
}
ANSWERS: dict[str, Any] = {
    "nothing": None,
    "list": [],
    "silent": {},
    "strange": {
        "outcome": "perhaps",
        "status": "perhaps",
        "balance": "much",
        "holds": [{"amount": 1}],
    },
}


class StandIn:
    """Control of a running fake Odoo."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def credits(
        self,
        client: httpx.AsyncClient,
        *,
        api: OdooApi = "auto",
        key: str = KEY,
        deadline_seconds: float = 10.0,
    ) -> OdooCredits:
        """The adapter under test."""
        return OdooCredits(
            OdooCalls(
                client,
                base_url=self.url,
                database=DATABASE,
                login=LOGIN,
                api_key=key,
                model=MODEL,
                api=api,
                deadline_seconds=deadline_seconds,
            )
        )

    async def give(self, user_id: str, amount: int, plan: str, **more: Any) -> None:
        """Give credits, and set plan, status or flag."""
        await self._tell("give", user_id=user_id, amount=amount, plan=plan, **more)

    async def balance(self, user_id: str) -> int:
        """Return a user's balance, in hundredths."""
        return int((await self._tell("look", user_id=user_id))["balance"])

    async def faults(self, *names: str) -> None:
        """Set faults for the next calls; reset the counts."""
        await self._tell("faults", names=names)
        await self.counts()

    async def counts(self) -> dict[str, int]:
        """Return the number of calls by method since the last reset."""
        return dict(await self._tell("counts"))

    async def _tell(self, what: str, **body: Any) -> Any:
        async with httpx.AsyncClient() as client:
            answer = await client.post(f"{self.url}/_test/{what}", json=body)
            answer.raise_for_status()
            return answer.json()


class Office:
    """Accounts and holds with the addon's responses; single-threaded, nothing here waits."""

    def __init__(self) -> None:
        self.accounts: dict[str, dict[str, Any]] = {}
        self.holds: dict[str, dict[str, Any]] = {}

    def account(self, user_id: str) -> dict[str, Any]:
        """Return the account of a user; unknown users are on the Free plan."""
        return self.accounts.get(
            user_id, {"plan": "free", "status": "active", "restricted": False, "balance": 0}
        )

    def hold(self, key: str, user_id: str, amount: str, action: str) -> dict[str, str]:
        """`creativeflow_hold`."""
        account, asked = (
            self.account(user_id),
            {"user_id": user_id, "amount": credits_amount(amount)},
        )
        if key in self.holds:
            known = self.holds[key]
            same = known["state"] == "held" and asked.items() <= known.items()
            outcome = "held" if same else "conflict"
        elif account["balance"] < asked["amount"]:
            outcome = "refused"
        else:
            account["balance"] -= asked["amount"]
            self.holds[key] = asked | {"key": key, "action": action, "state": "held"}
            outcome = "held"
        return {"outcome": outcome, "balance": credits_text(account["balance"])}

    def capture(self, key: str) -> dict[str, str]:
        """`creativeflow_capture`."""
        if self._state(key) == "held":
            self.holds[key]["state"] = "captured"
        return self.find(key)

    def release(self, key: str, user_id: str, amount: str, action: str) -> dict[str, str]:
        """`creativeflow_release`."""
        credits_amount(amount)
        hold = self.holds.setdefault(
            key,
            {"key": key, "user_id": user_id, "amount": 0, "action": action, "state": "released"},
        )
        if hold["state"] == "held":
            hold["state"] = "released"
            self.account(user_id)["balance"] += hold["amount"]
        return self.find(key)

    def find(self, key: str) -> dict[str, str]:
        """`creativeflow_find`."""
        return {"status": self._state(key)}

    def entitlements(self, user_id: str) -> dict[str, Any]:
        """`creativeflow_entitlements`."""
        account = self.account(user_id)
        return account | {"balance": credits_text(account["balance"])}

    def outstanding(self, before: str, limit: int) -> dict[str, Any]:
        """`creativeflow_outstanding`; every hold counts as old."""
        due = datetime.fromisoformat(before) > datetime.now(UTC)
        open_ = [hold for hold in self.holds.values() if hold["state"] == "held" and due]
        fields = ("key", "user_id", "action")
        listed = [
            {field: hold[field] for field in fields} | {"amount": credits_text(hold["amount"])}
            for hold in open_
        ]
        return {"holds": listed[:limit]}

    def _state(self, key: str) -> str:
        return str(self.holds[key]["state"]) if key in self.holds else "absent"


class Server:
    """The HTTP interface: authentication, dispatch and faults.

    A fault applies to one call, and replaces the work unless its name says after: an HTML page, an
    error by its class, or an invalid response.
    """

    def __init__(self, generation: int) -> None:
        self.generation = generation
        self.office = Office()
        self.faults: list[str] = []
        self.counts: Counter[str] = Counter()
        routes = [
            Route("/web/health", lambda _: JSONResponse({"status": "pass"})),
            Route("/jsonrpc", self.jsonrpc, methods=["POST"]),
            Route("/_test/{what}", self.test, methods=["POST"]),
        ]
        if generation >= 19:
            routes.append(Route("/web/version", self.version))
            routes.append(Route("/json/2/{model}/{method}", self.json2, methods=["POST"]))
        self.app = Starlette(routes=routes)

    async def version(self, _: Request) -> Response:
        """Return the version; only the newer generation has the path."""
        return JSONResponse(
            {"version_info": [self.generation, 0, 0, "final", 0, ""], "version": "19.0"}
        )

    async def json2(self, request: Request) -> Response:
        """`POST /json/2/<model>/<method>`: an error has a status and a name."""

        def failed(name: str) -> Response:
            status = {"AccessDenied": 401, "NotFound": 404, "ValidationError": 422}.get(
                name.rpartition(".")[2], 500
            )
            return JSONResponse({"name": name, "debug": TRACEBACK}, status_code=status)

        headers, path = request.headers, request.path_params
        if (headers.get("authorization"), headers.get("x-odoo-database")) != (
            f"bearer {KEY}",
            DATABASE,
        ):
            return failed("odoo.exceptions.AccessDenied")
        if path["model"] != MODEL:
            return failed("werkzeug.exceptions.NotFound")
        return await self._answer(
            path["method"], await request.json(), lambda result: result, failed
        )

    async def jsonrpc(self, request: Request) -> Response:
        """`common.authenticate` and `object.execute_kw`: every response is 200, also for errors."""

        def failed(name: str) -> Response:
            error = {
                "code": 200,
                "message": "Odoo Server Error",
                "data": {"name": name, "debug": TRACEBACK},
            }
            return JSONResponse({"jsonrpc": "2.0", "id": None, "error": error})

        def result(told: Any) -> Any:
            return {"jsonrpc": "2.0", "id": None} | ({} if told is None else {"result": told})

        params = (await request.json())["params"]
        database, user, key, *more = params["args"]
        if params["method"] == "authenticate":
            self.counts["authenticate"] += 1
            return JSONResponse(
                result(UID if (database, user, key) == (DATABASE, LOGIN, KEY) else False)
            )
        model, method, _, arguments = more
        if (database, user, key) != (DATABASE, UID, KEY):
            return failed("odoo.exceptions.AccessDenied")
        if model != MODEL:
            return failed("odoo.exceptions.UserError")
        return await self._answer(method, arguments, result, failed)

    async def test(self, request: Request) -> Response:
        """Control and inspection by tests."""
        body = await request.json()
        match request.path_params["what"]:
            case "give":
                account = self.office.accounts.setdefault(
                    body["user_id"], self.office.account(body["user_id"])
                )
                account["balance"] += body["amount"]
                account.update(
                    {
                        field: body[field]
                        for field in ("plan", "status", "restricted")
                        if field in body
                    }
                )
            case "look":
                return JSONResponse(self.office.account(body["user_id"]))
            case "faults":
                self.faults = body["names"]
            case "counts":
                counts, self.counts = self.counts, Counter()
                return JSONResponse(counts)
        return JSONResponse({})

    async def _answer(
        self,
        method: str,
        arguments: dict[str, Any],
        wrap: Callable[[Any], Any],
        failed: Callable[[str], Response],
    ) -> Response:
        self.counts[method] += 1
        work: Callable[..., Any] = getattr(self.office, method.removeprefix(PREFIX))
        fault = self.faults.pop(0) if self.faults else None
        done = work(**arguments) if fault is None or fault.endswith("_after_work") else None
        if fault == "timeout_after_work":
            await asyncio.sleep(3)
        if fault in PAGES:
            status, text = PAGES[fault]
            return HTMLResponse(f"<h1>{text}</h1>", status_code=status)
        if fault in ERRORS:
            return failed(ERRORS[fault])
        return JSONResponse(wrap(done if fault is None else ANSWERS[fault]))


if __name__ == "__main__":
    uvicorn.run(
        Server(int(sys.argv[2])).app,
        host="127.0.0.1",
        port=int(sys.argv[1]),
        log_level="warning",
        timeout_graceful_shutdown=1,
    )
