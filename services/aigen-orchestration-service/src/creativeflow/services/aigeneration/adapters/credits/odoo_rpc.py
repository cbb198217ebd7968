"""Calls to the methods of one Odoo model: JSON-2 from version 19, JSON-RPC before."""

import asyncio
from collections.abc import Mapping
from typing import Any, Literal

import httpx
import structlog

from creativeflow.services.aigeneration.adapters.http.retries import (
    CircuitBreaker,
    CircuitOpenError,
    call_with_retry,
)
from creativeflow.services.aigeneration.ports import CreditsUnknownError

log = structlog.get_logger(__name__)

_JSON2_SINCE = 19
_DENIED = "odoo.exceptions.AccessDenied"
_HINT = "the API key is expired or removed, or its user is not in the group of the credit bot"

OdooApi = Literal["auto", "json2", "jsonrpc"]


class _PassingError(CreditsUnknownError):
    """The outcome is unknown, and the same call may succeed in a moment."""


class _DeniedError(CreditsUnknownError):
    """Odoo refuses the key."""


class OdooCalls:
    """Calls one model. Methods must be idempotent: a call may be sent several times.

    Raises only CreditsUnknownError. Of an error of Odoo, only its class is logged or passed on,
    never a traceback or arguments.
    """

    def __init__(
        self,
        client: httpx.AsyncClient,
        *,
        base_url: str,
        database: str,
        login: str,
        api_key: str,
        model: str,
        api: OdooApi = "auto",
        deadline_seconds: float = 10.0,
        pause_seconds: float = 0.5,
        breaker: CircuitBreaker | None = None,
    ) -> None:
        self._client = client
        self._base_url, self._database, self._model = base_url, database, model
        self._login, self._api_key = login, api_key
        self._api = api
        self._deadline_seconds = deadline_seconds
        self._pause_seconds = pause_seconds
        self._breaker = breaker or CircuitBreaker()
        self._uid: int | None = None
        self._signing_in = asyncio.Lock()

    async def __call__(self, method: str, **arguments: Any) -> dict[str, Any]:
        """Call a method, up to three times within the deadline; return the response's object."""
        try:
            return await self._breaker.call(
                lambda: self._in_time(method, arguments), failure=_PassingError
            )
        except CircuitOpenError as error:
            raise CreditsUnknownError(
                "Odoo failed too often and is left alone for a minute"
            ) from error
        except _DeniedError:
            log.error("odoo_denies_access", login=self._login, hint=_HINT)  # noqa: TRY400 - no fault of the code here
            raise

    async def _in_time(self, method: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        try:
            async with asyncio.timeout(self._deadline_seconds):
                return await call_with_retry(
                    lambda: self._call(method, arguments),
                    again_after=_PassingError,
                    first_pause_seconds=self._pause_seconds,
                )
        except TimeoutError as error:
            raise _PassingError("Odoo gave no answer in time") from error

    async def _call(self, method: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        if self._api == "auto":
            self._api = await self._detect()
        result = await (
            self._json2(method, arguments)
            if self._api == "json2"
            else self._jsonrpc(method, arguments)
        )
        if not isinstance(result, dict):
            raise CreditsUnknownError("Odoo's answer is no object")
        return result

    async def _detect(self) -> OdooApi:
        """Ask for the version at a path that versions without JSON-2 do not have."""
        answer = await self._send("GET", "/web/version")
        if answer.status_code == httpx.codes.NOT_FOUND:
            return "jsonrpc"
        try:
            return "json2" if int(_read(answer)["version_info"][0]) >= _JSON2_SINCE else "jsonrpc"
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise CreditsUnknownError(
                "Odoo does not tell its version; set AIGEN_CREDITS_ODOO_API"
            ) from error

    async def _json2(self, method: str, arguments: Mapping[str, Any]) -> Any:
        headers = {"Authorization": f"bearer {self._api_key}", "X-Odoo-Database": self._database}
        answer = await self._send(
            "POST", f"/json/2/{self._model}/{method}", headers=headers, json=dict(arguments)
        )
        if answer.status_code in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}:
            raise _DeniedError(f"Odoo answers {answer.status_code}")
        return _read(answer)

    async def _jsonrpc(self, method: str, arguments: Mapping[str, Any]) -> Any:
        """Call with the cached user id; if Odoo denies it, sign in again and repeat the call."""
        uid = await self._signed_in()
        try:
            return await self._execute(uid, method, arguments)
        except _DeniedError:
            return await self._execute(await self._signed_in(instead_of=uid), method, arguments)

    async def _execute(self, uid: int, method: str, arguments: Mapping[str, Any]) -> Any:
        return await self._rpc(
            "object",
            "execute_kw",
            self._database,
            uid,
            self._api_key,
            self._model,
            method,
            [],
            dict(arguments),
        )

    async def _signed_in(self, *, instead_of: int | None = None) -> int:
        """Return the user id of the login, cached, because signing in takes Odoo most of a
        second.
        """
        async with self._signing_in:
            if self._uid is None or self._uid == instead_of:
                self._uid = None
                result = await self._rpc(
                    "common", "authenticate", self._database, self._login, self._api_key, {}
                )
                if not isinstance(result, int) or isinstance(result, bool):
                    raise _DeniedError("Odoo does not know the login or its key")
                self._uid = result
            return self._uid

    async def _rpc(self, service: str, method: str, *arguments: Any) -> Any:
        params = {"service": service, "method": method, "args": arguments}
        answer = await self._send(
            "POST", "/jsonrpc", json={"jsonrpc": "2.0", "method": "call", "params": params}
        )
        result = _read(answer)
        if not isinstance(result, dict):
            raise CreditsUnknownError("Odoo's answer is no object")
        if "error" in result:
            raise _failed(_name(result["error"]))
        return result.get("result")

    async def _send(self, method: str, path: str, **more: Any) -> httpx.Response:
        try:
            answer = await self._client.request(
                method,
                f"{self._base_url}{path}",
                timeout=self._deadline_seconds,
                follow_redirects=False,
                **more,
            )
        except httpx.HTTPError as error:
            raise _PassingError(f"no answer from Odoo: {type(error).__name__}") from error
        if answer.is_server_error:
            raise _PassingError(f"Odoo answers {answer.status_code}")
        return answer


def _read(answer: httpx.Response) -> Any:
    """Return the JSON of a successful response."""
    if not answer.is_success:
        log.error(
            "odoo_refuses_call",
            status=answer.status_code,
            hint="is the addon installed in this database?",
        )
        raise CreditsUnknownError(f"Odoo answers {answer.status_code}")
    try:
        return answer.json()
    except ValueError as error:
        raise CreditsUnknownError("Odoo's answer is no JSON") from error


def _name(error: Any) -> str:
    """Return the class of a JSON-RPC error."""
    data = error.get("data") if isinstance(error, dict) else None
    return str(data.get("name") or "") if isinstance(data, dict) else ""


def _failed(name: str) -> CreditsUnknownError:
    """Return the meaning of an error of Odoo: database errors are temporary; no error counts as a
    refusal.
    """
    if name == _DENIED:
        return _DeniedError("Odoo denies access")
    if name.startswith(("psycopg2.", "odoo.sql_db.")):
        return _PassingError(f"Odoo's database: {name}")
    log.error(
        "odoo_refuses_call",
        error=name,
        hint="is the addon installed, and is the user a credit bot?",
    )
    return CreditsUnknownError(f"Odoo refuses the call: {name or 'no reason given'}")
