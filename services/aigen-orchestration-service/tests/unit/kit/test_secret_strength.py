"""Secrets that an attacker would try first are recognised, random ones are not."""

import hashlib
import secrets

import pytest

from creativeflow.services.aigeneration.kit.secret_strength import (
    is_digest_of_nothing,
    is_guessable,
)


@pytest.mark.parametrize(
    "secret",
    [
        "a" * 40,
        "ab" * 20,
        "changechangechangechangechange",
        "0123456789012345678901234567890123456789",
        "abcdefghijklmnopqrstuvwxyzabcdef",
        "zyxwvutsrqponmlkjihgfedcba987654",
        "please-change-me-7f3kq9x2m4v8b1n6",
        "your-secret-goes-here-7f3kq9x2m4v8",
        "example-7f3kq9x2m4v8b1n6-example-2",
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab",
        "",
    ],
)
def test_is_guessable_secret_of_little_entropy_is(secret: str) -> None:
    assert is_guessable(secret, bits=54)


@pytest.mark.parametrize("make", [secrets.token_hex, secrets.token_urlsafe])
def test_is_guessable_random_secret_is_not(make: object) -> None:
    assert not any(is_guessable(make(12), bits=28) for _ in range(2000))  # type: ignore[operator]
    assert not any(is_guessable(make(18), bits=54) for _ in range(2000))  # type: ignore[operator]


@pytest.mark.parametrize("text", [b"", b"\n", b"\r\n"])
def test_is_digest_of_nothing_empty_text_or_line_is(text: bytes) -> None:
    assert is_digest_of_nothing(hashlib.sha256(text).hexdigest().upper())
    assert not is_digest_of_nothing(hashlib.sha256(text + b"x").hexdigest())
