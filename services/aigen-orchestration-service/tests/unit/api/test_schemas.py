"""Request bodies: every invalid input is refused with code and pointer, every valid one accepted
unchanged.
"""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from creativeflow.services.aigeneration.api.schemas.generations import (
    BriefChanges,
    CreateRequest,
    CreditGrantCreate,
    ForceFailRequest,
    SelectSample,
)
from creativeflow.services.aigeneration.domain.formats import FORMATS
from creativeflow.services.aigeneration.kit.json_input import parse_json, to_invalid_request

CONTROL = ["\x00", "\x01", "\x08", "\x0b", "\x0c", "\x1b", "\x1f", "\x7f", "\x80", "\x9b", "\x85"]
ESC, NUL = "\x1b", "\x00"

EVERYTHING: dict[str, Any] = {
    "user_id": "user-7",
    "project_id": "project-3",
    "input_prompt": "A lighthouse at dawn",
    "style_guidance": "soft light",
    "output_format": "Custom",
    "custom_dimensions": {"width": 64, "height": 4096},
    "brand_kit_id": "kit-1",
    "uploaded_image_references": [
        "uploads/2026/a.png",
        "s3://uploads/a.png",
        "https://cdn.example/a.png",
        "asset_0001",
    ],
    "target_platform_hints": ["instagram"],
    "emotional_tone": "playful",
    "industry_template": "lifestyle",
    "cultural_adaptation_parameters": {
        "region": "MX",
        "holidays": ["Día de Muertos"],
        "avoid": None,
    },
    "color_scheme": ["#fff", "#A1B2C3", "teal"],
    "model": "advanced",
    "locale": "es-MX",
    "metadata": {"campaign": 4, "nested": {"deep": [True, 1.5, None]}},
    "quote_id": "q1.body.seal",
}


def create(**changes: Any) -> CreateRequest:
    return CreateRequest.model_validate(
        {"input_prompt": "A lighthouse", "output_format": "XPost"} | changes
    )


def custom(width: Any, height: Any) -> CreateRequest:
    return create(output_format="Custom", custom_dimensions={"width": width, "height": height})


def found(model: type[BaseModel], body: Any) -> list[tuple[str, str]]:
    """Code and pointer of each fault."""
    with pytest.raises(ValidationError) as caught:
        model.model_validate(body)
    faults = to_invalid_request(caught.value).errors
    assert all(fault["message"].endswith(".") for fault in faults)
    return [(fault["code"], fault["pointer"]) for fault in faults]


def faults(**changes: Any) -> list[tuple[str, str]]:
    return found(
        CreateRequest, {"input_prompt": "A lighthouse", "output_format": "XPost"} | changes
    )


def sentence(**changes: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        create(**changes)
    (fault,) = to_invalid_request(caught.value).errors
    return fault["message"]


# Complete bodies


def test_create_body_with_every_field_is_accepted() -> None:
    order = CreateRequest.model_validate(EVERYTHING)
    assert order.model_dump() == EVERYTHING


def test_create_brief_contains_only_set_fields() -> None:
    assert CreateRequest.model_validate(EVERYTHING).brief() == {
        name: value
        for name, value in EVERYTHING.items()
        if name not in {"user_id", "project_id", "metadata", "quote_id"}
    }
    assert create().brief() == {"input_prompt": "A lighthouse", "output_format": "XPost"}


@pytest.mark.parametrize("name", list(FORMATS))
def test_create_every_format_is_accepted(name: str) -> None:
    assert create(output_format=name).output_format == name


@pytest.mark.parametrize("missing", ["input_prompt", "output_format"])
def test_create_missing_required_field_is_refused(missing: str) -> None:
    body = {"input_prompt": "A lighthouse", "output_format": "XPost"}
    del body[missing]
    assert found(CreateRequest, body) == [("missing", f"/{missing}")]


@pytest.mark.parametrize(
    "name", [name for name in EVERYTHING if name not in {"input_prompt", "output_format"}]
)
def test_create_optional_fields_may_be_null(name: str) -> None:
    body = {**EVERYTHING, name: None}
    if name == "custom_dimensions":
        body["output_format"] = "XPost"
    assert getattr(CreateRequest.model_validate(body), name) is None


@pytest.mark.parametrize("body", [None, [], "text", 5, True])
def test_create_body_not_an_object_is_refused(body: object) -> None:
    assert found(CreateRequest, body) == [("model_type", "")]


@pytest.mark.parametrize("name", ["prompt", "Input_Prompt", "userId", "__class__", "callback_url"])
def test_create_unknown_field_is_refused(name: str) -> None:
    assert faults(**{name: "x"}) == [("extra_forbidden", f"/{name}")]


WRONG_TYPES: list[tuple[str, Any, str, str]] = [
    ("user_id", 5, "string_type", ""),
    ("project_id", {}, "string_type", ""),
    ("input_prompt", None, "string_type", ""),
    ("input_prompt", 5, "string_type", ""),
    ("input_prompt", ["x"], "string_type", ""),
    ("style_guidance", True, "string_type", ""),
    ("output_format", None, "string_type", ""),
    ("output_format", 5, "string_type", ""),
    ("brand_kit_id", [], "string_type", ""),
    ("uploaded_image_references", "uploads/a.png", "list_type", ""),
    ("uploaded_image_references", [5], "string_type", "/0"),
    ("uploaded_image_references", ["uploads/a.png", None], "string_type", "/1"),
    ("target_platform_hints", {}, "list_type", ""),
    ("target_platform_hints", [["x"]], "string_type", "/0"),
    ("emotional_tone", 1.5, "string_type", ""),
    ("industry_template", [], "string_type", ""),
    ("cultural_adaptation_parameters", [], "dict_type", ""),
    ("cultural_adaptation_parameters", "MX", "dict_type", ""),
    ("color_scheme", "#fff", "list_type", ""),
    ("color_scheme", [0xFFF], "string_type", "/0"),
    ("model", 1, "string_type", ""),
    ("locale", 1, "string_type", ""),
    ("metadata", [], "dict_type", ""),
    ("metadata", "x", "dict_type", ""),
]


@pytest.mark.parametrize(("name", "value", "code", "below"), WRONG_TYPES)
def test_create_value_of_wrong_type_is_refused(
    name: str, value: object, code: str, below: str
) -> None:
    assert faults(**{name: value}) == [(code, f"/{name}{below}")]


def test_create_reports_all_errors() -> None:
    assert faults(user_id=1, model="X", color_scheme=["?"]) == [
        ("string_type", "/user_id"),
        ("invalid_colour", "/color_scheme/0"),
        ("unknown_model", "/model"),
    ]


# Texts


@pytest.mark.parametrize("prompt", ["", " ", "\n\t ", "\u3000\u2003"])
def test_prompt_empty_is_refused(prompt: str) -> None:
    assert faults(input_prompt=prompt) == [("string_too_short", "/input_prompt")]
    assert sentence(input_prompt=prompt) == "This text is too short: at least 1 characters."


@pytest.mark.parametrize("prompt", ["x" * 4001, "é" * 4001, "🎨" * 4001, " " + "x" * 4001 + "\n"])
def test_prompt_over_4000_characters_is_refused(prompt: str) -> None:
    assert faults(input_prompt=prompt) == [("string_too_long", "/input_prompt")]
    assert sentence(input_prompt=prompt) == "This text is too long: at most 4000 characters."


@pytest.mark.parametrize("prompt", ["x", "x" * 4000, "🎨" * 4000])
def test_prompt_of_1_to_4000_characters_is_accepted(prompt: str) -> None:
    assert create(input_prompt=prompt).input_prompt == prompt


def test_prompt_is_measured_after_normalisation() -> None:
    assert create(input_prompt="  " + "x" * 4000 + "\n\n").input_prompt == "x" * 4000
    assert create(input_prompt="e\u0301" * 4000).input_prompt == "\u00e9" * 4000


def test_prompt_is_only_normalised() -> None:
    assert create(input_prompt="Cafe\u0301 am See").input_prompt == "Caf\u00e9 am See"
    assert create(input_prompt="ﬁne ① Ⅳ").input_prompt == "ﬁne ① Ⅳ"


@pytest.mark.parametrize(
    "prompt", ["one\ntwo", "one\r\ntwo", "a\n\n\nb", "مرحبا", "日本語の海", "👩\u200d🎨 paints"]
)
def test_line_breaks_and_every_script_are_taken(prompt: str) -> None:
    assert create(input_prompt=prompt).input_prompt == prompt


@pytest.mark.parametrize("character", CONTROL)
def test_prompt_with_control_character_is_refused(character: str) -> None:
    assert faults(input_prompt=f"one{character}two") == [("control_characters", "/input_prompt")]


@pytest.mark.parametrize(
    "name",
    [
        "user_id",
        "project_id",
        "style_guidance",
        "brand_kit_id",
        "emotional_tone",
        "industry_template",
    ],
)
@pytest.mark.parametrize("character", [NUL, ESC, "\x9f"])
def test_text_with_control_character_is_refused(name: str, character: str) -> None:
    assert faults(**{name: f"a{character}b"}) == [("control_characters", f"/{name}")]


def test_text_list_with_control_character_is_refused_at_its_index() -> None:
    assert faults(target_platform_hints=["web", f"a{NUL}"]) == [
        ("control_characters", "/target_platform_hints/1")
    ]


@pytest.mark.parametrize("character", [NUL, ESC])
@pytest.mark.parametrize("name", ["metadata", "cultural_adaptation_parameters"])
def test_metadata_with_control_character_is_refused_at_any_depth(name: str, character: str) -> None:
    hidden = f"a{character}b"
    for value in (
        {"key": hidden},
        {hidden: 1},
        {"list": ["ok", hidden]},
        {"a": {"b": [{"c": hidden}]}},
        {"a": {hidden: 1}},
    ):
        ((code, pointer),) = faults(**{name: value})
        assert code == "control_characters"
        assert pointer.startswith(f"/{name}")


@pytest.mark.parametrize("character", [NUL, ESC, "\x7f"])
@pytest.mark.parametrize(
    "reference",
    ["uploads/a{0}b.png", "s3://uploads/a{0}", "https://cdn.example/{0}a", "asset{0}0001"],
)
def test_reference_with_control_character_is_refused(reference: str, character: str) -> None:
    ((_, pointer),) = faults(uploaded_image_references=[reference.format(character)])
    assert pointer == "/uploaded_image_references/0"


@pytest.mark.parametrize("name", ["output_format", "model", "locale"])
def test_format_model_or_locale_with_control_character_is_refused(name: str) -> None:
    good = {"output_format": "XPost", "model": "fast", "locale": "en-US"}[name]
    for value in (good + NUL, good + "\n", ESC + good):
        ((_, pointer),) = faults(**{name: value})
        assert pointer == f"/{name}"


@given(st.text(max_size=40))
@settings(max_examples=150, deadline=None)
def test_prompt_any_text_is_accepted_or_refused_cleanly(prompt: str) -> None:
    try:
        taken = create(input_prompt=prompt).input_prompt
    except ValidationError as error:
        pointers = {fault["pointer"] for fault in to_invalid_request(error).errors}
        assert pointers == {"/input_prompt"}
    else:
        assert taken == taken.strip() != ""
        assert not {character for character in taken if ord(character) < 32} - set("\n\r\t")


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("user_id", 200),
        ("project_id", 200),
        ("style_guidance", 2000),
        ("brand_kit_id", 200),
        ("emotional_tone", 200),
        ("industry_template", 200),
    ],
)
def test_text_every_field_has_a_limit(name: str, most: int) -> None:
    assert getattr(create(**{name: "x" * most}), name) == "x" * most
    assert faults(**{name: "x" * (most + 1)}) == [("string_too_long", f"/{name}")]
    assert faults(**{name: " "}) == [("string_too_short", f"/{name}")]


# Formats and dimensions


@pytest.mark.parametrize(
    "name", ["", "xpost", "XPost ", "Instagram", "custom", "CUSTOM", "MySpace", "x" * 101]
)
def test_format_unknown_is_refused(name: str) -> None:
    ((code, pointer),) = faults(output_format=name)
    assert (code, pointer) in {
        ("unknown_format", "/output_format"),
        ("string_too_long", "/output_format"),
    }


def test_format_unknown_lists_the_known_ones() -> None:
    message = sentence(output_format="MySpace")
    assert all(name in message for name in (*FORMATS, "Custom"))
    assert "MySpace" not in message


def test_format_custom_requires_dimensions() -> None:
    ((code, pointer),) = faults(output_format="Custom")
    assert code == "dimensions_required"
    assert pointer in {"", "/custom_dimensions"}


def test_format_other_than_custom_refuses_dimensions() -> None:
    ((code, pointer),) = faults(
        output_format="XPost", custom_dimensions={"width": 64, "height": 64}
    )
    assert code == "dimensions_not_allowed"
    assert pointer in {"", "/custom_dimensions"}


@pytest.mark.parametrize(("width", "height"), [(64, 64), (4096, 4096), (64, 4096), (1234, 567)])
def test_custom_sides_may_have_64_to_4096_pixels(width: int, height: int) -> None:
    assert custom(width, height).brief()["custom_dimensions"] == {"width": width, "height": height}


@pytest.mark.parametrize(
    ("side", "code"),
    [
        (63, "greater_than_equal"),
        (0, "greater_than_equal"),
        (-100, "greater_than_equal"),
        (4097, "less_than_equal"),
        (10**30, "less_than_equal"),
        (True, "int_type"),
        (100.5, "int_type"),
        (100.0, "int_type"),
        (1e300, "int_type"),
        ("100", "int_type"),
        (None, "int_type"),
        ([100], "int_type"),
    ],
)
def test_dimensions_out_of_bounds_or_fractional_are_refused(side: object, code: str) -> None:
    assert faults(output_format="Custom", custom_dimensions={"width": side, "height": 64}) == [
        (code, "/custom_dimensions/width")
    ]
    assert faults(output_format="Custom", custom_dimensions={"width": 64, "height": side}) == [
        (code, "/custom_dimensions/height")
    ]


@pytest.mark.parametrize(
    ("dimensions", "expected"),
    [
        ({"width": 64}, [("missing", "/custom_dimensions/height")]),
        ({}, [("missing", "/custom_dimensions/width"), ("missing", "/custom_dimensions/height")]),
        (
            {"width": 64, "height": 64, "depth": 3},
            [("extra_forbidden", "/custom_dimensions/depth")],
        ),
        ([64, 64], [("model_type", "/custom_dimensions")]),
        ("64x64", [("model_type", "/custom_dimensions")]),
    ],
)
def test_dimensions_are_a_width_and_a_height(
    dimensions: object, expected: list[tuple[str, str]]
) -> None:
    assert faults(output_format="Custom", custom_dimensions=dimensions) == expected


# References, colours, models, languages, objects

GOOD_REFERENCES = [
    "uploads/a.png",
    "my-bucket.eu/folder/sub/a b.png".replace(" ", "_"),
    "uploads/Ünïcode.png",
    "s3://uploads/2026/11/a.png",
    "https://cdn.example/a.png",
    "https://cdn.example:8443/a.png?version=2#top",
    "https://cdn.example/",
    "0195940d-0000-7000-8000-000000000001",
    "asset_0001",
    "uploads/file..with..dots.png",
]
BAD_REFERENCES = [
    "",
    " ",
    "short",
    "http://cdn.example/a.png",
    "HTTP://cdn.example/a.png",
    "ftp://cdn.example/a.png",
    "file:///etc/passwd",
    "javascript:alert(1)",
    "javascript://x/%0aalert(1)",
    "data:image/png;base64,AAAA",
    "https://",
    "https:///a.png",
    "https://cdn.example",
    "https://cdn example/a.png",
    "https://cdn.example/a b.png",
    "s3://",
    "s3://uploads",
    "s3://uploads/",
    "s3:///a.png",
    "//cdn.example/a.png",
    "/etc/passwd",
    "../a.png",
    "uploads/../secrets/a.png",
    "uploads/..",
    "uploads/a/..",
    "s3://uploads/../other/a.png",
    "s3://uploads/..",
    "uploads/a b.png",
    "uploads/a.png\n",
    " uploads/a.png",
    "uploads/",
    "Uploads/a.png",
    "a/b",
    "-bucket/a.png",
    "asset 0001",
    "<script>alert(1)</script>",
]


@pytest.mark.parametrize("reference", GOOD_REFERENCES)
def test_reference_s3_https_or_asset_is_accepted(reference: str) -> None:
    assert create(uploaded_image_references=[reference]).uploaded_image_references == [reference]


@pytest.mark.parametrize("reference", BAD_REFERENCES)
def test_reference_of_any_other_kind_is_refused(reference: str) -> None:
    ((code, pointer),) = faults(uploaded_image_references=[reference])
    assert pointer == "/uploaded_image_references/0"
    assert code == ("invalid_reference" if reference else "string_too_short")


def test_reference_over_the_limit_is_refused() -> None:
    assert create(uploaded_image_references=["b/".rjust(5, "b") + "x" * 2043])
    assert faults(uploaded_image_references=["b/".rjust(5, "b") + "x" * 2044]) == [
        ("string_too_long", "/uploaded_image_references/0")
    ]


def test_references_over_ten_are_refused() -> None:
    ten = [f"uploads/{number}.png" for number in range(10)]
    assert create(uploaded_image_references=ten).uploaded_image_references == ten
    assert faults(uploaded_image_references=[*ten, "uploads/11.png"]) == [
        ("too_long", "/uploaded_image_references")
    ]


@pytest.mark.parametrize("colour", ["#fff", "#FFF", "#0a1B2c", "teal", "RebeccaPurple"])
def test_colour_code_or_name_is_accepted(colour: str) -> None:
    assert create(color_scheme=[colour]).color_scheme == [colour]


@pytest.mark.parametrize(
    "colour",
    [
        "",
        "#",
        "#ff",
        "#ffff",
        "#fffff",
        "#fffffff",
        "#ggg",
        "fff000",
        "rgb(0,0,0)",
        "re",
        "red;",
        "#fff\n",
        "#\uff46\uff46\uff46",
    ],
)
def test_colour_invalid_is_refused_at_its_index(colour: str) -> None:
    assert faults(color_scheme=["#fff", colour]) == [("invalid_colour", "/color_scheme/1")]


def test_lists_have_bounds() -> None:
    assert faults(color_scheme=["#fff"] * 13) == [("too_long", "/color_scheme")]
    assert faults(target_platform_hints=["web"] * 21) == [("too_long", "/target_platform_hints")]


@pytest.mark.parametrize("name", ["metadata", "cultural_adaptation_parameters"])
def test_objects_have_bounds(name: str) -> None:
    fifty = {str(number): number for number in range(50)}
    assert getattr(create(**{name: fifty}), name) == fifty
    assert faults(**{name: {**fifty, "one more": 1}}) == [("too_long", f"/{name}")]


@pytest.mark.parametrize("name", ["", "GPT", "Standard", "standard ", "fast\n"])
def test_model_unknown_name_is_refused(name: str) -> None:
    assert faults(model=name) == [("unknown_model", "/model")]


@pytest.mark.parametrize("locale", ["en", "en-US", "en-GB", "es-ES", "es-MX", "fr-FR", "de-DE"])
def test_locale_of_the_product_is_accepted(locale: str) -> None:
    assert create(locale=locale).locale == locale


@pytest.mark.parametrize(
    "locale",
    ["", "e", "EN", "en_US", "en-us", "english", "en-USA", "en-", "en-US\n", "\uff45\uff4e"],
)
def test_locale_invalid_is_refused(locale: str) -> None:
    assert faults(locale=locale) == [("string_pattern_mismatch", "/locale")]


# Other bodies of callers and operators


def test_select_valid_body_is_accepted() -> None:
    chosen = SelectSample.model_validate(
        {"selected_sample_id": " sample-2 ", "desired_resolution": "4K", "output_format": "webp"}
    )
    assert (chosen.selected_sample_id, chosen.desired_resolution, chosen.output_format) == (
        "sample-2",
        "4K",
        "webp",
    )
    assert SelectSample.model_validate({"selected_sample_id": "s"}).output_format is None


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, [("missing", "/selected_sample_id")]),
        ({"selected_sample_id": ["a", "b"]}, [("string_type", "/selected_sample_id")]),
        ({"selected_sample_id": " "}, [("string_too_short", "/selected_sample_id")]),
        ({"selected_sample_id": f"a{NUL}"}, [("control_characters", "/selected_sample_id")]),
        (
            {"selected_sample_id": "a", "output_format": "gif"},
            [("literal_error", "/output_format")],
        ),
        (
            {"selected_sample_id": "a", "output_format": "PNG"},
            [("literal_error", "/output_format")],
        ),
        (
            {"selected_sample_id": "a", "desired_resolution": 2048},
            [("string_type", "/desired_resolution")],
        ),
        (
            {"selected_sample_id": "a", "desired_resolution": "9" * 21},
            [("string_too_long", "/desired_resolution")],
        ),
        ({"selected_sample_id": "a", "resolution": "4K"}, [("extra_forbidden", "/resolution")]),
    ],
)
def test_select_invalid_body_is_refused(
    body: dict[str, Any], expected: list[tuple[str, str]]
) -> None:
    assert found(SelectSample, body) == expected


def test_changes_have_the_names_of_the_brief() -> None:
    changed = BriefChanges.model_validate(
        {
            "updated_prompt": " Two lighthouses ",
            "updated_style_guidance": "harsh light",
            "model": "fast",
        }
    )
    assert changed.changes() == {
        "input_prompt": "Two lighthouses",
        "style_guidance": "harsh light",
        "model": "fast",
    }
    assert BriefChanges.model_validate({}).changes() == {}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"updated_prompt": "x" * 4001}, [("string_too_long", "/updated_prompt")]),
        ({"updated_prompt": ""}, [("string_too_short", "/updated_prompt")]),
        ({"updated_prompt": f"a{ESC}[31m"}, [("control_characters", "/updated_prompt")]),
        ({"updated_style_guidance": "x" * 2001}, [("string_too_long", "/updated_style_guidance")]),
        ({"model": "GPT"}, [("unknown_model", "/model")]),
        ({"input_prompt": "x"}, [("extra_forbidden", "/input_prompt")]),
    ],
)
def test_bad_changes_are_refused(body: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    assert found(BriefChanges, body) == expected


@pytest.mark.parametrize(
    ("amount", "hundredths"),
    [("5.00", 500), ("0.25", 25), ("-1", -100), ("1000000", 10**8), (5, 500)],
)
def test_grant_text_or_whole_credits_become_hundredths(amount: object, hundredths: int) -> None:
    assert (
        CreditGrantCreate.model_validate({"user_id": "user-7", "amount": amount}).amount
        == hundredths
    )


@pytest.mark.parametrize(
    "amount", [5.0, 0.1, True, None, ["5"], "", "1e3", "0.001", "five", "-", "+5", "\u0665"]
)
def test_grant_invalid_amount_is_refused(amount: object) -> None:
    assert found(CreditGrantCreate, {"user_id": "user-7", "amount": amount}) == [
        ("invalid_amount", "/amount")
    ]


@pytest.mark.parametrize("plan", ["free", "payg", "pro", "team", "enterprise"])
def test_grant_with_plan_is_accepted(plan: str) -> None:
    assert (
        CreditGrantCreate.model_validate({"user_id": "user-7", "amount": "0", "plan": plan}).plan
        == plan
    )


@pytest.mark.parametrize("plan", ["", "Pro", "gold", "pro "])
def test_grant_unknown_plan_is_refused_at_its_pointer(plan: str) -> None:
    ((_, pointer),) = found(CreditGrantCreate, {"user_id": "user-7", "amount": "0", "plan": plan})
    assert pointer == "/plan"


@pytest.mark.parametrize("reason", ["", "  ", "x" * 501, f"a{NUL}b"])
def test_operator_actions_require_a_reason(reason: str) -> None:
    ((_, pointer),) = found(ForceFailRequest, {"reason": reason})
    assert pointer == "/reason"
    assert (
        ForceFailRequest.model_validate({"reason": " stuck since noon "}).reason
        == "stuck since noon"
    )


@given(
    st.dictionaries(
        st.sampled_from(sorted(EVERYTHING)),
        st.none()
        | st.booleans()
        | st.integers()
        | st.text()
        | st.lists(st.text(max_size=5), max_size=3)
        | st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
    )
)
@settings(max_examples=150, deadline=None)
def test_any_body_is_accepted_or_refused_with_messages(body: dict[str, Any]) -> None:
    try:
        CreateRequest.model_validate(EVERYTHING | body)
    except ValidationError as error:
        for fault in to_invalid_request(error).errors:
            assert set(fault) == {"pointer", "code", "message"}
            assert fault["message"].endswith(".")


def test_metadata_at_the_depth_limit_is_checked() -> None:
    body = (
        b'{"input_prompt":"x","output_format":"XPost","metadata":'
        + b'{"a":' * 18
        + b'"\\u001b"'
        + b"}" * 19
    )
    assert found(CreateRequest, parse_json(body)) == [
        ("control_characters", "/metadata" + "/a" * 18)
    ]
