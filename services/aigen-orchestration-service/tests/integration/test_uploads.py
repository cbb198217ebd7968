"""Uploads of workers and users: limited in memory, time, number and bytes; decoding never blocks
the event loop.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import httpx
import pytest

from creativeflow.services.aigeneration.adapters.asset_files import AssetStore
from creativeflow.services.aigeneration.adapters.images import inspection
from creativeflow.services.aigeneration.adapters.images.inspection import (
    PictureDecoder,
    PictureRefusedError,
)
from creativeflow.services.aigeneration.adapters.upload_quotas import (
    UploadLog,
    job_uploader,
    user_uploader,
)
from creativeflow.services.aigeneration.app import create_app
from creativeflow.services.aigeneration.domain import errors
from tests.support.app import ServiceUnderTest
from tests.support.picture_server import picture, plain


@pytest.fixture
async def decoder() -> AsyncIterator[PictureDecoder]:
    """A decoder process."""
    made = PictureDecoder()
    yield made
    await made.close()


@pytest.fixture
def store(tmp_path: Path, decoder: PictureDecoder) -> AssetStore:
    """A store of pictures."""
    return AssetStore(tmp_path / "assets", public_url="http://aigen.example", decoder=decoder)


def stored(store_path: Path) -> list[str]:
    """Return the stored pictures, without the files beside them."""
    return sorted(
        path.name
        for path in store_path.iterdir()
        if path.suffix in {".png", ".jpg", ".webp", ".part"}
    )


def peak_megabytes(process_id: int) -> int:
    """Return the peak memory of a process."""
    status = Path(f"/proc/{process_id}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024


def environment(process_id: int) -> bytes:
    """Return the environment of a process."""
    return Path(f"/proc/{process_id}/environ").read_bytes()


async def test_save_reference_of_64_megapixels_is_refused_in_little_memory(
    store: AssetStore, decoder: PictureDecoder
) -> None:
    data = plain(8000, 8000, "webp", mode="RGBA", quality=40, method=0)
    assert len(data) < 300_000
    before = peak_megabytes(os.getpid())
    with pytest.raises(errors.InvalidRequestError) as refused:
        await store.save_reference(data)
    assert refused.value.errors[0]["code"] == "too_many_pixels"
    assert "Make the picture smaller" in refused.value.errors[0]["message"]
    assert peak_megabytes(os.getpid()) - before < 100
    assert decoder._process is not None  # noqa: SLF001 - the memory of the process is what is looked at
    assert peak_megabytes(decoder._process.pid) < 150  # noqa: SLF001


@pytest.mark.parametrize(
    ("kind", "size"), [("webp", (4096, 4096)), ("png", (4096, 4096)), ("jpg", (8192, 6144))]
)
async def test_save_reference_of_the_largest_size_stays_within_the_memory_of_the_decoder(
    store: AssetStore, decoder: PictureDecoder, kind: str, size: tuple[int, int]
) -> None:
    mode = "RGB" if kind == "jpg" else "RGBA"
    options = {"progressive": True, "subsampling": 0} if kind == "jpg" else {}
    data = await asyncio.to_thread(plain, *size, kind, mode, **options)
    before = peak_megabytes(os.getpid())
    kept = await store.save_reference(data)
    assert kept["resolution"] in {"2048x2048", "2048x1536"}
    assert peak_megabytes(os.getpid()) - before < 50
    assert decoder._process is not None  # noqa: SLF001
    assert peak_megabytes(decoder._process.pid) < 450  # noqa: SLF001


async def test_save_of_a_large_picture_holds_the_event_loop_for_10_ms_at_most(
    store: AssetStore, decoder: PictureDecoder
) -> None:
    data = await asyncio.to_thread(plain, 4096, 4096, "webp", "RGBA", quality=40, method=0)

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(data), 65_536):
            yield data[at : at + 65_536]

    await store.save(picture(64, 64))  # the process is running
    saving = asyncio.create_task(store.save(pieces()))
    holds = []
    while not saving.done():
        began = (
            time.thread_time()
        )  # CPU time of this thread; other processes may use the core meanwhile
        await asyncio.sleep(0)
        holds.append(time.thread_time() - began)
    await saving
    assert max(holds) < 0.010


async def test_decoder_that_ends_is_replaced(store: AssetStore, decoder: PictureDecoder) -> None:
    await store.save(picture(64, 64))
    assert decoder._process is not None  # noqa: SLF001
    decoder._process.kill()  # noqa: SLF001 - as the system does when memory is short
    decoder._process.wait()  # noqa: SLF001
    assert (await store.save(picture(64, 64)))["resolution"] == "64x64"


async def test_decoder_that_hangs_is_ended_and_the_picture_refused(tmp_path: Path) -> None:
    pipe = tmp_path / "never.part"
    os.mkfifo(pipe)  # reading blocks for ever
    decoder = PictureDecoder(timeout_seconds=1.0)
    with pytest.raises(PictureRefusedError) as refused:
        await decoder.inspect(pipe)
    assert refused.value.reason == "too_slow"
    whole = tmp_path / "whole.part"
    whole.write_bytes(picture(64, 64))
    assert (await decoder.inspect(whole)).width == 64
    await decoder.close()


async def test_decoder_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    (tmp_path / "a.part").write_bytes(picture(64, 64))
    script = f"""
import asyncio, os, signal
from pathlib import Path
from {inspection.__name__} import PictureDecoder
decoder = PictureDecoder()
asyncio.run(decoder.inspect(Path({str(tmp_path / "a.part")!r})))
print(decoder._process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    child = int(output)
    async with asyncio.timeout(10):
        while _alive(child):
            await asyncio.sleep(0.02)


def _alive(process_id: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{process_id}/stat").read_text()
    except FileNotFoundError:
        return False


async def test_decoder_environment_has_no_secret(
    store: AssetStore, decoder: PictureDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIGEN_CALLBACK_SECRET", "must-not-be-seen")
    await store.save(picture(64, 64))
    assert decoder._process is not None  # noqa: SLF001
    assert b"must-not-be-seen" not in environment(decoder._process.pid)  # noqa: SLF001


@pytest.mark.parametrize(
    "data", [b"", b"text", picture(64, 64)[:100], plain(64, 64, "GIF"), plain(4097, 64)]
)
async def test_save_not_a_picture_leaves_no_file(
    store: AssetStore, tmp_path: Path, data: bytes
) -> None:
    with pytest.raises(errors.InvalidRequestError):
        await store.save(data)
    assert stored(tmp_path / "assets") == []


async def test_save_interrupted_upload_leaves_no_file(store: AssetStore, tmp_path: Path) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield picture(64, 64)[:100]
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await store.save(broken())
    assert stored(tmp_path / "assets") == []


async def test_facts_missing_are_determined_again(store: AssetStore, tmp_path: Path) -> None:
    """Pictures stored before facts existed, or copied without them."""
    kept = await store.save(picture(64, 48))
    name = kept["url"].rpartition("/")[2]
    (beside,) = (tmp_path / "assets").glob("*.json")
    beside.unlink()
    assert (await store.facts(name)).resolution == "64x48"
    assert json.loads(beside.read_text())["width"] == 64


async def test_tidy_removes_only_interrupted_uploads(store: AssetStore, tmp_path: Path) -> None:
    kept = await store.save(picture(64, 64))
    old, new = tmp_path / "assets" / "old.part", tmp_path / "assets" / "new.part"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 100_000,) * 2)
    await store.tidy()
    assert stored(tmp_path / "assets") == sorted([kept["url"].rpartition("/")[2], "new.part"])


# Quotas


async def test_save_beyond_the_number_of_a_user_is_refused_before_the_body_is_read(
    store: AssetStore,
) -> None:
    ada = user_uploader("ada", pictures_max=2, bytes_max=10**9, days=30)
    for seed in range(2):
        await store.save_reference(picture(64, 64, seed=seed), ada)
    read = False

    async def body() -> AsyncIterator[bytes]:
        nonlocal read
        read = True
        yield picture(64, 64)

    with pytest.raises(errors.UploadQuotaError) as refused:
        await store.save_reference(body(), ada)
    assert not read
    assert refused.value.retry_after_seconds is not None
    assert 29 * 86_400 < refused.value.retry_after_seconds <= 30 * 86_400 + 1
    await store.save_reference(
        picture(64, 64), user_uploader("eve", pictures_max=2, bytes_max=10**9, days=30)
    )


async def test_save_beyond_the_bytes_of_a_user_is_refused_and_leaves_nothing(
    store: AssetStore, tmp_path: Path
) -> None:
    ada = user_uploader("ada", pictures_max=100, bytes_max=20_000, days=30)
    await store.save_reference(picture(64, 64), ada)
    before = stored(tmp_path / "assets")
    with pytest.raises(errors.UploadQuotaError):
        await store.save_reference(picture(64, 64, seed=1), ada)
    assert stored(tmp_path / "assets") == before


async def test_quota_deleted_and_old_pictures_do_not_count(tmp_path: Path) -> None:
    there = {"a", "b", "c"}
    at = 1_000_000.0
    log = UploadLog(tmp_path / "uploads", stored=there.__contains__, now=lambda: at)
    ada = user_uploader("ada", pictures_max=2, bytes_max=10**9, days=1)
    log.record(ada, "a", 10)
    log.record(ada, "b", 10)
    with pytest.raises(errors.UploadQuotaError):
        log.check(ada)
    there.discard("a")
    log.check(ada)
    there.add("a")
    at += 86_401
    log.check(ada)


async def test_uploads_concurrent_never_exceed_the_quota(store: AssetStore, tmp_path: Path) -> None:
    ada = user_uploader("ada", pictures_max=3, bytes_max=10**9, days=30)
    found = await asyncio.gather(
        *(store.save_reference(picture(64, 64, seed=seed), ada) for seed in range(8)),
        return_exceptions=True,
    )
    refused = [one for one in found if isinstance(one, errors.UploadQuotaError)]
    assert (len(refused), len(stored(tmp_path / "assets"))) == (5, 3)


async def test_upload_file_names_do_not_contain_the_user_id(
    store: AssetStore, tmp_path: Path
) -> None:
    await store.save_reference(
        picture(64, 64), user_uploader("ada", pictures_max=3, bytes_max=10**9, days=30)
    )
    assert not [path for path in (tmp_path / "assets").rglob("*") if "ada" in path.name]


async def test_save_beyond_the_uploads_of_a_job_is_refused(store: AssetStore) -> None:
    job = job_uploader("job-1", pictures_max=1, bytes_max=10**9)
    await store.save(picture(64, 64), job)
    with pytest.raises(errors.JobUploadsError):
        await store.save(picture(64, 64, seed=1), job)


async def test_upload_over_http_is_counted_for_its_job_and_ends_with_its_time(
    test_app: ServiceUnderTest,
) -> None:
    await test_app.submitted()
    job = await test_app.next_job()
    assert job.job_id is not None
    app = create_app(service=test_app.service)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://a") as client,
    ):

        async def upload(job_id: UUID, token: str, data: bytes) -> httpx.Response:
            headers = {"Authorization": f"Bearer {token}", "Content-Type": "image/png"}
            address = f"/api/v1/n8n-callbacks/assets?job_id={job_id}"
            return await client.post(address, content=data, headers=headers)

        token = test_app.service.secrets.token(job.job_id)
        for seed in range(32):
            assert (await upload(job.job_id, token, picture(64, 64, seed=seed))).status_code == 201
        refused = await upload(job.job_id, token, picture(64, 64))
        assert (refused.status_code, refused.json()["code"]) == (413, "job_uploads")
        assert (await upload(job.job_id, "x", picture(64, 64))).status_code == 401
        test_app.clock.advance(hours=3)
        late = await upload(job.job_id, token, picture(64, 64))
        assert (late.status_code, late.json()["code"]) == (409, "stale_result")
    await test_app.sweep()
