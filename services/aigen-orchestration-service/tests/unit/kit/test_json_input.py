"""Reading JSON from outside: bounded in depth, strict in form, and every fault named without
repeating the input.
"""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from creativeflow.services.aigeneration.domain.errors import InvalidJsonError, InvalidRequestError
from creativeflow.services.aigeneration.kit.json_input import (
    describe,
    parse_json,
    to_invalid_request,
)

SECRET = "input-that-must-not-come-back"

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4)
    ),
    max_leaves=12,
)


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


def refused(body: bytes, **rest: Any) -> bool:
    try:
        parse_json(body, **rest)
    except InvalidJsonError:
        return True
    return False


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b"{}", {}),
        (b' {"a": [1, 2.5, "x", null, true]} \n', {"a": [1, 2.5, "x", None, True]}),
        ('"Grüße 🎨"'.encode(), "Grüße 🎨"),
        (b'"\\u00e9\\ud83c\\udfa8"', "é🎨"),
        (b"0", 0),
    ],
)
def test_parse_json_of_valid_text_returns_its_value(body: bytes, value: object) -> None:
    assert parse_json(body) == value


@given(JSON_VALUES)
@settings(max_examples=100, deadline=None)
def test_parse_json_of_any_encoded_value_returns_it(value: object) -> None:
    assert parse_json(json.dumps(value, ensure_ascii=False).encode()) == value


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b"}",
        b"[1,]",
        b'{"a":}',
        b"{'a': 1}",
        b"{a: 1}",
        b"nul",
        b"None",
        b"NaN",
        b"Infinity",
        b"[1] [2]",
        b"// a\n1",
        b'"\n"',
        b'"\x00"',
        b"01",
        b'"\\ud800"',
        b"<xml/>",
        b"a=1&b=2",
    ],
)
def test_parse_json_of_invalid_text_is_refused(body: bytes) -> None:
    assert refused(body)


@pytest.mark.parametrize(
    "body", [b'"\xff"', b'"\xc3\x28"', '{"a": 1}'.encode("utf-16"), '"é"'.encode("latin-1")]
)
def test_parse_json_of_invalid_utf_8_is_refused(body: bytes) -> None:
    assert refused(body)


@given(st.binary(max_size=60) | st.binary(max_size=60).map(lambda noise: nested(30) + noise))
@settings(max_examples=150, deadline=None)
def test_parse_json_of_noise_never_crashes(body: bytes) -> None:
    try:
        json.loads(body.decode("utf-8"))
    except ValueError:
        assert refused(body)


@pytest.mark.parametrize(
    ("depth", "too_deep"),
    [(1, False), (19, False), (20, False), (21, True), (22, True), (900, True)],
)
def test_parse_json_of_21_levels_is_refused(depth: int, too_deep: bool) -> None:
    assert refused(nested(depth)) is too_deep


def test_parse_json_depth_counts_objects_like_lists() -> None:
    assert refused(b'{"a":' * 20 + b"1" + b"}" * 20) is False
    assert refused(b'{"a":' * 21 + b"1" + b"}" * 21) is True
    assert refused(b'[{"a":' * 11 + b"1" + b"}]" * 11) is True


def test_parse_json_depth_counts_levels_not_brackets() -> None:
    assert refused(b"[[]," * 3 + nested(17) + b"]" * 3) is False
    assert refused(b"[[]," * 3 + nested(18) + b"]" * 3) is True


def test_parse_json_of_100_000_levels_is_refused() -> None:
    assert refused(nested(100_000))
    assert refused(b"[" * 200_000)


def test_parse_json_of_a_wide_text_is_accepted() -> None:
    assert len(parse_json(b"[" + b",".join([b'{"a":[]}'] * 500) + b"]")) == 500


@pytest.mark.parametrize(
    ("depth", "too_deep"), [(2, False), (3, False), (4, True), (15, True), (20, True), (21, True)]
)
def test_parse_json_with_a_lower_bound_is_refused_earlier(depth: int, too_deep: bool) -> None:
    assert refused(nested(depth), max_depth=3) is too_deep


def test_parse_json_with_a_higher_bound_accepts_more() -> None:
    assert refused(nested(30), max_depth=30) is False
    assert refused(nested(31), max_depth=30) is True


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100,
        "{" * 100,
        '"' + "[" * 50,
        "\\" + "[" * 50,
        '\\"' + "[" * 50,
        "\\\\" + "{" * 50,
        "]" * 50 + "[" * 50,
    ],
)
def test_parse_json_brackets_in_strings_do_not_count(text: str) -> None:
    assert parse_json(json.dumps({"prompt": text, "[{": [text]}).encode()) == {
        "prompt": text,
        "[{": [text],
    }


@pytest.mark.parametrize("end", ["\\", '"', '\\"', "\\\\"])
def test_parse_json_escaped_quotes_do_not_hide_depth(end: str) -> None:
    deep = json.dumps([end]).encode()[:-1] + b"," + nested(25) + b"]"
    assert refused(deep)


def test_parse_json_refusal_names_the_bound() -> None:
    with pytest.raises(InvalidJsonError) as caught:
        parse_json(nested(21))
    assert "nested at most 20 levels" in str(caught.value)


class Inner(BaseModel):
    """A part of the sample body below."""

    model_config = ConfigDict(extra="forbid")

    count: int = Field(1, ge=1, le=9)
    name: str = Field("abc", min_length=2, max_length=5, pattern="^[a-z]+$")


class Outer(BaseModel):
    """A body with one field for each kind of fault."""

    model_config = ConfigDict(extra="forbid")

    needed: int
    inner: Inner = Inner()
    parts: list[Inner] = Field([], max_length=2)
    ours: str = "good"

    @field_validator("ours")
    @classmethod
    def _good(cls, value: str) -> str:
        if value != "good":
            raise ValueError("not_good: This must be good: nothing else will do.")
        return value


def faults(**body: Any) -> list[dict[str, str]]:
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate({"needed": 1} | body)
    return to_invalid_request(caught.value).errors


@pytest.mark.parametrize(
    ("body", "pointer", "code", "message"),
    [
        ({"needed": SECRET}, "/needed", "int_parsing", "This must be a whole number."),
        ({"needed": 1.5}, "/needed", "int_from_float", "This must be a whole number."),
        ({"needed": None}, "/needed", "int_type", "This must be a whole number."),
        (
            {"typo": SECRET},
            "/typo",
            "extra_forbidden",
            "This field is not known here. Leave it out, or check its spelling.",
        ),
        ({"inner": SECRET}, "/inner", "model_type", "This must be an object."),
        ({"inner": {"count": 0}}, "/inner/count", "greater_than_equal", "This must be at least 1."),
        ({"inner": {"count": 10}}, "/inner/count", "less_than_equal", "This must be at most 9."),
        (
            {"inner": {"name": "a"}},
            "/inner/name",
            "string_too_short",
            "This text is too short: at least 2 characters.",
        ),
        (
            {"parts": [{}, {"name": SECRET}]},
            "/parts/1/name",
            "string_too_long",
            "This text is too long: at most 5 characters.",
        ),
        (
            {"inner": {"name": "A B"}},
            "/inner/name",
            "string_pattern_mismatch",
            "This text does not have the expected form.",
        ),
        ({"inner": {"name": 5}}, "/inner/name", "string_type", "This must be a text."),
        ({"parts": {}}, "/parts", "list_type", "This must be a list."),
        ({"parts": [{}, {}, {}]}, "/parts", "too_long", "There are too many entries: at most 2."),
        ({"ours": SECRET}, "/ours", "not_good", "This must be good: nothing else will do."),
    ],
)
def test_to_invalid_request_each_error_has_pointer_code_and_sentence(
    body: dict[str, Any], pointer: str, code: str, message: str
) -> None:
    assert faults(**body) == [{"pointer": pointer, "code": code, "message": message}]


def test_to_invalid_request_missing_field_is_named() -> None:
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate({})
    assert to_invalid_request(caught.value).errors == [
        {"pointer": "/needed", "code": "missing", "message": "This field is required."}
    ]


def test_to_invalid_request_lists_every_error_under_the_prefix() -> None:
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate({"needed": "x", "inner": {"count": 0}})
    error = to_invalid_request(caught.value, prefix="/items/3")
    assert isinstance(error, InvalidRequestError)
    assert [fault["pointer"] for fault in error.errors] == [
        "/items/3/needed",
        "/items/3/inner/count",
    ]


def test_to_invalid_request_lists_at_most_50_errors() -> None:
    assert len(faults(**{f"field_{number}": 1 for number in range(200)})) == 50


@pytest.mark.parametrize(
    ("name", "pointer"),
    [("a/b", "/a~1b"), ("a~b", "/a~0b"), ("~1", "/~01"), ("", "/"), ("/", "/~1"), ("é", "/é")],
)
def test_to_invalid_request_pointer_is_escaped(name: str, pointer: str) -> None:
    (fault,) = faults(**{name: 1})
    assert fault["pointer"] == pointer


@given(JSON_VALUES)
@settings(max_examples=60, deadline=None)
def test_to_invalid_request_contains_no_value(value: object) -> None:
    body = {
        "needed": [SECRET, value],
        "inner": {"name": SECRET * 3, "count": SECRET},
        "parts": SECRET,
        "ours": SECRET,
    }
    found = faults(**body)
    assert len(found) == 5
    assert SECRET not in json.dumps(found)


def test_describe_unknown_error_type_has_a_sentence() -> None:
    fault = {
        "type": "bytes_invalid_encoding",
        "loc": ("a", 0),
        "msg": SECRET,
        "input": SECRET,
        "ctx": {"error": SECRET},
    }
    assert describe(fault) == {
        "pointer": "/a/0",
        "code": "bytes_invalid_encoding",
        "message": "This value does not fit.",
    }
