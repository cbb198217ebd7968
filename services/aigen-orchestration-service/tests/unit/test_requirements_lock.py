"""The locks install as they are, also when newer releases are out."""

import re
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

_PINNED = re.compile(r"^[\w.-]+(\[[\w,.-]+\])?==[^ ;\\]+", re.MULTILINE)
SERVICE = Path(__file__).parents[2]


def locked(name: str) -> list[Requirement]:
    text = (SERVICE / name).read_text("utf-8")
    return [Requirement(found.group()) for found in _PINNED.finditer(text)]


LOCKED = locked("requirements-dev.lock")
EXTRAS = {canonicalize_name(pinned.name): pinned.extras for pinned in LOCKED}


def _asked_of_others(name: str) -> list[Requirement]:
    """Return the requirements of an installed package, without those of other platforms."""
    try:
        asked = [Requirement(text) for text in distribution(name).requires or ()]
    except PackageNotFoundError:
        return []
    return [asks for asks in asked if asks.marker is None or asks.marker.evaluate({"extra": ""})]


def test_extras_are_pinned_with_their_package() -> None:
    """The pip of Debian 12 takes `coverage[toml]` for another package than a pinned `coverage`,
    looks for its newest release, and refuses that one for want of a hash.
    """
    assert len(LOCKED) > 80
    asked = [(by.name, asks) for by in LOCKED for asks in _asked_of_others(by.name) if asks.extras]
    assert asked
    unpinned = [
        f"{by} asks for {asks}"
        for by, asks in asked
        if not asks.extras <= EXTRAS[canonicalize_name(asks.name)]
    ]
    assert unpinned == []


def test_lock_production_has_the_same_pins_without_development_tools() -> None:
    pins = {each.name: str(each.specifier) for each in LOCKED}
    production = locked("requirements.lock")
    assert len(production) > 40
    assert all(str(each.specifier) == pins[each.name] for each in production)
    assert {each.name for each in production} & {"pytest", "mypy", "ruff", "playwright"} == set()


def test_lock_client_is_from_the_repository_with_locked_dependencies() -> None:
    assert "creativeflow-aigen-client" in {
        Requirement(text).name
        for text in distribution("creativeflow-aigen-orchestration-service").requires or ()
    }
    for lock in ("requirements.lock", "requirements-dev.lock"):
        pins = {canonicalize_name(each.name): each for each in locked(lock)}
        assert "creativeflow-aigen-client" not in pins
        for needed in map(Requirement, distribution("creativeflow-aigen-client").requires or ()):
            (pin,) = pins[canonicalize_name(needed.name)].specifier
            assert pin.version in needed.specifier
