"""Run the processes of a whole installation: `callwatch up`."""
