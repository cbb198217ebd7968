"""The SSRF-safe client calls only checked addresses, within its time and size limits."""

import asyncio
import datetime as dt
import ssl
from collections.abc import AsyncIterator, Sequence
from ipaddress import ip_network
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from creativeflow.services.aigeneration.adapters.http.safe_client import SafeHttp
from creativeflow.services.aigeneration.domain.outbound_urls import Rules, UnfitAddressError
from creativeflow.services.aigeneration.domain.webhooks import DeliveryError
from tests.support.webhook_receiver import Receiver

LOCAL = Rules(networks=[ip_network("127.0.0.0/8")])


class Names:
    """A name server with configured answers; the last one is repeated."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.asked: list[str] = []
        self._answers = list(answers)

    async def __call__(self, host: str, _port: int) -> Sequence[str]:
        """Return the next answer; an empty one means that the name is unknown."""
        self.asked.append(host)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if not answer:
            raise OSError(host)
        return answer


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """A webhook receiver."""
    async with Receiver() as made:
        yield made


def named(receiver: Receiver) -> str:
    """Return the receiver's URL under a name."""
    return f"http://hooks.example:{receiver.port}/hook?a=b"


async def test_post_connects_to_the_checked_address_with_the_name(receiver: Receiver) -> None:
    names = Names(["127.0.0.1"])
    attempt = await SafeHttp(LOCAL, timeout_seconds=5, resolve=names).post(
        named(receiver), {"x-a": "b"}, b"{}"
    )
    assert (attempt.status, attempt.trouble) == (204, None)
    (call,) = receiver.calls
    assert call.target == "/hook?a=b"
    assert call.headers == {
        "host": f"hooks.example:{receiver.port}",
        "x-a": "b",
        "content-length": "2",
        "connection": "close",
    }
    assert names.asked == ["hooks.example"]


async def test_post_name_resolving_elsewhere_later_is_refused(receiver: Receiver) -> None:
    """DNS rebinding: public at registration, private at the call."""
    rules = Rules(networks=[ip_network("127.0.0.2/32")])
    for private in ("127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "::ffff:127.0.0.1"):
        http = SafeHttp(rules, timeout_seconds=5, resolve=Names(["93.184.216.34"], [private]))
        await http.check("https://hooks.example/")
        attempt = await http.post(f"https://hooks.example:{receiver.port}/", {}, b"{}")
        assert (attempt.status, attempt.trouble) == (None, DeliveryError.ADDRESS_REFUSED)
    assert receiver.connections == 0


async def test_post_name_is_resolved_once_and_all_addresses_are_checked(receiver: Receiver) -> None:
    rebinding = Names(["127.0.0.1"], ["127.9.9.9"])
    attempt = await SafeHttp(LOCAL, timeout_seconds=5, resolve=rebinding).post(
        named(receiver), {}, b"{}"
    )
    assert attempt.trouble is None
    assert len(rebinding.asked) == 1
    mixed = Names(["127.0.0.1", "10.0.0.1"])
    attempt = await SafeHttp(LOCAL, timeout_seconds=5, resolve=mixed).post(
        named(receiver), {}, b"{}"
    )
    assert attempt.trouble is DeliveryError.ADDRESS_REFUSED
    assert receiver.connections == 1


async def test_post_address_without_answer_is_followed_by_the_next(receiver: Receiver) -> None:
    names = Names(["127.0.0.99", "127.0.0.1"])  # the first one refuses connections
    attempt = await SafeHttp(LOCAL, timeout_seconds=5, resolve=names).post(
        named(receiver), {}, b"{}"
    )
    assert attempt.trouble is None


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308, 304])
async def test_post_redirect_is_not_followed(receiver: Receiver, status: int) -> None:
    async with Receiver() as inside:
        receiver.answers.append((status, f"Location: {inside.url}"))
        attempt = await SafeHttp(LOCAL, timeout_seconds=5).post(receiver.url, {}, b"{}")
        assert (attempt.status, attempt.trouble) == (status, DeliveryError.REDIRECTED)
        assert inside.connections == 0


async def test_post_trickling_receiver_ends_in_time(receiver: Receiver) -> None:
    async def trickle(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            writer.write(b"x-more: x\r\n")
            await writer.drain()
            await asyncio.sleep(0.05)

    receiver.answers.append(trickle)
    attempt = await asyncio.wait_for(
        SafeHttp(LOCAL, timeout_seconds=0.5).post(receiver.url, {}, b"{}"), 3
    )
    assert (attempt.status, attempt.trouble) == (None, DeliveryError.TIMEOUT)
    assert 400 < attempt.duration_ms < 2000


async def test_post_response_body_is_not_read(receiver: Receiver) -> None:
    sent = 0

    async def flood(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000000\r\n\r\n")
        while True:
            writer.write(b"x" * 65_536)
            await writer.drain()
            sent += 65_536

    receiver.answers.append(flood)
    attempt = await asyncio.wait_for(
        SafeHttp(LOCAL, timeout_seconds=5).post(receiver.url, {}, b"{}"), 3
    )
    assert (attempt.status, attempt.trouble) == (200, None)
    await asyncio.sleep(0.2)
    assert sent < 10_000_000


async def test_post_endless_response_head_is_not_read(receiver: Receiver) -> None:
    async def flood(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            writer.write(b"x-more: " + b"x" * 60_000 + b"\r\n")
            await writer.drain()

    receiver.answers.append(flood)
    attempt = await asyncio.wait_for(
        SafeHttp(LOCAL, timeout_seconds=5).post(receiver.url, {}, b"{}"), 3
    )
    assert (attempt.status, attempt.trouble) == (None, DeliveryError.BAD_ANSWER)


async def test_post_failures_are_classified(receiver: Receiver) -> None:
    async def smtp(writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ESMTP\r\n")
        await writer.drain()

    async def hang_up(writer: asyncio.StreamWriter) -> None:
        writer.close()

    receiver.answers.extend([smtp, hang_up])
    http = SafeHttp(LOCAL, timeout_seconds=5)
    for _ in range(2):
        assert (await http.post(receiver.url, {}, b"{}")).trouble is DeliveryError.BAD_ANSWER
    assert (await http.post("http://127.0.0.1:1/", {}, b"{}")).trouble is DeliveryError.UNREACHABLE
    unknown = SafeHttp(LOCAL, timeout_seconds=5, resolve=Names([]))
    assert (
        await unknown.post("https://hooks.example/", {}, b"{}")
    ).trouble is DeliveryError.UNKNOWN_HOST
    with pytest.raises(UnfitAddressError, match="leads nowhere"):
        await unknown.check("https://hooks.example/")


async def test_post_ignores_proxies_of_the_environment(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Receiver() as proxy:
        for variable in (
            "HTTP_PROXY",
            "HTTPS_PROXY",
            "ALL_PROXY",
            "http_proxy",
            "https_proxy",
            "all_proxy",
        ):
            monkeypatch.setenv(variable, f"http://127.0.0.1:{proxy.port}")
        attempt = await SafeHttp(LOCAL, timeout_seconds=5).post(receiver.url, {}, b"{}")
        assert attempt.trouble is None
        assert proxy.connections == 0


async def test_post_keeps_no_cookie_and_no_connection(receiver: Receiver) -> None:
    receiver.answers.append((200, "Set-Cookie: a=b"))
    http = SafeHttp(LOCAL, timeout_seconds=5)
    for _ in range(2):
        await http.post(receiver.url, {}, b"{}")
    assert receiver.connections == 2
    assert "cookie" not in receiver.calls[1].headers
    await http.close()


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("120", 120),
        ("0", 0),
        ("99999999", 86_400),
        ("soon", None),
        ("-5", None),
        ("", None),
        ("Mon, 01 Jan 2001 00:00:00 GMT", 0),
        ("Fri, 31 Dec 2999 23:59:59 GMT", 86_400),
    ],
)
async def test_post_retry_after_is_parsed_and_bounded(
    receiver: Receiver, said: str, seconds: int | None
) -> None:
    receiver.answers.extend([(503, f"Retry-After: {said}"), (500, f"Retry-After: {said}")])
    http = SafeHttp(LOCAL, timeout_seconds=5)
    busy, broken = [await http.post(receiver.url, {}, b"{}") for _ in range(2)]
    assert busy.retry_after == (None if seconds is None else dt.timedelta(seconds=seconds))
    assert broken.retry_after is None


async def test_post_certificate_must_match_the_name(tmp_path: Path) -> None:
    server, trusting = _certified(tmp_path, "hooks.example")
    names = Names(["127.0.0.1"])
    async with Receiver(tls=server) as receiver:
        http = SafeHttp(LOCAL, timeout_seconds=5, resolve=names, tls=trusting)
        good = await http.post(f"https://hooks.example:{receiver.port}/", {}, b"{}")
        assert (good.status, good.trouble) == (204, None)
        assert receiver.calls[0].headers["host"] == f"hooks.example:{receiver.port}"
        for other in (
            f"https://other.example:{receiver.port}/",
            f"https://127.0.0.1:{receiver.port}/",
        ):
            assert (await http.post(other, {}, b"{}")).trouble is DeliveryError.TLS_FAILED
        unknown_issuer = SafeHttp(LOCAL, timeout_seconds=5, resolve=names)
        bad = await unknown_issuer.post(f"https://hooks.example:{receiver.port}/", {}, b"{}")
        assert bad.trouble is DeliveryError.TLS_FAILED
        assert len(receiver.calls) == 1


def _certified(folder: Path, name: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return a server context with a certificate for this name, and a client context that trusts
    it.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = folder / "server.pem"
    pem.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pem)
    return server, ssl.create_default_context(
        cadata=certificate.public_bytes(serialization.Encoding.PEM).decode()
    )


@pytest.mark.parametrize(
    "url", ["https://localhost/", "https://127.0.0.1/", "https://[::1]/", "https://10.0.0.1/"]
)
async def test_post_private_network_not_listed_is_refused(url: str) -> None:
    http = SafeHttp(Rules(), timeout_seconds=5)
    with pytest.raises(UnfitAddressError, match="AIGEN_WEBHOOK_ALLOWED_NETWORKS"):
        await http.check(url)
    assert (await http.post(url, {}, b"{}")).trouble is DeliveryError.ADDRESS_REFUSED
