"""What somebody is about to ask for: read from a form, a link or an earlier request, and checked
like a call.
"""

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

TEXTS = (
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
"""The fields of the form, named like those of the API; lists are texts with separators here."""
DETAILS = (
    "style_guidance",
    "emotional_tone",
    "industry_template",
    "region",
    "color_scheme",
    "model",
    "uploaded_image_references",
)
"""Fields that stand folded away until they say something."""
_PLACES = {"custom_dimensions": "width", "cultural_adaptation_parameters": "region"}


@dataclass(frozen=True, slots=True)
class Draft:
    """The fields as they were typed."""

    texts: Mapping[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> str:
        """One field; the first format where none was chosen."""
        return self.texts.get(name) or (next(iter(FORMATS)) if name == "output_format" else "")

    @classmethod
    def of_form(cls, form: FormFields) -> "Draft":
        """What a form says."""
        return cls({name: form.get(name) for name in TEXTS})

    @classmethod
    def of_link(cls, parameters: Mapping[str, str]) -> "Draft":
        """What a link suggests, such as one from the platform; `prompt` is short for
        `input_prompt`.
        """
        known = {name: parameters[name][:5000] for name in TEXTS if name in parameters}
        return cls({"input_prompt": parameters.get("prompt", "")[:5000]} | known)

    @classmethod
    def of_brief(cls, brief: Brief, project_id: str | None) -> "Draft":
        """What was asked before, to be changed."""
        said: dict[str, Any] = dict(brief)
        size = said.get("custom_dimensions") or {}
        lists = {
            "color_scheme": ", ".join(said.get("color_scheme", ())),
            "uploaded_image_references": "\n".join(said.get("uploaded_image_references", ())),
        }
        known = {name: str(said[name]) for name in TEXTS if isinstance(said.get(name), str)}
        region = said.get("cultural_adaptation_parameters", {}).get("region")
        more = {
            "width": size.get("width"),
            "height": size.get("height"),
            "region": region,
            "project_id": project_id,
        }
        return cls(known | lists | {name: str(value) for name, value in more.items() if value})

    @property
    def elaborate(self) -> bool:
        """Whether something was said that is not among what everybody says."""
        return any(self[name] for name in DETAILS)

    @property
    def references(self) -> list[str]:
        """The references to pictures, one a line."""
        return self["uploaded_image_references"].split()

    def asked(self) -> dict[str, Any]:
        """The body of the call that this comes to; what was not said is left out."""
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
        said: dict[str, Any] = {name: self[name] for name in plain if self[name]}
        if self["output_format"] == CUSTOM:
            said["custom_dimensions"] = {side: _number(self[side]) for side in ("width", "height")}
        if colours := [part for part in re.split(r"[,;\s]+", self["color_scheme"]) if part]:
            said["color_scheme"] = colours
        if self["region"]:
            said["cultural_adaptation_parameters"] = {"region": self["region"]}
        if self.references:
            said["uploaded_image_references"] = self.references
        return said

    def checked(self) -> CreateRequest:
        """The call.

        Raises:
            InvalidRequestError: with every place that does not fit.
        """
        return _checked(self.asked())

    def priced(self) -> Brief:
        """What a price depends on; the words of the prompt do not matter for it.

        Raises:
            InvalidRequestError: such as a size out of bounds.
        """
        said = self.asked()
        matter = ("output_format", "custom_dimensions", "model", "brand_kit_id")
        return _checked(
            {"input_prompt": "-", **{name: said[name] for name in matter if name in said}}
        ).brief()


def by_field(error: InvalidRequestError) -> dict[str, str]:
    """What does not fit, by the field of the form at which it is told."""
    told: dict[str, str] = {}
    for fault in error.errors:
        first, _, rest = fault["pointer"].lstrip("/").partition("/")
        place = rest if rest in {"width", "height"} else _PLACES.get(first, first)
        told.setdefault(place, fault["message"])
    return told


def _checked(said: Mapping[str, Any]) -> CreateRequest:
    try:
        return CreateRequest.model_validate(said)
    except ValidationError as error:
        raise to_invalid_request(error) from None


def _number(text: str) -> int | str:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else text  # noqa: PLR2004
