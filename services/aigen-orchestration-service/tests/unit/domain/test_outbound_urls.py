"""Rules of outbound URLs: unambiguous syntax, and public addresses only."""

from ipaddress import ip_address, ip_network

import pytest

from creativeflow.services.aigeneration.domain.outbound_urls import (
    Place,
    Rules,
    UnfitAddressError,
    embedded,
    is_public,
    read_url,
)

PUBLIC = ip_address("93.184.216.34")


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("", "unknown_scheme"),
        ("hooks.example.com/x", "unknown_scheme"),
        ("//hooks.example.com/x", "unknown_scheme"),
        ("ftp://hooks.example.com/", "unknown_scheme"),
        ("file:///etc/passwd", "unknown_scheme"),
        ("gopher://hooks.example.com:70/_", "unknown_scheme"),
        ("javascript:alert(1)", "unknown_scheme"),
        ("https:hooks.example.com", "unknown_scheme"),
        ("https:/hooks.example.com", "unknown_scheme"),
        ("https:///hooks.example.com", "invalid_url"),
        ("https://", "invalid_url"),
        ("https://user:password@hooks.example.com/", "userinfo_not_allowed"),
        ("https://hooks.example.com@127.0.0.1/", "userinfo_not_allowed"),
        ("https://127.0.0.1:80@hooks.example.com/", "userinfo_not_allowed"),
        ("https://hooks.example.com/#fragment", "fragment_not_allowed"),
        ("https://hooks.example.com#@127.0.0.1/", "fragment_not_allowed"),
        ("https://127.0.0.1\\@hooks.example.com/", "invalid_url"),
        ("https://hooks.example.com\\.127.0.0.1/", "invalid_url"),
        ("https://hooks.example.com/a b", "invalid_url"),
        ("https://hooks.example.com\t/", "invalid_url"),
        ("https://hooks.example.com\r\nHost: x/", "invalid_url"),
        (" https://hooks.example.com/", "invalid_url"),
        ("https://hooks.example.com/\x00", "invalid_url"),
        ("https://ⓔⓧⓐⓜⓟⓛⓔ.com/", "invalid_url"),
        ("https://\uff11\uff12\uff17.0.0.1/", "invalid_url"),
        ("https://127。0。0。1/", "invalid_url"),
        ("https://bücher.example/", "invalid_url"),
        ("https://hooks.example.com/ü", "invalid_url"),
        ("https://hooks.example.com%2f@127.0.0.1/", "userinfo_not_allowed"),
        ("https://127.0.0.1%00.example.com/", "invalid_url"),
        ("https://%31%32%37.0.0.1/", "invalid_url"),
        ("https://hooks..example.com/", "invalid_url"),
        ("https://hooks.example.com./", "invalid_url"),
        ("https://-hooks.example.com/", "invalid_url"),
        ("https://.example.com/", "invalid_url"),
        ("https://" + "a" * 64 + ".com/", "invalid_url"),
        ("https://" + "a." * 127 + "com/", "invalid_url"),
        ("https://hooks.example.com/" + "a" * 2000, "invalid_url"),
        ("https://hooks.example.com:/", "invalid_url"),
        ("https://hooks.example.com:0/", "invalid_port"),
        ("https://hooks.example.com:65536/", "invalid_port"),
        ("https://hooks.example.com:443:80/", "invalid_url"),
        ("https://hooks.example.com:+443/", "invalid_url"),
        ("https://2130706433/", "ambiguous_address"),
        ("https://0x7f000001/", "ambiguous_address"),
        ("https://0x7f.0.0.1/", "ambiguous_address"),
        ("https://127.0.0.0x1/", "ambiguous_address"),
        ("https://017700000001/", "ambiguous_address"),
        ("https://0177.0.0.1/", "ambiguous_address"),
        ("https://127.0.0.01/", "ambiguous_address"),
        ("https://127.1/", "ambiguous_address"),
        ("https://127.0.1/", "ambiguous_address"),
        ("https://127.0.0.1.1/", "ambiguous_address"),
        ("https://127.0.0.256/", "ambiguous_address"),
        ("https://hooks.example.0x/", "ambiguous_address"),
        ("https://[::1/", "invalid_url"),
        ("https://[::1]]/", "invalid_url"),
        ("https://[fe80::1%25eth0]/", "invalid_url"),
        ("https://[v1.x]/", "invalid_url"),
        ("https://[:::1]/", "ambiguous_address"),
        ("https://::1/", "invalid_url"),
    ],
)
def test_read_url_ambiguous_is_refused(url: str, code: str) -> None:
    with pytest.raises(UnfitAddressError) as refused:
        read_url(url)
    assert refused.value.code == code
    assert str(refused.value)[0].isupper()
    assert str(refused.value).endswith(".")


@pytest.mark.parametrize(
    ("url", "place", "host_header"),
    [
        (
            "https://hooks.example.com",
            ("https", "hooks.example.com", 443, "/"),
            "hooks.example.com",
        ),
        (
            "HTTPS://Hooks.Example.COM:8443/A?b=%2F",
            ("https", "hooks.example.com", 8443, "/A?b=%2F"),
            "hooks.example.com:8443",
        ),
        (
            "https://hooks.example.com?b=1",
            ("https", "hooks.example.com", 443, "/?b=1"),
            "hooks.example.com",
        ),
        ("http://192.0.2.1:80/x", ("http", "192.0.2.1", 80, "/x"), "192.0.2.1"),
        (
            "https://[2001:DB8::0:1]:8443/",
            ("https", "2001:db8::1", 8443, "/"),
            "[2001:db8::1]:8443",
        ),
        (
            "https://xn--bcher-kva.example/@a",
            ("https", "xn--bcher-kva.example", 443, "/@a"),
            "xn--bcher-kva.example",
        ),
        (
            "https://a_b.example-1.com/",
            ("https", "a_b.example-1.com", 443, "/"),
            "a_b.example-1.com",
        ),
    ],
)
def test_read_url_returns_its_parts(
    url: str, place: tuple[str, str, int, str], host_header: str
) -> None:
    read = read_url(url)
    assert (read.scheme, read.host, read.port, read.target) == place
    assert read.host_header == host_header


PRIVATE = [
    "0.0.0.1",
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",
    "100.127.255.255",
    "127.0.0.1",
    "127.255.255.254",
    "169.254.0.1",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.1",
    "192.0.0.192",
    "192.0.2.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "168.63.129.16",
    "100.100.100.200",
    "::",
    "::1",
    "::7f00:1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "2002:7f00:1::",
    "2002:a00:1::1",
    "2002:a9fe:a9fe::",
    "2001::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2001:db8::1",
    "100::1",
    "fc00::1",
    "fd00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fec0::1",
    "200::1",
    "4000::1",
    "e000::1",
    "ff02::1",
    "ff0e::1",
]


@pytest.mark.parametrize("address", [*PRIVATE, str(ip_address(0))])
def test_check_address_not_public_is_refused(address: str) -> None:
    place = Place(scheme="https", host="hooks.example.com", port=443, target="/")
    with pytest.raises(UnfitAddressError, match="AIGEN_WEBHOOK_ALLOWED_NETWORKS") as refused:
        Rules().check(place, ip_address(address))
    assert refused.value.code == "private_address"


@pytest.mark.parametrize(
    "address",
    [
        "93.184.216.34",
        "1.1.1.1",
        "2606:4700::1111",
        "::ffff:1.1.1.1",
        "64:ff9b::101:101",
        "2002:101:101::1",
    ],
)
def test_check_public_address_is_allowed(address: str) -> None:
    assert is_public(embedded(ip_address(address)))
    Rules().check(
        Place(scheme="https", host="hooks.example.com", port=443, target="/"), ip_address(address)
    )


@pytest.mark.parametrize(
    ("scheme", "port", "rules", "code"),
    [
        ("http", 80, Rules(), "https_required"),
        ("https", 22, Rules(), "port_not_allowed"),
        ("https", 5432, Rules(ports=frozenset({443})), "port_not_allowed"),
        ("http", 8080, Rules(allow_http=True), "port_not_allowed"),
    ],
)
def test_scheme_and_port_are_bounded_on_the_internet(
    scheme: str, port: int, rules: Rules, code: str
) -> None:
    with pytest.raises(UnfitAddressError, match="AIGEN_WEBHOOK_") as refused:
        rules.check(Place(scheme=scheme, host="hooks.example.com", port=port, target="/"), PUBLIC)
    assert refused.value.code == code


def test_check_listed_network_allows_any_port_and_http() -> None:
    rules = Rules(networks=[ip_network("10.1.0.0/16"), ip_network("fd12::/16")])
    for address in ("10.1.2.3", "fd12::1", "::ffff:10.1.2.3"):
        rules.check(Place(scheme="http", host="n8n", port=5678, target="/"), ip_address(address))
    with pytest.raises(UnfitAddressError):
        rules.check(Place(scheme="https", host="n8n", port=443, target="/"), ip_address("10.2.0.1"))
    Rules(allow_http=True).check(
        Place(scheme="http", host="a.example", port=80, target="/"), PUBLIC
    )


@pytest.mark.parametrize(
    "address", ["169.254.169.254", "fd00:ec2::254", "168.63.129.16", "100.100.100.200"]
)
def test_check_metadata_address_is_always_refused(address: str) -> None:
    rules = Rules(networks=[ip_network("0.0.0.0/0"), ip_network("::/0")])
    with pytest.raises(UnfitAddressError):
        rules.check(Place(scheme="http", host="metadata", port=80, target="/"), ip_address(address))
