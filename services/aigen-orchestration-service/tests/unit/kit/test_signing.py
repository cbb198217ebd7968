"""Proofs of a worker: a token that opens one job, and signatures that an independent library agrees
with.
"""

import base64
import re
import time
from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from creativeflow.services.aigeneration.kit.signing import CallbackSecrets
from tests.support.builders import JOB_ID

WHSEC = "whsec_" + base64.b64encode(bytes(range(32))).decode()
PLAIN = "a plain secret of some length"
BODY = '{"job_id":"1","percent":50,"wörter":"ja"}'.encode()
AT = 1_773_480_000
OTHER_JOB = UUID("0195940d-0000-7000-8000-00000000000b")


def library(secret: str) -> Webhook:
    """The independent implementation with the same key."""
    return Webhook(secret if secret.startswith("whsec_") else secret.encode())


def library_signature(
    secret: str, *, message_id: str = "msg_1", at: int = AT, body: bytes = BODY
) -> str:
    return library(secret).sign(message_id, datetime.fromtimestamp(at, UTC), body.decode())


def accepted(
    signatures: str,
    *,
    secrets: list[str] | None = None,
    timestamp: str = str(AT),
    now: float = float(AT),
) -> bool:
    return CallbackSecrets(secrets or [WHSEC]).signed("msg_1", timestamp, signatures, BODY, now=now)


def test_token_of_its_own_job_is_accepted() -> None:
    secrets = CallbackSecrets([PLAIN])
    assert secrets.opens(secrets.token(JOB_ID), JOB_ID) is True


def test_token_of_another_job_is_refused() -> None:
    secrets = CallbackSecrets([PLAIN])
    assert secrets.opens(secrets.token(JOB_ID), OTHER_JOB) is False


def test_token_of_another_secret_is_refused() -> None:
    assert (
        CallbackSecrets([PLAIN]).opens(CallbackSecrets(["another secret"]).token(JOB_ID), JOB_ID)
        is False
    )


@given(st.uuids(), st.uuids())
@settings(max_examples=50, deadline=None)
def test_token_of_two_jobs_differs(one: UUID, other: UUID) -> None:
    secrets = CallbackSecrets([PLAIN])
    assert (secrets.token(one) == secrets.token(other)) is (one == other)


def test_token_is_safe_in_headers_and_urls() -> None:
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", CallbackSecrets([PLAIN]).token(JOB_ID))


def test_token_during_rotation_is_signed_by_the_first_secret() -> None:
    old, new, rotating = (
        CallbackSecrets(["old"]),
        CallbackSecrets(["new"]),
        CallbackSecrets(["new", "old"]),
    )
    assert rotating.token(JOB_ID) == new.token(JOB_ID)
    assert rotating.opens(old.token(JOB_ID), JOB_ID) is True
    assert rotating.opens(new.token(JOB_ID), JOB_ID) is True
    assert new.opens(old.token(JOB_ID), JOB_ID) is False


@given(st.text(max_size=60))
@example("")
@example("\x00")
@example("é" * 43)
@settings(max_examples=100, deadline=None)
def test_token_invented_is_refused(token: str) -> None:
    assert CallbackSecrets([PLAIN, WHSEC]).opens(token, JOB_ID) is False


@pytest.mark.parametrize(
    "change", [str.upper, lambda token: token + "=", lambda token: token[:-1], lambda _: "Bearer"]
)
def test_token_changed_is_refused(change: object) -> None:
    assert callable(change)
    secrets = CallbackSecrets([PLAIN])
    assert secrets.opens(change(secrets.token(JOB_ID)), JOB_ID) is False


@pytest.mark.parametrize("secrets", [[], [""], [PLAIN, ""]])
def test_secrets_empty_are_refused(secrets: list[str]) -> None:
    with pytest.raises(ValueError, match="secret is needed"):
        CallbackSecrets(secrets)


@pytest.mark.parametrize(
    "secret", ["whsec_", "whsec_====", "whsec_!!!!", "whsec_not base64", "whsec_QUJD\u00e9"]
)
def test_secrets_unreadable_webhook_key_is_refused(secret: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - also base64's own words will do
        CallbackSecrets([secret])


def test_secrets_repr_is_hidden() -> None:
    shown = repr(CallbackSecrets([PLAIN, WHSEC]))
    assert shown == "CallbackSecrets(2)"
    assert PLAIN not in str(CallbackSecrets([PLAIN]))


@pytest.mark.parametrize("secret", [WHSEC, PLAIN])
def test_signature_is_accepted_by_the_independent_library(secret: str) -> None:
    at = int(time.time())
    headers = {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(at),
        "webhook-signature": CallbackSecrets([secret]).sign("msg_1", at, BODY),
    }
    assert library(secret).verify(BODY, headers)["percent"] == 50
    with pytest.raises(WebhookVerificationError):
        library(secret).verify(BODY + b" ", headers)


@pytest.mark.parametrize("secret", [WHSEC, PLAIN])
def test_signature_of_the_independent_library_is_accepted(secret: str) -> None:
    assert accepted(library_signature(secret), secrets=[secret]) is True


def test_signature_of_the_second_secret_is_accepted() -> None:
    assert accepted(library_signature(PLAIN), secrets=[WHSEC, PLAIN]) is True


def test_signature_of_another_secret_is_refused() -> None:
    assert accepted(library_signature(PLAIN)) is False


def test_signature_of_another_body_is_refused() -> None:
    assert accepted(library_signature(WHSEC, body=BODY + b" ")) is False


def test_signature_of_another_message_is_refused() -> None:
    assert accepted(library_signature(WHSEC, message_id="msg_2")) is False


def test_signature_of_another_time_is_refused() -> None:
    assert accepted(library_signature(WHSEC, at=AT + 1)) is False


@pytest.mark.parametrize(
    ("seconds_off", "fresh"),
    [(0, True), (300, True), (-300, True), (300.5, False), (301, False), (-301, False)],
)
def test_signature_timestamp_within_five_minutes_is_accepted(
    seconds_off: float, fresh: bool
) -> None:
    assert accepted(library_signature(WHSEC), now=AT + seconds_off) is fresh


def test_signature_valid_among_several_is_accepted() -> None:
    good, foreign = library_signature(WHSEC), library_signature(PLAIN)
    assert accepted(f"{foreign} {good}") is True
    assert accepted(f"v1a,{foreign[3:]} {good} v2,AAAA") is True
    assert accepted(f"{foreign} v1,AAAA") is False


@pytest.mark.parametrize(
    "form", ["{0}", "v2,{0}", "v1a,{0}", "v1{0}", "v1,", "v1", "v1 ,{0}", "v1,{0}x", ""]
)
def test_signature_malformed_is_refused(form: str) -> None:
    digest = library_signature(WHSEC).removeprefix("v1,")
    assert accepted(form.format(digest)) is False


def test_signature_after_the_eighth_is_ignored() -> None:
    padding = " ".join(["v1,AAAA"] * 8)
    assert accepted(f"{padding} {library_signature(WHSEC)}") is False
    assert accepted(f"{library_signature(WHSEC)} {padding}") is True


@pytest.mark.parametrize(
    "timestamp",
    [
        "",
        "now",
        "-1",
        "1.5",
        "1e9",
        " 1773480000",
        "1773480000 ",
        "١٧٧٣٤٨٠٠٠٠",
        "²",
        "nan",
        "inf",
        "0",
        "9" * 18,
    ],
)
def test_signature_invalid_timestamp_is_refused(timestamp: str) -> None:
    assert accepted(library_signature(WHSEC), timestamp=timestamp) is False


@pytest.mark.parametrize("digits", [400, 5000])
def test_signature_very_long_timestamp_is_refused(digits: int) -> None:
    assert accepted(library_signature(WHSEC), timestamp="9" * digits) is False


@given(
    st.text(max_size=40),
    st.text(max_size=20) | st.just(str(AT)),
    st.text(max_size=80),
    st.binary(max_size=40),
)
@example("msg", str(AT), "v1,é v1,\x00 v1,=", b"\xff")
@settings(max_examples=150, deadline=None)
def test_signature_invented_is_refused(
    message_id: str, timestamp: str, signatures: str, body: bytes
) -> None:
    secrets = CallbackSecrets([WHSEC, PLAIN])
    assert secrets.signed(message_id, timestamp, signatures, body, now=float(AT)) is False
    assert secrets.signed(message_id, timestamp, f"v1,{signatures}", body, now=float(AT)) is False
