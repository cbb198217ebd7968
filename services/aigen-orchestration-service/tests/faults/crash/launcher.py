"""Start the real service in a process that kills itself at a chosen failpoint.

The failpoints are wrapped from here; the service has no code for them. The process is forked from
one that has imported everything, so that a start takes a fraction of a second. The armed failpoint,
its moment and the number of passes are in shared memory.
"""

import asyncio
import functools
import multiprocessing
import os
import signal
from collections.abc import Callable
from ctypes import c_char, c_int
from multiprocessing.context import ForkServerProcess
from typing import Any

from fastapi import FastAPI
from starlette.types import Message, Receive, Scope, Send

from creativeflow.services.aigeneration.cli import main
from tests.faults.crash.failpoints import Failpoint, answer_name, failpoints

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["tests.faults.crash.launcher"])
FAILPOINTS = failpoints()
_PLACES = {failpoint.name: place for place, failpoint in enumerate(FAILPOINTS)}
_DURING_SECONDS = 0.0004
_NAME_BYTES = 200


class Trigger:
    """The armed failpoint, shared between the run and the process to kill.

    Without locks: a process killed while holding one would block all others.
    """

    def __init__(self) -> None:
        self.armed: Any = context.Array(c_char, _NAME_BYTES, lock=False)
        self.left: Any = context.Value(c_int, 0, lock=False)
        self.fired: Any = context.Value(c_int, 0, lock=False)
        self.passed: Any = context.Array(c_int, len(FAILPOINTS), lock=False)

    def arm(self, moment: str, failpoint: str, nth: int) -> None:
        """Kill the process at the n-th pass of a failpoint from now."""
        self.left.value, self.fired.value = nth, 0
        self.armed.value = f"{moment} {failpoint}".encode()

    def disarm(self) -> None:
        """Disarm the failpoint."""
        self.armed.value = b""

    def due(self, moment: str, failpoint: str) -> bool:
        """Count a pass; return whether the process is to be killed now."""
        if not self.armed.value or self.armed.value != f"{moment} {failpoint}".encode():
            return False
        self.left.value -= 1
        return bool(self.left.value <= 0)

    def die(self) -> None:
        """Kill the current process with SIGKILL."""
        self.armed.value, self.fired.value = b"", 1
        os.kill(os.getpid(), signal.SIGKILL)

    def passes(self) -> dict[str, int]:
        """Return how often each failpoint was passed since the last call, and reset."""
        found = {
            failpoint.name: count for failpoint, count in zip(FAILPOINTS, self.passed, strict=True)
        }
        self.passed[:] = [0] * len(FAILPOINTS)
        return found

    def at(self, moment: str, failpoint: str) -> None:
        """Record that a failpoint is passed, and kill the process if it is armed."""
        if moment == "before":
            self.passed[_PLACES[failpoint]] += 1
        if self.due(moment, failpoint):
            self.die()


def start(environment: dict[str, str], trigger: Trigger, log: str) -> ForkServerProcess:
    """Start a serving process."""
    process: ForkServerProcess = context.Process(
        target=_serve, args=(environment, trigger, log), daemon=True
    )
    process.start()
    return process


def _serve(environment: dict[str, str], trigger: Trigger, log: str) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.environ.update(environment)
    install(trigger)
    main.app(["serve", "--no-migrate"], standalone_mode=False)


def install(trigger: Trigger) -> None:
    """Wrap every failpoint of this process."""
    for failpoint in FAILPOINTS:
        if failpoint.owner is not None:
            setattr(
                failpoint.owner,
                failpoint.method,
                _wrapped(getattr(failpoint.owner, failpoint.method), failpoint, trigger),
            )
    FastAPI.__call__ = _answering(FastAPI.__call__, trigger)  # type: ignore[method-assign]


def _wrapped(
    original: Callable[..., Any], failpoint: Failpoint, trigger: Trigger
) -> Callable[..., Any]:
    @functools.wraps(original)
    async def wrapped(*arguments: Any, **named: Any) -> Any:
        trigger.at("before", failpoint.name)
        if failpoint.wire and trigger.due("during", failpoint.name):
            asyncio.get_running_loop().call_later(_DURING_SECONDS, trigger.die)
        try:
            return await original(*arguments, **named)
        finally:
            trigger.at("after", failpoint.name)

    return wrapped


def _answering(original: Callable[..., Any], trigger: Trigger) -> Callable[..., Any]:
    """Wrap HTTP calls: before the call is handled, and before its response is sent."""

    async def handle(self: FastAPI, scope: Scope, receive: Receive, send: Send) -> None:
        name = answer_name(scope["method"], scope["path"]) if scope["type"] == "http" else ""
        if not name:
            await original(self, scope, receive, send)
            return
        trigger.at("before", name)

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                trigger.at("after", name)
            await send(message)

        await original(self, scope, receive, watched)

    return handle
