"""Search the output of a process for secrets and personal data (S37): a finding is named, never quoted."""

import re
from collections.abc import Iterable

# Ids of events, calls and requests contain digits too: digits next to a hyphen or a hexadecimal digit belong to an id.
PATTERNS = {
    "a token": re.compile(r"eyJ[\w-]{8,}\.[\w-]*\.?[\w-]*"),
    "an API key": re.compile(r"\bcw_[a-z0-9-]{1,32}_[\w-]{20,}"),
    "a person id": re.compile(r"\bP-\d{4,}\b|(?<![0-9a-f-])\d{15,18}(?![0-9a-f-])"),
    "a phone number": re.compile(r"(?<![0-9a-f.-])1[3-9]\d{9}(?![0-9a-f.-])"),
}


def leaks(text: str, secrets: Iterable[str] = ()) -> list[str]:
    """Return the kinds of secrets and personal data in a text; `secrets` are known values."""
    found = [kind for kind, pattern in PATTERNS.items() if pattern.search(text)]
    return found + ["a known secret" for secret in secrets if secret in text]
