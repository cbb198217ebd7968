"""`make e2e-n8n`: the whole job with a real n8n, the workflows of n8n/, a real RabbitMQ and real
pictures.
"""
