"""Adapters to other people's systems, one module for each; only the wiring knows which is in
use.
"""
