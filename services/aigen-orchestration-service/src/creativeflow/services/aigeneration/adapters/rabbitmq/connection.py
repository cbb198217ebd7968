"""One RabbitMQ connection and its channels, made awaitable."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import structlog
from pika import exceptions as pika_errors
from pika.adapters.asyncio_connection import AsyncioConnection

from creativeflow.services.aigeneration.adapters.rabbitmq.io_services import LoopServices

_LOG = structlog.get_logger(__name__)

STEP_SECONDS = 10.0
"""Time limit for the broker's response to one command."""
CLOSE_SECONDS = 5.0
"""Time limit for closing a connection cleanly."""
CANCEL_SECONDS = 2.0
"""Time limit for the end of a cancelled handler."""
NOT_FOUND = 404


class BrokerCommandError(Exception):
    """A command failed: refused by the broker with a reply code, or without one (code 0) because it
    was not answered in time or the connection is gone.
    """

    def __init__(self, reason: str, code: int = 0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.code = code


class Backoff:
    """Random waits between a floor and a ceiling that doubles up to its limit, in seconds."""

    def __init__(self, floor: float, limit: float) -> None:
        self._floor = floor
        self._limit = limit
        self._ceiling = floor

    def next(self, lived_seconds: float = 0.0) -> float:
        """Return the next wait; start again if what failed had lived longer than the limit."""
        if lived_seconds > self._limit:
            self._ceiling = self._floor
        self._ceiling = min(self._limit, self._ceiling * 2)
        return random.uniform(self._floor, self._ceiling)  # noqa: S311 - spreads load, guards nothing


class Connection:
    """One connection to the broker; `closed` resolves with the reason."""

    def __init__(self, parameters: Any) -> None:
        loop = asyncio.get_running_loop()
        self.closed: asyncio.Future[str] = loop.create_future()
        self.blocked_reason = ""
        self.on_blocked: Callable[[], None] = lambda: None
        self.opened: asyncio.Future[None] = loop.create_future()
        self._abandoned = ""
        self._services = LoopServices()
        self._amqp = AsyncioConnection(
            parameters,
            on_open_callback=lambda _connection: self.opened.set_result(None),
            on_open_error_callback=self._on_closed,
            on_close_callback=self._on_closed,
            custom_ioloop=self._services,
        )
        self._amqp.add_on_connection_blocked_callback(self._on_blocked)
        self._amqp.add_on_connection_unblocked_callback(self._on_unblocked)

    @classmethod
    async def open(cls, parameters: Any, interrupt: "asyncio.Future[None]") -> "Connection":
        """Connect once.

        Raises:
            BrokerCommandError: it failed, took too long, or was interrupted.
        """
        connection = cls(parameters)
        # pika limits everything except name resolution; a name may have two addresses.
        bound = parameters.connection_attempts * (
            2 * parameters.stack_timeout + parameters.retry_delay
        )
        try:
            await first_of(connection.opened, connection.closed, interrupt, timeout_seconds=bound)
        finally:
            failure = (
                connection.closed.result()
                if connection.closed.done()
                else f"connecting took longer than {bound:g} s"
            )
            if not connection.is_open:
                await connection.close(CANCEL_SECONDS)
        if connection.is_open:
            return connection
        raise BrokerCommandError("closing" if interrupt.done() else failure)

    @property
    def is_open(self) -> bool:
        """True from the end of the handshake until the connection closes or is lost."""
        return self._amqp.is_open is True

    @property
    def server_version(self) -> str | None:
        """The version that the broker reports."""
        version = (self._amqp.server_properties or {}).get("version")
        return None if version is None else text_of(version)

    @asynccontextmanager
    async def channel(self) -> AsyncIterator["Channel"]:
        """Open a channel for one use; it is closed without waiting for the broker's response."""
        channel = await self.open_channel()
        try:
            yield channel
        finally:
            channel.close()

    async def open_channel(self) -> "Channel":
        """Open a channel that lives until it is closed.

        Raises:
            BrokerCommandError: the broker does not open it.
        """
        try:
            channel = Channel(self._amqp)
        except pika_errors.AMQPError as error:
            raise BrokerCommandError(describe_error(error)) from error
        try:
            await channel.answer(channel.opened, "opening a channel")
        except BaseException:
            channel.close()
            raise
        return channel

    async def close(self, timeout_seconds: float) -> None:
        """Close cleanly, and cut the stream if that takes longer than the timeout. Idempotent."""
        try:
            if self.is_open:
                self._amqp.close()
                await first_of(self.closed, timeout_seconds=timeout_seconds)
        finally:
            if not self.closed.done():
                self._abandoned = "the connection was given up"
                self._services.cut(self._abandoned)
        await first_of(self.closed, timeout_seconds=timeout_seconds)

    def _on_closed(self, _connection: Any, error: BaseException) -> None:
        if not self.closed.done():
            self.closed.set_result(self._abandoned or describe_error(error))

    def _on_blocked(self, _connection: Any, frame: Any) -> None:
        self.blocked_reason = f"broker is blocking publishers ({text_of(frame.method.reason)})"
        _LOG.warning("broker_blocked", reason=text_of(frame.method.reason))
        self.on_blocked()

    def _on_unblocked(self, _connection: Any, _frame: Any) -> None:
        self.blocked_reason = ""
        _LOG.info("broker_unblocked")


class Channel:
    """One channel whose commands can be awaited; `closed` resolves with the reason."""

    def __init__(self, connection: AsyncioConnection) -> None:
        loop = asyncio.get_running_loop()
        self.closed: asyncio.Future[BrokerCommandError] = loop.create_future()
        self.opened: asyncio.Future[Any] = loop.create_future()
        self.amqp = connection.channel(on_open_callback=self.opened.set_result)
        self.amqp.add_on_close_callback(self._on_closed)

    async def call(self, command: str, **arguments: Any) -> Any:
        """Send a command of pika's channel and return the frame of the response.

        Raises:
            BrokerCommandError: the broker refuses it or does not respond.
        """
        answer = asyncio.get_running_loop().create_future()
        try:
            getattr(self.amqp, command)(**arguments, callback=answer.set_result)
        except pika_errors.AMQPError as error:
            raise BrokerCommandError(describe_error(error)) from error
        return await self.answer(answer, command.replace("_", " "))

    async def answer(self, answer: "asyncio.Future[Any]", step: str) -> Any:
        """Wait for a response, the end of the channel or STEP_SECONDS, whichever comes first.

        Raises:
            BrokerCommandError: the channel has ended, or the time is over.
        """
        await first_of(answer, self.closed, timeout_seconds=STEP_SECONDS)
        if answer.done():
            return answer.result()
        if self.closed.done():
            raise self.closed.result()
        raise BrokerCommandError(f"{step} took longer than {STEP_SECONDS:g} s")

    def close(self) -> None:
        """Close the channel without waiting for the broker's response. Idempotent."""
        if not (self.amqp.is_closed or self.amqp.is_closing):
            self.amqp.close()

    def _on_closed(self, _channel: Any, error: BaseException) -> None:
        code = error.reply_code if isinstance(error, pika_errors.ChannelClosedByBroker) else 0
        self.closed.set_result(BrokerCommandError(describe_error(error), code))


def describe_error(error: BaseException) -> str:
    """Return the innermost cause of an error of pika in one line."""
    causes = getattr(error, "exceptions", None) or [
        getattr(error, "exception", None),
        *error.args[:1],
    ]
    inner = next((cause for cause in reversed(causes) if isinstance(cause, BaseException)), None)
    if inner is not None:
        return describe_error(inner)
    reason = str(error) or type(error).__name__
    match error:
        case pika_errors.ConnectionClosedByBroker() | pika_errors.ChannelClosedByBroker():
            reason = f"{error.reply_code} {error.reply_text}"
        case pika_errors.ConnectionClosedByClient() | pika_errors.ChannelClosedByClient():
            reason = "closed by this side"
        case pika_errors.ConnectionOpenAborted():
            reason = "the broker did not finish the handshake in time"
        case pika_errors.AMQPHeartbeatTimeout():
            reason = "the broker has given no sign of life within the heartbeat"
        case pika_errors.ProbableAuthenticationError():
            reason = f"login refused ({error})"
        case pika_errors.ProbableAccessDeniedError():
            reason = f"virtual host refused ({error})"
        case OSError(strerror=str(text)) if text:
            reason = text.lower()
    return reason


async def first_of(*futures: "asyncio.Future[Any]", timeout_seconds: float | None = None) -> None:
    """Wait until one of the futures is done or the time is over; leave the futures as they are."""
    await asyncio.wait(set(futures), timeout=timeout_seconds, return_when=asyncio.FIRST_COMPLETED)


def text_of(value: Any) -> str:
    """Return a short string of AMQP as text."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def optional_text(value: Any) -> str | None:
    """Return a short string of AMQP as text; None stays None."""
    return None if value is None else text_of(value)
