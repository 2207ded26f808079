"""Test `ops/make-secrets`: private files, no links followed, no file overwritten (S40)."""

import re
from pathlib import Path

import pytest

from config.redis_url import parse_redis_url
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


def test_addresses_have_tls_and_its_authority_where_asked(tmp_path: Path) -> None:
    given = {"REDIS_HOST": "redis.example:6380", "REDIS_TLS": "yes", "REDIS_CA": "/etc/redis-ca.pem"}
    assert make_secrets(tmp_path / "secrets", **given).returncode == 0
    for user in ("flower", "gateway", "metrics", "producer", "worker"):
        url = (tmp_path / "secrets" / f"redis_url_{user}").read_text(encoding="utf-8").strip()
        assert url.startswith(f"rediss://{user}:")
        assert url.endswith("@redis.example:6380/0?ssl_cert_reqs=required&ssl_ca_certs=/etc/redis-ca.pem")
        assert parse_redis_url(url).options == {"ssl_cert_reqs": "required", "ssl_ca_certs": "/etc/redis-ca.pem"}


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"REDIS_TLS": "1"}, "REDIS_TLS: should be yes or empty"),
        ({"REDIS_CA": "/ca.pem"}, "REDIS_CA: needs REDIS_TLS=yes"),
        ({"REDIS_TLS": "yes", "REDIS_CA": "/a&b"}, "REDIS_CA: should be a path of letters, digits and / . _ -"),
        ({"OLD_SECRETS": "/none"}, "OLD_SECRETS: /none/redis.acl cannot be read, should be of an earlier run"),
    ],
)
def test_wrong_variable_is_one_line_and_makes_nothing(tmp_path: Path, given: dict[str, str], line: str) -> None:
    done = make_secrets(tmp_path / "secrets", **given)
    assert (done.returncode, done.stderr) == (1, f"{line}\n")
    assert not (tmp_path / "secrets").exists()


def test_new_passwords_beside_the_old_ones_leave_the_other_secrets_as_they_are(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    assert make_secrets(old).returncode == 0
    assert make_secrets(new, OLD_SECRETS=str(old)).returncode == 0
    differing = {name for name in NAMES if (old / name).read_bytes() != (new / name).read_bytes()}
    assert differing == {name for name in NAMES if name.startswith("redis")}
    before, after = ((folder / "redis.acl").read_text(encoding="utf-8") for folder in (old, new))
    hashes = re.findall(r"#[0-9a-f]{64}", before)
    assert len(hashes) == 5
    assert re.findall(r" (#[0-9a-f]{64}) reset", after) == hashes, "the old password follows the new one"
    assert len(re.findall(r"#[0-9a-f]{64}", after)) == 10
    assert mode(new / "gateway_keys") == 0o644
