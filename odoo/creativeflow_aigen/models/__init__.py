from . import credit, credits, generation, news, outbox, sample, settings
