"""Inspection of images that came from outside."""
