"""The request cache saves reads and never causes a decision on an outdated request."""

import asyncio

import pytest

from creativeflow.services.aigeneration.application.generations import Caller
from creativeflow.services.aigeneration.domain import errors
from creativeflow.services.aigeneration.domain.commands import SampleChoice
from creativeflow.services.aigeneration.domain.lifecycle import State
from tests.support.app import ServiceUnderTest


class Looks:
    """Counts how often a request is loaded."""

    def __init__(self, test_app: ServiceUnderTest, monkeypatch) -> None:
        self.count = 0
        load = test_app.service.store.load

        async def counted(request_id):
            self.count += 1
            return await load(request_id)

        monkeypatch.setattr(test_app.service.store, "load", counted)


async def test_request_cache_reports_of_a_job_cause_no_reads(
    test_app: ServiceUnderTest, monkeypatch
) -> None:
    await test_app.submitted()
    job = await test_app.next_job()
    looks = Looks(test_app, monkeypatch)
    await test_app.service.jobs.work_started(job.id, job.job_id)
    shown = await test_app.deliver(job)
    assert shown.state is State.AWAITING_SELECTION
    assert looks.count == 0


async def test_request_cache_outdated_entry_is_reloaded(make_test_app) -> None:
    ours, theirs = make_test_app(), make_test_app()
    request = await ours.submitted()
    job = await ours.next_job()
    await theirs.service.generations.cancel(request.id, Caller(name="user"))
    with pytest.raises(errors.StaleResultError):
        await ours.deliver(job)
    assert (await ours.look(request)).state is State.CANCELLED
    await ours.drain()
    await ours.check()


async def test_request_cache_refusal_is_decided_on_the_current_request(make_test_app) -> None:
    ours, theirs = make_test_app(), make_test_app()
    request = await ours.with_samples()
    theirs_now = await theirs.look(request)
    await theirs.regenerate(theirs_now)
    job = await theirs.next_job()
    await theirs.deliver(job)
    stale = (await ours.look(request)).samples[0]["asset_id"]
    chosen = await ours.service.generations.select_sample(
        request.id, SampleChoice(sample_id=stale), Caller(name="user")
    )
    assert chosen.request is not None
    assert chosen.request.round == 2


async def test_request_cache_request_of_another_user_is_not_found(
    test_app: ServiceUnderTest,
) -> None:
    request = await test_app.with_samples("owner")
    with pytest.raises(errors.NotFoundError):
        await test_app.service.generations.cancel(request.id, Caller(name="thief", user_id="thief"))


async def test_request_cache_concurrent_transitions_of_two_processes_apply_once(
    make_test_app,
) -> None:
    ours, theirs = make_test_app(), make_test_app()
    request = await ours.with_samples()
    sample = request.samples[0]["asset_id"]
    tried = await asyncio.gather(
        *(
            test_app.service.generations.select_sample(
                request.id, SampleChoice(sample_id=sample), Caller(name="user")
            )
            for test_app in (ours, theirs) * 10
        ),
        return_exceptions=True,
    )
    assert not [found for found in tried if isinstance(found, BaseException)]
    assert (await ours.events(request)).count("sample_selected") == 1
