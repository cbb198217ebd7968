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


def test_a_token_opens_its_own_job() -> None:
    secrets = CallbackSecrets([PLAIN])
    assert secrets.opens(secrets.token(JOB_ID), JOB_ID) is True


def test_a_token_opens_no_other_job() -> None:
    secrets = CallbackSecrets([PLAIN])
    assert secrets.opens(secrets.token(JOB_ID), OTHER_JOB) is False


def test_a_token_of_another_secret_opens_nothing() -> None:
    assert (
        CallbackSecrets([PLAIN]).opens(CallbackSecrets(["another secret"]).token(JOB_ID), JOB_ID)
        is False
    )


@given(st.uuids(), st.uuids())
@settings(max_examples=50, deadline=None)
def test_two_jobs_never_share_a_token(one: UUID, other: UUID) -> None:
    secrets = CallbackSecrets([PLAIN])
    assert (secrets.token(one) == secrets.token(other)) is (one == other)


def test_a_token_is_safe_in_a_header_and_in_an_address() -> None:
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", CallbackSecrets([PLAIN]).token(JOB_ID))


def test_while_rotating_the_new_secret_signs_and_both_verify() -> None:
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
def test_no_invented_token_opens_a_job_or_breaks_the_check(token: str) -> None:
    assert CallbackSecrets([PLAIN, WHSEC]).opens(token, JOB_ID) is False


@pytest.mark.parametrize(
    "change", [str.upper, lambda token: token + "=", lambda token: token[:-1], lambda _: "Bearer"]
)
def test_a_token_that_was_changed_opens_nothing(change: object) -> None:
    assert callable(change)
    secrets = CallbackSecrets([PLAIN])
    assert secrets.opens(change(secrets.token(JOB_ID)), JOB_ID) is False


@pytest.mark.parametrize("secrets", [[], [""], [PLAIN, ""]])
def test_an_empty_secret_is_not_taken(secrets: list[str]) -> None:
    with pytest.raises(ValueError, match="secret is needed"):
        CallbackSecrets(secrets)


@pytest.mark.parametrize(
    "secret", ["whsec_", "whsec_====", "whsec_!!!!", "whsec_not base64", "whsec_QUJD\u00e9"]
)
def test_a_webhook_secret_without_a_readable_key_is_not_taken(secret: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - also base64's own words will do
        CallbackSecrets([secret])


def test_secrets_do_not_show_themselves() -> None:
    shown = repr(CallbackSecrets([PLAIN, WHSEC]))
    assert shown == "CallbackSecrets(2)"
    assert PLAIN not in str(CallbackSecrets([PLAIN]))


@pytest.mark.parametrize("secret", [WHSEC, PLAIN])
def test_our_signature_satisfies_the_independent_library(secret: str) -> None:
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
def test_a_signature_of_the_independent_library_satisfies_us(secret: str) -> None:
    assert accepted(library_signature(secret), secrets=[secret]) is True


def test_the_second_secret_still_verifies_signatures() -> None:
    assert accepted(library_signature(PLAIN), secrets=[WHSEC, PLAIN]) is True


def test_a_signature_of_another_secret_is_refused() -> None:
    assert accepted(library_signature(PLAIN)) is False


def test_a_signature_of_another_body_is_refused() -> None:
    assert accepted(library_signature(WHSEC, body=BODY + b" ")) is False


def test_a_signature_of_another_message_is_refused() -> None:
    assert accepted(library_signature(WHSEC, message_id="msg_2")) is False


def test_a_signature_of_another_moment_is_refused() -> None:
    assert accepted(library_signature(WHSEC, at=AT + 1)) is False


@pytest.mark.parametrize(
    ("seconds_off", "fresh"),
    [(0, True), (300, True), (-300, True), (300.5, False), (301, False), (-301, False)],
)
def test_a_timestamp_may_be_off_by_five_minutes_either_way(seconds_off: float, fresh: bool) -> None:
    assert accepted(library_signature(WHSEC), now=AT + seconds_off) is fresh


def test_one_good_signature_among_several_is_enough() -> None:
    good, foreign = library_signature(WHSEC), library_signature(PLAIN)
    assert accepted(f"{foreign} {good}") is True
    assert accepted(f"v1a,{foreign[3:]} {good} v2,AAAA") is True
    assert accepted(f"{foreign} v1,AAAA") is False


@pytest.mark.parametrize(
    "form", ["{0}", "v2,{0}", "v1a,{0}", "v1{0}", "v1,", "v1", "v1 ,{0}", "v1,{0}x", ""]
)
def test_a_signature_in_another_form_is_refused(form: str) -> None:
    digest = library_signature(WHSEC).removeprefix("v1,")
    assert accepted(form.format(digest)) is False


def test_at_most_eight_signatures_are_looked_at() -> None:
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
def test_a_timestamp_that_is_none_is_refused(timestamp: str) -> None:
    assert accepted(library_signature(WHSEC), timestamp=timestamp) is False


@pytest.mark.parametrize("digits", [400, 5000])
def test_an_absurdly_long_timestamp_is_refused_like_any_other(digits: int) -> None:
    assert accepted(library_signature(WHSEC), timestamp="9" * digits) is False


@given(
    st.text(max_size=40),
    st.text(max_size=20) | st.just(str(AT)),
    st.text(max_size=80),
    st.binary(max_size=40),
)
@example("msg", str(AT), "v1,é v1,\x00 v1,=", b"\xff")
@settings(max_examples=150, deadline=None)
def test_no_invented_signature_is_accepted_or_breaks_the_check(
    message_id: str, timestamp: str, signatures: str, body: bytes
) -> None:
    secrets = CallbackSecrets([WHSEC, PLAIN])
    assert secrets.signed(message_id, timestamp, signatures, body, now=float(AT)) is False
    assert secrets.signed(message_id, timestamp, f"v1,{signatures}", body, now=float(AT)) is False
