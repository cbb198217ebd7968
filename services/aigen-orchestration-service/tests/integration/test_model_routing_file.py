"""The routing file: loaded when valid, rejected with a message otherwise, and visible in
charges.
"""

import os
from pathlib import Path

import pytest

from creativeflow.services.aigeneration.adapters.model_routing_file import (
    RoutingFileError,
    RoutingSource,
    read_routing,
)
from creativeflow.services.aigeneration.domain import errors
from creativeflow.services.aigeneration.domain.lifecycle import State
from tests.support.app import ServiceUnderTest

EXAMPLE = Path(__file__).parents[2] / "routing.example.toml"
RULES = """
default = "house"
[models.house]
provider = "openai_images"
title = "House"
fallbacks = ["spare"]
[models.spare]
provider = "stability"
title = "Spare"
[models.atelier]
provider = "openai_images"
title = "Atelier"
quality = 5
surcharge = "0.75"
plans = ["pro", "team"]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Path of a routing file."""
    path = tmp_path / "routing.toml"
    path.write_text(RULES)
    return path


def change(path: Path, text: str) -> None:
    """Write the file with a new modification time."""
    before = path.stat().st_mtime_ns
    path.write_text(text)
    os.utime(path, ns=(before + 10**9, before + 10**9))


def test_routing_file_example_is_valid() -> None:
    routing = read_routing(EXAMPLE)
    assert len(routing.models) >= 3
    assert routing.rules


def test_routing_file_changed_is_loaded_and_invalid_is_ignored(file: Path) -> None:
    source = RoutingSource(file)
    assert source().default == "house"
    change(file, RULES.replace('default = "house"', 'default = "spare"'))
    source.reload()
    assert source().default == "spare"
    change(file, "default = [")
    source.reload()
    assert source().default == "spare"
    file.unlink()
    source.reload()
    assert source().default == "spare"
    file.write_text(RULES)
    source.reload()
    assert source().default == "house"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("default = [", "routing.toml"),
        ('default = "x"\n[models.y]\nprovider="p"\ntitle="Y"', "the default model x is not there"),
        ('default = "y"\n[models.y]\ntitle="Y"', "models.y.provider: Field required"),
        ('default = "y"\n[models.y]\nprovider="p"\ntitle="Y"\nspeed=9', "models.y.speed"),
        ('default = "y"\n[models.y]\nprovider="p"\ntitle="Y"\nsped=1', "models.y.sped"),
        (
            'default = "y"\n[models.y]\nprovider="p"\ntitle="Y"\nsurcharge="1.005"',
            "models.y.surcharge",
        ),
        (
            (
                'default = "y"\n[models.y]\nprovider="p"\ntitle="Y"\n'
                '[[rules]]\nname="r"\nuse={y=1}\nformats=["Fax"]'
            ),
            "Fax",
        ),
    ],
)
def test_routing_file_errors_name_their_place(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "routing.toml"
    path.write_text(text)
    with pytest.raises(RoutingFileError) as refused:
        RoutingSource(path)
    assert told.removesuffix("Fax") in str(refused.value)
    with pytest.raises(RoutingFileError):
        RoutingSource(tmp_path / "nowhere.toml")


async def test_routing_choice_and_reason_are_in_timeline_and_job(make_test_app, file: Path) -> None:
    change(file, RULES + '[[rules]]\nname = "half"\nuse = { spare = 1 }\nstages = ["final"]\n')
    test_app: ServiceUnderTest = make_test_app(routing_file=file)
    request = await test_app.submitted()
    route = {
        "chosen": "house",
        "reason": "default",
        "provider": "openai_images",
        "strategy": "quality",
    }
    assert (await test_app.timeline(request))[0]["data"]["route"] == route
    job = await test_app.next_job()
    assert (job.model, job.route) == ("house", route)
    request = await test_app.deliver(job)
    await test_app.select(request)
    final = await test_app.next_job()
    assert (final.model, final.route["reason"], final.route["provider"]) == (
        "spare",
        "rule half",
        "stability",
    )
    await test_app.deliver(final)


async def test_routing_file_surcharge_is_quoted_and_charged_after_a_reload(
    make_test_app, file: Path
) -> None:
    test_app: ServiceUnderTest = make_test_app(routing_file=file)
    await test_app.grant("user", 500, "pro")
    quoted = await test_app.quoted(model="atelier")
    assert [(item["model"], item["credits"]) for item in quoted["items"][:2]] == [
        ("atelier", "0.75"),
        ("atelier", "0.75"),
    ]
    request = await test_app.submitted(model="atelier")
    change(file, RULES.replace('surcharge = "0.75"', 'surcharge = "9.00"'))
    test_app.service.routing.reload()
    job = await test_app.next_job()
    assert job.model == "atelier"
    request = await test_app.deliver(job)
    assert [hold.amount for hold in request.holds] == [75]
    with pytest.raises(errors.QuoteExpiredError):
        await test_app.select(request, quote_id=quoted["quote_id"])
    await test_app.cancel(request)
    with pytest.raises(errors.PlanRequiredError, match="Pro"):
        await test_app.submit("free", model="atelier")


async def test_routing_file_removed_model_is_replaced_by_the_default(
    make_test_app, file: Path
) -> None:
    test_app: ServiceUnderTest = make_test_app(routing_file=file)
    request = await test_app.submitted(model="spare")
    change(
        file, RULES.replace('fallbacks = ["spare"]', "").replace("[models.spare]", "[models.other]")
    )
    test_app.service.routing.reload()
    job = await test_app.next_job()
    assert job.model == "house"
    assert (await test_app.deliver(job)).state is State.AWAITING_SELECTION
    await test_app.cancel(request)


async def test_routing_fallback_uses_its_own_provider(make_test_app, file: Path) -> None:
    test_app: ServiceUnderTest = make_test_app(routing_file=file)
    await test_app.submitted()
    for _ in range(2):
        await test_app.fail(await test_app.next_job())
        test_app.clock.advance(minutes=1)
    job = await test_app.next_job()
    assert (job.model, job.route["provider"], job.route["chosen"]) == (
        "spare",
        "stability",
        "house",
    )
    await test_app.deliver(job)
