"""Use cases: load, decide, save, and call ports."""
