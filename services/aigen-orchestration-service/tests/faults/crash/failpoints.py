"""The failpoints at which the service is killed, derived from the code, so that a new method that
writes becomes one by itself.

A failpoint is a method or HTTP call with the moments before and after it. A wire failpoint also has
the moment between sending a statement or message and receiving the response.
"""

import ast
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import asyncpg.transaction
import httpx

import creativeflow.services.aigeneration.adapters as adapters_package
import creativeflow.services.aigeneration.storage as storage_package
from creativeflow.services.aigeneration import ports
from creativeflow.services.aigeneration.adapters.http.safe_client import SafeHttp
from creativeflow.services.aigeneration.adapters.notifications.rabbitmq import EventPublisher
from creativeflow.services.aigeneration.adapters.rabbitmq.publisher import Publisher
from creativeflow.services.aigeneration.app import create_app
from creativeflow.services.aigeneration.settings import Settings
from creativeflow.services.aigeneration.storage.database import Database
from creativeflow.services.aigeneration.workers.results_consumer import (
    DeadLetterConsumer,
    ResultsConsumer,
)

PACKAGE = "creativeflow.services.aigeneration."
WRITES = re.compile(
    r"\bINSERT INTO\b|\bDELETE FROM\b|\bUPDATE\s+(?!OF\b)[a-z_]+\b|ensure_events_partition",
    re.IGNORECASE,
)
"""Matches statements that write; `FOR UPDATE OF` alone does not."""

_WIRE: tuple[tuple[type, str], ...] = (
    (Database, "execute"),
    (Database, "fetch"),
    (Database, "fetchrow"),
    (Database, "fetchval"),
    (asyncpg.transaction.Transaction, "_Transaction__commit"),
    (Publisher, "publish"),
    (httpx.AsyncClient, "request"),
    (SafeHttp, "post"),
)
_FOREIGN: tuple[tuple[type, str], ...] = (
    (EventPublisher, "publish"),
    (ResultsConsumer, "handle"),
    (DeadLetterConsumer, "handle"),
)
_PROTOCOLS = (ports.Credits, ports.Engine, ports.Notifier, ports.PromptCheck)
_SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}


@dataclass(frozen=True, slots=True)
class Failpoint:
    """A method or HTTP call; `wire`: with the moment `during`. `owner`: None for an HTTP call."""

    name: str
    owner: type | None = None
    method: str = ""
    wire: bool = False

    @property
    def moments(self) -> tuple[str, ...]:
        """The moments at which the process can be killed."""
        return ("before", "during", "after") if self.wire else ("before", "after")


def failpoints() -> list[Failpoint]:
    """Return all failpoints, each once."""
    found = [
        *storage_failpoints(),
        *port_failpoints(),
        *_listed(_FOREIGN, wire=False),
        *_listed(_WIRE, wire=True),
    ]
    found += [Failpoint(f"{method} {path}") for method, path in answers_cached()]
    return list({failpoint.name: failpoint for failpoint in found}.values())


def storage_failpoints() -> Iterator[Failpoint]:
    """Yield every public coroutine method of the storage that writes."""
    for _, owner in classes(storage_package):
        for method in public_coroutines(owner):
            if writes(owner, method):
                yield Failpoint(_name(owner, method), owner, method)


def port_failpoints() -> Iterator[Failpoint]:
    """Yield every coroutine method of a port, for every adapter that implements the port."""
    for protocol in _PROTOCOLS:
        wanted = set(public_coroutines(protocol))
        for _, owner in classes(adapters_package):
            if wanted and wanted <= set(public_coroutines(owner)):
                for method in sorted(wanted):
                    yield Failpoint(_name(owner, method), owner, method)


def answers() -> set[tuple[str, str]]:
    """Return method and path of every HTTP call of the API description that may change state."""
    paths = create_app(Settings(_env_file=None)).openapi()["paths"]  # type: ignore[call-arg]
    found = {(method.upper(), path) for path, calls in paths.items() for method in calls}
    return {(method, path) for method, path in found if method not in _SAFE_METHODS}


def answer_name(method: str, path: str) -> str:
    """Return the failpoint of an HTTP call; empty if the call only reads."""
    return next((f"{m} {p}" for m, p in answers_cached() if m == method and _matches(p, path)), "")


@cache
def answers_cached() -> tuple[tuple[str, str], ...]:
    """Return the calls of `answers`, those with fewer path parameters first."""
    return tuple(sorted(answers(), key=lambda call: (call[1].count("{"), call)))


def _matches(template: str, path: str) -> bool:
    return re.fullmatch(re.sub(r"\{[^}]+\}", "[^/]+", template), path) is not None


def classes(package: Any) -> Iterator[tuple[str, type]]:
    """Yield the classes that the modules of a package define."""
    for module in modules(package):
        for name, found in vars(module).items():
            if (
                inspect.isclass(found)
                and found.__module__ == module.__name__
                and not name.startswith("_")
            ):
                yield name, found


def modules(package: Any) -> Iterator[Any]:
    """Yield the modules of a package, except migrations."""
    for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if (
            not info.ispkg
            and not info.name.endswith("__main__")
            and ".migrations." not in info.name
        ):
            yield importlib.import_module(info.name)


def public_coroutines(owner: type) -> list[str]:
    """Return the public coroutine methods that a class defines itself."""
    return [
        name
        for name, found in vars(owner).items()
        if inspect.iscoroutinefunction(found) and name[0] != "_"
    ]


def writes(owner: type, method: str) -> bool:
    """Return whether a method, or code of the storage that it uses, has a statement that writes."""
    return any(WRITES.search(text) for text in reach(owner, method).values())


def reach(owner: type, method: str) -> dict[tuple[str, str], str]:
    """Return the sources of a method and of everything in the storage that it uses, by module and
    name.
    """
    found: dict[tuple[str, str], str] = {}
    waiting = [(owner.__module__, f"self.{method}")]
    while waiting:
        module, name = waiting.pop()
        names = _names(module, owner.__name__ if module == owner.__module__ else "")
        key = (module.removeprefix(PACKAGE), name)
        if key in found or name not in names.sources:
            continue
        found[key] = names.sources[name]
        waiting += [
            names.whose(used) for used in re.findall(r"\b_?[A-Za-z]\w*(?:\.\w+)?\b", found[key])
        ]
    return found


@dataclass(frozen=True, slots=True)
class _Names:
    """The names of a module: its own sources, and what it imports from its package."""

    module: str
    sources: dict[str, str]
    taken: dict[str, tuple[str, str]]
    modules: dict[str, str]
    batched: dict[str, str]
    """Group commits of an object, and the method that writes for each."""

    def whose(self, used: str) -> tuple[str, str]:
        """Return the module and name in it that a name used here refers to."""
        first, _, rest = used.partition(".")
        if first == "self":
            return self.module, self.batched.get(used, used)
        return (
            (self.modules[first], rest)
            if first in self.modules
            else self.taken.get(first, (self.module, first))
        )


@cache
def _names(module: str, owner: str) -> _Names:
    """Return the names of a module, and of one of its classes as `self.…`."""
    sources: dict[str, str] = {}
    taken: dict[str, tuple[str, str]] = {}
    taken_modules: dict[str, str] = {}
    for node in ast.parse(inspect.getsource(importlib.import_module(module))).body:
        if isinstance(node, ast.Assign):
            sources |= {
                target.id: ast.unparse(node.value)
                for target in node.targets
                if isinstance(target, ast.Name)
            }
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            sources[node.name] = ast.unparse(_without_docstring(node))
        elif isinstance(node, ast.ClassDef) and node.name == owner:
            methods = (
                part
                for part in node.body
                if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)
            )
            sources |= {
                f"self.{part.name}": ast.unparse(_without_docstring(part)) for part in methods
            }
        elif isinstance(node, ast.ImportFrom) and node.module == storage_package.__name__:
            taken_modules |= {found.name: f"{node.module}.{found.name}" for found in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
            storage_package.__name__
        ):
            taken |= {found.name: (str(node.module), found.name) for found in node.names}
    batched = dict(
        re.findall(r"(self\._\w+) = GroupCommit\((self\._\w+)", sources.get("self.__init__", ""))
    )
    return _Names(module, sources, taken, taken_modules, batched)


def statements(package: Any) -> Iterator[tuple[str, str]]:
    """Yield module and function or constant of every statement in a package that writes."""
    for module in modules(package):
        tree = ast.parse(Path(str(module.__file__)).read_text())
        for top in tree.body:
            parts = top.body if isinstance(top, ast.ClassDef) else [top]
            for part in parts:
                function = isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)
                text = ast.unparse(_without_docstring(part) if function else part)
                if isinstance(part, ast.Expr | ast.Import | ast.ImportFrom) or not WRITES.search(
                    text
                ):
                    continue
                yield (
                    module.__name__.removeprefix(PACKAGE),
                    _label(part, "self." if part is not top else ""),
                )


def _label(node: ast.stmt, of: str) -> str:
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
        return node.targets[0].id
    return f"{of}{node.name}" if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else "?"


def _without_docstring(node: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.AST:
    if ast.get_docstring(node) is None:
        return node
    copy = type(node)(**{field: getattr(node, field) for field in node._fields})
    copy.body = node.body[1:] or [ast.Pass()]
    return ast.copy_location(copy, node)


def _listed(listed: Sequence[tuple[type, str]], *, wire: bool) -> Iterator[Failpoint]:
    for owner, method in listed:
        assert inspect.iscoroutinefunction(getattr(owner, method)), (
            f"{owner.__name__}.{method} is gone"
        )
        yield Failpoint(_name(owner, method), owner, method, wire)


def _name(owner: type, method: str) -> str:
    return f"{owner.__name__}.{method.rpartition('__')[2] or method}"
