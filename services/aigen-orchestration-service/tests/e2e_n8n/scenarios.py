"""The scenarios on a real n8n; each function's docstring is its title in the table."""

import asyncio
from collections.abc import Awaitable, Callable

from tests.e2e_n8n import broker, pictures, workflows
from tests.e2e_n8n.run import Found, Run
from tests.e2e_n8n.system import CHOOSING, Shown

Scenario = Callable[[Run, Found], Awaitable[None]]

_FORMATS = (
    ("InstagramPost_1x1", None, "png", "1080x1080 png"),
    ("InstagramStory_9x16", None, "jpg", "1080x1920 jpg"),
    ("LinkedInPost", None, "webp", "1200x627 webp"),
    ("YouTubeThumbnail_16x9", "FHD", "jpg", "1920x1080 jpg"),
    ("PinterestPin_2x3", "1000x1500", "png", "1000x1500 png"),
    ("InstagramPost_1x1", "2048x2048", "webp", "2048x2048 webp"),
    ("XPost", "4K", "png", "4096x2304 png"),
    ("FacebookPost", "HD", "jpg", "1280x672 jpg"),
)


async def lifecycles(run: Run, found: Found) -> None:
    """Whole lifecycles in every format; the pictures are decoded and measured"""
    user = await run.system.user()
    wanted = [
        _FORMATS[number % len(_FORMATS)] for number in range(max(run.count(40), len(_FORMATS)))
    ]
    living = [
        run.system.live(
            user,
            f"a lighthouse, number {number}",
            output_format=form,
            desired_resolution=size,
            final_format=kind,
        )
        for number, (form, size, kind, _) in enumerate(wanted)
    ]
    ended = await run.smoothly(found, user, living)
    for shown, (_, _, _, final) in zip(ended, wanted, strict=True):
        found.violations += await pictures.faults(run.system.client, shown, samples=4, final=final)
    free = await run.system.user("free")
    marked = await run.smoothly(
        found, free, [run.system.live(free, "for nothing", final_format="jpg")]
    )
    for shown in marked:
        found.violations += await pictures.faults(
            run.system.client, shown, samples=4, final="1080x1080 jpg"
        )
    found.notes.append(f"{5 * found.ended} pictures measured")


async def regenerate(run: Run, found: Found) -> None:
    """A second set of samples, then the final: different pictures, each set paid"""
    user = await run.system.user()

    async def one() -> Shown:
        request_id = await run.system.create(user)
        first = await run.system.until(request_id, CHOOSING, seconds=120)
        await run.system.act(request_id, "regenerate-samples", updated_prompt="a windmill")
        second = await run.system.until(request_id, CHOOSING, seconds=120)
        before, after = (
            {each["asset_id"] for each in shown["samples"]} for shown in (first, second)
        )
        found.expect(
            second["round"] == 2 and not before & after,
            f"{request_id}: the second round shows the first",
        )
        await run.system.select(second)
        return await run.system.until(request_id, seconds=120)

    await run.smoothly(found, user, [one() for _ in range(run.count(10))])


async def partial(run: Run, found: Found) -> None:
    """Two of four samples fail: the valid ones are shown and selectable"""
    user = await run.system.user()
    ended = await run.smoothly(
        found, user, [run.system.live(user, "half [[partial]]") for _ in range(run.count(10))]
    )
    for shown in ended:
        failed = {failure["index"] for failure in shown["sample_failures"]}
        found.expect(failed == {1, 3}, f"{shown['id']}: failures are {failed}")
        found.violations += await pictures.faults(
            run.system.client, shown, samples=2, final="1080x1080 png"
        )


async def transient(run: Run, found: Found) -> None:
    """The first attempt fails, the second succeeds"""
    user = await run.system.user()
    ended = await run.completed(
        found, user, [run.system.live(user, "again [[transient]]") for _ in range(run.count(10))]
    )
    for shown in ended:
        attempts = [
            e["data"].get("code")
            for e in await run.system.events(shown["id"])
            if e["event"] == "attempt_failed"
        ]
        found.expect(len(attempts) >= 1, f"{shown['id']}: no attempt failed")


async def provider_down(run: Run, found: Found) -> None:
    """An OpenAI-compatible provider is down: further attempts, the last on the fallback model"""
    user = await run.system.user()
    run.provider.mood = "down"
    try:
        living = [run.system.live(user, model="remote") for _ in range(run.count(5))]
        ended = await run.completed(found, user, living)
    finally:
        run.provider.mood = "well"
    for shown in ended:
        found.expect(
            "stub/" in (shown["ai_model_used"] or ""),
            f"{shown['id']} was made by {shown['ai_model_used']}",
        )
    gone = [run.system.live(user, "no way [[down]]") for _ in range(2)]
    for shown in await run.all_end(found, user, gone):
        found.expect(shown["status"] == "FAILED", f"{shown['id']} is {shown['status']}")
        found.expect(
            (shown["failure"] or {}).get("code") == "model_unavailable",
            f"{shown['id']}: {shown['failure']}",
        )
    found.notes.append("2 with every model down: FAILED, nothing charged")


async def providers(run: Run, found: Found) -> None:
    """The OpenAI-compatible and the Stability workflow against an endpoint with their API"""
    user = await run.system.user()
    made: dict[str, list[Shown]] = {}
    for model, mood in (("remote", "well"), ("remote", "by_url"), ("stability", "well")):
        run.provider.mood = mood
        living = [
            run.system.live(user, model=model, output_format="LinkedInPost", final_format="jpg")
        ]
        made[f"{model} {mood}"] = await run.smoothly(found, user, living)
    run.provider.mood = "well"
    for case, shown in [(case, each) for case, several in made.items() for each in several]:
        wrong = await pictures.faults(run.system.client, shown, samples=4, final="1200x627 jpg")
        found.violations += [
            fault for fault in wrong if "by_url" not in case or "same picture" not in fault
        ]
        found.expect(
            "stub/" not in (shown["ai_model_used"] or ""),
            f"{case} was made by {shown['ai_model_used']}",
        )
    run.provider.mood = "busy"
    await run.completed(found, user, [run.system.live(user, model="stability")])
    run.provider.mood = "refusing"
    refused = await run.all_end(found, user, [run.system.live(user, model="remote")])
    run.provider.mood = "well"
    found.expect(
        [s["status"] for s in refused] == ["CONTENT_REJECTED"],
        f"refused: {[s['status'] for s in refused]}",
    )
    await run.completed(found, user, [run.system.live(user, model="unknown")])
    found.notes.append(
        "also: answers by address, 429, a refused prompt, a provider without a workflow"
    )


async def unsafe(run: Run, found: Found) -> None:
    """One sample, then all of them, do not pass moderation"""
    user = await run.system.user()
    one = await run.smoothly(
        found, user, [run.system.live(user, "hm [[unsafe 2]]") for _ in range(run.count(5))]
    )
    for shown in one:
        codes = {failure["index"]: failure["error_code"] for failure in shown["sample_failures"]}
        found.expect(codes == {2: "unsafe_output"}, f"{shown['id']}: {codes}")
    for way in ("markers", "openai"):
        await run.settings(moderation=way)
        for shown in await run.all_end(
            found, user, [run.system.live(user, "oh [[unsafe]]") for _ in range(2)]
        ):
            code = (shown["failure"] or {}).get("code")
            found.expect(
                code == "unsafe_output", f"{shown['id']} by {way}: {shown['status']} {code}"
            )
        await run.smoothly(found, user, [run.system.live(user, f"harmless, by {way}")])
    await run.settings(moderation="markers")
    found.notes.append("by markers and by a moderation endpoint")


async def garbage(run: Run, found: Found) -> None:
    """Invalid messages, 25 on each queue, must not block valid ones"""
    user = await run.system.user()
    bodies = [b"", b"{", b"\xff\xfe\x00", b"[]", b'{"job_id": 1}']
    for queue in ("SAMPLES", "FINAL"):
        for number in range(25):
            await asyncio.to_thread(
                broker.publish, run.names[f"AIGEN_RABBITMQ_{queue}_QUEUE"], bodies[number % 5]
            )
    await run.smoothly(
        found, user, [run.system.live(user, seconds=120) for _ in range(run.count(5))]
    )
    found.expect(
        await asyncio.to_thread(broker.waiting, run.names) == 0,
        "messages are left in the job queues",
    )
    found.notes.append("50 messages; all taken off the queues")


async def twice(run: Run, found: Found) -> None:
    """Every job is delivered twice"""
    user = await run.system.user()
    tap = await asyncio.to_thread(broker.Tap, run.names)
    copied = 0
    living = [
        asyncio.ensure_future(run.system.live(user, "double [[slow]]"))
        for _ in range(run.count(10))
    ]
    queues = {"ai.generation.request": "SAMPLES", "ai.generation.final": "FINAL"}
    while not all(each.done() for each in living):
        for key, body in await asyncio.to_thread(tap.jobs):
            await asyncio.to_thread(
                broker.publish, run.names[f"AIGEN_RABBITMQ_{queues[key]}_QUEUE"], body
            )
            copied += 1
        await asyncio.sleep(0.2)
    await asyncio.to_thread(tap.close)
    ended = await run.smoothly(found, user, [_done(each) for each in living])
    for shown in ended:
        delivered = [
            e
            for e in await run.system.events(shown["id"])
            if e["event"] in {"samples_delivered", "final_delivered"}
        ]
        found.expect(len(delivered) == 2, f"{shown['id']}: delivered {len(delivered)} times")
    found.notes.append(f"{copied} jobs copied")


async def cancelled(run: Run, found: Found) -> None:
    """Cancelled while n8n draws: it gets 409 and stops half way"""
    user = await run.system.user()

    async def one() -> Shown:
        request_id = await run.system.create(user, "never mind [[slow]]")
        await run.system.until(request_id, "PROCESSING_SAMPLES", seconds=60)
        await run.system.act(request_id, "cancel")
        return await run.system.look(request_id)

    ended = await run.all_end(found, user, [one() for _ in range(run.count(5))])
    await asyncio.sleep(12)  # longer than four slow pictures take
    for shown in ended:
        found.expect(shown["status"] == "CANCELLED", f"{shown['id']} is {shown['status']}")
        late = [
            e["data"].get("kind")
            for e in await run.system.events(shown["id"])
            if e["event"] == "stale_result"
        ]
        found.expect(
            bool(late) and "sample-result" not in late,
            f"{shown['id']}: n8n reported {late} afterwards",
        )
    found.notes.append("one report of each was refused afterwards, no result was sent")


async def ways_back(run: Run, found: Found) -> None:
    """Results by signed HTTP and by RabbitMQ instead of the bearer token"""
    user = await run.system.user()
    for way in ("signature", "rabbitmq"):
        await run.settings(report_by=way)
        living = [
            run.system.live(user, f"{way}: ein Möwenflug über Föhr, 鷗")
            for _ in range(run.count(5))
        ]
        for shown in await run.smoothly(found, user, living):
            found.violations += await pictures.faults(
                run.system.client, shown, samples=4, final="1080x1080 png"
            )
        for shown in await run.all_end(found, user, [run.system.live(user, f"{way} [[rejected]]")]):
            found.expect(
                shown["status"] == "CONTENT_REJECTED",
                f"{shown['id']} by {way} is {shown['status']}",
            )
    await run.settings(report_by="http")


async def stored_in_s3(run: Run, found: Found) -> None:
    """Pictures go to S3-compatible storage instead of the service"""
    user = await run.system.user()
    await run.settings(
        store="s3", s3_bucket="pictures", s3_public_url=f"{run.provider.url}/pictures"
    )
    living = [run.system.live(user, "far away", final_format="jpg") for _ in range(2)]
    for shown in await run.smoothly(found, user, living):
        found.violations += await pictures.faults(
            run.system.client, shown, samples=4, final="1080x1080 jpg"
        )
        found.expect(
            shown["final_asset"]["url"].startswith(run.provider.url),
            f"{shown['id']} lies elsewhere",
        )
    await run.settings(store="service")
    found.expect(len(run.provider.kept) == 10, f"{len(run.provider.kept)} pictures were stored")


async def last_resort(run: Run, found: Found) -> None:
    """No report can be sent at all: the error workflow reports, signed, long before the deadline"""
    user = await run.system.user()
    await run.settings(report_by="a way that is not there")
    began = asyncio.get_running_loop().time()
    for shown in await run.all_end(found, user, [run.system.live(user) for _ in range(2)]):
        code = (shown["failure"] or {}).get("code")
        found.expect(code == "workflow_error", f"{shown['id']} is {shown['status']}: {code}")
    seconds = asyncio.get_running_loop().time() - began
    found.expect(seconds < 60, f"it took {seconds:.0f} s: the deadline ended it, not a report")
    await run.settings(report_by="http")
    found.notes.append(f"three attempts in {seconds:.0f} s")


async def republished(run: Run, found: Found) -> None:
    """The workflows are saved and published repeatedly while they work"""
    user = await run.system.user()
    living = [asyncio.ensure_future(run.system.live(user, "busy")) for _ in range(run.count(20))]
    times = 0
    while not all(each.done() for each in living):
        for which in (workflows.SAMPLES, workflows.FINAL, "aigenPicture"):
            await run.n8n.change(which, lambda workflow: workflow)
            times += 1
            await asyncio.sleep(1)
    await run.smoothly(found, user, [_done(each) for each in living])
    found.expect(await asyncio.to_thread(run.listening), "the triggers do not listen any more")
    found.notes.append(f"published {times} times")


async def killed(run: Run, found: Found) -> None:
    """n8n is killed during the work and started again"""
    user = await run.system.user()
    living = [
        asyncio.ensure_future(run.system.live(user, "brave [[slow]]")) for _ in range(run.count(20))
    ]
    await asyncio.sleep(6)
    await asyncio.to_thread(run.n8n.kill)
    seconds = await run.n8n.start(run.listening)
    await run.completed(found, user, [_done(each) for each in living])
    found.notes.append(f"listening again after {seconds:.0f} s")


async def stopped(run: Run, found: Found) -> None:
    """n8n is stopped for two minutes while requests arrive"""
    user = await run.system.user()
    living = [
        asyncio.ensure_future(run.system.live(user, "patient", seconds=400))
        for _ in range(run.count(10))
    ]
    await asyncio.sleep(1)
    await asyncio.to_thread(run.n8n.stop)
    pause = 20 if run.quick else 120
    for _ in range(run.count(10)):
        living.append(asyncio.ensure_future(run.system.live(user, "patient", seconds=400)))
        await asyncio.sleep(pause / run.count(10))
    await run.n8n.start(run.listening)
    await run.completed(found, user, [_done(each) for each in living])
    found.notes.append(f"stopped for {pause} s")


async def broker_restarted(run: Run, found: Found) -> None:
    """RabbitMQ is restarted while jobs and results are in flight"""
    if reason := broker.cannot_restart():
        found.violations.append(reason)
        return
    user = await run.system.user()
    living = [
        asyncio.ensure_future(run.system.live(user, "steady [[slow]]", seconds=400))
        for _ in range(run.count(20))
    ]
    await asyncio.sleep(5)
    await asyncio.to_thread(broker.restart, seconds=5)
    await run.completed(found, user, [_done(each) for each in living])
    found.expect(await asyncio.to_thread(run.listening), "the triggers do not listen any more")


async def _done(future: "asyncio.Future[Shown]") -> Shown:
    return await future


SCENARIOS: dict[str, Scenario] = {
    each.__name__: each
    for each in (
        lifecycles,
        regenerate,
        partial,
        transient,
        provider_down,
        providers,
        unsafe,
        garbage,
        twice,
        cancelled,
        ways_back,
        stored_in_s3,
        last_resort,
        republished,
        killed,
        stopped,
        broker_restarted,
    )
}
