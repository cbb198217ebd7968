"""The `aigen` command."""
