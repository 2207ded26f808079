"""Test `ops/make-secrets`: private files, no links followed, no file overwritten (S40)."""

from pathlib import Path

import pytest

from tests.users import make_secrets

NAMES = (
    "flower_auth",
    "gateway_key",
    "gateway_keys",
    "gateway_token_secret",
    "metrics_token",
    "redis.acl",
    *(f"redis_url_{user}" for user in ("flower", "gateway", "metrics", "producer", "worker")),
)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.mark.parametrize("before", [None, 0o755, 0o777])
def test_s40_folder_becomes_private_regardless_of_its_mode_before(tmp_path: Path, before: int | None) -> None:
    folder = tmp_path / "secrets"
    if before is not None:
        folder.mkdir()
        folder.chmod(before)
    assert make_secrets(folder).returncode == 0
    assert mode(folder) == 0o700
    assert sorted(path.name for path in folder.iterdir()) == sorted(NAMES)
    assert mode(folder / "gateway_keys") == 0o644, "the owner adds keys to it"
    assert {mode(path) for path in folder.iterdir() if path.name != "gateway_keys"} == {0o444}


def test_s40_mode_of_an_existing_folder_is_corrected_without_new_secrets(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    assert make_secrets(folder).returncode == 0
    folder.chmod(0o755)
    again = make_secrets(folder)
    assert again.returncode == 1
    assert "exists already" in again.stderr
    assert mode(folder) == 0o700


@pytest.mark.parametrize("slash", ["", "/"])
def test_s40_link_in_place_of_the_folder_is_refused(tmp_path: Path, slash: str) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o755)
    (tmp_path / "secrets").symlink_to(tmp_path / "elsewhere")
    done = make_secrets(f"{tmp_path / 'secrets'}{slash}")
    assert done.returncode == 1
    assert "is a link" in done.stderr
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("target", ["there", "nowhere"])
def test_s40_links_in_the_folder_are_not_followed(tmp_path: Path, name: str, target: str) -> None:
    (tmp_path / "there").write_text("of others", encoding="utf-8")
    folder = tmp_path / "secrets"
    folder.mkdir()
    (folder / name).symlink_to(tmp_path / target)
    done = make_secrets(folder)
    assert done.returncode == 1
    assert "exists already" in done.stderr
    assert (tmp_path / "there").read_text(encoding="utf-8") == "of others"
    assert not (tmp_path / "nowhere").exists()
    assert [path.name for path in folder.iterdir()] == [name], "and no other file is created"
