# SPDX-License-Identifier: Apache-2.0
"""A small TLS proxy before a SuperLink, for demo and tests where nginx is not installed: it passes the Fleet API alone.

    python examples/loopback/forwarder.py LISTEN SUPERLINK CERTIFICATE KEY AUTHORITY

What it refuses is what `deploy/flower/app/nginx.conf` refuses; a deployment takes nginx. It needs only what Flower
brings along.
"""

import re
import ssl
import sys
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

import httpx
import uvicorn

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = Iterable[tuple[bytes, bytes]]

MOST_BYTES = 16 * 2**20
"""Bytes of a request, at most: Flower sends pieces of 5 MiB."""
_PASSED = re.compile(rb"/v1/fleet/[a-z-]+")
_OF_THE_CONNECTION = {b"connection", b"host", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade"}
_TIMEOUT = 120.0


class Forwarder:
    """An ASGI application that passes requests on, if they are for the Fleet API.

    Args:
        client: its base URL is the SuperLink.
    """

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request: the SuperLink's answer, or 403, 413 or 502."""
        # The path as it was sent: %2e%2e and the like match nothing and are refused.
        path = scope["raw_path"]
        if scope["type"] != "http" or not _PASSED.fullmatch(path):
            return await _answer(send, 403)
        body = await _read(receive)
        if body is None:
            return await _answer(send, 413)
        url = httpx.URL(str(self._client.base_url)).copy_with(raw_path=path)
        request = self._client.build_request(scope["method"], url, headers=_passed(scope["headers"]), content=body)
        try:
            response = await self._client.send(request, stream=True)
        except httpx.TransportError as error:
            print(f"fedlora: the SuperLink cannot be reached: {type(error).__name__}", file=sys.stderr, flush=True)
            return await _answer(send, 502)
        try:
            headers = _passed(response.headers.raw)
            await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
            async for piece in response.aiter_raw():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body"})
        finally:
            await response.aclose()


async def _read(receive: Receive) -> bytes | None:
    """The body of a request; None if it is too long."""
    body = bytearray()
    more = True
    while more:
        event = await receive()
        body += event.get("body", b"")
        more = event.get("more_body", False)
        if len(body) > MOST_BYTES:
            return None
    return bytes(body)


async def _answer(send: Send, status: int) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body"})


def _passed(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Headers without those that belong to one connection."""
    return [(name, value) for name, value in headers if name.lower() not in _OF_THE_CONNECTION]


def main(listen: str, superlink: str, certificate: str, key: str, authority: str) -> None:
    """Forward until the process is stopped.

    Args:
        listen: address and port at which nodes connect.
        superlink: address and port of the SuperLink.
        certificate: file of the server's certificate.
        key: file of its key.
        authority: file of the certificate authority that signed the SuperLink's certificate.
    """
    host, _, port = listen.rpartition(":")
    verify = ssl.create_default_context(cafile=authority)
    client = httpx.AsyncClient(base_url=f"https://{superlink}", verify=verify, timeout=_TIMEOUT, trust_env=False)
    uvicorn.run(
        Forwarder(client),
        host=host,
        port=int(port),
        ssl_certfile=certificate,
        ssl_keyfile=key,
        lifespan="off",
        ws="none",
        log_level="warning",
        timeout_keep_alive=75,
        timeout_graceful_shutdown=2,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
