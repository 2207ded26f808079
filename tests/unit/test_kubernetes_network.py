"""Network policies, disruption budgets, monitoring and autoscaling of ops/kubernetes name its own processes."""

from collections.abc import Iterator
from typing import Any

import promql_parser
import yaml

from tests.deployment import ROOT
from tests.kustomize import (
    DEPLOYMENTS,
    GENERATED,
    POD_SERVICES,
    SECRETS,
    SITE,
    Document,
    container,
    every_deployment,
    of_kind,
    pod,
    selected,
)
from tests.unit.test_alerts import not_shown


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
