"""wss, server and client in one program: python tls.py CERTIFICATE KEY [AUTHORITY]

To try it: openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 30 \\
               -subj /CN=localhost -addext subjectAltName=DNS:localhost
"""

from __future__ import annotations

import asyncio
import ssl
import sys

import zcws


async def echo(ws: zcws.WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


async def main(certificate: str, key: str, authority: str) -> None:
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ours.load_cert_chain(certificate, key)
    theirs = ssl.create_default_context(cafile=authority)  # without `cafile`: whom the system trusts
    async with zcws.serve(echo, "127.0.0.1", 0, ssl=ours) as server:
        port = server.sockets[0].getsockname()[1]
        async with zcws.connect(f"wss://localhost:{port}/", ssl=theirs, host="127.0.0.1") as ws:
            await ws.send("nobody else can read this")
            print(await ws.recv())
            print(ws.get_extra_info("ssl_object").version())


if __name__ == "__main__":
    certificate, key, *rest = sys.argv[1:]
    asyncio.run(main(certificate, key, rest[0] if rest else certificate))
