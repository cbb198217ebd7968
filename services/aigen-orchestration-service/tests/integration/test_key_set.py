"""The issuer's key set: removed keys expire, unknown ids and an unresponsive issuer do not delay
other calls.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from creativeflow.services.aigeneration.adapters.http import key_set
from creativeflow.services.aigeneration.adapters.http.key_set import (
    DEADLINE_SECONDS,
    FRESH_SECONDS,
    REFRESH_SECONDS,
    RETRY_SECONDS,
    STALE_SECONDS,
    UNKNOWN_MAX,
    UNKNOWN_SECONDS,
    KeySet,
    KeySetError,
    fetch_key_set,
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


async def is_accepted(keys: KeySet, key_id: str) -> bool:
    try:
        await keys.key(key_id)
    except errors.InvalidCredentialsError:
        return False
    return True


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


async def test_key_known_while_the_issuer_hangs_waits_for_no_fetch() -> None:
    issuer = Issuer()
    keys = issuer.key_set()
    await keys.key("a")
    issuer.open.clear()
    for age in (REFRESH_SECONDS + 1, FRESH_SECONDS - 1):
        issuer.now = age
        async with asyncio.timeout(0.1):
            assert (await keys.key("a")).key_id == "a"
    issuer.now = FRESH_SECONDS + 1
    await keys.key("a")  # after a pause longer than the fetch may take, only the first one waits
    async with asyncio.timeout(0.1):
        for _ in range(30):
            assert (await keys.key("a")).key_id == "a"
    assert issuer.asked == 2


async def test_key_known_is_renewed_in_the_background() -> None:
    issuer = Issuer()
    keys = issuer.key_set()
    await keys.key("a")
    issuer.shown, issuer.now = ["b"], REFRESH_SECONDS + 1
    assert (await keys.key("a")).key_id == "a"
    async with asyncio.timeout(1):
        while await is_accepted(keys, "a"):
            await asyncio.sleep(0)


async def test_key_unknown_before_the_first_set_waits_for_one_fetch_together_with_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(key_set, "DEADLINE_SECONDS", 0.2)
    issuer = Issuer()
    issuer.open.clear()
    keys = issuer.key_set()
    async with asyncio.timeout(1):
        waiting = [asyncio.create_task(keys.key(f"invented {n}")) for n in range(30)]
        while not issuer.asked:
            await asyncio.sleep(0)
        issuer.now = DEADLINE_SECONDS
        found = await asyncio.gather(*waiting, return_exceptions=True)
        for n in range(30):
            with pytest.raises(errors.ServiceUnavailableError):
                await keys.key(f"invented later {n}")
    assert {type(error) for error in found} == {errors.ServiceUnavailableError}
    assert issuer.asked == 1
    issuer.open.set()
    issuer.now = 2 * DEADLINE_SECONDS
    assert (await keys.key("a")).key_id == "a"


async def test_key_that_the_issuer_does_not_have_is_not_asked_for_again_for_a_minute() -> None:
    issuer = Issuer()
    keys = issuer.key_set()
    await keys.key("a")
    asked = []
    for seconds in (RETRY_SECONDS, 2 * RETRY_SECONDS, UNKNOWN_SECONDS, 2 * UNKNOWN_SECONDS):
        issuer.now = seconds + 1
        with pytest.raises(errors.InvalidCredentialsError):
            await keys.key("invented")
        asked.append(issuer.asked)
    assert asked == [2, 2, 2, 3]


async def test_key_added_right_after_a_fetch_is_found_by_the_next_fetch() -> None:
    issuer = Issuer()
    keys = issuer.key_set()
    await keys.key("a")
    issuer.shown, issuer.now = ["a", "b"], RETRY_SECONDS / 2
    with pytest.raises(errors.InvalidCredentialsError):
        await keys.key("b")
    issuer.now = RETRY_SECONDS + 1
    assert (await keys.key("b")).key_id == "b"


async def test_key_unknown_while_the_issuer_fails_may_be_tried_again() -> None:
    issuer = Issuer()
    keys = issuer.key_set()
    await keys.key("a")
    issuer.status, issuer.now = 500, RETRY_SECONDS + 1
    for _ in range(2):
        with pytest.raises(errors.ServiceUnavailableError):
            await keys.key("b")
    assert issuer.asked == 2


async def test_absent_keys_take_bounded_memory() -> None:
    issuer = Issuer()
    keys = issuer.key_set()
    await keys.key("a")
    issuer.now += RETRY_SECONDS + 1
    many = [keys.key(f"invented {n}") for n in range(UNKNOWN_MAX + 1)]
    await asyncio.gather(*many, return_exceptions=True)
    issuer.now += RETRY_SECONDS + 1
    for n, asked in ((UNKNOWN_MAX, 2), (0, 3)):
        with pytest.raises(errors.InvalidCredentialsError):
            await keys.key(f"invented {n}")
        assert issuer.asked == asked


async def test_key_set_that_never_ends_is_not_read_to_its_end() -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1
            yield b" " * 65_536

    async def answer(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=endless())

    http = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    async with asyncio.timeout(DEADLINE_SECONDS / 2):
        with pytest.raises(KeySetError):
            await fetch_key_set(http, "https://issuer.example/keys")
    assert sent == 5


async def test_key_set_nested_without_end_is_refused() -> None:
    async def answer(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=b"[" * 100_000)

    http = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    with pytest.raises(KeySetError):
        await fetch_key_set(http, "https://issuer.example/keys")


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
