"""Each process of ops/kubernetes has the settings and secrets that it needs, and no others."""

import itertools
import re
import shutil
import subprocess
import textwrap
from pathlib import Path

import pytest

from config.settings import load_settings
from tests.deployment import ROOT
from tests.kustomize import POD_SERVICES, SECRETS, SITE, every_deployment, pod, variables
from tests.users import make_secrets


@every_deployment
def test_service_variables_of_kubernetes_cannot_pass_for_settings(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Kubernetes would set CALLWATCH_GATEWAY_PORT for the Service of the gateway, and the process would end at once."""
    assert pod(name)["spec"]["enableServiceLinks"] is False
    assert "callwatch-gateway" in POD_SERVICES
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CALLWATCH_GATEWAY_PORT", "tcp://10.0.0.1:8080")
    with pytest.raises(Exception, match="CALLWATCH_GATEWAY_PORT: is no setting"):
        load_settings()


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a site's secrets, made as docs/kubernetes.md says."""
    folder = tmp_path_factory.mktemp("site") / "secrets"
    done = make_secrets(folder, REDIS_HOST="redis.example:6380", REDIS_TLS="yes")
    assert done.returncode == 0, done.stderr
    (folder / "api_token").write_text("a-token", encoding="utf-8")
    return folder


@every_deployment
def test_s37_settings_are_valid_with_the_secrets_of_the_deployment_alone(
    name: str, secrets: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (volume,) = [one["secret"]["secretName"] for one in pod(name)["spec"]["volumes"] if "secret" in one]
    for file, source in SECRETS[volume].items():
        (tmp_path / file).write_bytes((secrets.parent / source).read_bytes())
    for variable, value in variables(name).items():
        monkeypatch.setenv(variable, value.replace("/run/secrets", str(tmp_path)))
    settings = load_settings()
    assert settings.redis_url.startswith("rediss://")
    assert settings.api_base_url
    given = {variable: value for variable, value in variables(name).items() if "/run/secrets/" in value}
    assert {Path(value).name for value in given.values()} == {*SECRETS[volume]}, "each file is used, and no other"
    if name == "gateway":
        assert "10.0.0.9" in settings.gateway_hosts
        assert "callwatch-gateway" in settings.gateway_hosts


def test_a_secret_that_goes_to_another_program_has_no_line_break(secrets: Path) -> None:
    """Prometheus would send the line break of its token in the header, and refuse to."""
    for file in itertools.chain.from_iterable(SECRETS.values()):
        text = (secrets / file).read_text(encoding="utf-8")
        assert text.endswith("\n") is (file == "gateway_keys")


def test_commands_of_the_page_make_and_change_the_secrets(tmp_path: Path) -> None:
    """In a copy of the folder, as the page says; after the change redis.acl has both passwords of each user."""
    shutil.copytree(ROOT / "ops", tmp_path / "ops")
    shutil.copytree(SITE, tmp_path / "ops/kubernetes/production", ignore=shutil.ignore_patterns("secrets*"))
    page = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
    blocks = [
        textwrap.dedent(block) for block in re.findall(r"^ *```sh\n(.*?)^ *```$", page, flags=re.MULTILINE | re.DOTALL)
    ]
    (making,) = [block for block in blocks if block.startswith("cd ")]
    (changing,) = [block for block in blocks if "OLD_SECRETS" in block]
    for commands in (making, f"{making.splitlines()[0]}\n{changing}"):
        subprocess.run(("/bin/sh", "-euc", commands), cwd=tmp_path, check=True, capture_output=True)
        for file in itertools.chain.from_iterable(one.values() for one in SECRETS.values()):
            assert (tmp_path / "ops/kubernetes/production" / file).read_text(encoding="utf-8")
    users = (tmp_path / "ops/kubernetes/production/secrets/redis.acl").read_text(encoding="utf-8")
    assert len(re.findall(r"#[0-9a-f]{64} #[0-9a-f]{64} ", users)) == 5


def test_secrets_stay_out_of_the_repository() -> None:
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert "/ops/kubernetes/*/secrets*/" in ignored
