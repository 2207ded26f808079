"""Addresses to listen on: those of this machine alone, and why one cannot be used. Pure."""

import ipaddress
import os


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def not_usable(host: str, port: int, error: OSError) -> str:
    """Return one line about an address that cannot be listened on: the system's reason, not the library's."""
    number = error.errno or 0  # the numbers of name resolution are negative, and no errno
    why = os.strerror(number) if number > 0 else error.strerror or str(error)
    why = why.partition(" (while attempting")[0]  # added by socket.create_server
    return f"port {port} on {host} cannot be used: {why[:1].lower()}{why[1:]}"
