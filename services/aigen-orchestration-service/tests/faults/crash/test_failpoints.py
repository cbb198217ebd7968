"""The list of seams has everything that writes: it is compared with the statements themselves."""

from creativeflow.services.aigeneration import adapters, api, application, ports, web, workers
from creativeflow.services.aigeneration import storage as storage_package
from tests.faults.crash.failpoints import (
    answer_name,
    classes,
    failpoints,
    modules,
    port_seams,
    public_coroutines,
    reach,
    statements,
    storage_seams,
)


def test_every_statement_that_writes_is_within_a_seam() -> None:
    within: set[tuple[str, str]] = set()
    for seam in storage_seams():
        assert seam.owner is not None
        within |= reach(seam.owner, seam.method).keys()
    found = set(statements(storage_package))
    assert len(found) > 25
    assert found - within == set()


def test_nothing_else_of_the_service_has_statements_that_write() -> None:
    outside = {
        (module, where)
        for package in (api, application, adapters, web, workers)
        for module, where in statements(package)
    }
    assert outside == set()


def test_every_call_of_a_port_is_a_seam_on_every_adapter() -> None:
    names = {seam.name for seam in port_seams()}
    for protocol in (ports.Credits, ports.Engine, ports.Notifier, ports.PromptCheck):
        for method in public_coroutines(protocol):
            assert any(name.endswith(f".{method}") for name in names), method
    assert {"LocalCredits.hold", "BillingCredits.hold", "OdooCredits.hold"} <= names
    assert {"RabbitMQEngine.publish", "RabbitMQNotifier.send", "HttpNotifier.send"} <= names


def test_reading_is_no_seam() -> None:
    names = {seam.name for seam in storage_seams()}
    assert "RequestStore.load" not in names
    assert not {name for name in names if name.startswith("Queries.")}
    assert {
        "RequestStore.write",
        "RequestStore.lease_jobs",
        "Outbox.settle",
        "BillingJournal.begin",
        "Ledger.hold",
    } <= names


def test_what_a_new_method_does_is_seen() -> None:
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


def test_every_call_that_may_change_something_is_a_seam() -> None:
    names = {seam.name for seam in failpoints()}
    assert "POST /api/v1/generation-requests" in names
    assert "POST /api/v1/n8n-callbacks/sample-result" in names
    assert "DELETE /api/v1/webhook-endpoints/{endpoint_id}" in names
    assert (
        answer_name("POST", "/api/v1/generation-requests/quote")
        == "POST /api/v1/generation-requests/quote"
    )
    assert not {name for name in names if name.startswith("GET ")}
