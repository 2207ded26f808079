"""The options of a Redis URL: one table, and a check that refuses every other name. Pure."""

import difflib

DATABASE_OPTIONS = {
    "db": "number of the database",
    "virtual_host": "the same, in the form of kombu",
}
TLS_OPTIONS = {
    "ssl_ca_certs": "file with the certificates of the authorities that are trusted besides those of the machine",
    "ssl_cert_reqs": "`required` (the default), `optional` or `none`: whether the server's certificate is verified",
    "ssl_certfile": "file with the certificate of this client, where the server requires one",
    "ssl_keyfile": "file with the key of that certificate, unless `ssl_certfile` contains it",
}
SENTINEL_OPTIONS = {
    "service": "name of the primary in the configuration of Sentinel; required",
    "ssl": "`true`: TLS to Redis",
    "sentinel_ssl": "`true`: TLS to the Sentinels",
    "sentinel_username": "user of the Sentinels",
    "sentinel_password": "password of the Sentinels",
}
OPTIONS = {
    "redis": DATABASE_OPTIONS,
    "rediss": DATABASE_OPTIONS | TLS_OPTIONS,
    "unix": DATABASE_OPTIONS,
    "redis+socket": DATABASE_OPTIONS,
    "sentinel": DATABASE_OPTIONS | SENTINEL_OPTIONS | TLS_OPTIONS,
}
"""The options of each scheme, with their meaning. Time-outs and pools have settings of their own, or fixed values."""

_CERT_REQS = ("required", "optional", "none")


def check_options(scheme: str, options: dict[str, str]) -> None:
    """Raise ValueError for an option that the scheme does not have, naming it, or for one without its value."""
    known = OPTIONS[scheme]
    for name, value in options.items():
        if name not in known:
            raise ValueError(_unknown(scheme, name))
        if not value:
            raise ValueError(f"has the option {name} without a value, should be {name}=…")
    if scheme == "sentinel" and "service" not in options:
        raise ValueError("names no service, should be sentinel://host1:26379,host2:26379/0?service=NAME")
    for name in ("ssl", "sentinel_ssl"):
        if options.get(name, "true") not in ("true", "false"):
            raise ValueError(f"has the option {name} that is neither true nor false, should be one of them")
    if options.get("ssl_cert_reqs", "required") not in _CERT_REQS:
        raise ValueError("has another ssl_cert_reqs, should be one of " + ", ".join(_CERT_REQS))
    if "ssl_keyfile" in options and "ssl_certfile" not in options:
        raise ValueError("has ssl_keyfile alone, should have ssl_certfile too")
    unused = next((name for name in options if name in TLS_OPTIONS), None)
    if scheme == "sentinel" and unused and "true" not in (options.get("ssl"), options.get("sentinel_ssl")):
        raise ValueError(f"has the option {unused} without TLS, should be beside ssl=true or sentinel_ssl=true")


def _unknown(scheme: str, name: str) -> str:
    if name in TLS_OPTIONS:
        return f"has the option {name}, but {scheme}:// is not encrypted, should begin with rediss://"
    known = OPTIONS[scheme]
    shown = name if name.isidentifier() else "with a name that is no word"  # which may be part of a password
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    right = f"did you mean {nearest[0]}?" if nearest else f"should be one of {', '.join(sorted(known))}"
    return f"has the option {shown}, which {scheme}:// does not have, {right}"
