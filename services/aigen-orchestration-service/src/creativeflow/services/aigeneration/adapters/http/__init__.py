"""HTTP clients for services outside our control."""
