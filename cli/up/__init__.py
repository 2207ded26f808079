"""`callwatch up`: the processes of an installation and what they run on."""
