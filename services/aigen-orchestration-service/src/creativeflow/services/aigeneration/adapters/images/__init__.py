"""Inspection of images from outside."""
