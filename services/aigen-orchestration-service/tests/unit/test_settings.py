"""Settings that cannot work are refused with a sentence, and never with the secret in it."""

import pytest
from pydantic import SecretStr, ValidationError

from creativeflow.services.aigeneration.settings import Settings, scheme


def _refusal(**values: object) -> str:
    with pytest.raises(ValidationError) as refused:
        Settings(_env_file=None, **values)  # type: ignore[arg-type,call-arg]
    return "\n".join(error["msg"] for error in refused.value.errors())


@pytest.mark.parametrize("name", ["public_url", "jwks_url"])
@pytest.mark.parametrize("url", ["aigen.example.com", "//aigen.example.com", "ftp://x", "https://"])
def test_settings_web_url_without_scheme_or_host_is_refused(name: str, url: str) -> None:
    assert "a URL with http:// or https:// and a host is needed" in _refusal(**{name: url})


@pytest.mark.parametrize("url", ["https://aigen.example.com", "http://10.0.0.1:8000/aigen"])
def test_settings_web_url_with_scheme_is_accepted(url: str) -> None:
    assert Settings(_env_file=None, public_url=url).public_url == url  # type: ignore[call-arg]


@pytest.mark.parametrize("url", ["aigen:secret@db/aigen", "mysql://aigen:secret@db/aigen"])
def test_settings_database_url_of_another_kind_is_refused_without_the_password(url: str) -> None:
    refusal = _refusal(database_url=url)
    assert "postgresql://user:password@host:5432/database" in refusal
    assert "secret" not in refusal


def test_settings_engine_url_without_scheme_is_refused_without_the_password() -> None:
    refusal = _refusal(engine_url="aigen:secret@broker")
    assert "AIGEN_ENGINE_URL has no scheme; known schemes are amqp://" in refusal
    assert "secret" not in refusal


def test_settings_every_description_is_one_sentence() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name


def test_scheme_of_a_url_is_in_lower_case_and_empty_without_one() -> None:
    assert scheme(SecretStr("AMQP://x")) == "amqp"
    assert scheme(SecretStr("user:word@host")) == ""
