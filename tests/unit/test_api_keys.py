"""API keys: the file holds name, scopes and SHA-256 of each, and a fault names file and line, but never a key."""

import stat
from pathlib import Path

import pytest

from config.api_keys import ApiKey, KeysError, append_key, digest, find_key, new_key, parse_keys, read_keys

HASH = "0" * 64


def test_new_key_is_stored_and_found(tmp_path: Path) -> None:
    """S40."""
    path = tmp_path / "keys"
    first, kept = new_key("back-end", ["read", "trigger"])
    append_key(path, kept)
    second, other = new_key("back-end", ["mint"])
    append_key(path, other)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    text = path.read_text()
    assert text == f"back-end trigger,read {digest(first)}\nback-end mint {digest(second)}\n"
    assert first.startswith("cw_back-end_")
    assert first not in text
    assert find_key(read_keys(path), first) == ApiKey("back-end", frozenset({"trigger", "read"}), digest(first))
    assert find_key(read_keys(path), first + "x") is None
    assert find_key(read_keys(path), "\ud800") is None


def test_name_has_at_most_two_keys(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"# for rotation\n\na read {HASH}\na read {HASH}")
    with pytest.raises(KeysError, match="has 2 keys of a, should lose one first"):
        append_key(path, ApiKey("a", frozenset({"read"}), HASH))
    append_key(path, ApiKey("b", frozenset({"read"}), HASH))
    assert path.read_text().splitlines()[-1] == f"b read {HASH}", "on a line of its own"


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("a read", "f, line 2: should be NAME SCOPE,SCOPE SHA256"),
        (f"A read {HASH}", "f, line 2: the name should be 1 to 32 of a-z, 0-9 and -"),
        (f"a dial {HASH}", "f, line 2: each scope should be one of trigger, read, mint"),
        (f"a , {HASH}", "f, line 2: each scope should be one of trigger, read, mint"),
        ("a read cw_a_secret", "f, line 2: the third word should be a SHA-256 in 64 small hexadecimal digits"),
    ],
)
def test_invalid_line_is_named_and_not_quoted(line: str, fault: str) -> None:
    with pytest.raises(KeysError) as caught:
        parse_keys(f"# keys\n{line}\n", "f")
    assert str(caught.value) == fault


def test_unreadable_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeysError, match=r"cannot be read \(No such file"):
        read_keys(tmp_path / "none")
    (tmp_path / "odd").write_bytes(b"\xff")
    with pytest.raises(KeysError, match=r"is no UTF-8 text"):
        read_keys(tmp_path / "odd")
    with pytest.raises(KeysError, match=r"cannot be written \(No such file"):
        append_key(tmp_path / "none" / "keys", ApiKey("a", frozenset({"read"}), HASH))


@pytest.mark.parametrize(("name", "scopes"), [("a_b", ["read"]), ("", ["read"]), ("a", []), ("a", ["all"])])
def test_invalid_name_or_scope_makes_no_key(name: str, scopes: list[str]) -> None:
    with pytest.raises(KeysError):
        new_key(name, scopes)


def test_every_key_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """S40: the time of a comparison reveals neither a similar key nor its position."""
    compared: list[str] = []

    def compare(kept: str, given: str) -> bool:
        compared.append(kept)
        return kept == given

    monkeypatch.setattr("hmac.compare_digest", compare)
    key, kept = new_key("a", ["read"])
    others = [ApiKey("b", frozenset({"read"}), f"{number:064}") for number in range(3)]
    assert find_key([kept, *others], key) == kept
    assert compared == [one.sha256 for one in (kept, *others)]
