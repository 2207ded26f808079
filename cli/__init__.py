"""The command line for operators: the callwatch command, and the processes that `callwatch up` runs."""
