"""A fake billing adapter in a separate process, with faults that tests switch on.

Like the real one it accepts any action type and charges nothing for unknown ones, responds
`success: false` with 200, and has no idempotency, refund or look-up. `--complete` adds these three,
as docs/billing-adapter.md recommends.
"""

import argparse
import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

KEY = "billing-key-of-the-tests"
PRICES = {
    "sample_generation": Decimal("0.25"),
    "standard_generation": Decimal(1),
    "hd_export": Decimal(2),
    "advanced_ai_feature": Decimal(1),
}
WORKER_ERRORS = [
    "slow",
    "error_before",
    "error_after",
    "silent_after",
    "drop_after",
    "wrong_body",
    "twice",
    "turned_away",
    "",
]
SLOW_SECONDS = 0.8


class Adapter:
    """Accounts and their operations; `faults` are consumed in order by calls that charge or refund.

    An account may have its own `faults`, which come first.
    """

    def __init__(self, *, complete: bool) -> None:
        self.complete = complete
        self.accounts: dict[str, dict[str, Any]] = {}
        self.faults: deque[str] = deque()
        self.calls: Counter[str] = Counter()
        self.answers: dict[str, tuple[int, dict[str, Any]]] = {}
        self.operations: dict[str, str] = {}
        self.down = False

    def deduct(self, user_id: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        account = self.accounts.get(user_id)
        if account is None:
            return 404, {"message": "No such user"}
        price = Decimal(str(body.get("amount_override") or PRICES.get(body["action_type"], 0)))
        if body["action_type"] not in PRICES:
            return 200, {
                "success": True,
                "new_balance": str(account["balance"]),
                "message": "nothing to charge",
            }
        if account["balance"] < price:
            if account.get("polite"):
                return 200, {
                    "success": False,
                    "new_balance": str(account["balance"]),
                    "message": "Not enough",
                }
            return 402, {
                "message": "Insufficient credits",
                "required_credits": str(price),
                "current_balance": str(account["balance"]),
            }
        account["balance"] -= price
        self.operations[body["reference_id"]] = "charged"
        return 200, {"success": True, "new_balance": str(account["balance"]), "message": "ok"}

    def refund(self, user_id: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.accounts[user_id]["balance"] += Decimal(str(body["amount_override"]))
        self.operations[body["reference_id"]] = "refunded"
        return 200, {
            "success": True,
            "new_balance": str(self.accounts[user_id]["balance"]),
            "message": "ok",
        }

    def run_idempotent(
        self, key: str | None, work: Any, *arguments: Any
    ) -> tuple[int, dict[str, Any]]:
        """Do the work, or return the stored response of the key if keys are honoured."""
        if not (self.complete and key):
            return work(*arguments)  # type: ignore[no-any-return]
        if key not in self.answers:
            answer = work(*arguments)
            if answer[0] == 200 and answer[1]["success"]:
                self.answers[key] = answer
            return answer  # type: ignore[no-any-return]
        return self.answers[key]


async def cut_short() -> AsyncIterator[bytes]:
    """A response whose connection is lost in the middle."""
    yield b"{"
    raise ConnectionResetError


_BEFORE = {"turned_away": (429, "slow down"), "error_before": (500, "Internal Server Error")}
_AFTER = {
    "error_after": (500, "AttributeError: 'NoneType' object has no attribute 'id'"),
    "wrong_body": (200, "<html>ok</html>"),
}


class Routes:
    """The HTTP interface, and `/_control` for tests."""

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter

    async def deduct(self, request: Request) -> Response:
        """Deduct credits."""
        return await self._money(request, self.adapter.deduct, "deduct")

    async def refund(self, request: Request) -> Response:
        """Refund credits, if the route exists."""
        if not self.adapter.complete:
            self.adapter.calls["refund"] += 1
            return JSONResponse({"detail": "Not Found"}, 404)
        return await self._money(request, self.adapter.refund, "refund")

    async def _money(self, request: Request, work: Any, name: str) -> Response:
        if request.headers.get("x-internal-api-key") != KEY:
            return JSONResponse({"message": "who are you"}, 401)
        self.adapter.calls[name] += 1
        own = self.adapter.accounts.get(request.path_params["user_id"], {}).get("faults")
        fault = own.pop(0) if own else self.adapter.faults.popleft() if self.adapter.faults else ""
        if fault in _BEFORE:
            return PlainTextResponse(_BEFORE[fault][1], _BEFORE[fault][0])
        if fault == "slow":
            await asyncio.sleep(SLOW_SECONDS)
        key, body = request.headers.get("idempotency-key"), await request.json()
        status, said = self.adapter.run_idempotent(key, work, request.path_params["user_id"], body)
        if fault == "twice":
            self.adapter.run_idempotent(key, work, request.path_params["user_id"], body)
        if fault == "silent_after":
            await asyncio.sleep(30)
        if fault == "drop_after":
            return StreamingResponse(cut_short(), headers={"content-length": "1000"})
        return (
            PlainTextResponse(_AFTER[fault][1], _AFTER[fault][0])
            if fault in _AFTER
            else JSONResponse(said, status)
        )

    async def subscription(self, request: Request) -> Response:
        """Return plan, status and features."""
        self.adapter.calls["subscription"] += 1
        account = self.adapter.accounts.get(request.path_params["user_id"])
        if self.adapter.down or (account and account.get("broken")):
            return PlainTextResponse("KeyError: 'freemium_generations_remaining'", 500)
        return (
            JSONResponse(account["subscription"])
            if account
            else JSONResponse({"message": "No such user"}, 404)
        )

    async def balance(self, request: Request) -> Response:
        """Return the balance."""
        account = self.adapter.accounts.get(request.path_params["user_id"])
        if self.adapter.down:
            return PlainTextResponse("Bad Gateway", 502)
        return JSONResponse(
            {"balance": str(account["balance"])} if account else {}, 200 if account else 404
        )

    async def look_up(self, request: Request) -> Response:
        """Return the state of a key."""
        self.adapter.calls["lookup"] += 1
        if not self.adapter.complete:
            return JSONResponse({"detail": "Not Found"}, 404)
        key = request.path_params["key"]
        return JSONResponse(
            {"reference_id": key, "status": self.adapter.operations.get(key, "absent")}
        )

    async def control(self, request: Request) -> Response:
        """Set accounts and faults; return the state."""
        told = await request.json() if request.method == "POST" else {}
        if told.get("reset"):
            self.adapter = Adapter(complete=self.adapter.complete)
        for user_id, account in told.get("accounts", {}).items():
            self.adapter.accounts[user_id] = account | {"balance": Decimal(account["balance"])}
        self.adapter.faults.extend(
            fault for fault in told.get("faults", []) if WORKER_ERRORS.index(fault) >= 0
        )
        self.adapter.down = told.get("down", self.adapter.down)
        return JSONResponse(
            {
                "balances": {
                    user: str(account["balance"]) for user, account in self.adapter.accounts.items()
                },
                "calls": self.adapter.calls,
                "operations": self.adapter.operations,
            }
        )

    def application(self) -> Starlette:
        """Return the application."""
        users = "/api/v1/users/{user_id}"
        return Starlette(
            routes=[
                Route(f"{users}/subscription/", self.subscription),
                Route(f"{users}/credits/balance", self.balance),
                Route(f"{users}/credits/deduct", self.deduct, methods=["POST"]),
                Route(f"{users}/credits/refund", self.refund, methods=["POST"]),
                Route(f"{users}/credits/operations/{{key}}", self.look_up),
                Route("/_control", self.control, methods=["GET", "POST"]),
            ]
        )


def main() -> None:
    """Serve until terminated; print the port."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--complete", action="store_true")
    told = parser.parse_args()
    uvicorn.run(
        Routes(Adapter(complete=told.complete)).application(),
        port=told.port,
        log_level="critical",
        timeout_graceful_shutdown=1,
    )


if __name__ == "__main__":
    main()
