"""Watch calls through a failover of Redis and judge them by upstream's request log."""

from tests.deployment import Deployment, wait_until

INTERVAL = 0.5  # seconds
CASES = 10  # of two calls each
POLLS = 6  # after which it is clear how often a call is queried
SETTLED = 4.0  # seconds: polls that a failover has interrupted are repeated within one lease


def watch(deployment: Deployment, name: str = "before") -> set[str]:
    """Start calls that never end by themselves; return their jobs, each polled."""
    cases = {f"{name}-{number}" for number in range(CASES)}
    deployment.simulator.script("*", life="talking")
    deployment.send(*cases)
    jobs: set[str] = set()

    def polled() -> bool:
        assert_alive(deployment)
        jobs.update(job["job_id"] for job in deployment.simulator.jobs() if job["case_id"] in cases)
        return len(jobs) == 2 * CASES and jobs <= deployment.polls().keys()

    wait_until(polled)
    return jobs


def assert_alive(deployment: Deployment) -> None:
    """Assert that no worker has exited."""
    for worker in deployment.workers:
        assert not worker.gone(), worker.log[-3_000:]


def assert_watched_by_one_chain(deployment: Deployment, jobs: set[str], *, since: float) -> None:
    """Assert that each job is polled by one chain only soon after `since`."""
    begin = since + SETTLED

    def watched() -> bool:
        assert_alive(deployment)
        polls = deployment.polls(since=begin)
        return all(len(polls.get(job, ())) >= POLLS for job in jobs)

    wait_until(watched)
    assert {job for job in jobs if not deployment.polled_by_one(job, since=begin)} == set()
