"""Poll calls by saq, an asyncio job queue on Redis; each job queries once and schedules its successor.

`benchmarks.polls` measures it as the reference `saq`.
"""

import os
import time
from typing import Any

import aiohttp
from redis.asyncio import Redis
from saq.queue.redis import RedisQueue

CONNECTIONS = 1_000  # the default maximum of redis-py, 100, is too small for 100 concurrent jobs

url = os.environ.get("BENCH_REDIS_URL", "redis://127.0.0.1:6379/0")
queue = RedisQueue(Redis.from_url(url, max_connections=CONNECTIONS))


async def startup(context: dict[str, Any]) -> None:
    """Open one HTTP session for all jobs."""
    context["session"] = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10))


async def poll(context: dict[str, Any], *, job_id: str, case_id: str, due: float) -> None:
    """Query the status of a call and schedule the next poll one interval after this one's due time."""
    url = os.environ["BENCH_API_URL"] + "/api/v1/outbound-bot/status"
    async with context["session"].get(url, params={"caseRef": case_id, "jobId": job_id}) as answer:
        status = (await answer.json())["data"]["callStatus"]
    if status not in ("Succeeded", "Failed", "Cancelled"):
        await schedule(job_id, case_id, due + float(os.environ["BENCH_INTERVAL"]))


async def schedule(job_id: str, case_id: str, due: float) -> None:
    """Enqueue a poll for its due time without keeping a result."""
    await queue.enqueue("poll", job_id=job_id, case_id=case_id, due=due, scheduled=int(due), ttl=-1, retries=3)


async def start(calls: int, interval: float) -> None:
    """Start the chains, spread over one interval."""
    from benchmarks.start_chains import job_ids  # noqa: PLC0415

    await queue.connect()
    begin = time.time()
    for number, job_id in enumerate(job_ids(calls)):
        await schedule(job_id, "C-1", begin + interval * number / calls)
    await queue.disconnect()


settings = {"queue": queue, "functions": [poll], "concurrency": 100, "startup": startup}
