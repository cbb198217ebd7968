"""The client is a distribution of its own and shares no file with the service's."""

import ast
import sys
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parents[5]
CLIENT = ROOT / "clients" / "python"
SERVICE = ROOT / "services" / "aigen-orchestration-service"
PACKAGE = "creativeflow/clients/aigeneration"


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, zipfile.ZipFile]:
    """The wheels of client and service, by project folder."""
    folder = str(tmp_path_factory.mktemp("wheels"))
    return {
        project: zipfile.ZipFile(next(WheelBuilder(str(project)).build(directory=folder)))
        for project in (CLIENT, SERVICE)
    }


def metadata(wheel: zipfile.ZipFile) -> Message:
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    return Parser().parsestr(wheel.read(name).decode())


def test_client_wheel_is_typed_licensed_and_requires_only_httpx(
    wheels: dict[Path, zipfile.ZipFile],
) -> None:
    names = set(wheels[CLIENT].namelist())
    assert {f"{PACKAGE}/__init__.py", f"{PACKAGE}/py.typed"} <= names
    assert all(name.startswith(f"{PACKAGE}/") for name in names if ".dist-info/" not in name)
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    described = metadata(wheels[CLIENT])
    assert described["Name"] == "creativeflow-aigen-client"
    assert described.get_all("Requires-Dist") == ["httpx>=0.28"]


def test_wheels_share_no_file_and_the_namespace_packages_have_no_init(
    wheels: dict[Path, zipfile.ZipFile],
) -> None:
    client, service = (set(wheels[project].namelist()) for project in (CLIENT, SERVICE))
    assert "creativeflow/services/aigeneration/__init__.py" in service
    assert client & service == set()
    for namespace in ("creativeflow", "creativeflow/clients", "creativeflow/services"):
        assert f"{namespace}/__init__.py" not in client | service


def test_service_requires_the_client_in_its_own_version(
    wheels: dict[Path, zipfile.ZipFile],
) -> None:
    client, service = (metadata(wheels[project]) for project in (CLIENT, SERVICE))
    assert client["Version"] == service["Version"]
    assert f"{client['Name']}<0.3,>=0.2" in (service.get_all("Requires-Dist") or [])


def test_client_imports_only_httpx_and_the_standard_library() -> None:
    allowed = sys.stdlib_module_names | {"httpx"}
    files = list((CLIENT / "src" / PACKAGE).rglob("*.py"))
    assert files
    for file in files:
        for imported in _imports(file):
            own = imported.startswith("creativeflow.clients.aigeneration")
            assert own or imported.partition(".")[0] in allowed, f"{file.name} imports {imported}"


def _imports(file: Path) -> list[str]:
    found: list[str] = []
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module is not None, f"{file.name}: relative import"  # noqa: PT018
            found.append(node.module)
    return found
