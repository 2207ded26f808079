"""Home of what is the same for every process: settings, logging, redaction."""
