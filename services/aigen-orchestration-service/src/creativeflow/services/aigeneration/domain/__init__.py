"""The rules of generation requests, without I/O."""
