"""Recognise an address whose server cannot serve callwatch: a Cluster, a replica, a Sentinel, no Redis at all. Pure."""

import re
from collections.abc import Iterator
from typing import NamedTuple


class ServerFault(NamedTuple):
    """Why a server cannot be used, and the remedy; `{variable}` stands for the setting with its address."""

    kind: str
    remedy: str


_KINDS = {  # by the texts and names of errors; the first that occurs decides
    r"CrossSlot|CROSSSLOT|ClusterDown|CLUSTERDOWN|Hash slot not served|MovedError|MOVED \d": ServerFault(
        "belongs to a Redis Cluster, which callwatch cannot use",
        "Set {variable} with a single server",
    ),
    r"read only replica|READONLY": ServerFault(
        "is a replica, which takes no writes", "Set {variable} with its primary"
    ),
    r"no permissions to|NOPERM": ServerFault(
        "refuses a command to the user in this address",
        "Set {variable} with a user that has the rights of this process",
    ),
    r"DB index is out of range": ServerFault(
        "has no database of this number",
        "Set {variable} with a lower one; a server has 0 to 15 unless its `databases` says otherwise",
    ),
    r"unknown command": ServerFault(
        "does not know a command that callwatch needs: it is a Sentinel or an old server",
        "Set {variable} with a Redis of version 6.2 or newer",
    ),
    r"Protocol error, got|InvalidResponse": ServerFault(
        "is no Redis: another program answers on this port",
        "Set {variable} with the address of Redis",
    ),
}


def wrong_server(error: BaseException) -> ServerFault | None:
    """Return why the server that raised an error cannot be used; None for any other error."""
    text = " ".join(_texts(error))
    return next((fault for pattern, fault in _KINDS.items() if re.search(pattern, text)), None)


def _texts(error: BaseException | None) -> Iterator[str]:
    while error is not None:
        yield f"{type(error).__name__} {error}"
        error = error.__cause__ or error.__context__
