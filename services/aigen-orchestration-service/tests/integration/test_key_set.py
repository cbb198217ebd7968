"""The issuer's key set: removed keys expire, unknown ids and an unresponsive issuer do not delay
other calls.
"""

import asyncio
import json
from collections.abc import Callable

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from creativeflow.services.aigeneration.adapters.http.key_set import (
    FRESH_SECONDS,
    RETRY_SECONDS,
    STALE_SECONDS,
    KeySet,
)
from creativeflow.services.aigeneration.domain import errors


class Issuer:
    """An issuer with keys of these ids, which can fail or hang."""

    def __init__(self) -> None:
        self.shown, self.asked, self.status, self.now = ["a"], 0, 200, 0.0
        self.open = asyncio.Event()
        self.open.set()

    async def answer(self, _request: httpx.Request) -> httpx.Response:
        self.asked += 1
        await self.open.wait()
        return httpx.Response(self.status, json={"keys": [_jwk(kid) for kid in self.shown]})

    def key_set(self) -> KeySet:
        http = httpx.AsyncClient(transport=httpx.MockTransport(self.answer))
        return KeySet(http, "https://issuer.example/keys", monotonic=lambda: self.now)


def _jwk(kid: str) -> dict[str, str]:
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    return json.loads(jwt.algorithms.ECAlgorithm.to_jwk(public)) | {
        "kid": kid,
        "use": "sig",
        "alg": "ES256",
    }


async def test_key_removed_is_refused_after_a_fetch_for_another_key() -> None:
    issuer = Issuer()
    keys = issuer.key_set()
    assert (await keys.key("a")).key_id == "a"
    issuer.shown, issuer.now = ["b"], RETRY_SECONDS + 1
    assert (await keys.key("b")).key_id == "b"
    with pytest.raises(errors.InvalidCredentialsError):
        await keys.key("a")


async def test_key_removed_is_refused_after_the_set_expired() -> None:
    issuer = Issuer()
    keys = issuer.key_set()
    await keys.key("a")
    issuer.shown, issuer.now = ["b"], FRESH_SECONDS + 1
    with pytest.raises(errors.InvalidCredentialsError):
        await keys.key("a")


async def test_key_unknown_thirty_times_causes_one_fetch() -> None:
    issuer = Issuer()
    keys = issuer.key_set()
    await keys.key("a")
    issuer.now = RETRY_SECONDS + 1
    issuer.open.clear()
    unknown = [asyncio.create_task(keys.key(f"invented {n}")) for n in range(30)]
    while issuer.asked < 2:
        await asyncio.sleep(0)
    async with asyncio.timeout(0.5):
        assert (await keys.key("a")).key_id == "a"
    issuer.open.set()
    found = await asyncio.gather(*unknown, return_exceptions=True)
    assert {type(error) for error in found} == {errors.InvalidCredentialsError}
    assert issuer.asked == 2


@pytest.mark.parametrize(("age", "served"), [(FRESH_SECONDS + 1, True), (STALE_SECONDS + 1, False)])
async def test_key_while_the_issuer_fails_is_known_for_an_hour(age: float, served: bool) -> None:
    issuer = Issuer()
    keys = issuer.key_set()
    await keys.key("a")
    issuer.status, issuer.now = 500, age
    if served:
        assert (await keys.key("a")).key_id == "a"
    else:
        with pytest.raises(errors.ServiceUnavailableError):
            await keys.key("a")


@pytest.mark.parametrize(
    "change", [lambda jwk: jwk | {"use": "enc"}, lambda jwk: {**jwk, "kid": ""}]
)
async def test_key_without_id_or_for_encryption_is_not_used(
    change: Callable[[dict[str, str]], dict[str, str]],
) -> None:
    async def answer(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"keys": [change(_jwk("a"))]})

    keys = KeySet(
        httpx.AsyncClient(transport=httpx.MockTransport(answer)), "https://issuer.example/keys"
    )
    for kid in ("a", "", None):
        with pytest.raises(errors.InvalidCredentialsError):
            await keys.key(kid)
