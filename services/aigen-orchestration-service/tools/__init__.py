"""Development tools of the service."""
