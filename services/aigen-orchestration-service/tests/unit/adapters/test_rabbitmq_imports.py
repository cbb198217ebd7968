"""The RabbitMQ adapter uses pika through its public names only."""

import ast
import inspect
from pathlib import Path

import pytest
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.channel import Channel

from creativeflow.services.aigeneration.adapters import rabbitmq

MODULES = sorted(Path(next(iter(rabbitmq.__path__))).glob("*.py"))
PRIVATE = {
    name
    for owner in (AsyncioConnection, Channel)
    for name in dir(owner)
    if name.startswith("_") and not name.startswith("__")
}


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.stem)
def test_rabbitmq_module_uses_only_public_names_of_pika(module: Path) -> None:
    tree = ast.parse(module.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pika"):
            assert not [alias.name for alias in node.names if alias.name.startswith("_")]
        if isinstance(node, ast.Attribute) and node.attr in PRIVATE:
            assert ast.unparse(node.value) in {"self", "cls"}, ast.unparse(node)


def test_rabbitmq_classes_override_no_private_method_of_pika() -> None:
    for module in MODULES:
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.ClassDef) and {"AsyncioConnection", "Channel"} & {
                ast.unparse(base) for base in node.bases
            }:
                defined = {each.name for each in node.body if isinstance(each, ast.FunctionDef)}
                assert not defined & PRIVATE, node.name


def test_asyncio_connection_accepts_io_services() -> None:
    assert "custom_ioloop" in inspect.signature(AsyncioConnection).parameters
