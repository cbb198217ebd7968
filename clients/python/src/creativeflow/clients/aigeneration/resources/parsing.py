"""Parse documents of the API into frozen dataclasses, by the types of their fields."""

import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from datetime import datetime
from decimal import Decimal, InvalidOperation
from functools import cache
from typing import Any, Self, Union, get_args, get_origin, get_type_hints

from creativeflow.clients.aigeneration.errors import ApiConnectionError


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """A document of the API; `raw` has it whole, with fields that this version does not know."""

    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def parse(cls, document: Any) -> Self:
        """Build a resource from a document.

        Raises:
            ApiConnectionError: the document lacks a field or has another type.
        """
        try:
            return cls(raw=document, **_values(cls, document))
        except (TypeError, ValueError, InvalidOperation) as error:
            raise ApiConnectionError(
                f"The response is not a {cls.__name__} of this API: {error}"
            ) from None

    @classmethod
    def parse_items(cls, document: Any) -> tuple[Self, ...]:
        """Build the resources in the `items` of a document.

        Raises:
            ApiConnectionError: as for `parse`.
        """
        if not isinstance(document, dict) or not isinstance(document.get("items"), list):
            raise ApiConnectionError("The response is not a list of this API.")
        return tuple(cls.parse(item) for item in document["items"])


def _values(kind: type[Resource], document: Any) -> dict[str, Any]:
    if not isinstance(document, dict):
        raise TypeError("it is no object")
    values = {}
    for name, (annotation, required) in _fields(kind).items():  # type: ignore[arg-type]  # classes are hashable
        if name in document:
            try:
                values[name] = _value(annotation, document[name])
            except (TypeError, ValueError, InvalidOperation):
                raise ValueError(f"`{name}` has another type") from None
        elif required:
            raise ValueError(f"`{name}` is missing")
    return values


@cache
def _fields(kind: type[Any]) -> dict[str, tuple[Any, bool]]:
    hints = get_type_hints(kind)
    return {
        each.name: (hints[each.name], each.default is MISSING and each.default_factory is MISSING)
        for each in fields(kind)
        if each.name != "raw"
    }


def _value(annotation: Any, value: Any) -> Any:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is Any:
        return value
    if origin in {Union, types.UnionType}:
        (kind,) = [each for each in arguments if each is not type(None)]
        return None if value is None else _value(kind, value)
    if origin is tuple:
        return tuple(_value(arguments[0], item) for item in _checked(list, value))
    if origin is Mapping:
        return {name: _value(arguments[1], item) for name, item in _checked(dict, value).items()}
    return _scalar(annotation, value)


def _scalar(annotation: type[Any], value: Any) -> Any:
    if issubclass(annotation, Resource):
        return annotation(raw=value, **_values(annotation, value))
    if annotation is Decimal:
        return Decimal(_checked(str, value))
    if annotation is datetime:
        return datetime.fromisoformat(_checked(str, value))
    return _checked(annotation, value)


def _checked(kind: type[Any], value: Any) -> Any:
    if not isinstance(value, kind):
        raise TypeError
    return value
