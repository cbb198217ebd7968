from . import allowed_fields, credit, credits, generation, news, outbox, sample, settings
