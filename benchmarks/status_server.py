"""A status server that costs next to nothing: it remembers when it was asked and says that the call goes on.

With `--apart` seconds, one call after the other ends in that distance, in the order of their ids. Each answer takes
`--delay` seconds, and one of `--hang` calls is never answered.
"""

import argparse
import asyncio
import json
import sys
import time
from urllib.parse import parse_qs, urlsplit

BODY = '{"code": 200, "message": "success", "data": {"caseRef": "%s", "jobId": "%s", "callStatus": "%s"}}'

asked: list[tuple[str, float]] = []
began = time.time()
arguments = argparse.ArgumentParser()
arguments.add_argument("--apart", type=float, default=0.0)
arguments.add_argument("--delay", type=float, default=0.0)
arguments.add_argument("--hang", type=int, default=0)
options = arguments.parse_args()


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
            number = int(job_id[-12:] or "0", 16)
            if options.hang and number % options.hang == 0:
                return
            over = options.apart and time.time() - began > options.apart * number
            body = BODY % (query.get("caseRef", [""])[0], job_id, "Succeeded" if over else "Executing")
        raw = body.encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(raw)}\r\n\r\n"
        if options.delay and target.path != "/asked":
            asyncio.get_running_loop().call_later(options.delay, self.write, head.encode() + raw)
        else:
            self.write(head.encode() + raw)

    def write(self, answer: bytes) -> None:
        """Send an answer, if there is still somebody who waits for it."""
        if not self.transport.is_closing():
            self.transport.write(answer)  # type: ignore[attr-defined]


async def serve() -> None:
    """Serve on a free port of the loopback address, which is printed, until killed."""
    server = await asyncio.get_running_loop().create_server(Answer, "127.0.0.1", 0, backlog=2_000)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve())
