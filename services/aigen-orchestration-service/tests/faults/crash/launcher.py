"""Starts the real service in a process that dies at a named seam: everything is wrapped from here,
nothing in there.

The process is forked from one that has imported everything, so that a start costs a fraction of a
second. What is armed stands in memory that both sides share: the moment, the seam, and how many
times it is passed alive.
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
_PLACES = {seam.name: place for place, seam in enumerate(FAILPOINTS)}
_DURING_SECONDS = 0.0004
_NAME_BYTES = 200


class Trigger:
    """What is armed, shared between the run and the process that is to die.

    Without locks: whoever is killed while it holds one holds up everybody else for ever.
    """

    def __init__(self) -> None:
        self.armed: Any = context.Array(c_char, _NAME_BYTES, lock=False)
        self.left: Any = context.Value(c_int, 0, lock=False)
        self.fired: Any = context.Value(c_int, 0, lock=False)
        self.passed: Any = context.Array(c_int, len(FAILPOINTS), lock=False)

    def arm(self, moment: str, seam: str, nth: int) -> None:
        """Die at the n-th time from now."""
        self.left.value, self.fired.value = nth, 0
        self.armed.value = f"{moment} {seam}".encode()

    def disarm(self) -> None:
        """Live."""
        self.armed.value = b""

    def due(self, moment: str, seam: str) -> bool:
        """Whether it is time to die."""
        if not self.armed.value or self.armed.value != f"{moment} {seam}".encode():
            return False
        self.left.value -= 1
        return bool(self.left.value <= 0)

    def die(self) -> None:
        """As a machine dies: at once, and without a word."""
        self.armed.value, self.fired.value = b"", 1
        os.kill(os.getpid(), signal.SIGKILL)

    def passes(self) -> dict[str, int]:
        """How often each seam was passed since the last look."""
        found = {seam.name: count for seam, count in zip(FAILPOINTS, self.passed, strict=True)}
        self.passed[:] = [0] * len(FAILPOINTS)
        return found

    def at(self, moment: str, seam: str) -> None:
        """A moment has come."""
        if moment == "before":
            self.passed[_PLACES[seam]] += 1
        if self.due(moment, seam):
            self.die()


def start(environment: dict[str, str], trigger: Trigger, log: str) -> ForkServerProcess:
    """A serving process."""
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
    """Wrap every seam of this process."""
    for seam in FAILPOINTS:
        if seam.owner is not None:
            setattr(
                seam.owner, seam.method, _wrapped(getattr(seam.owner, seam.method), seam, trigger)
            )
    FastAPI.__call__ = _answering(FastAPI.__call__, trigger)  # type: ignore[method-assign]


def _wrapped(original: Callable[..., Any], seam: Failpoint, trigger: Trigger) -> Callable[..., Any]:
    @functools.wraps(original)
    async def wrapped(*arguments: Any, **named: Any) -> Any:
        trigger.at("before", seam.name)
        if seam.wire and trigger.due("during", seam.name):
            asyncio.get_running_loop().call_later(_DURING_SECONDS, trigger.die)
        try:
            return await original(*arguments, **named)
        finally:
            trigger.at("after", seam.name)

    return wrapped


def _answering(original: Callable[..., Any], trigger: Trigger) -> Callable[..., Any]:
    """A call over HTTP: before it is handled, and when the work is done and its answer has not been
    sent.
    """

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
