"""Checks of reported pictures: size, format, completeness and checksum, wherever they are
stored.
"""

import asyncio
import base64
import hashlib
import io
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from PIL import Image

from creativeflow.services.aigeneration.adapters.http.safe_client import SafeHttp
from creativeflow.services.aigeneration.app import create_app
from creativeflow.services.aigeneration.application.generations import Caller
from creativeflow.services.aigeneration.application.worker_reports import ReportKind
from creativeflow.services.aigeneration.domain import errors
from creativeflow.services.aigeneration.domain.commands import SampleChoice
from creativeflow.services.aigeneration.domain.lifecycle import State
from creativeflow.services.aigeneration.domain.request import GenerationRequest
from creativeflow.services.aigeneration.settings import Settings
from tests.integration.test_worker_reports import report
from tests.support.app import ServiceUnderTest, a_final, four_samples
from tests.support.picture_server import LOOPBACK, PictureServer, animated, picture, plain

FINAL = (1080, 1080)


@pytest.fixture
async def server() -> AsyncIterator[PictureServer]:
    """A picture server of the workers."""
    async with PictureServer() as made:
        yield made


@pytest.fixture
async def test_app(
    make_test_app: Callable[..., ServiceUnderTest],
) -> AsyncIterator[ServiceUnderTest]:
    """The service with the default check; workers store pictures on loopback."""
    made = make_test_app(result_check="fetch", result_allowed_networks=LOOPBACK, result_timeout=5.0)
    await made.grant("user", 1000, plan="payg")
    yield made
    await made.check()


@asynccontextmanager
async def calling(test_app: ServiceUnderTest) -> AsyncIterator[httpx.AsyncClient]:
    """Run the service behind HTTP."""
    app = create_app(service=test_app.service)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://aigen") as made,
    ):
        yield made


async def uploaded(
    test_app: ServiceUnderTest, job: GenerationRequest, data: bytes
) -> dict[str, Any]:
    """Upload a picture as a worker; return the response."""
    async with calling(test_app) as client:
        answer = await client.post(
            "/api/v1/n8n-callbacks/assets",
            params={"job_id": str(job.job_id)},
            headers={
                "Authorization": f"Bearer {test_app.service.secrets.token(job.job_id)}",  # type: ignore[arg-type]
                "Content-Type": "image/png",
            },
            content=data,
        )
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def final_job(test_app: ServiceUnderTest, server: PictureServer) -> GenerationRequest:
    """Return the job of a final whose samples are on the server."""
    await test_app.submitted()
    job = await test_app.next_job()
    shown = await report(test_app, ReportKind.SAMPLES, job, samples=served(server, job))
    await test_app.select(shown)
    return await test_app.next_job()


def served(server: PictureServer, job: GenerationRequest, **changed: Any) -> list[dict[str, Any]]:
    """Put four valid samples on the server; `changed` replaces some, such as `two=b""`."""
    samples = []
    for index, (name, sample) in enumerate(
        zip(("zero", "one", "two", "three"), four_samples(job), strict=True)
    ):
        url = server.put(f"/{job.job_id}/{index}.png", changed.get(name, picture(seed=index)))
        samples.append({**sample, "url": url})
    return samples


async def evidence(test_app: ServiceUnderTest, request: GenerationRequest) -> list[dict[str, Any]]:
    """Return the checks recorded in the timeline."""
    return [
        check
        for entry in await test_app.timeline(request)
        for check in (entry["data"] or {}).get("checks", ())
    ]


def test_result_check_default_fetches_every_picture() -> None:
    assert Settings(_env_file=None).result_check == "fetch"  # type: ignore[call-arg]


async def test_result_check_upload_with_false_claims_fails_at_no_cost(
    test_app: ServiceUnderTest, server: PictureServer
) -> None:
    await test_app.submitted()
    job = await test_app.next_job()
    shown = await report(test_app, ReportKind.SAMPLES, job, samples=served(server, job))
    await test_app.select(shown, resolution="4K")
    before = await test_app.balance()
    for attempt in (1, 2, 3):
        job = await test_app.next_job()
        assert job.attempt == attempt
        kept = await uploaded(test_app, job, picture(100, 100))
        claimed = {
            "asset_id": kept["asset_id"],
            "url": kept["url"],
            "resolution": "4096x4096",
            "format": job.file_format,
        }
        found = await report(test_app, ReportKind.FINAL, job, final_asset=claimed)
        test_app.clock.advance(minutes=1)
    assert found.state is State.FAILED
    assert found.failure is not None
    assert found.failure["code"] == "invalid_output"
    await test_app.drain()
    assert await test_app.balance() == before + 200
    assert found.final_asset is None


async def test_result_check_uploaded_final_is_delivered_with_its_real_facts(
    test_app: ServiceUnderTest, server: PictureServer
) -> None:
    job = await final_job(test_app, server)
    data = picture(*FINAL)
    kept = await uploaded(test_app, job, data)
    done = await report(test_app, ReportKind.FINAL, job, final_asset=kept)
    assert done.state is State.COMPLETED
    assert done.final_asset is not None
    assert done.final_asset["checksum"] == f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert (done.final_asset["resolution"], done.final_asset["format"]) == ("1080x1080", "png")


async def test_result_check_upload_damaged_later_is_refused(
    test_app: ServiceUnderTest, server: PictureServer
) -> None:
    job = await final_job(test_app, server)
    kept = await uploaded(test_app, job, picture(*FINAL))
    path = test_app.service.assets.path(kept["url"].rpartition("/")[2])
    assert path is not None
    path.write_bytes(path.read_bytes()[:5000])
    again = await report(test_app, ReportKind.FINAL, job, final_asset=kept)
    assert (again.state, again.attempt) == (State.PENDING, 2)


async def test_result_check_own_url_without_picture_fails_the_attempt(
    test_app: ServiceUnderTest, server: PictureServer
) -> None:
    """The directory may belong to another machine, so the URL is fetched; nothing responds in this
    test.
    """
    job = await final_job(test_app, server)
    own = f"{test_app.service.public_url}/assets/{'0' * 32}.png"
    again = await report(test_app, ReportKind.FINAL, job, final_asset={**a_final(job), "url": own})
    assert (again.state, again.attempt) == (State.PENDING, 2)


async def test_result_check_own_url_on_another_machine_is_fetched(
    make_test_app: Callable[..., ServiceUnderTest], server: PictureServer
) -> None:
    test_app = make_test_app(result_check="fetch", public_url=f"http://127.0.0.1:{server.port}")
    name = f"/assets/{'a' * 32}.png"
    server.put(name, picture())
    await test_app.submitted()
    job = await test_app.next_job()
    samples = [{**four_samples(job)[0], "url": server.url(name)}]
    shown = await report(test_app, ReportKind.SAMPLES, job, samples=samples)
    assert (shown.state, len(shown.samples)) == (State.AWAITING_SELECTION, 1)
    await test_app.check()


WHOLE = picture(*FINAL)
BROKEN: dict[str, tuple[Any, str, str]] = {
    "another size": (picture(1080, 1079), "png", ""),
    "another format": (picture(*FINAL, "jpg"), "png", ""),
    "truncated png": (WHOLE[: len(WHOLE) // 3], "png", "truncated"),
    "png without its last bytes": (WHOLE[:-12], "png", "truncated"),
    "zeroed png": (WHOLE[:60] + bytes(len(WHOLE) - 60), "png", "damaged"),
    "one wrong bit": (WHOLE[:-100] + bytes([WHOLE[-100] ^ 1]) + WHOLE[-99:], "png", "damaged"),
    "truncated jpeg": (picture(*FINAL, "jpg")[:200_000], "jpg", "truncated"),
    "zeroed jpeg": (picture(*FINAL, "jpg")[:200_000] + bytes(300_000), "jpg", "truncated"),
    "truncated webp": (picture(*FINAL, "webp")[:200_000], "webp", "damaged"),
    "animated webp": (animated("webp"), "webp", "animated"),
    "animated png": (animated("png"), "png", "animated"),
    "gif": (animated("gif"), "png", "not_a_picture"),
    "text": (b"<html>not found</html>", "png", "not_a_picture"),
    "nothing": (b"", "png", "not_a_picture"),
    "gone": (404, "png", "http_404"),
    "forbidden": (403, "png", "http_403"),
    "too many pixels": (plain(4200, 4200), "png", "too_many_pixels"),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_result_check_damaged_final_is_retried_and_not_charged(
    test_app: ServiceUnderTest, server: PictureServer, name: str
) -> None:
    content, kind, reason = BROKEN[name]
    await test_app.submitted()
    job = await test_app.next_job()
    shown = await report(test_app, ReportKind.SAMPLES, job, samples=served(server, job))
    await test_app.generations.select_sample(
        shown.id,
        SampleChoice(sample_id=shown.samples[0]["asset_id"], file_format=kind),
        Caller(name="test"),
    )
    job = await test_app.next_job()
    asset = {**a_final(job), "url": server.put("/final", content)}
    again = await report(test_app, ReportKind.FINAL, job, final_asset=asset)
    assert (again.state, again.attempt, again.final_asset) == (State.PENDING, 2, None)
    assert [hold.state.value for hold in again.holds if hold.stage.value == "final"] == ["held"]
    assert [check["reason"] for check in await evidence(test_app, again)] == (
        [reason] if reason else []
    )
    test_app.clock.advance(minutes=1)
    job = await test_app.next_job()
    asset = {**a_final(job), "url": server.put("/good", picture(*FINAL, kind))}
    assert (
        await report(test_app, ReportKind.FINAL, job, final_asset=asset)
    ).state is State.COMPLETED


@pytest.mark.parametrize(
    "claim",
    ["sha256:" + "0" * 64, "sha256:00", "0" * 64, "SHA-256:" + "AAAA", "sha256-" + "A" * 43 + "="],
)
async def test_result_check_wrong_checksum_is_invalid_output(
    test_app: ServiceUnderTest, server: PictureServer, claim: str
) -> None:
    job = await final_job(test_app, server)
    asset = {**a_final(job), "url": server.put("/final", WHOLE), "checksum": claim}
    again = await report(test_app, ReportKind.FINAL, job, final_asset=asset)
    assert (again.state, again.attempt) == (State.PENDING, 2)
    assert [check["reason"] for check in await evidence(test_app, again)] == ["checksum_mismatch"]


@pytest.mark.parametrize(
    "spelt", ["sha256:{hex}", "{hex}", "SHA-256={HEX}", "sha256-{base64}", "md5:123", "etag-1"]
)
async def test_result_check_matching_or_unknown_checksum_is_accepted(
    test_app: ServiceUnderTest, server: PictureServer, spelt: str
) -> None:
    digest = hashlib.sha256(WHOLE)
    claim = spelt.format(
        hex=digest.hexdigest(),
        HEX=digest.hexdigest().upper(),
        base64=base64.b64encode(digest.digest()).decode(),
    )
    job = await final_job(test_app, server)
    asset = {**a_final(job), "url": server.put("/final", WHOLE), "checksum": claim}
    done = await report(test_app, ReportKind.FINAL, job, final_asset=asset)
    assert done.state is State.COMPLETED
    assert done.final_asset is not None
    assert done.final_asset["checksum"] == f"sha256:{digest.hexdigest()}"


async def test_result_check_temporary_error_is_retried(
    test_app: ServiceUnderTest, server: PictureServer
) -> None:
    job = await final_job(test_app, server)
    asset = {**a_final(job), "url": server.put("/final", [503, WHOLE])}
    assert (
        await report(test_app, ReportKind.FINAL, job, final_asset=asset)
    ).state is State.COMPLETED
    assert server.requests["/final"] == 2


async def test_result_check_lasting_error_is_network_error_after_three_attempts(
    test_app: ServiceUnderTest, server: PictureServer
) -> None:
    job = await final_job(test_app, server)
    asset = {**a_final(job), "url": server.put("/final", 503)}
    again = await report(test_app, ReportKind.FINAL, job, final_asset=asset)
    assert (again.state, again.attempt) == (State.PENDING, 2)
    assert server.requests["/final"] == 3
    failed = [
        entry for entry in await test_app.timeline(again) if entry["event"] == "attempt_failed"
    ]
    assert failed[0]["data"]["code"] == "network_error"


async def test_result_check_refused_connection_is_network_error(
    test_app: ServiceUnderTest, server: PictureServer
) -> None:
    job = await final_job(test_app, server)
    async with PictureServer() as gone:
        dead = gone.url("/final")
    again = await report(test_app, ReportKind.FINAL, job, final_asset={**a_final(job), "url": dead})
    assert (again.state, again.attempt) == (State.PENDING, 2)
    assert [check["reason"] for check in await evidence(test_app, again)] == ["unreachable"]


async def test_result_check_trickling_server_times_out_without_delaying_others(
    make_test_app: Callable[..., ServiceUnderTest], server: PictureServer
) -> None:
    test_app = make_test_app(
        result_check="fetch", result_allowed_networks=LOOPBACK, result_timeout=0.5
    )

    async def trickle(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.02)

    await test_app.submitted()
    job = await test_app.next_job()
    samples = served(server, job, one=trickle, two=trickle)
    shown = await asyncio.wait_for(report(test_app, ReportKind.SAMPLES, job, samples=samples), 5)
    assert [sample["index"] for sample in shown.samples] == [0, 3]
    assert [(failed["index"], failed["error_code"]) for failed in shown.sample_failures] == [
        (1, "network_error"),
        (2, "network_error"),
    ]
    await test_app.check()


async def test_result_check_file_over_the_limit_is_aborted(
    make_test_app: Callable[..., ServiceUnderTest], server: PictureServer
) -> None:
    test_app = make_test_app(
        result_check="fetch", result_allowed_networks=LOOPBACK, asset_limit_bytes=100_000
    )
    await test_app.submitted()
    job = await test_app.next_job()
    shown = await report(test_app, ReportKind.SAMPLES, job, samples=served(server, job))
    assert shown.state is State.PENDING
    assert {check["reason"] for check in await evidence(test_app, shown)} == {"too_large"}
    await test_app.check()


async def test_result_check_allowed_redirect_is_followed(
    test_app: ServiceUnderTest, server: PictureServer
) -> None:
    job = await final_job(test_app, server)
    server.put("/real", WHOLE)
    asset = {**a_final(job), "url": server.put("/final", (302, "Location: /real"))}
    assert (
        await report(test_app, ReportKind.FINAL, job, final_asset=asset)
    ).state is State.COMPLETED


async def test_result_check_redirect_loop_fails(
    test_app: ServiceUnderTest, server: PictureServer
) -> None:
    job = await final_job(test_app, server)
    asset = {**a_final(job), "url": server.put("/final", (302, "Location: /final"))}
    again = await report(test_app, ReportKind.FINAL, job, final_asset=asset)
    assert (again.state, again.attempt) == (State.PENDING, 2)
    assert server.requests["/final"] == 4


async def test_result_check_private_network_requires_the_setting(
    make_test_app: Callable[..., ServiceUnderTest], server: PictureServer
) -> None:
    test_app = make_test_app(result_check="fetch")
    await test_app.submitted()
    job = await test_app.next_job()
    found = await report(test_app, ReportKind.SAMPLES, job, samples=served(server, job))
    assert found.state is State.PENDING
    assert {check["reason"] for check in await evidence(test_app, found)} == {"address_refused"}
    assert not server.requests
    await test_app.check()


@pytest.mark.parametrize(
    "location",
    ["http://127.0.0.1:{port}/inside", "//127.0.0.1:{port}/inside", "file:///etc/passwd"],
)
async def test_result_check_redirect_to_loopback_is_refused(
    test_app: ServiceUnderTest,
    server: PictureServer,
    monkeypatch: pytest.MonkeyPatch,
    location: str,
) -> None:
    """A public name whose server redirects to a private address; the test's resolver maps the name
    to the server.
    """
    job = await final_job(test_app, server)
    async with PictureServer() as inside:
        inside.put("/inside", WHOLE)
        port = inside.port
        public = server.put("/final", (302, f"Location: {location.format(port=port)}"))
        rules = test_app.service.settings.model_copy(
            update={"result_allowed_networks": ("127.0.0.2/32",)}
        ).result_rules()

        async def resolve(_host: str, _port: int) -> list[str]:
            return ["127.0.0.2"]

        guarded = SafeHttp(rules, timeout_seconds=5, resolve=resolve)
        monkeypatch.setattr(test_app.service.result_check, "_http", guarded)
        listening = await asyncio.start_server(server.serve, "127.0.0.2", server.port)
        asset = {**a_final(job), "url": public.replace("127.0.0.1", "cdn.example")}
        again = await report(test_app, ReportKind.FINAL, job, final_asset=asset)
        listening.close()
        await guarded.close()
        assert (again.state, again.attempt) == (State.PENDING, 2)
        assert [check["reason"] for check in await evidence(test_app, again)] == ["address_refused"]
        assert server.requests["/final"] == 1
        assert not inside.requests


@pytest.mark.parametrize(
    "url", ["s3://bucket/final.png", "http://169.254.169.254/latest/meta-data", "http://user@h/x"]
)
async def test_result_check_url_not_allowed_is_invalid_output(
    test_app: ServiceUnderTest, server: PictureServer, url: str
) -> None:
    job = await final_job(test_app, server)
    again = await report(test_app, ReportKind.FINAL, job, final_asset={**a_final(job), "url": url})
    assert (again.state, again.attempt) == (State.PENDING, 2)
    assert [check["reason"] for check in await evidence(test_app, again)] == ["address_refused"]


async def test_result_check_valid_samples_among_damaged_ones_are_delivered(
    test_app: ServiceUnderTest, server: PictureServer
) -> None:
    await test_app.submitted()
    job = await test_app.next_job()
    shown = await report(
        test_app,
        ReportKind.SAMPLES,
        job,
        samples=served(server, job, one=404, three=picture(512, 300)),
    )
    assert shown.state is State.AWAITING_SELECTION
    assert [sample["index"] for sample in shown.samples] == [0, 2]
    assert [(failed["index"], failed["error_code"]) for failed in shown.sample_failures] == [
        (1, "invalid_output"),
        (3, "invalid_output"),
    ]
    assert {hold.state.value for hold in shown.holds} <= {"held", "captured"}


async def test_result_check_damaged_sample_without_index_gets_its_position(
    test_app: ServiceUnderTest, server: PictureServer
) -> None:
    await test_app.submitted()
    job = await test_app.next_job()
    samples = [
        {name: value for name, value in sample.items() if name != "index"}
        for sample in served(server, job, zero=404)
    ]
    shown = await report(test_app, ReportKind.SAMPLES, job, samples=samples)
    assert [(sample["index"], sample["asset_id"]) for sample in shown.samples] == [
        (at, samples[at]["asset_id"]) for at in (1, 2, 3)
    ]
    assert [failed["index"] for failed in shown.sample_failures] == [0]


async def test_result_check_no_valid_sample_retries_and_costs_nothing(
    test_app: ServiceUnderTest, server: PictureServer
) -> None:
    request = await test_app.submitted()
    before = await test_app.balance()
    for _ in range(3):
        job = await test_app.next_job()
        found = await report(
            test_app,
            ReportKind.SAMPLES,
            job,
            samples=served(server, job, zero=404, one=404, two=404, three=404),
        )
        test_app.clock.advance(minutes=1)
    assert found.state is State.FAILED
    await test_app.drain()
    assert await test_app.balance() == before + 25
    assert (await test_app.look(request)).samples == ()


async def test_result_check_missing_samples_are_listed_as_failed(
    test_app: ServiceUnderTest, server: PictureServer
) -> None:
    await test_app.submitted()
    job = await test_app.next_job()
    shown = await report(test_app, ReportKind.SAMPLES, job, samples=served(server, job)[:2])
    assert shown.state is State.AWAITING_SELECTION
    assert [(failed["index"], failed["error_code"]) for failed in shown.sample_failures] == [
        (2, "invalid_output"),
        (3, "invalid_output"),
    ]


async def test_result_check_repeated_sample_fails(
    test_app: ServiceUnderTest, server: PictureServer
) -> None:
    await test_app.submitted()
    job = await test_app.next_job()
    shown = await report(
        test_app, ReportKind.SAMPLES, job, samples=served(server, job, two=picture(seed=1))
    )
    assert [sample["index"] for sample in shown.samples] == [0, 1, 3]
    assert [failed["index"] for failed in shown.sample_failures] == [2]
    assert await evidence(test_app, shown) == [{"index": 2, "reason": "repeated"}]


async def test_result_check_progress_shows_only_valid_samples(
    test_app: ServiceUnderTest, server: PictureServer
) -> None:
    await test_app.submitted()
    job = await test_app.next_job()
    samples = served(server, job, one=404)
    half = await report(test_app, ReportKind.PROGRESS, job, percent=50, samples=samples[:2])
    assert [sample["index"] for sample in half.samples] == [0]
    await report(test_app, ReportKind.SAMPLES, job, samples=samples)
    assert server.requests[samples[0]["url"].partition(str(server.port))[2]] == 1


async def test_result_check_repeated_result_is_not_fetched_again(
    test_app: ServiceUnderTest, server: PictureServer
) -> None:
    await test_app.submitted()
    job = await test_app.next_job()
    samples = served(server, job)
    first, second = await asyncio.gather(
        *(report(test_app, ReportKind.SAMPLES, job, samples=samples) for _ in range(2))
    )
    third = await report(test_app, ReportKind.SAMPLES, job, samples=samples)
    assert first.version == second.version == third.version
    assert set(server.requests.values()) == {1}


async def test_result_check_unexpected_result_is_refused_before_fetching(
    test_app: ServiceUnderTest, server: PictureServer
) -> None:
    request = await test_app.submitted()
    job = await test_app.next_job()
    await test_app.fail(job, "model_timeout")
    with pytest.raises(errors.StaleResultError):
        await report(test_app, ReportKind.SAMPLES, job, samples=served(server, job))
    test_app.clock.advance(minutes=1)
    job = await test_app.next_job()
    with pytest.raises(errors.InvalidRequestError):
        await report(
            test_app,
            ReportKind.FINAL,
            job,
            final_asset={**a_final(job), "resolution": "1x1", "url": server.put("/f", WHOLE)},
        )
    await test_app.cancel(request)
    with pytest.raises(errors.StaleResultError):
        await report(test_app, ReportKind.SAMPLES, job, samples=served(server, job))
    assert not server.requests
    assert (await test_app.events(request)).count("stale_result") == 2


async def test_result_check_request_cancelled_during_the_fetch_stays_cancelled(
    test_app: ServiceUnderTest, server: PictureServer
) -> None:
    request = await test_app.submitted()
    job = await test_app.next_job()
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def slow(writer: asyncio.StreamWriter) -> None:
        asked.set()
        await go_on.wait()
        await server._answer(picture(seed=9), writer)  # noqa: SLF001 - later, as it is

    reporting = asyncio.create_task(
        report(test_app, ReportKind.SAMPLES, job, samples=served(server, job, one=slow))
    )
    await asyncio.wait_for(asked.wait(), 5)
    await test_app.cancel(request)
    go_on.set()
    with pytest.raises(errors.StaleResultError):
        await reporting
    assert (await test_app.look(request)).state is State.CANCELLED


async def test_result_check_stored_checks_only_uploads(
    make_test_app: Callable[..., ServiceUnderTest],
) -> None:
    test_app = make_test_app(result_check="stored")
    await test_app.submitted()
    job = await test_app.next_job()
    kept = await uploaded(test_app, job, picture(300, 100))
    samples = [*four_samples(job)[:3], {**kept, "resolution": "512x512", "index": 3}]
    shown = await report(test_app, ReportKind.SAMPLES, job, samples=samples)
    assert [sample["index"] for sample in shown.samples] == [0, 1, 2]
    await test_app.check()


async def test_result_check_rotated_picture_counts_as_displayed(
    test_app: ServiceUnderTest, server: PictureServer
) -> None:
    await test_app.submitted(output_format="TikTok_9x16")
    job = await test_app.next_job()
    turned = Image.Exif()
    turned[0x0112] = 6
    stream = io.BytesIO()
    Image.new("RGB", (512, 288), "teal").save(stream, "JPEG", exif=turned)
    sample = {
        **four_samples(job)[0],
        "url": server.put("/turned", stream.getvalue()),
        "format": "jpg",
    }
    shown = await report(test_app, ReportKind.SAMPLES, job, samples=[sample])
    assert shown.samples[0]["resolution"] == "288x512"


@pytest.mark.parametrize("ended", ["delivered", "cancelled", "replaced"])
async def test_upload_after_the_end_of_the_job_is_refused(
    test_app: ServiceUnderTest, ended: str
) -> None:
    request = await test_app.submitted()
    job = await test_app.next_job()
    await uploaded(test_app, job, picture(64, 64))
    match ended:
        case "delivered":
            await test_app.deliver(job)
        case "cancelled":
            await test_app.cancel(request)
        case _:
            await test_app.fail(job)
    async with calling(test_app) as client:
        answer = await client.post(
            "/api/v1/n8n-callbacks/assets",
            params={"job_id": str(job.job_id)},
            headers={
                "Authorization": f"Bearer {test_app.service.secrets.token(job.job_id)}",  # type: ignore[arg-type]
                "Content-Type": "image/png",
            },
            content=picture(64, 64),
        )
    assert (answer.status_code, answer.json()["code"]) == (409, "stale_result")
