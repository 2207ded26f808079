"""The API keys of the gateway: a file with the name, the scopes and the SHA-256 of each key, but no key.

The form of a line is `NAME SCOPE,SCOPE SHA256`; empty lines and lines that begin with `#` are ignored.
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
MAX_KEYS_OF_A_NAME = 2  # the old and the new one, during an exchange
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_HASH = re.compile(r"[0-9a-f]{64}")


class KeysError(ValueError):
    """Keys that cannot be used or made; the text names file, line and fault, but never a key."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A stored key: the name of its owner, its scopes and its SHA-256."""

    name: str
    scopes: frozenset[Scope]
    sha256: str

    @property
    def line(self) -> str:
        """The key as a line of the file."""
        return f"{self.name} {','.join(scope for scope in SCOPES if scope in self.scopes)} {self.sha256}\n"


def parse_keys(text: str, source: str) -> tuple[ApiKey, ...]:
    """Return the keys in the text of a file; KeysError names `source` and the line."""
    keys = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            keys.append(_parse_line(line.split(), f"{source}, line {number}"))
    return tuple(keys)


def _parse_line(words: Sequence[str], source: str) -> ApiKey:
    if len(words) != len(ApiKey.__slots__):
        raise KeysError(f"{source}: should be NAME SCOPE,SCOPE SHA256")
    name, scopes, sha256 = words
    if not _HASH.fullmatch(sha256):
        raise KeysError(f"{source}: the third word should be a SHA-256 in 64 small hexadecimal digits")
    return ApiKey(check_name(name, source), check_scopes(scopes.split(","), source), sha256)


def check_name(name: str, source: str) -> str:
    """Return the name of a key; KeysError if it is invalid."""
    if not _NAME.fullmatch(name):
        raise KeysError(f"{source}: the name should be 1 to 32 of a-z, 0-9 and -")
    return name


def check_scopes(scopes: Iterable[str], source: str) -> frozenset[Scope]:
    """Return the scopes; KeysError if one is invalid or there is none."""
    given = frozenset(scopes)
    if not given or given - set(SCOPES):
        raise KeysError(f"{source}: each scope should be one of {', '.join(SCOPES)}")
    return cast("frozenset[Scope]", given)


def new_key(name: str, scopes: Iterable[str]) -> tuple[str, ApiKey]:
    """Return a random key and its stored form; KeysError if name or scopes are invalid."""
    checked = check_name(name, "NAME"), check_scopes(scopes, "--scope")
    key = f"cw_{name}_{secrets.token_urlsafe(32)}"
    return key, ApiKey(*checked, digest(key))


def digest(key: str) -> str:
    """Return the SHA-256 of a key, in hexadecimal digits."""
    return hashlib.sha256(key.encode()).hexdigest()


def append_key(path: Path, key: ApiKey) -> None:
    """Append a key to the file (mode 0600 if new); KeysError if the file is invalid or has two keys of this name."""
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
    """Return the keys of a file; KeysError if it is not readable or invalid."""
    try:
        return parse_keys(path.read_text(encoding="utf-8-sig"), str(path))
    except OSError as error:
        raise KeysError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise KeysError(f"{path}: is no UTF-8 text") from None


def find_key(keys: Iterable[ApiKey], given: str) -> ApiKey | None:
    """Return the stored form of the given key, None if it is unknown. Compares all keys in constant time (S40)."""
    wanted, found = digest(given.encode(errors="replace").decode()), None
    for key in keys:
        if hmac.compare_digest(key.sha256, wanted):
            found = key
    return found
