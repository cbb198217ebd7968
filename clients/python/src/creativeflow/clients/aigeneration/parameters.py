"""Keyword arguments of calls, as the API description has them."""

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict


class Dimensions(TypedDict):
    """Sides of a Custom format in pixels."""

    width: int
    height: int


class BriefOptions(TypedDict, total=False):
    """Optional fields of a new generation and of a quote."""

    brand_kit_id: str | None
    color_scheme: Sequence[str] | None
    cultural_adaptation_parameters: Mapping[str, Any] | None
    custom_dimensions: Dimensions | None
    emotional_tone: str | None
    industry_template: str | None
    locale: str | None
    metadata: Mapping[str, Any] | None
    model: str | None
    project_id: str | None
    quote_id: str | None
    style_guidance: str | None
    target_platform_hints: Sequence[str] | None
    uploaded_image_references: Sequence[str] | None
    user_id: str | None


class BriefChanges(TypedDict, total=False):
    """Changes of the brief for another round or a retry."""

    model: str | None
    quote_id: str | None
    updated_prompt: str | None
    updated_style_guidance: str | None
    user_id: str | None
