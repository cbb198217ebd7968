from . import credit, credits, generation, sample, outbox, news, settings
