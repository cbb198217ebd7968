"""`make e2e-n8n`: a real n8n with the workflows of n8n/, a real RabbitMQ and real pictures."""
