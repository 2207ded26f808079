"""The API keys of the gateway: a file with a line for each, which holds its name, its scopes and its SHA-256 only.

A line reads `NAME SCOPE,SCOPE SHA256`; empty lines and those that begin with `#` are passed over.
"""

import hashlib
import hmac
import os
import re
import secrets
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

Scope = Literal["trigger", "read", "mint"]

SCOPES: tuple[Scope, ...] = get_args(Scope)
MAX_KEYS_OF_A_NAME = 2  # the old and the new one, while they are exchanged
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_HASH = re.compile(r"[0-9a-f]{64}")


class KeysError(ValueError):
    """Keys that cannot be used or made; the text names file, line and fault, and never a key."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What is known of a key: whose it is, what it may do, and its SHA-256."""

    name: str
    scopes: frozenset[Scope]
    sha256: str

    @property
    def line(self) -> str:
        """The key as a line of the file."""
        return f"{self.name} {','.join(scope for scope in SCOPES if scope in self.scopes)} {self.sha256}\n"


def parse_keys(text: str, place: str) -> tuple[ApiKey, ...]:
    """Return the keys of a file's text; KeysError names `place` and the line."""
    keys = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            keys.append(_parse_line(line.split(), f"{place}, line {number}"))
    return tuple(keys)


def _parse_line(words: Sequence[str], place: str) -> ApiKey:
    if len(words) != len(ApiKey.__slots__):
        raise KeysError(f"{place}: should be NAME SCOPE,SCOPE SHA256")
    name, scopes, sha256 = words
    if not _HASH.fullmatch(sha256):
        raise KeysError(f"{place}: the third word should be a SHA-256 in 64 small hexadecimal digits")
    return ApiKey(check_name(name, place), check_scopes(scopes.split(","), place), sha256)


def check_name(name: str, place: str) -> str:
    """Return a key's name; KeysError where it cannot be one."""
    if not _NAME.fullmatch(name):
        raise KeysError(f"{place}: the name should be 1 to 32 of a-z, 0-9 and -")
    return name


def check_scopes(scopes: Iterable[str], place: str) -> frozenset[Scope]:
    """Return scopes; KeysError where one is none, or there is none."""
    given = frozenset(scopes)
    if not given or given - set(SCOPES):
        raise KeysError(f"{place}: the scopes should be of {', '.join(SCOPES)}")
    return cast("frozenset[Scope]", given)


def new_key(name: str, scopes: Iterable[str]) -> tuple[str, ApiKey]:
    """Return a key that nobody can guess, and what is kept of it; KeysError where name or scopes are wrong."""
    checked = check_name(name, "NAME"), check_scopes(scopes, "--scope")
    key = f"cw_{name}_{secrets.token_urlsafe(32)}"
    return key, ApiKey(*checked, digest(key))


def digest(key: str) -> str:
    """Return what is kept of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


def append_key(path: Path, key: ApiKey) -> None:
    """Add a key to a file that its owner alone may read; KeysError where the file is no such one, or has two of it."""
    before = read_keys(path) if path.exists() else ()
    if Counter(one.name for one in before)[key.name] >= MAX_KEYS_OF_A_NAME:
        raise KeysError(f"{path}: has {MAX_KEYS_OF_A_NAME} keys of {key.name}, should lose one first")
    try:
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(handle, "a", encoding="utf-8") as file:
            file.write(key.line if not before or path.read_text(encoding="utf-8").endswith("\n") else f"\n{key.line}")
    except OSError as error:
        raise KeysError(f"{path}: cannot be written ({error.strerror})") from None


def read_keys(path: Path) -> tuple[ApiKey, ...]:
    """Return the keys of a file; KeysError where it cannot be used."""
    try:
        return parse_keys(path.read_text(encoding="utf-8-sig"), str(path))
    except OSError as error:
        raise KeysError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise KeysError(f"{path}: is no UTF-8 text") from None


def find_key(keys: Iterable[ApiKey], given: str) -> ApiKey | None:
    """Return the key that was given; every one is compared, each in a time that tells nothing (S40)."""
    wanted, found = digest(given.encode(errors="replace").decode()), None
    for key in keys:
        if hmac.compare_digest(key.sha256, wanted):
            found = key
    return found
