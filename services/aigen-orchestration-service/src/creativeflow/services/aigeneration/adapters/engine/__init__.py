"""Engines that run jobs: n8n through RabbitMQ, or a local stand-in."""
