"""The client: generations, catalogue and health."""

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from datetime import datetime
from typing import Any, Self, Unpack

import httpx

from creativeflow.clients.aigeneration._async.accounts import AsyncAccounts
from creativeflow.clients.aigeneration._async.operations import AsyncOperations
from creativeflow.clients.aigeneration._async.session import AsyncSession, read_lines
from creativeflow.clients.aigeneration._async.webhook_endpoints import AsyncWebhookEndpoints
from creativeflow.clients.aigeneration.calls import (
    Call,
    Failure,
    Retries,
    client_headers,
    new_key,
    poll_intervals,
    read_event,
    shows_life,
)
from creativeflow.clients.aigeneration.errors import (
    GenerationEndedError,
    ProblemError,
    WaitTimeoutError,
)
from creativeflow.clients.aigeneration.parameters import BriefChanges, BriefOptions
from creativeflow.clients.aigeneration.resources.catalogue import (
    FormatList,
    ModelList,
    PriceList,
    ProblemType,
)
from creativeflow.clients.aigeneration.resources.generations import (
    AWAITING_SELECTION,
    COMPLETED,
    Asset,
    Cancellation,
    Generation,
    Page,
    Quote,
    TimelineEntry,
)
from creativeflow.clients.aigeneration.resources.operations import Health, Readiness

_GENERATIONS = "/api/v1/generation-requests"
_GENERATION = "/api/v1/generation-requests/{request_id}"


class AsyncClient:
    """Client of the service; use it as a context manager.

    Every method raises ProblemError if the service refuses the call, and ApiConnectionError if
    there is no valid response. Actions on generations carry an idempotency key, yours or a new one,
    so that a retry never acts twice.

    Attributes:
        webhook_endpoints: webhook endpoints of the calling service.
        operations: work, for operators.
        accounts: credits, for operators.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        token: str | None = None,
        user_id: str | None = None,
        language: str | None = None,
        timeout_seconds: float = 30.0,
        retries: Retries | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        headers = client_headers(api_key, token, user_id, language)
        http = httpx.AsyncClient(
            base_url=base_url, headers=headers, timeout=timeout_seconds, transport=transport
        )
        self._session = AsyncSession(http, retries or Retries())
        self.webhook_endpoints = AsyncWebhookEndpoints(self._session)
        self.operations = AsyncOperations(self._session)
        self.accounts = AsyncAccounts(self._session)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._session.http.aclose()

    # Generations

    async def quote(
        self, input_prompt: str, output_format: str, **options: Unpack[BriefOptions]
    ) -> Quote:
        """Return the prices of a generation; `quote_id` binds them until `expires_at`."""
        body = {"input_prompt": input_prompt, "output_format": output_format, **options}
        call = Call(method="POST", path=f"{_GENERATIONS}/quote", body=body)
        return Quote.parse(await self._session.request(call))

    async def create(
        self,
        input_prompt: str,
        output_format: str,
        *,
        idempotency_key: str | None = None,
        **options: Unpack[BriefOptions],
    ) -> Generation:
        """Create a generation; its samples are charged when they are delivered."""
        body = {"input_prompt": input_prompt, "output_format": output_format, **options}
        key = idempotency_key or new_key()
        call = Call(method="POST", path=_GENERATIONS, body=body, idempotency_key=key)
        return Generation.parse(await self._session.request(call))

    async def get(self, generation_id: str) -> Generation:
        """Return a generation."""
        call = Call(method="GET", path=_GENERATION, path_parameters={"request_id": generation_id})
        return Generation.parse(await self._session.request(call))

    async def list(
        self,
        *,
        status: Sequence[str] | None = None,
        user_id: str | None = None,
        project_id: str | None = None,
        created_from: datetime | None = None,
        created_to: datetime | None = None,
        page_size: int | None = None,
    ) -> AsyncGenerator[Generation, None]:
        """Yield generations, newest first; pages are requested as they are needed."""
        query = {
            "status": status,
            "user_id": user_id,
            "project_id": project_id,
            "created_from": created_from and created_from.isoformat(),
            "created_to": created_to and created_to.isoformat(),
            "limit": page_size,
        }
        cursor: str | None = None
        while True:
            call = Call(method="GET", path=_GENERATIONS, query={**query, "cursor": cursor})
            page = Page.parse(await self._session.request(call))
            for generation in page.items:
                yield generation
            if (cursor := page.next) is None:
                return

    async def list_events(self, generation_id: str) -> tuple[TimelineEntry, ...]:
        """Return the timeline of a generation, oldest entry first."""
        path = f"{_GENERATION}/events"
        call = Call(method="GET", path=path, path_parameters={"request_id": generation_id})
        return TimelineEntry.parse_items(await self._session.request(call))

    async def select_sample(
        self,
        generation_id: str,
        sample: Asset | str,
        *,
        desired_resolution: str | None = None,
        output_format: str | None = None,
        quote_id: str | None = None,
        user_id: str | None = None,
        idempotency_key: str | None = None,
        if_version: int | None = None,
    ) -> Generation:
        """Select a sample and order the final; `output_format` is png, jpg or webp."""
        body = {
            "selected_sample_id": sample if isinstance(sample, str) else sample.asset_id,
            "desired_resolution": desired_resolution,
            "output_format": output_format,
            "quote_id": quote_id,
            "user_id": user_id,
        }
        return Generation.parse(
            await self._act(generation_id, "select-sample", body, idempotency_key, if_version)
        )

    async def regenerate(
        self,
        generation_id: str,
        *,
        idempotency_key: str | None = None,
        if_version: int | None = None,
        **changes: Unpack[BriefChanges],
    ) -> Generation:
        """Order another round of samples."""
        return Generation.parse(
            await self._act(
                generation_id, "regenerate-samples", {**changes}, idempotency_key, if_version
            )
        )

    async def retry(
        self,
        generation_id: str,
        *,
        idempotency_key: str | None = None,
        if_version: int | None = None,
        **changes: Unpack[BriefChanges],
    ) -> Generation:
        """Create a new generation from one that ended without its result."""
        return Generation.parse(
            await self._act(generation_id, "retry", {**changes}, idempotency_key, if_version)
        )

    async def cancel(
        self,
        generation_id: str,
        *,
        user_id: str | None = None,
        idempotency_key: str | None = None,
        if_version: int | None = None,
    ) -> Cancellation:
        """Cancel a generation and release its hold; one that has ended stays as it is."""
        body = {"user_id": user_id} if user_id is not None else None
        return Cancellation.parse(
            await self._act(generation_id, "cancel", body, idempotency_key, if_version)
        )

    async def stream(self, generation_id: str) -> AsyncGenerator[Generation, None]:
        """Yield every version from now on, until the generation has ended.

        A lost connection is resumed after the last version.
        """
        path, parameters = f"{_GENERATION}/stream", {"request_id": generation_id}
        version, failures = None, 0
        while True:
            failure: Failure | None = None
            try:
                call = Call(
                    method="GET", path=path, path_parameters=parameters, last_event_id=version
                )
                async with self._session.open(call) as response:
                    async for line in read_lines(response.aiter_bytes()):
                        failures = 0 if shows_life(line) else failures
                        if (generation := read_event(line)) is not None:
                            version = generation.version
                            yield generation
                            if generation.ended:
                                return
            except (httpx.RequestError, ProblemError) as error:
                failure = error
            failures += 1
            await self._session.back_off(failures, failure)

    async def wait(
        self,
        generation_id: str,
        *,
        for_samples: bool = False,
        timeout_seconds: float = 600.0,
        on_change: Callable[[Generation], None] | None = None,
    ) -> Generation:
        """Poll until the final is ready, or with `for_samples` the samples.

        `on_change` is called with every new version.

        Raises:
            GenerationEndedError: the generation has ended without them. WaitTimeoutError: the time
            is over; the generation continues.
        """
        status = AWAITING_SELECTION if for_samples else COMPLETED
        deadline, version = time.monotonic() + timeout_seconds, 0
        for interval in poll_intervals():
            generation = await self.get(generation_id)
            if generation.version != version:
                version = generation.version
                if on_change is not None:
                    on_change(generation)
            if generation.status == status:
                return generation
            if generation.ended:
                raise GenerationEndedError(generation)
            if time.monotonic() + interval > deadline:
                raise WaitTimeoutError(generation)
            await self._session.sleep(interval)
        raise AssertionError("the intervals never end")

    async def download(self, asset: Asset) -> bytes:
        """Return the bytes of a sample or a final."""
        return await self._session.fetch(asset.url)

    # Catalogue and health

    async def list_formats(self) -> FormatList:
        """Return every output format with its size."""
        return FormatList.parse(
            await self._session.request(Call(method="GET", path="/api/v1/formats"))
        )

    async def list_prices(self) -> PriceList:
        """Return the prices of every plan."""
        return PriceList.parse(
            await self._session.request(Call(method="GET", path="/api/v1/prices"))
        )

    async def list_models(self) -> ModelList:
        """Return the models and strategies that a brief may name."""
        return ModelList.parse(
            await self._session.request(Call(method="GET", path="/api/v1/models"))
        )

    async def get_problem_type(self, code: str) -> ProblemType:
        """Return the description of a problem code."""
        call = Call(method="GET", path="/problems/{code}", path_parameters={"code": code})
        return ProblemType.parse(await self._session.request(call))

    async def get_health(self) -> Health:
        """Return the liveness of the process."""
        return Health.parse(await self._session.request(Call(method="GET", path="/health")))

    async def get_readiness(self) -> Readiness:
        """Return the state of every dependency, also if the service is not ready."""
        call = Call(method="GET", path="/ready", accept=frozenset({503}))
        return Readiness.parse(await self._session.request(call))

    async def _act(
        self,
        generation_id: str,
        action: str,
        body: dict[str, Any] | None,
        idempotency_key: str | None,
        if_version: int | None,
    ) -> Any:
        return await self._session.request(
            Call(
                method="POST",
                path=f"{_GENERATION}/{action}",
                path_parameters={"request_id": generation_id},
                body=body,
                idempotency_key=idempotency_key or new_key(),
                if_version=if_version,
            )
        )
