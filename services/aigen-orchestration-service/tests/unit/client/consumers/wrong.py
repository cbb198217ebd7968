"""A program whose marked lines a type checker must report."""

from creativeflow.clients.aigeneration import AsyncClient, Client


def synchronous(client: Client) -> None:
    """Misuse the synchronous client."""
    generation = client.get("g")
    print(generation.stauts)  # wrong
    print(generation.cost.totle)  # wrong
    print(generation.final_asset.url)  # wrong: it can be None
    client.create("A lighthouse", "XPost", emotonal_tone="calm")  # wrong
    client.regenerate("g", updated_promt="A bridge")  # wrong
    client.webhook_endpoints.creat("https://hooks.example")  # wrong
    client.operations.review_generation("g", "maybe")  # wrong
    client.cancel(7)  # wrong


async def asynchronous(client: AsyncClient) -> None:
    """Misuse the asynchronous client."""
    print(client.get("g").status)  # wrong: not awaited
    print((await client.get("g")).stauts)  # wrong
    for generation in client.list():  # wrong: not `async for`
        print(generation)
    await client.close()  # wrong: `aclose`
