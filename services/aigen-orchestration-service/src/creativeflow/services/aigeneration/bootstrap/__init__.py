"""Build the object graph from the settings; the only package that chooses adapters."""
