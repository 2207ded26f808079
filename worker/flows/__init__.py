"""The flows: trigger, poll, look-up, sweep, dispatch, notices. They depend on interfaces, not on adapters."""
