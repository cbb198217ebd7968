"""Credits in a subscription-billing adapter without idempotency: holds are deductions, releases
refunds.

A capture needs no call. Each call is written to a journal before it is sent and after its response,
so that every key is sent once. A call without a response is never guessed: it is resolved by the
look-up of the adapter, or by an operator if it has none (REQ-016).
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
import structlog

from creativeflow.services.aigeneration.adapters.http.retries import (
    TRIES,
    CircuitBreaker,
    CircuitOpenError,
    call_with_retry,
)
from creativeflow.services.aigeneration.domain.errors import StorageUnavailableError
from creativeflow.services.aigeneration.domain.pricing import (
    FREE,
    PLANS,
    Plan,
    SubscriptionStatus,
    credits_amount,
    credits_text,
    terms,
)
from creativeflow.services.aigeneration.ports import (
    CreditsConflictError,
    CreditsRefusedError,
    CreditsUndecidableError,
    CreditsUnknownError,
    Entitlements,
    HoldStatus,
    Reservation,
)
from creativeflow.services.aigeneration.storage.billing_journal import (
    BillingJournal,
    JournalEntry,
    JournalState,
)

log = structlog.get_logger(__name__)

Result = TypeVar("Result")

_PAUSE_SECONDS_MAX = 6.0
_LOOK_SECONDS = 0.05
_TURNED_AWAY = {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN, httpx.codes.TOO_MANY_REQUESTS}
_REFUSALS = {httpx.codes.PAYMENT_REQUIRED, httpx.codes.NOT_FOUND}
_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_STATUS = {
    JournalState.HELD: HoldStatus.HELD,
    JournalState.CAPTURED: HoldStatus.CAPTURED,
    JournalState.RELEASED: HoldStatus.RELEASED,
}
_FEATURES = {
    "unlimited_standard_generations": "includes_standard",
    "brand_kit_access": "brand_kit",
    "hd_exports": "high_resolution",
}


class _FailedCallError(Exception):
    """A call without a usable response."""


class _NotSentError(_FailedCallError):
    """The adapter could not be reached, so it did nothing."""


class _NoAnswerError(_FailedCallError):
    """The adapter may or may not have carried out the call."""


class _TurnedAwayError(Exception):
    """The adapter refuses this caller, so it did nothing; an immediate retry does not help."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BillingRoutes:
    """Base URL and routes with `{user_id}` and `{key}`; None for a route that is missing."""

    base_url: str
    refund: str | None = "/users/{user_id}/credits/refund"
    lookup: str | None = None
    plan_names: Mapping[str, str] | None = None
    """Plans of this service by the adapter's names, in lower case."""


class BillingCredits:
    """The Credits port on the billing adapter's HTTP interface."""

    def __init__(
        self,
        http: httpx.AsyncClient,
        journal: BillingJournal,
        routes: BillingRoutes,
        *,
        api_key: str,
        now: Callable[[], datetime],
        call_seconds: float = 10.0,
        pause_seconds: float = 0.5,
        breaker: CircuitBreaker | None = None,
    ) -> None:
        self._http = http
        self._journal = journal
        self._routes = routes
        self._headers = {"X-Internal-API-Key": api_key, "Accept": "application/json"}
        self._now = now
        self._call_seconds = call_seconds
        self._pause_seconds = pause_seconds
        self._breaker = breaker or CircuitBreaker()
        self._asking: set[asyncio.Task[None]] = set()

    async def entitlements(self, user_id: str) -> Entitlements:
        """Return the plan by name, status and features; unknown users are on the Free plan."""
        subscription, balance = await asyncio.gather(
            self._read("/users/{user_id}/subscription/", user_id=user_id), self._balance(user_id)
        )
        if subscription is None:
            return Entitlements(plan=FREE, balance=balance)
        try:
            status = SubscriptionStatus(str(subscription["status"]).lower())
            plan = self._plan(
                str(subscription["current_plan_name"]), subscription.get("features") or {}
            )
        except (KeyError, ValueError) as error:
            raise CreditsUnknownError("the subscription could not be read") from error
        return Entitlements(
            plan=terms(plan, status),
            restricted=status is SubscriptionStatus.SUSPENDED,
            balance=balance,
        )

    async def hold(self, asked: Reservation) -> None:
        """Deduct once; the call continues if the caller stops waiting, so that its response is
        recorded.
        """
        await self._carry_on(self._hold(asked))

    async def capture(self, held: Reservation) -> None:
        """Keep the deduction; the adapter is not called."""
        if await self._update_state(held, JournalState.HELD, JournalState.CAPTURED):
            return
        if await self.find(held) is not HoldStatus.CAPTURED:
            raise CreditsConflictError(held.key)

    async def release(self, held: Reservation) -> None:
        """Refund once; close a key that was never deducted."""
        await self._carry_on(self._release(held))

    async def find(self, asked: Reservation) -> HoldStatus:
        """Return the state in the journal; resolve a key in doubt by the look-up of the adapter."""
        entry = await self._entry(asked.key)
        if entry is not None and entry.state in (JournalState.ASKING, JournalState.REFUNDING):
            entry = await self._resolve(entry)
        return _STATUS[entry.state] if entry else HoldStatus.ABSENT

    async def decide(self, asked: Reservation, *, charged: bool) -> None:
        """Record an operator's decision about a key in doubt; any other key stays unchanged."""
        entry = await self._entry(asked.key)
        if entry is not None and entry.state in (JournalState.ASKING, JournalState.REFUNDING):
            await self._write_outcome(entry, charged=charged)

    async def outstanding(self, before: datetime, most: int) -> Sequence[Reservation]:
        """Return deductions of the journal that are neither captured nor refunded; the adapter has
        no list.
        """
        found = await _stored(self._journal.outstanding(before, most))
        return [
            Reservation(
                key=entry.key, user_id=entry.user_id, amount=entry.amount, action=entry.action
            )
            for entry in found
        ]

    async def _hold(self, asked: Reservation) -> None:
        entry = JournalEntry(
            key=asked.key,
            user_id=asked.user_id,
            amount=asked.amount,
            action=asked.action,
            state=JournalState.ASKING,
            since=self._now(),
        )
        if not await _stored(self._journal.begin(entry)):
            await self._hold_again(asked)
            return
        try:
            answer = await self._post("/users/{user_id}/credits/deduct", asked)
        except (_NotSentError, _TurnedAwayError) as error:
            await _stored(self._journal.forget(asked.key))
            raise CreditsUnknownError(f"nothing was deducted: {error}") from error
        except _NoAnswerError as error:
            raise CreditsUnknownError(f"the deduction has no answer: {error}") from error
        if answer.is_success and _body(answer).get("success") is True:
            await self._update_state(asked, JournalState.ASKING, JournalState.HELD)
        elif answer.status_code in _REFUSALS or _body(answer).get("success") is False:
            await _stored(self._journal.forget(asked.key))
            raise CreditsRefusedError
        elif answer.is_client_error:
            await _stored(self._journal.forget(asked.key))
            raise CreditsUnknownError(
                f"the billing adapter does not take the deduction ({answer.status_code})"
            )
        else:
            raise CreditsUnknownError(
                f"the deduction was answered {answer.status_code} in other words"
            )

    async def _hold_again(self, asked: Reservation) -> None:
        entry = await self._answered(asked.key)
        if entry is None:
            raise CreditsUnknownError("the key was just freed")
        if (entry.user_id, entry.amount) != (asked.user_id, asked.amount):
            raise CreditsConflictError(asked.key)
        match await self.find(asked):
            case HoldStatus.HELD:
                return
            case HoldStatus.ABSENT:
                await self._hold(asked)
            case _:
                raise CreditsConflictError(asked.key)

    async def _release(self, held: Reservation) -> None:
        closed = JournalEntry(
            key=held.key,
            user_id=held.user_id,
            amount=held.amount,
            action=held.action,
            state=JournalState.RELEASED,
            since=self._now(),
        )
        if await _stored(self._journal.begin(closed)):
            return
        entry = await self._answered(held.key)
        if entry is not None and entry.state not in _STATUS:
            entry = await self._resolve(entry)
        match _STATUS[entry.state] if entry else HoldStatus.ABSENT:
            case HoldStatus.RELEASED:
                return
            case HoldStatus.CAPTURED:
                raise CreditsConflictError(held.key)
            case HoldStatus.ABSENT:
                await self._release(held)
                return
        if self._routes.refund is None:
            raise CreditsUndecidableError("the billing adapter has no refund route")
        if entry and await self._update_state(held, JournalState.HELD, JournalState.REFUNDING):
            # The refund is the recorded deduction, whatever amount the caller passes.
            await self._refund(
                replace(held, user_id=entry.user_id, amount=entry.amount), self._routes.refund
            )
        else:
            await self._release(held)  # another caller was faster: use its outcome

    async def _refund(self, held: Reservation, path: str) -> None:
        try:
            answer = await self._post(path, held)
        except (_NotSentError, _TurnedAwayError) as error:
            await self._update_state(held, JournalState.REFUNDING, JournalState.HELD)
            raise CreditsUnknownError(f"nothing was refunded: {error}") from error
        except _NoAnswerError as error:
            raise CreditsUnknownError(f"the refund has no answer: {error}") from error
        if answer.is_success and _body(answer).get("success") is True:
            await self._update_state(held, JournalState.REFUNDING, JournalState.RELEASED)
            return
        if answer.is_client_error or _body(answer).get("success") is False:
            await self._update_state(held, JournalState.REFUNDING, JournalState.HELD)
            raise CreditsUndecidableError(
                f"the billing adapter refuses the refund ({answer.status_code})"
            )
        raise CreditsUnknownError(f"the refund was answered {answer.status_code} in other words")

    async def _resolve(self, entry: JournalEntry) -> JournalEntry | None:
        """Resolve a key in doubt.

        Raises:
            CreditsUnknownError: the call may still be running, or the look-up does not answer.
            CreditsUndecidableError: there is no look-up.
        """
        if not self._overdue(entry):
            raise CreditsUnknownError("the billing adapter is still being asked")
        if self._routes.lookup is None:
            raise CreditsUndecidableError(
                "the billing adapter did not answer, and cannot be asked what it did"
            )
        found = await self._read(self._routes.lookup, user_id=entry.user_id, key=entry.key)
        status = found.get("status") if found else "absent"
        if status not in {"charged", "refunded", "absent"}:
            raise CreditsUnknownError("the look-up could not be read")
        await self._write_outcome(entry, charged=status == "charged")
        return await self._entry(entry.key)

    async def _answered(self, key: str) -> JournalEntry | None:
        """Wait for the running call of a key and return its entry."""
        for _ in range(int(2 * self._call_seconds / _LOOK_SECONDS)):
            entry = await self._entry(key)
            if entry is None or entry.state in _STATUS or self._overdue(entry):
                break
            await asyncio.sleep(_LOOK_SECONDS)
        return entry

    def _overdue(self, entry: JournalEntry) -> bool:
        """Return whether the call of this entry must have ended."""
        return self._now() - entry.since >= timedelta(
            seconds=TRIES * (self._call_seconds + _PAUSE_SECONDS_MAX)
        )

    async def _write_outcome(self, entry: JournalEntry, *, charged: bool) -> None:
        if charged:
            await _stored(
                self._journal.update_state(entry.key, entry.state, JournalState.HELD, self._now())
            )
        elif entry.state is JournalState.ASKING:
            await _stored(self._journal.forget(entry.key))
        else:
            await _stored(
                self._journal.update_state(
                    entry.key, entry.state, JournalState.RELEASED, self._now()
                )
            )

    def _plan(self, name: str, features: Mapping[str, Any]) -> Plan:
        known = (self._routes.plan_names or {}).get(name.lower(), name.lower())
        plan = PLANS[known]
        if plan.monthly_generations:
            return plan
        given = {
            ours: features[theirs]
            for theirs, ours in _FEATURES.items()
            if isinstance(features.get(theirs), bool)
        }
        return replace(plan, **given)

    async def _balance(self, user_id: str) -> int | None:
        found = await self._read("/users/{user_id}/credits/balance", user_id=user_id)
        balance = (found or {}).get("balance", (found or {}).get("current_balance"))
        try:
            return (
                None
                if balance is None
                else credits_amount(
                    f"{balance:.2f}" if isinstance(balance, float) else str(balance)
                )
            )
        except ValueError:
            return None

    async def _read(self, path: str, **parts: str) -> dict[str, Any] | None:
        """GET with retries; None for 404."""

        async def ask() -> httpx.Response:
            return await self._send("GET", path, parts, None)

        try:
            answer = await call_with_retry(
                ask, again_after=_FailedCallError, first_pause_seconds=self._pause_seconds
            )
        except (_FailedCallError, _TurnedAwayError) as error:
            raise CreditsUnknownError(f"the billing adapter does not answer: {error}") from error
        if answer.status_code == httpx.codes.NOT_FOUND:
            return None
        if not answer.is_success or not (found := _body(answer)):
            raise CreditsUnknownError(
                f"the billing adapter answered {answer.status_code} in other words"
            )
        return found

    async def _post(self, path: str, asked: Reservation) -> httpx.Response:
        """Make a call that charges or refunds; retry only if it was not sent."""
        body = {
            "action_type": asked.action,
            "reference_id": asked.key,
            "amount_override": credits_text(asked.amount),
        }

        async def ask() -> httpx.Response:
            return await self._send(
                "POST", path, {"user_id": asked.user_id, "key": asked.key}, body
            )

        return await call_with_retry(
            ask, again_after=_NotSentError, first_pause_seconds=self._pause_seconds
        )

    async def _send(
        self, method: str, path: str, parts: Mapping[str, str], body: Any
    ) -> httpx.Response:
        url = self._routes.base_url.rstrip("/") + path.format(
            **{n: quote(v, safe="") for n, v in parts.items()}
        )
        headers = self._headers | (
            {"Idempotency-Key": f"{path.rpartition('/')[2]}:{parts['key']}"} if body else {}
        )

        async def ask() -> httpx.Response:
            try:
                answer = await self._http.request(
                    method,
                    url,
                    json=body,
                    headers=headers,
                    timeout=self._call_seconds,
                    follow_redirects=False,
                )
            except _NEVER_SENT as error:
                raise _NotSentError(type(error).__name__) from error
            except httpx.HTTPError as error:
                raise _NoAnswerError(type(error).__name__) from error
            if answer.is_server_error:
                raise _NoAnswerError(f"status {answer.status_code}")
            return answer

        try:
            answer = await self._breaker.call(ask, failure=_FailedCallError)
        except CircuitOpenError as error:
            raise _TurnedAwayError("it failed too often and is left alone for a minute") from error
        if answer.status_code in _TURNED_AWAY:
            log.error("billing_adapter_turned_us_away", status=answer.status_code)
            raise _TurnedAwayError(f"status {answer.status_code}")
        return answer

    async def _carry_on(self, work: Coroutine[Any, Any, None]) -> None:
        """Wait for a call; let it continue if the wait is cancelled, so that its answer is
        recorded.
        """
        task = asyncio.create_task(work)
        self._asking.add(task)
        task.add_done_callback(self._done)
        await asyncio.shield(task)

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._asking.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.debug("billing_call_ended", outcome=type(error).__name__)

    async def _entry(self, key: str) -> JournalEntry | None:
        return await _stored(self._journal.find(key))

    async def _update_state(
        self, asked: Reservation, before: JournalState, after: JournalState
    ) -> bool:
        return bool(
            await _stored(self._journal.update_state(asked.key, before, after, self._now()))
        )


def _body(answer: httpx.Response) -> dict[str, Any]:
    """Return the JSON object of a response; empty for anything else."""
    try:
        found = answer.json()
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


async def _stored(asked: Awaitable[Result]) -> Result:
    try:
        return await asked
    except StorageUnavailableError as error:
        raise CreditsUnknownError("the journal does not answer") from error
