"""Measure the cost and speed of callwatch, alone and against reference implementations.

Run one benchmark at a time on an idle machine; each starts its own Redis, upstream and workers on the loopback address,
prints a table to standard output, and accepts `--help` where it has options:

- `python -m benchmarks.polls` (`make bench`): CPU time and lateness of a poll, against naive and tuned Celery and saq.
- `python -m benchmarks.faults` (`make faults`): gaps, lost and doubled calls while workers, Redis or the upstream fail.
- `python -m benchmarks.failovers` (`make failovers`): the same while Redis fails over; cost of the wait for replicas.
- `python -m benchmarks.backends`: delivery of notices while a webhook is down; a restart under a query limit.
- `python -m benchmarks.operators`: cost of monitoring events and metrics; polls per second of 1, 2 and 3 workers.
- `python -m benchmarks.gateway`: streams and changes per second of the HTTP gateway.
- `python -m benchmarks.fuzz_triggers` (`make fuzz`): hostile entries in the trigger queue of a real worker.
- `python -m benchmarks.fuzz_answers`, `fuzz_receiver` (`make hostile`): hostile responses of upstream and webhook.
- `python -m benchmarks.large_answers` (`make hostile`): memory and Redis traffic of the largest accepted responses.

The other modules support these: `fault_*` for `faults`; `*_app`, `start_chains` and `status_server` for `polls`;
`hostile*` and `fuzz_watch` for the hostile responses.
"""
