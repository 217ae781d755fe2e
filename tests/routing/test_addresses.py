"""What may be an upstream's address: a table of hostile spellings, and its twin of honest ones."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from routing.addresses import AddressRefused, allowed, check_ip, check_url, resolve

NEVER = [
    "0.0.0.0", "0.1.2.3", "169.254.0.1", "169.254.169.254", "168.63.129.16", "100.100.100.200", "192.0.0.192", "192.0.0.8",
    "192.0.2.1", "192.88.99.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255",
    "::", "::7f00:1", "::ffff:169.254.169.254", "::ffff:0:7f00:1", "64:ff9b::7f00:1", "64:ff9b:1::1", "100::1", "2001::1",
    "2001:db8::1", "2002:7f00:1::", "3fff::1", "5f00::1", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1",
    "fd00:ec2::254", "fd20:ce::254",
]  # fmt: skip
PRIVATE = [
    "10.1.2.3", "100.64.0.1", "127.0.0.1", "127.8.8.8", "172.16.0.1", "172.31.255.255", "192.168.1.1", "198.18.0.1", "::1",
    "fc00::1", "fd12::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1",
]  # fmt: skip
PUBLIC = [
    "8.8.8.8",
    "172.32.0.1",
    "100.128.0.1",
    "1.1.1.1",
    "2606:4700::1111",
    "2a00:1450:4001:80b::200a",
    "::ffff:8.8.8.8",
]


@pytest.mark.parametrize("address", NEVER)
def test_these_are_never_an_upstream(address: str) -> None:
    for allow_private in (False, True):
        with pytest.raises(AddressRefused):
            check_ip(address, allow_private)
        with pytest.raises(AddressRefused):
            check_url(f"http://[{address}]/" if ":" in address else f"http://{address}/", allow_private)


@pytest.mark.parametrize("address", PRIVATE)
def test_these_are_an_upstream_only_with_permission(address: str) -> None:
    check_ip(address, True)
    with pytest.raises(AddressRefused):
        check_ip(address, False)


@pytest.mark.parametrize("address", PUBLIC)
def test_these_are_an_upstream(address: str) -> None:
    check_ip(address, False)
    check_url(f"https://[{address}]:8443/v1" if ":" in address else f"https://{address}/v1", False)


@pytest.mark.parametrize(
    "url",
    [
        "", "/v1", "example.com", "//example.com", "ftp://example.com", "file:///etc/passwd", "gopher://example.com/", "javascript:1",
        "http://", "http:///v1", "https://:443/", "http://example.com:99999/", "http://example.com:x/", "http://[::1", "http://[::zz]/",
        "http://user@example.com/", "http://user:pass@example.com/", r"http://example.com\@127.0.0.1/", r"http:\\127.0.0.1\\",
        "http://example.com/#x", "http://example.com/?key=1", "http://example.com/ x", " http://example.com", "http://example.com\n",
        "http://exam\tple.com/", "http://example.com\x00/", "http://127.1/", "http://2130706433/", "http://0x7f000001/", "http://0x7f.1/",
        "http://0177.0.0.1/", "http://127.0.0.1./", "http://1.2.3/", "http://1/", "http://017700000001", "http://１２７.0.0.1/",
        "http://127。0。0。1/", "http://ⓔxample.com/", "http://bücher.example/", "http://metadata/", "http://metadata.google.internal/",
        "http://METADATA.google.internal./", "http://-x.example/", "http://a..b/", "http://%31%32%37.0.0.1/", "http://[fe80::1%25eth0]/",
        "http://example.com:80:80/", "http://{host}/", "http://a" + "b" * 300 + ".com/",
    ],
)  # fmt: skip
def test_hostile_and_unreadable_urls_are_refused_even_with_permission(url: str) -> None:
    with pytest.raises(AddressRefused):
        check_url(url, True)


@pytest.mark.parametrize(
    "url",
    [
        "https://api.openai.com/v1", "https://r.openai.azure.com", "http://example.com:8080", "https://api.openai.com.",
        "https://bedrock-runtime.us-east-1.amazonaws.com", "https://xn--bcher-kva.example/a/b%20c", "https://1password.com", "https://a_b.example",
    ],
)  # fmt: skip
def test_ordinary_urls_are_fine(url: str) -> None:
    check_url(url, False)


@pytest.mark.parametrize(
    "url", ["http://localhost:8000/v1", "http://vllm.localhost/", "http://127.0.0.1:8000/v1", "http://[::1]:8000"]
)
def test_this_machine_needs_permission(url: str) -> None:
    check_url(url, True)
    with pytest.raises(AddressRefused):
        check_url(url, False)


def test_of_several_addresses_only_the_good_ones_are_used() -> None:
    assert allowed(["10.0.0.1", "8.8.8.8", "8.8.8.8", "::1"], "x", False) == ["8.8.8.8"]
    with pytest.raises(AddressRefused, match="private network"):
        allowed(["10.0.0.1"], "x", False)
    with pytest.raises(AddressRefused):
        allowed([], "x", True)


async def test_resolving_looks_at_the_answer_not_at_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    found = ["169.254.169.254"]

    async def lookup(host: str, port: int, **kwargs: Any) -> list[Any]:
        return [(2, 1, 6, "", (each, port)) for each in found]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", lookup)
    with pytest.raises(AddressRefused):
        await resolve("harmless.example", 443, True)
    found[:] = ["8.8.8.8", "169.254.169.254"]
    assert await resolve("harmless.example", 443, False) == ["8.8.8.8"]
    assert await resolve("127.0.0.1", 443, True) == ["127.0.0.1"]
    with pytest.raises(AddressRefused):
        await resolve("127.0.0.1", 443, False)
