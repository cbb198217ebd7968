"""Prompt checks behind the `PromptCheck` port."""
