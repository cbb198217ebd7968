"""Whole request lifecycles over HTTP."""
