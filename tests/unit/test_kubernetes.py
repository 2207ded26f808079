"""The processes of ops/kubernetes agree with compose and the documents."""

import re
from typing import Any

import yaml

from config.settings import Settings
from tests.deployment import ROOT
from tests.kustomize import GENERATED, container, every_deployment, of_kind, pod, variables

SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))[
    "services"
]


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
