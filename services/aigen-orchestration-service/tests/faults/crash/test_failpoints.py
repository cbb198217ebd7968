"""The failpoints cover everything that writes."""

from creativeflow.services.aigeneration import adapters, api, application, ports, web, workers
from creativeflow.services.aigeneration import storage as storage_package
from tests.faults.crash.failpoints import (
    answer_name,
    classes,
    failpoints,
    modules,
    port_failpoints,
    public_coroutines,
    reach,
    statements,
    storage_failpoints,
)


def test_failpoints_cover_every_statement_that_writes() -> None:
    within: set[tuple[str, str]] = set()
    for failpoint in storage_failpoints():
        assert failpoint.owner is not None
        within |= reach(failpoint.owner, failpoint.method).keys()
    found = set(statements(storage_package))
    assert len(found) > 25
    assert found - within == set()


def test_statements_that_write_exist_only_in_storage() -> None:
    outside = {
        (module, where)
        for package in (api, application, adapters, web, workers)
        for module, where in statements(package)
    }
    assert outside == set()


def test_failpoints_cover_every_port_method_of_every_adapter() -> None:
    names = {failpoint.name for failpoint in port_failpoints()}
    for protocol in (ports.Credits, ports.Engine, ports.Notifier, ports.PromptCheck):
        for method in public_coroutines(protocol):
            assert any(name.endswith(f".{method}") for name in names), method
    assert {"LocalCredits.hold", "BillingCredits.hold", "OdooCredits.hold"} <= names
    assert {"RabbitMQEngine.publish", "RabbitMQNotifier.send", "HttpNotifier.send"} <= names


def test_failpoints_exclude_reads() -> None:
    names = {failpoint.name for failpoint in storage_failpoints()}
    assert "RequestStore.load" not in names
    assert not {name for name in names if name.startswith("Queries.")}
    assert {
        "BatchWriter.write",
        "RequestStore.lease_jobs",
        "Outbox.settle",
        "BillingJournal.begin",
        "Ledger.hold",
    } <= names


def test_failpoints_inspect_every_storage_module() -> None:
    storage = {
        name for module in modules(storage_package) for name in [module.__name__.rpartition(".")[2]]
    }
    assert {
        "account_flags",
        "billing_journal",
        "ledger",
        "outbox",
        "requests",
        "webhook_deliveries",
        "webhook_endpoints",
    } <= storage
    assert len(list(classes(storage_package))) > 10


def test_failpoints_cover_every_http_call_that_changes_state() -> None:
    names = {failpoint.name for failpoint in failpoints()}
    assert "POST /api/v1/generation-requests" in names
    assert "POST /api/v1/n8n-callbacks/sample-result" in names
    assert "DELETE /api/v1/webhook-endpoints/{endpoint_id}" in names
    assert (
        answer_name("POST", "/api/v1/generation-requests/quote")
        == "POST /api/v1/generation-requests/quote"
    )
    assert not {name for name in names if name.startswith("GET ")}
