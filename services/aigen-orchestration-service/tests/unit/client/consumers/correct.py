"""A program that uses the client as it is meant; it is type-checked, not run."""

import asyncio
from datetime import datetime
from decimal import Decimal

from creativeflow.clients.aigeneration import (
    AsyncClient,
    Client,
    GenerationEndedError,
    ProblemError,
    Retries,
)


def synchronous() -> Decimal:
    """Use the synchronous client."""
    retries = Retries(max_attempts=3)
    with Client("https://aigen.example", api_key="key", retries=retries) as client:
        quote = client.quote("A lighthouse", "XPost", custom_dimensions={"width": 64, "height": 64})
        expires: datetime = quote.expires_at
        started = client.create(
            "A lighthouse", "XPost", quote_id=quote.quote_id, color_scheme=["#fff"]
        )
        try:
            shown = client.wait(started.id, for_samples=True)
        except GenerationEndedError as error:
            if error.generation.failure is not None:
                raise RuntimeError(error.generation.failure.message) from error
            raise
        except ProblemError as error:
            raise RuntimeError(f"{error.status} {error.code} {expires}") from error
        client.select_sample(started.id, shown.samples[0], output_format="webp")
        for version in client.stream(started.id):
            percent: int | None = version.progress.percent if version.progress else None
            print(version.status, percent)
        endpoint = client.webhook_endpoints.create("https://hooks.example")
        deliveries = client.webhook_endpoints.list_deliveries(endpoint.id)
        attempts: list[int] = [delivery.attempts for delivery in deliveries]
        depth = client.operations.get_queues().broker["jobs"]
        print(endpoint.secret, attempts, depth.messages if depth else None)
        for record in client.accounts.list_usage("2026-11"):
            print(record.credits + 1)
        return client.get(started.id).cost.total


async def asynchronous() -> bytes | None:
    """Use the asynchronous client."""
    async with AsyncClient("https://aigen.example", token="token") as client:
        generations = [found async for found in client.list(status=["COMPLETED"], page_size=50)]
        timeline = await client.list_events(generations[0].id)
        moments: list[datetime] = [entry.at for entry in timeline]
        outcome: str = (await client.cancel(generations[0].id)).outcome
        print(moments, outcome, (await client.list_prices()).plans[0].final)
        await client.operations.replay_outbox_message(7)
        async for chunk in client.accounts.export_usage("2026-11", format="csv"):
            print(chunk.decode())
        final = generations[0].final_asset
        return await client.download(final) if final else None


if __name__ == "__main__":
    print(synchronous(), asyncio.run(asynchronous()))
