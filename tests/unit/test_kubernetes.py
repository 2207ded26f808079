"""The resources of ops/kubernetes are valid, agree with compose and the documents, and fit their secrets."""

import importlib
import itertools
import re
import shutil
import subprocess
import textwrap
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from config.settings import Settings, load_settings
from tests.unit.test_alerts import not_shown
from tests.users import make_secrets

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "ops" / "kubernetes"
SITE = FOLDER / "site"
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))[
    "services"
]
Document = dict[str, Any]

# The module of the models for each version of an API.
MODELS = {
    "v1": "kubernetes.core.v1",
    "apps/v1": "kubernetes.apps.v1",
    "policy/v1": "kubernetes.policy.v1",
    "networking.k8s.io/v1": "kubernetes.networking.v1",
    "monitoring.coreos.com/v1": "prometheus_operator.v1",
    "keda.sh/v1alpha1": "keda.v1alpha1",
}


# -- kustomize, as far as these files use it ---------------------------------------------------------------------------


def kustomization(folder: Path) -> Document:
    """Return the kustomization of a folder; a field that the functions below do not follow fails the test."""
    found: Document = yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))
    followed = {"resources", "components", "patches", "labels", "namespace", "images"}
    assert found.keys() <= followed | {"apiVersion", "kind", "configMapGenerator", "secretGenerator", "configurations"}
    return found


def render(folder: Path, documents: list[Document] | None = None) -> list[Document]:
    """Return the resources of a folder, those of its bases and components included, with patches and labels."""
    documents = [] if documents is None else documents
    found = kustomization(folder)
    own: list[Document] = []
    for entry in found.get("resources", []):
        path = folder / entry
        if path.is_dir():
            own += render(path)
        else:
            own += yaml.safe_load_all(path.read_text(encoding="utf-8"))
    for label in found.get("labels", []):
        for one in own:
            one["metadata"].setdefault("labels", {}).update(label["pairs"])
    documents += own
    for entry in found.get("components", []):
        render(folder / entry, documents)
    for patch in found.get("patches", []):
        (target,) = [one for one in documents if named(one) == (patch["target"]["kind"], patch["target"]["name"])]
        for step in yaml.safe_load(patch["patch"]):
            assert step["op"] == "remove"
            *path, last = step["path"].strip("/").split("/")
            for key in path:
                target = target[key]
            del target[last]
    return documents


def named(document: Document) -> tuple[str, str]:
    return document["kind"], document["metadata"]["name"]


DOCUMENTS = {" ".join(named(one)): one for one in render(SITE)}
GENERATED = kustomization(SITE)
CONFIG = {one["name"]: one["envs"] for one in GENERATED["configMapGenerator"]}
SECRETS = {one["name"]: {Path(file).name: file for file in one["files"]} for one in GENERATED["secretGenerator"]}


def of_kind(kind: str) -> dict[str, Document]:
    return {one["metadata"]["name"]: one for one in DOCUMENTS.values() if one["kind"] == kind}


DEPLOYMENTS, POD_SERVICES = of_kind("Deployment"), of_kind("Service")
every_deployment = pytest.mark.parametrize("name", DEPLOYMENTS)


def pod(name: str) -> Document:
    found: Document = DEPLOYMENTS[name]["spec"]["template"]
    return found


def container(name: str) -> Document:
    (found,) = pod(name)["spec"]["containers"]
    assert isinstance(found, dict)
    return found


def variables(name: str) -> dict[str, str]:
    """Return the environment of a deployment's container, with the address 10.0.0.9 for its pod."""
    found: dict[str, str] = {}
    for source in container(name)["envFrom"]:
        found |= config(source["configMapRef"]["name"])
    own: dict[str, str] = {}
    for one in container(name)["env"]:
        if "value" in one:
            own[one["name"]] = re.sub(r"\$\((\w+)\)", lambda match: own[match[1]], one["value"])
        elif "fieldRef" in one["valueFrom"]:
            own[one["name"]] = "10.0.0.9"
        else:
            reference = one["valueFrom"]["configMapKeyRef"]
            own[one["name"]] = config(reference["name"])[reference["key"]]
    return found | own


def config(name: str) -> dict[str, str]:
    lines = [line for file in CONFIG[name] for line in (SITE / file).read_text(encoding="utf-8").splitlines()]
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


# -- schemas -----------------------------------------------------------------------------------------------------------


def faults(document: Document) -> str:
    """Return the faults of a resource by the published schema of its kind, fields that it does not have among them."""
    model = getattr(importlib.import_module(f"cloudcoil.models.{MODELS[document['apiVersion']]}"), document["kind"])
    try:
        known = model.model_validate(document).model_dump(by_alias=True, exclude_unset=True, mode="json")
    except ValueError as error:
        return str(error)
    return "" if known == document else f"not in the schema: {document}, only {known}"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_resource_fits_the_published_schema(name: str) -> None:
    assert faults(DOCUMENTS[name]) == ""


@pytest.mark.parametrize("name", [name for name in DOCUMENTS if not name.startswith("Namespace")])
def test_misspelt_field_and_wrong_kind_of_value_are_seen(name: str) -> None:
    """In the resource itself and in its deepest object whose fields a schema lists."""
    misspelt = deepcopy(DOCUMENTS[name])
    spec = misspelt["spec"]
    key = next(iter(spec))
    spec[f"{key}s"] = spec.pop(key)
    assert faults(misspelt)
    wrong = deepcopy(DOCUMENTS[name])
    wrong["spec"] = "none"
    assert faults(wrong)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("Deployment poll-worker", "template spec containers 0 livenessProbe"),
        ("Deployment gateway", "template spec containers 0 securityContext"),
        ("Deployment flower", "template spec volumes 0 secret"),
        ("NetworkPolicy callwatch-metrics", "ingress 0 from 0 namespaceSelector"),
        ("PodDisruptionBudget gateway", "selector"),
        ("ServiceMonitor callwatch", "endpoints 0 authorization"),
        ("PrometheusRule callwatch", "groups 0 rules 0"),
        ("ScaledObject poll-worker", "advanced horizontalPodAutoscalerConfig behavior scaleDown"),
    ],
)
def test_unknown_field_is_seen_at_any_depth(name: str, path: str) -> None:
    document = deepcopy(DOCUMENTS[name])
    place = document["spec"]
    for step in path.split():
        place = place[int(step) if step.isdigit() else step]
    place["unknown"] = "x"
    assert faults(document)


# -- processes ---------------------------------------------------------------------------------------------------------


@every_deployment
def test_command_is_that_of_compose(name: str) -> None:
    assert container(name)["command"] == SERVICES[name]["command"]


def seconds(text: str) -> int:
    return int(text.removesuffix("s"))


@every_deployment
def test_grace_period_is_that_of_the_documents(name: str) -> None:
    """With the pause of the gateway before it is told to stop."""
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    (documented,) = re.findall(
        rf"^\| {name.replace('-', ' ')} \|.*\| SIGTERM \| (\d+) s", page, flags=re.MULTILINE | re.IGNORECASE
    )
    grace = pod(name)["spec"]["terminationGracePeriodSeconds"]
    pause = container(name).get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    assert grace - pause >= int(documented)
    assert grace - pause == seconds(SERVICES[name].get("stop_grace_period", "10s"))
    if name == "trigger-worker":
        assert grace > Settings().dial_limit


@every_deployment
def test_probes_are_the_health_checks_of_compose(name: str) -> None:
    """S28: a worker that takes no messages is restarted; Redis being away restarts no worker for ten minutes."""
    liveness, readiness = container(name)["livenessProbe"], container(name)["readinessProbe"]
    asked = " ".join(SERVICES[name]["healthcheck"]["test"][1:])
    ports = {port["name"]: port["containerPort"] for port in container(name).get("ports", [])}
    if name.endswith("worker"):
        assert liveness["exec"] == readiness["exec"] == {"command": asked.split()}
        assert liveness["periodSeconds"] * liveness["failureThreshold"] == 600
        assert "CALLWATCH_HEALTH_FILE" in variables(name)
    elif name == "flower":
        assert liveness["tcpSocket"] == readiness["tcpSocket"] == {"port": "flower"}
        assert str(ports["flower"]) in asked
    else:
        probe = readiness["httpGet"]
        assert f":{ports[probe['port']]}{probe['path']}" in asked
        assert liveness["httpGet"] == {"path": "/healthz", "port": probe["port"]}


@every_deployment
def test_s40_process_has_no_rights_that_it_does_not_need(name: str) -> None:
    """Not root, a root file system that is read only, no capabilities, no token of the cluster."""
    spec, limits = pod(name)["spec"], container(name)["resources"]["limits"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    user = re.search(r"^USER (\d+):(\d+)$", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    assert user
    given = spec["securityContext"]
    assert [given["runAsUser"], given["runAsGroup"], given["fsGroup"]] == [int(user[1]), int(user[2]), int(user[2])]
    assert given["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container(name)["securityContext"] == {
        "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": True,
    }  # fmt: skip
    assert "memory" in limits
    mounts = {one["mountPath"]: one for one in container(name)["volumeMounts"]}
    assert mounts["/run/secrets"]["readOnly"] is True
    volumes = {one["name"]: one for one in spec["volumes"]}
    writable = {path for path, one in mounts.items() if not one.get("readOnly")}
    assert all("sizeLimit" in volumes[mounts[path]["name"]]["emptyDir"] for path in writable)
    assert writable == ({"/tmp", "/var/lib/callwatch"} if name == "flower" else {"/tmp"})  # noqa: S108
    assert {one["metadata"]["name"] for one in of_kind("Namespace").values()} == {GENERATED["namespace"]}
    assert of_kind("Namespace")["callwatch"]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


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


# -- the network, and the rest -----------------------------------------------------------------------------------------


def selected(selector: Document) -> set[str]:
    """Return the deployments whose pods a selector selects."""

    def fits(labels: dict[str, str]) -> bool:
        expressions = selector.get("matchExpressions", [])
        assert {one["operator"] for one in expressions} <= {"In"}
        return selector.get("matchLabels", {}).items() <= labels.items() and all(
            labels.get(one["key"]) in one["values"] for one in expressions
        )

    return {name for name in DEPLOYMENTS if fits(pod(name)["metadata"]["labels"])}


def allowed(direction: str) -> Iterator[tuple[str, str | int, Document]]:
    """Yield each deployment, port and rule that a policy allows in a direction."""
    for policy in of_kind("NetworkPolicy").values():
        for rule in policy["spec"].get(direction, []):
            for port in rule["ports"]:
                for name in selected(policy["spec"]["podSelector"]):
                    yield name, port["port"], rule


def test_network_policies_allow_the_ports_of_each_process_alone() -> None:
    default = of_kind("NetworkPolicy")["callwatch"]["spec"]
    assert selected(default["podSelector"]) == {*DEPLOYMENTS}
    assert default["policyTypes"] == ["Ingress", "Egress"]
    to: dict[str, set[Any]] = {name: set() for name in DEPLOYMENTS}
    for name, port, _ in allowed("egress"):
        to[name].add(port)
    redis = {53, 6379, 6380, 26379}
    assert to == {name: redis | ({443} if name.endswith("worker") else set()) for name in DEPLOYMENTS}
    accepted = {(name, port): rule.get("from") for name, port, rule in allowed("ingress")}
    assert accepted.keys() == {("gateway", "http"), ("metrics", "metrics")}
    assert accepted["gateway", "http"] is None
    assert accepted["metrics", "metrics"] is not None
    for name, port in accepted:
        assert port in {one["name"] for one in container(name)["ports"]}


@every_deployment
def test_deployment_selects_its_own_pods(name: str) -> None:
    assert selected(DEPLOYMENTS[name]["spec"]["selector"]) == {name}
    for constraint in pod(name)["spec"].get("topologySpreadConstraints", []):
        assert selected(constraint["labelSelector"]) == {name}


def test_disruption_of_nodes_takes_one_pod_of_a_kind_at_a_time() -> None:
    budgets = of_kind("PodDisruptionBudget")
    assert {name: selected(one["spec"]["selector"]) for name, one in budgets.items()} == {
        name: {name} for name in ("trigger-worker", "poll-worker", "gateway")
    }
    assert {one["spec"]["maxUnavailable"] for one in budgets.values()} == {1}
    assert {DEPLOYMENTS[name]["spec"].get("replicas", 2) for name in budgets} == {2}


def test_prometheus_scrapes_every_port_with_metrics() -> None:
    monitor = of_kind("ServiceMonitor")["callwatch"]["spec"]
    found = {}
    for service in POD_SERVICES.values():
        assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
        (name,) = selected({"matchLabels": service["spec"]["selector"]})
        for port in service["spec"]["ports"]:
            assert port["targetPort"] in {one["name"] for one in container(name)["ports"]}
            found[port["name"]] = name
    assert {endpoint["port"] for endpoint in monitor["endpoints"]} == {*found}
    assert {*found.values()} == {"metrics", "gateway"}
    for endpoint in monitor["endpoints"]:
        credentials = endpoint["authorization"]["credentials"]
        assert credentials["key"] in SECRETS[credentials["name"]]
    (references,) = GENERATED["configurations"]
    (rename,) = yaml.safe_load((SITE / references).read_text(encoding="utf-8"))["nameReference"]
    assert rename["kind"] == "Secret"
    assert rename["fieldSpecs"] == [{"kind": "ServiceMonitor", "path": "spec/endpoints/authorization/credentials/name"}]


def test_alerts_are_those_of_the_operations() -> None:
    alerts = yaml.safe_load((ROOT / "ops" / "alerts.yml").read_text(encoding="utf-8"))
    assert of_kind("PrometheusRule")["callwatch"]["spec"] == alerts


def test_polls_that_are_late_start_more_workers() -> None:
    scaled = of_kind("ScaledObject")["poll-worker"]["spec"]
    assert scaled["scaleTargetRef"]["name"] in DEPLOYMENTS
    assert "replicas" not in DEPLOYMENTS["poll-worker"]["spec"], "applying again would set the number back"
    lateness, cpu = scaled["triggers"]
    promql_parser.parse(lateness["metadata"]["query"])
    assert "callwatch_poll_lateness_seconds_bucket" in lateness["metadata"]["query"]
    assert not_shown(lateness["metadata"]["query"]) == []
    assert lateness["metricType"] == "Value"
    (alert,) = [
        rule
        for rule in of_kind("PrometheusRule")["callwatch"]["spec"]["groups"][0]["rules"]
        if rule["alert"] == "CallwatchPollsLate"
    ]
    assert float(lateness["metadata"]["threshold"]) < float(alert["expr"].rpartition(">")[2]), "before the alert"
    assert cpu["type"] == "cpu"
    assert container("poll-worker")["resources"]["requests"]["cpu"] == "1", "a process uses one core"
