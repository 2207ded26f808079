"""The flows: trigger, poll, look-up, sweep, dispatch, notices; they use `worker.core.interfaces` alone."""
