"""Build the RabbitMQ connections and the topology from the settings."""

from pydantic import SecretStr

from creativeflow.services.aigeneration.adapters.rabbitmq.broker import (
    Binding,
    Broker,
    Exchange,
    Queue,
    Topology,
)
from creativeflow.services.aigeneration.domain.lifecycle import Stage
from creativeflow.services.aigeneration.settings import Settings, scheme

EMPTY_TOPOLOGY = Topology(exchanges=(), queues=(), bindings=())
RECONNECT_SECONDS = (0.5, 5.0)


def topology(settings: Settings) -> Topology:
    """Return all exchanges, queues and bindings of docs/asyncapi.yaml."""
    jobs, topics, dead = (
        settings.rabbitmq_job_exchange,
        settings.rabbitmq_topic_exchange,
        settings.rabbitmq_dead_letter_exchange,
    )
    safe = {
        "x-queue-type": "quorum",
        "x-delivery-limit": settings.rabbitmq_delivery_limit,
        "x-dead-letter-exchange": dead,
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }
    return Topology(
        exchanges=(Exchange(jobs, "direct"), Exchange(topics, "topic"), Exchange(dead, "fanout")),
        queues=(
            Queue(settings.rabbitmq_samples_queue, safe),
            Queue(settings.rabbitmq_final_queue, safe),
            Queue(settings.rabbitmq_results_queue, safe),
            Queue(settings.rabbitmq_dead_queue, {"x-queue-type": "quorum"}),
        ),
        bindings=(
            Binding(jobs, settings.rabbitmq_samples_queue, settings.rabbitmq_samples_routing_key),
            Binding(jobs, settings.rabbitmq_final_queue, settings.rabbitmq_final_routing_key),
            Binding(topics, settings.rabbitmq_results_queue, "ai.event.#"),
            Binding(dead, settings.rabbitmq_dead_queue, ""),
        ),
    )


def broker_queues(settings: Settings) -> list[str]:
    """Return the queues whose depth is shown to operators."""
    return [
        settings.rabbitmq_samples_queue,
        settings.rabbitmq_final_queue,
        settings.rabbitmq_results_queue,
        settings.rabbitmq_dead_queue,
    ]


def job_queues(settings: Settings) -> dict[Stage, str]:
    """Return the job queue of each lane."""
    return {
        Stage.SAMPLES: settings.rabbitmq_samples_queue,
        Stage.FINAL: settings.rabbitmq_final_queue,
    }


def build_broker(settings: Settings, url: SecretStr, declared: Topology) -> Broker | None:
    """Return the connection for an `amqp(s)://` URL, None for any other scheme.

    Raises:
        ValueError: the URL cannot be parsed.
    """
    if scheme(url) not in {"amqp", "amqps"}:
        return None
    return Broker(
        url.get_secret_value(),
        topology=declared,
        name=f"aigen:{','.join(settings.roles)}",
        reconnect_seconds=RECONNECT_SECONDS,
    )


def build_results_broker(settings: Settings) -> Broker | None:
    """Return the connection on which results are consumed; None without the role `results`.

    It publishes nothing: while memory or disk of the broker are short, it reads no more from
    connections that publish, not even their acknowledgements.
    """
    if "results" not in settings.roles:
        return None
    return build_broker(settings, settings.engine_url, topology(settings))


def build_notify_broker(settings: Settings, engine_broker: Broker | None) -> Broker | None:
    """Return the engine's connection if both URLs are equal, otherwise a separate one."""
    if settings.notify_url == settings.engine_url:
        return engine_broker
    return build_broker(settings, settings.notify_url, EMPTY_TOPOLOGY)
