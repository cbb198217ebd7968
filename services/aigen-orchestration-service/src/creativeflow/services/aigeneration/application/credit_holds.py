"""Place credit holds: ask the credit service and record its response.

Captures and releases are effects of transitions, delivered by the relay. A hold without a response
stays `placing` until the credit service responds.
"""

import asyncio
from contextlib import suppress
from dataclasses import replace
from functools import partial
from uuid import UUID

import structlog

from creativeflow.services.aigeneration.application.idempotency import ActionResult, accepted
from creativeflow.services.aigeneration.application.transitions import TransitionRunner
from creativeflow.services.aigeneration.domain import commands, errors
from creativeflow.services.aigeneration.domain.ordering import is_waiting_for
from creativeflow.services.aigeneration.domain.pricing import credits_text
from creativeflow.services.aigeneration.domain.request import GenerationRequest, Hold, HoldState
from creativeflow.services.aigeneration.domain.transitions import ApiResponse, StateChange
from creativeflow.services.aigeneration.ports import (
    Credits,
    CreditsConflictError,
    CreditsRefusedError,
    CreditsUndecidableError,
    CreditsUnknownError,
    Reservation,
)

log = structlog.get_logger(__name__)


class CreditHolds:
    """Places holds, for a waiting caller or for the sweeper; every operation is idempotent on
    the hold's key.
    """

    def __init__(
        self, runner: TransitionRunner, credits_: Credits, *, timeout_seconds: float
    ) -> None:
        self._runner = runner
        self._credits = credits_
        self._timeout_seconds = timeout_seconds

    async def place_for_caller(self, request: GenerationRequest) -> ActionResult:
        """Place the hold of a request while its caller waits.

        Without a response in time the result is the current request; the sweeper settles the hold
        later.

        Raises:
            InsufficientCreditsError: refused; the refusal has been written.
        """
        hold = request.placing
        if hold is None:
            return ActionResult(answer=accepted(request), request=request)
        try:
            after = await self._place(request, hold)
        except errors.InsufficientCreditsError:
            raise
        except (CreditsUnknownError, errors.ServiceUnavailableError) as error:
            log.warning("hold_unknown", generation_request_id=str(request.id), reason=str(error))
            after = await self._accept_in_doubt(request)
        except Exception:
            # The request is committed and the sweeper will settle its hold: an error here must not
            # deny that it exists.
            log.exception("hold_failed", generation_request_id=str(request.id))
            after = await self._accept_in_doubt(request)
        return ActionResult(answer=accepted(after), request=after)

    async def _accept_in_doubt(self, request: GenerationRequest) -> GenerationRequest:
        """Store the response under the request's key; if the database cannot, settling the hold
        stores it later.
        """
        with suppress(errors.StorageUnavailableError):
            await self._runner.store.complete_key(request.id, accepted(request))
        return request

    async def settle(self, request_id: UUID, key: str) -> None:
        """Settle a hold that is still `placing`; does nothing for any other.

        If the request still waits for the hold, it is placed again with the same key. If the
        request has ended, it is released, which also closes the key against a late response. If the
        credit service does not respond, the hold stays; if it can never tell, the hold is parked
        and the account flagged (REQ-016).
        """
        request = await self._runner.store.load(request_id)
        if request is None or (hold := request.placing) is None or hold.key != key:
            return
        try:
            if is_waiting_for(request, hold):
                await self._place(request, hold)
            else:
                await self._runner.store.give_back_late(
                    hold, request, held=True, now=self._runner.now()
                )
        except errors.InsufficientCreditsError:
            pass  # the refusal has been written; there is no caller to inform
        except CreditsUndecidableError as error:
            log.error("hold_parked", hold=hold.key, reason=str(error))  # noqa: TRY400 - no fault of the code that runs here
            await self._runner.store.park_hold(hold, reason=str(error), now=self._runner.now())
        except CreditsUnknownError as error:
            log.warning(
                "hold_still_unknown", generation_request_id=str(request_id), reason=str(error)
            )

    async def decide(self, key: str, *, charged: bool, by: str) -> bool:
        """Record whether a hold in doubt was charged, and settle it accordingly.

        Returns False if no hold has this key.

        Raises:
            CreditsUnavailableError: the decision could not be recorded; nothing has changed.
        """
        found = await self._runner.store.hold(key)
        request = await self._runner.store.load(found[0]) if found else None
        if found is None or request is None:
            return False
        try:
            await self._credits.decide(_reservation(request, found[1]), charged=charged)
        except CreditsUnknownError as error:
            raise errors.CreditsUnavailableError(retry_after_seconds=5) from error
        if await self._runner.store.unpark_hold(
            key, by=by, charged=charged, now=self._runner.now()
        ):
            await self.settle(request.id, key)
        return True

    async def _place(self, request: GenerationRequest, hold: Hold) -> GenerationRequest:
        """Ask the credit service for one hold and write its response.

        Raises:
            InsufficientCreditsError: refused; the refusal has been written.
            CreditsUnknownError: the outcome is unknown; nothing has been written.
        """
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await self._credits.hold(_reservation(request, hold))
        except TimeoutError as error:
            raise CreditsUnknownError("no answer in time") from error
        except CreditsConflictError as error:
            raise CreditsUndecidableError("the key belongs to another hold") from error
        except CreditsRefusedError:
            await self._write_answer(request, hold, held=False)
            raise errors.InsufficientCreditsError(required=credits_text(hold.amount)) from None
        return await self._write_answer(request, hold, held=True)

    async def _write_answer(
        self, request: GenerationRequest, hold: Hold, *, held: bool
    ) -> GenerationRequest:
        answered = replace(hold, state=HoldState.HELD if held else HoldState.REFUSED)
        applied = await self._runner.run(
            request.id,
            partial(commands.resolve_hold, hold=answered),
            respond=_accept if held else partial(_refuse, hold=hold),
            known=request,
        )
        after, now = applied.request, self._runner.now()
        if after.placing is not None and after.placing.key == hold.key:
            await self._runner.store.give_back_late(hold, after, held=held, now=now)
        elif held:
            await self._runner.store.give_back_refused(hold, after, now=now)
        return after


def _accept(change: StateChange) -> ApiResponse:
    return accepted(change.after)


def _refuse(_: StateChange, *, hold: Hold) -> ApiResponse:
    refusal = {
        "code": errors.InsufficientCreditsError.code,
        "fields": {"required": credits_text(hold.amount)},
    }
    return ApiResponse(status=402, body=refusal)


def _reservation(request: GenerationRequest, hold: Hold) -> Reservation:
    return Reservation(**hold.reservation(request.user_id))
