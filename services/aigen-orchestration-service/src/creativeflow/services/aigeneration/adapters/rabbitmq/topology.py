"""Exchanges, queues and bindings that must exist, and their declaration."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from creativeflow.services.aigeneration.adapters.rabbitmq.connection import (
    NOT_FOUND,
    BrokerCommandError,
    Connection,
)

_ACCESS_REFUSED = 403
_PRECONDITION_FAILED = 406
_OTHER_ARGUMENT = re.compile(
    r"inequivalent arg '(?P<name>[^']+)'.*received (?P<ours>.+) but current is (?P<theirs>.+)"
)
_TYPED_VALUE = re.compile(r"the value ('.*') of type '\w+'")


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue that must exist; the arguments are AMQP's (`x-queue-type` and the like)."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    durable: bool = True


@dataclass(frozen=True, slots=True)
class Exchange:
    """An exchange that must exist."""

    name: str
    kind: Literal["direct", "topic", "fanout"]
    durable: bool = True


@dataclass(frozen=True, slots=True)
class Binding:
    """A binding that must exist; other bindings are not touched."""

    exchange: str
    queue: str
    routing_key: str


@dataclass(frozen=True, slots=True)
class Topology:
    """Everything that must exist on the broker before a message is published or consumed."""

    exchanges: tuple[Exchange, ...] = ()
    queues: tuple[Queue, ...] = ()
    bindings: tuple[Binding, ...] = ()


async def declare(connection: Connection, topology: Topology) -> list[str]:
    """Create what is missing and change nothing that exists.

    Returns a sentence for each exchange or queue that exists with other arguments.

    Raises:
        BrokerCommandError: the broker refuses a command or does not answer.
    """
    found = []
    for exchange in topology.exchanges:
        expected: dict[str, Any] = {"exchange_type": exchange.kind, "durable": exchange.durable}
        found.append(await _ensure(connection, "exchange", exchange.name, expected))
    for queue in topology.queues:
        expected = {"durable": queue.durable, "arguments": dict(queue.arguments)}
        found.append(await _ensure(connection, "queue", queue.name, expected))
    async with connection.channel() as channel:
        for binding in topology.bindings:
            names = {"exchange": binding.exchange, "queue": binding.queue}
            await channel.call("queue_bind", **names, routing_key=binding.routing_key)
    return [sentence for sentence in found if sentence]


async def _ensure(connection: Connection, kind: str, name: str, expected: Mapping[str, Any]) -> str:
    command = f"{kind}_declare"
    exists = True
    try:
        async with connection.channel() as channel:
            await channel.call(command, **{kind: name}, passive=True)
    except BrokerCommandError as error:
        if error.code != NOT_FOUND:
            raise
        exists = False
    try:
        async with connection.channel() as channel:
            await channel.call(command, **{kind: name}, **expected)
    except BrokerCommandError as error:
        if exists and error.code == _PRECONDITION_FAILED:
            return _mismatch(kind, name, error.reason)
        # Without the right to configure it cannot be compared, but it can still be used.
        if not (exists and error.code == _ACCESS_REFUSED):
            raise
    return ""


def _mismatch(kind: str, name: str, reason: str) -> str:
    match = _OTHER_ARGUMENT.search(_TYPED_VALUE.sub(r"\1", reason).replace(" none", " not set"))
    detail, wanted = reason, "the expected arguments"
    if match:
        detail = f"{match['name']} is {match['theirs']}, expected {match['ours']}"
        wanted = f"{match['name']} {match['ours']}"
    return (
        f"{kind.capitalize()} {name} exists with other arguments than expected ({detail}); it is"
        f" used as it is. To get {wanted}, delete it when empty and restart."
    )
