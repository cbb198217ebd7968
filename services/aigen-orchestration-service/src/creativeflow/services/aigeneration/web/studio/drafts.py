"""Drafts of a brief: read from a form, a link or an earlier request, validated like an API call."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from creativeflow.services.aigeneration.api.schemas.generations import CreateRequest
from creativeflow.services.aigeneration.domain.errors import InvalidRequestError
from creativeflow.services.aigeneration.domain.formats import CUSTOM, FORMATS
from creativeflow.services.aigeneration.domain.request import Brief
from creativeflow.services.aigeneration.kit.json_input import to_invalid_request
from creativeflow.services.aigeneration.web.forms import FormFields

FIELDS = (
    "input_prompt",
    "style_guidance",
    "output_format",
    "width",
    "height",
    "emotional_tone",
    "industry_template",
    "region",
    "color_scheme",
    "model",
    "brand_kit_id",
    "project_id",
    "uploaded_image_references",
)
"""The form's fields, named as in the API; lists are texts with separators."""
OPTIONAL_FIELDS = (
    "style_guidance",
    "emotional_tone",
    "industry_template",
    "region",
    "color_scheme",
    "model",
    "uploaded_image_references",
)
"""Fields of the collapsed section, which opens if any of them is filled in."""
_FORM_FIELDS = {"custom_dimensions": "width", "cultural_adaptation_parameters": "region"}


@dataclass(frozen=True, slots=True)
class Draft:
    """The fields as entered."""

    texts: Mapping[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> str:
        """Return a field; `output_format` defaults to the first format."""
        return self.texts.get(name) or (next(iter(FORMATS)) if name == "output_format" else "")

    @classmethod
    def from_form(cls, form: FormFields) -> "Draft":
        """Read a draft from a form."""
        return cls({name: form.get(name) for name in FIELDS})

    @classmethod
    def from_link(cls, parameters: Mapping[str, str]) -> "Draft":
        """Read a draft from query parameters; `prompt` is short for `input_prompt`."""
        known = {name: parameters[name][:5000] for name in FIELDS if name in parameters}
        return cls({"input_prompt": parameters.get("prompt", "")[:5000]} | known)

    @classmethod
    def from_brief(cls, brief: Brief, project_id: str | None) -> "Draft":
        """Convert the brief of an earlier request."""
        fields: dict[str, Any] = dict(brief)
        size = fields.get("custom_dimensions") or {}
        lists = {
            "color_scheme": ", ".join(fields.get("color_scheme", ())),
            "uploaded_image_references": "\n".join(fields.get("uploaded_image_references", ())),
        }
        known = {name: str(fields[name]) for name in FIELDS if isinstance(fields.get(name), str)}
        region = fields.get("cultural_adaptation_parameters", {}).get("region")
        more = {
            "width": size.get("width"),
            "height": size.get("height"),
            "region": region,
            "project_id": project_id,
        }
        return cls(known | lists | {name: str(value) for name, value in more.items() if value})

    @property
    def has_options(self) -> bool:
        """Whether any optional field is filled in."""
        return any(self[name] for name in OPTIONAL_FIELDS)

    @property
    def references(self) -> list[str]:
        """The image references, one per line of the field."""
        return self["uploaded_image_references"].split()

    def to_body(self) -> dict[str, Any]:
        """Build the body of the API call, without empty fields."""
        plain = (
            "input_prompt",
            "style_guidance",
            "output_format",
            "emotional_tone",
            "industry_template",
            "model",
            "brand_kit_id",
            "project_id",
        )
        body: dict[str, Any] = {name: self[name] for name in plain if self[name]}
        if self["output_format"] == CUSTOM:
            body["custom_dimensions"] = {
                side: _parse_number(self[side]) for side in ("width", "height")
            }
        if colours := [part for part in re.split(r"[,;\s]+", self["color_scheme"]) if part]:
            body["color_scheme"] = colours
        if self["region"]:
            body["cultural_adaptation_parameters"] = {"region": self["region"]}
        if self.references:
            body["uploaded_image_references"] = self.references
        return body

    def validate(self) -> CreateRequest:
        """Validate the draft as an API call.

        Raises:
            InvalidRequestError: with all validation errors.
        """
        return _validate(self.to_body())

    def to_priced_brief(self) -> Brief:
        """Build a brief with only the fields that determine the price, not the prompt.

        Raises:
            InvalidRequestError: such as a size out of bounds.
        """
        body = self.to_body()
        price_fields = ("output_format", "custom_dimensions", "model", "brand_kit_id")
        return _validate(
            {"input_prompt": "-", **{name: body[name] for name in price_fields if name in body}}
        ).brief()


def map_errors_to_fields(error: InvalidRequestError) -> dict[str, str]:
    """Map validation errors to form fields; the first message of each field."""
    messages: dict[str, str] = {}
    for entry in error.errors:
        first, _, rest = entry["pointer"].lstrip("/").partition("/")
        name = rest if rest in {"width", "height"} else _FORM_FIELDS.get(first, first)
        messages.setdefault(name, entry["message"])
    return messages


def _validate(body: Mapping[str, Any]) -> CreateRequest:
    try:
        return CreateRequest.model_validate(body)
    except ValidationError as error:
        raise to_invalid_request(error) from None


def _parse_number(text: str) -> int | str:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else text  # noqa: PLR2004
