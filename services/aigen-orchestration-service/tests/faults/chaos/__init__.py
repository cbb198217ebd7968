"""`make chaos`: thousands of requests through cuts, stalls and kills."""
