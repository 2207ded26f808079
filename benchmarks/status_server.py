"""Serve status queries at minimal cost: record each arrival and report the call as active.

The benchmarks start it as `python -m benchmarks.status_server`; it prints its port and returns all recorded arrivals at
`/queries`. With `--apart` seconds, calls end one after another at that interval, in the order of their ids. Each
response takes `--delay` seconds; the queries of one call in `--hang` stay unanswered.
"""

import argparse
import asyncio
import json
import sys
import time
from urllib.parse import parse_qs, urlsplit

BODY = '{"code": 200, "message": "success", "data": {"caseRef": "%s", "jobId": "%s", "callStatus": "%s"}}'

received: list[tuple[str, float]] = []
began = time.time()
arguments = argparse.ArgumentParser()
arguments.add_argument("--apart", type=float, default=0.0)
arguments.add_argument("--delay", type=float, default=0.0)
arguments.add_argument("--hang", type=int, default=0)
options = arguments.parse_args()


class Answer(asyncio.Protocol):
    """One kept-alive connection; small requests without pipelining arrive in one read each."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport for the responses."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer one request."""
        target = urlsplit(data.split(b" ", 2)[1].decode())
        if target.path == "/queries":
            body = json.dumps(received)
        else:
            query = parse_qs(target.query)
            job_id = query.get("jobId", [""])[0]
            received.append((job_id, time.time()))
            number = int(job_id[-12:] or "0", 16)
            if options.hang and number % options.hang == 0:
                return
            over = options.apart and time.time() - began > options.apart * number
            body = BODY % (query.get("caseRef", [""])[0], job_id, "Succeeded" if over else "Executing")
        raw = body.encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(raw)}\r\n\r\n"
        if options.delay and target.path != "/queries":
            asyncio.get_running_loop().call_later(options.delay, self.write, head.encode() + raw)
        else:
            self.write(head.encode() + raw)

    def write(self, answer: bytes) -> None:
        """Send a response unless the client has disconnected."""
        if not self.transport.is_closing():
            self.transport.write(answer)  # type: ignore[attr-defined]


async def serve() -> None:
    """Serve on a free loopback port, print the port, and run until killed."""
    server = await asyncio.get_running_loop().create_server(Answer, "127.0.0.1", 0, backlog=2_000)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve())
