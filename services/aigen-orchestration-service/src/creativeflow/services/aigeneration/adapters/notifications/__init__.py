"""Notifiers behind the `Notifier` port."""
