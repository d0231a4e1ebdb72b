"""Fetches a client's file from its address, without letting the address lead into the server's own network."""

from __future__ import annotations

import ipaddress
import socket
import time
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import httpx

from flashportrait.intake import Limits
from flashportrait.service.errors import Refused

REDIRECTS = 3
SECONDS = 60.0
"""For the whole file."""


def fetch(address: str, target: Path, limits: Limits) -> None:
    """Bring a file here.

    Only ``https``; the host's addresses are looked up once, none of them may be private, and the connection goes to the
    one that was checked. Redirects are checked in the same way.

    Raises:
        Refused: it can't be had.
    """
    deadline = time.monotonic() + SECONDS
    with httpx.Client(timeout=10, follow_redirects=False, trust_env=False) as client:
        for _ in range(REDIRECTS + 1):
            host, public = check_address(address)
            url = httpx.URL(address).copy_with(host=public)
            named = {"Host": urlsplit(address).netloc, "Accept-Encoding": "identity"}
            try:
                with client.stream("GET", url, headers=named, extensions={"sni_hostname": host}) as response:
                    if response.is_redirect:
                        address = urljoin(address, response.headers.get("location", ""))
                        continue
                    if response.status_code != 200:
                        raise Refused(422, f"'{address}' answered {response.status_code}: give an address that works")
                    _save(response, address, target, limits, deadline)
                    return
            except httpx.HTTPError as error:
                raise Refused(422, f"'{address}' can't be fetched ({type(error).__name__}): upload the file") from error
    raise Refused(422, f"'{address}' is redirected more than {REDIRECTS} times: give the file's own address")


def check_address(address: str) -> tuple[str, str]:
    """The host of an address, and a public network address of it.

    Raises:
        Refused: it isn't ``https``, or the host can't be found or lies in a private network.
    """
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    if parts.scheme != "https" or not host or port not in (None, 443) or parts.username is not None:
        raise Refused(422, f"'{address}' can't be fetched: give an address that begins with https:// and names no port")
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, 443, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError) as error:
        raise Refused(422, f"the host of '{address}' can't be found: check the address") from error
    for each in found:
        if not ipaddress.ip_address(each).is_global or ipaddress.ip_address(each).is_multicast:
            raise Refused(422, f"'{address}' lies in a private network, from which nothing is fetched: upload the file")
    return host, sorted(found)[0]


def _save(response: httpx.Response, address: str, target: Path, limits: Limits, deadline: float) -> None:
    size = 0
    with target.open("wb") as file:
        for block in response.iter_raw(1 << 16):
            size += len(block)
            if size > limits.bytes:
                raise Refused(413, f"'{address}' has more than {limits.bytes >> 20} MiB: give a smaller file")
            if time.monotonic() > deadline:
                raise Refused(422, f"'{address}' takes more than {SECONDS:.0f} s to fetch: upload the file")
            file.write(block)
