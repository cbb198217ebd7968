"""`make fuzz`: schemathesis against a running service."""
