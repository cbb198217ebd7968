"""The RabbitMQ connection: topology, publishing with confirms, consuming with acknowledgements."""
