"""Adapters to other systems, chosen by `bootstrap` only."""
