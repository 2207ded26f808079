"""A status server that costs next to nothing: it remembers when it was asked and says that the call goes on.

With a number of seconds as its argument, one call after the other ends in that distance, in the order of their ids.
"""

import asyncio
import json
import sys
import time
from urllib.parse import parse_qs, urlsplit

BODY = '{"code": 200, "message": "success", "data": {"caseRef": "%s", "jobId": "%s", "callStatus": "%s"}}'

asked: list[tuple[str, float]] = []
began = time.time()
apart = float(sys.argv[1]) if len(sys.argv) > 1 else 0.0


class Answer(asyncio.Protocol):
    """One kept-alive connection; requests come whole, for they are small and asked one at a time."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where to answer."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer one request."""
        target = urlsplit(data.split(b" ", 2)[1].decode())
        if target.path == "/asked":
            body = json.dumps(asked)
        else:
            query = parse_qs(target.query)
            job_id = query.get("jobId", [""])[0]
            asked.append((job_id, time.time()))
            over = apart and time.time() - began > apart * int(job_id[-12:], 16)
            body = BODY % (query.get("caseRef", [""])[0], job_id, "Succeeded" if over else "Executing")
        raw = body.encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(raw)}\r\n\r\n"
        self.transport.write(head.encode() + raw)  # type: ignore[attr-defined]


async def serve() -> None:
    """Serve on a free port of the loopback address, which is printed, until killed."""
    server = await asyncio.get_running_loop().create_server(Answer, "127.0.0.1", 0)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve())
