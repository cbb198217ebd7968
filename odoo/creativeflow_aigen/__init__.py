from . import controllers, models, wizards
from .hooks import name_the_groups

__all__ = ["controllers", "models", "name_the_groups", "wizards"]
