"""What an operator types: the callwatch command, and the server that it brings along."""
