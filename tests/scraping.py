"""Run `callwatch metrics` as a process and scrape it as Prometheus does."""

import contextlib
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator

from prometheus_client.parser import text_string_to_metric_families

from tests.deployment import LIMIT, ROOT

TOKEN = "a-token-of-the-test"


class Metrics:
    """A `callwatch metrics` process."""

    def __init__(self, process: "subprocess.Popen[str]", port: int) -> None:
        self.process, self.port = process, port

    def get(self, path: str, authorization: str | None = f"Bearer {TOKEN}") -> str:
        """Return the body of a GET request; HTTPError if it is refused."""
        headers = {"Authorization": authorization} if authorization else {}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers=headers)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=LIMIT) as answer:
            return str(answer.read().decode())

    def scrape(self) -> dict[str, float]:
        """Return every sample by its name and label values."""
        found = {}
        for family in text_string_to_metric_families(self.get("/metrics")):
            for sample in family.samples:
                found[" ".join([sample.name.removeprefix("callwatch_"), *sample.labels.values()])] = sample.value
        return found


@contextlib.contextmanager
def serving(environment: dict[str, str], *options: str) -> Iterator[Metrics]:
    """Start the process on a free port."""
    command = (sys.executable, "-m", "cli.main", "metrics", "--port", "0", *options)
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, text=True) as process:
        try:
            assert process.stdout
            line = process.stdout.readline()
            match = re.fullmatch(r"metrics: http://127\.0\.0\.1:(\d+)/metrics\n", line)
            assert match, line
            yield Metrics(process, int(match[1]))
        finally:
            process.terminate()
            process.wait(LIMIT)
