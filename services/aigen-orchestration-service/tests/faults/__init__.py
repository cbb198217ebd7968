"""Processes killed and connections cut while requests are in flight."""
