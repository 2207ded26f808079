"""Settings, logging and redaction, the same for every process."""
