"""Settings that cannot work are refused with a sentence, and never with the secret in it."""

import hashlib
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from creativeflow.services.aigeneration.kit.secret_files import SecretFileError
from creativeflow.services.aigeneration.settings import Settings, scheme

SECRET = "7f3Kq9x2M4v8b1N6tZ5pW0sY3dH7jL2c"
PRODUCTION = {
    "profile": "production",
    "database_url": "postgresql://aigen:word@db/aigen",
    "engine_url": "amqps://aigen:word@broker/aigen",
    "public_url": "https://aigen.company.test",
    "callback_secret": SECRET,
    "api_keys": f"shop:service:{SECRET},shop:service:{SECRET[::-1]},duty:operator:{SECRET[1:]}",
    "jwt_secret": f"{SECRET[2:]}ab,{SECRET[3:]}abc",
    "jwks_url": "https://issuer.company.test/keys",
    "jwt_audience": "aigen",
    "jwt_issuer": "https://issuer.company.test",
}


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


def test_settings_complete_for_production_are_accepted() -> None:
    assert Settings(_env_file=None, **PRODUCTION).profile == "production"  # type: ignore[arg-type,call-arg]


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"public_url": "http://aigen.company.test"}, "https in AIGEN_PUBLIC_URL"),
        ({"engine_url": "amqp://guest:guest@broker/"}, "another login than guest:guest"),
        ({"engine_url": "amqp://g%75est:guest@broker/"}, "another login than guest:guest"),
        ({"engine_url": "amqp://broker/"}, "another login than guest:guest"),
        ({"notify_url": "amqps://guest:guest@broker/"}, "another login than guest:guest"),
        ({"jwt_audience": None}, "AIGEN_JWT_AUDIENCE and AIGEN_JWT_ISSUER"),
        ({"jwt_issuer": ""}, "AIGEN_JWT_AUDIENCE and AIGEN_JWT_ISSUER"),
        ({"jwks_url": None, "jwt_issuer": None}, "AIGEN_JWT_AUDIENCE and AIGEN_JWT_ISSUER"),
        ({"jwt_secret": None, "jwt_issuer": None}, "AIGEN_JWT_AUDIENCE and AIGEN_JWT_ISSUER"),
        ({"jwks_url": "HTTP://issuer.company.test/keys"}, "https in AIGEN_JWKS_URL"),
        ({"callback_secret": "a" * 40}, "a random AIGEN_CALLBACK_SECRET"),
        ({"callback_secret": f"{SECRET},{'ab' * 20}"}, "a random AIGEN_CALLBACK_SECRET"),
        ({"jwt_secret": "change-me-" + SECRET}, "a random AIGEN_JWT_SECRET"),
        (
            {"jwt_secret": f"{SECRET},7f3Kq9x2M4v8b1N6tZ5pW0s"},
            "an AIGEN_JWT_SECRET of 32 characters",
        ),
        ({"api_keys": "shop:service:" + "key" * 8}, "random keys in AIGEN_API_KEYS"),
        (
            {"api_keys": f"shop:service:{SECRET},shop:operator:{SECRET[1:]}"},
            "one role for each name in AIGEN_API_KEYS",
        ),
        (
            {"api_keys": f"shop:service:{SECRET},duty:operator:{SECRET}"},
            "a key of its own for each name in AIGEN_API_KEYS",
        ),
    ],
)
def test_settings_insecure_for_production_are_refused(
    changes: dict[str, object], refusal: str
) -> None:
    text = _refusal(**PRODUCTION | changes)
    assert text.count(";") == 0, text
    assert refusal in text
    assert SECRET not in text
    embedded = {**PRODUCTION, **changes, "profile": "embedded"}
    assert refusal in "".join(
        Settings(_env_file=None, **embedded).missing_for_production()  # type: ignore[arg-type,call-arg]
    )


def test_settings_http_public_url_behind_a_configured_proxy_is_accepted() -> None:
    behind = PRODUCTION | {"public_url": "http://aigen", "trusted_proxies": "10.0.0.0/8"}
    assert Settings(_env_file=None, **behind).trusted_proxies  # type: ignore[arg-type,call-arg]


@pytest.mark.parametrize("text", ["", "\n"])
def test_settings_api_key_that_is_the_digest_of_nothing_is_refused(text: str) -> None:
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert "the digest of an empty text" in _refusal(api_keys=f"shop:service:sha256${digest}")


def test_settings_networks_of_proxies_must_be_readable() -> None:
    assert "does not appear to be an IPv4 or IPv6 network" in _refusal(trusted_proxies="proxy")


# Secrets from files


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    file = tmp_path / "secret"
    file.write_text(f"{SECRET}\n\n  second-{SECRET}\n")
    return file


@pytest.mark.parametrize("name", ["AIGEN_CALLBACK_SECRET_FILE", "N8N_CALLBACK_SECRET_FILE"])
def test_settings_secret_is_read_from_a_file(
    monkeypatch: pytest.MonkeyPatch, secret_file: Path, name: str
) -> None:
    monkeypatch.setenv(name, str(secret_file))
    settings = Settings(_env_file=None)  # type: ignore[call-arg]
    assert settings.callback_secrets() == [SECRET, f"second-{SECRET}"]


def test_settings_every_secret_can_be_read_from_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    values = {
        "database_url": "postgresql://a:b@c/d",
        "engine_url": "amqp://a:b@c/d",
        "credits_url": "https://billing",
        "notify_url": "https://notify",
        "safety_url": "https://safety",
        "api_keys": f"shop:service:{SECRET}\nduty:operator:{SECRET[1:]}",
    }
    for field, names in Settings.secret_variables().items():
        (tmp_path / field).write_text(values.get(field, SECRET))
        monkeypatch.setenv(f"{names[0].upper()}_FILE", str(tmp_path / field))
        assert {f"{name}_file".upper() for name in names} <= Settings.variables()
    settings = Settings(_env_file=None)  # type: ignore[call-arg]
    assert settings.database_url == SecretStr("postgresql://a:b@c/d")
    keys = settings.keys()
    assert [key.name for key in keys] == ["shop", "duty"]
    for field in set(Settings.secret_variables()) - set(values):
        assert getattr(settings, field) == SecretStr(SECRET), field


def test_settings_file_of_the_environment_precedes_the_variable_in_the_env_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, secret_file: Path
) -> None:
    (tmp_path / ".env").write_text(
        "AIGEN_JWT_SECRET=another\nAIGEN_DATABASE_URL=postgresql://x/y\n"
    )
    monkeypatch.setenv("AIGEN_JWT_SECRET_FILE", str(secret_file))
    monkeypatch.setenv("AIGEN_DATABASE_URL_FILE", str(tmp_path / "url"))
    (tmp_path / "url").write_text("postgresql://a/b")
    settings = Settings(_env_file=tmp_path / ".env")  # type: ignore[call-arg]
    assert settings.jwt_secrets()[0] == SECRET
    assert settings.database_url == SecretStr("postgresql://a/b")


def test_settings_file_named_in_the_env_file_is_read(tmp_path: Path, secret_file: Path) -> None:
    (tmp_path / ".env").write_text(f"AIGEN_JWT_SECRET_FILE={secret_file}\n")
    settings = Settings(_env_file=tmp_path / ".env")  # type: ignore[call-arg]
    assert settings.jwt_secrets()[0] == SECRET


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "cannot be read (no such file or directory)"),
        (b"\n \n", "is empty"),
        (b"\xff\xfe", "is not UTF-8 text"),
        (b"x" * 70_000, "is larger than 64 KiB"),
    ],
)
def test_settings_secret_file_that_cannot_be_used_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes | None, reason: str
) -> None:
    if content is not None:
        (tmp_path / "secret").write_bytes(content)
    monkeypatch.setenv("AIGEN_JWT_SECRET_FILE", str(tmp_path / "secret"))
    with pytest.raises(SecretFileError) as refused:
        Settings(_env_file=None)  # type: ignore[call-arg]
    assert "AIGEN_JWT_SECRET_FILE" in str(refused.value)
    assert reason in str(refused.value)


def test_settings_secret_beside_its_file_is_refused(
    monkeypatch: pytest.MonkeyPatch, secret_file: Path
) -> None:
    monkeypatch.setenv("AIGEN_JWT_SECRET_FILE", str(secret_file))
    monkeypatch.setenv("AIGEN_JWT_SECRET", SECRET)
    with pytest.raises(SecretFileError, match="AIGEN_JWT_SECRET is set as well") as refused:
        Settings(_env_file=None)  # type: ignore[call-arg]
    assert SECRET not in str(refused.value)
