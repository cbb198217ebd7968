"""Engines that run jobs: n8n through RabbitMQ, or the local engine."""
