"""The alerts can fire: they use metrics and label values that callwatch exports, and each has its runbook entry."""

import re
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from gateway.metrics import Metrics
from tests.unit.test_exposition import BUSY, EMPTY, samples

ROOT = Path(__file__).parents[2]
(GROUP,) = yaml.safe_load((ROOT / "ops" / "alerts.yml").read_text(encoding="utf-8"))["groups"]
RULES: dict[str, dict[str, Any]] = {rule["alert"]: rule for rule in GROUP["rules"]}


def gateway_samples() -> set[str]:
    """Return every sample of the gateway's page, in the form of `samples`."""
    metrics = Metrics()
    for status in ("202", "500", "503"):
        metrics.requests.labels("/v1/triggers", status).inc()
    metrics.latency.labels("/v1/triggers").observe(0.01)
    found = set()
    for family in text_string_to_metric_families(metrics.page().decode()):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found.add(f"{sample.name}{{{labels}}}" if labels else sample.name)
    return found


RUNBOOK = (ROOT / "docs" / "alerts.md").read_text(encoding="utf-8")
QUEUES = ("outbound.trigger", "outbound.poll", "outbound.control")
SHOWN = {
    *samples(BUSY),
    *samples(EMPTY),
    *gateway_samples(),
    *(f"callwatch_queue_messages{{queue={queue}}}" for queue in QUEUES),
}
every_rule = pytest.mark.parametrize("name", RULES)


def selectors(expression: str) -> list[tuple[str, str]]:
    """Return the metrics of an expression, each with its matchers."""
    return re.findall(r"\b(callwatch_\w+)(?:\{([^}]*)\})?", expression)


def not_shown(expression: str) -> list[str]:
    """Return the selectors of an expression that match no sample."""
    missing = []
    for metric, matchers in selectors(expression):
        wanted = re.findall(r'(\w+)=~?"([^"]*)"', matchers)
        for label, values in wanted or [("", "")]:
            for value in values.split("|"):
                pair = f"{label}={value}"
                if not any(re.fullmatch(rf"{metric}(\{{.*\}})?", name) and pair in f"{name}=" for name in SHOWN):
                    missing.append(f"{metric}{{{pair}}}")
    return missing


@every_rule
def test_alert_expression_is_valid(name: str) -> None:
    promql_parser.parse(RULES[name]["expr"])


@every_rule
def test_alert_uses_exported_metrics_and_labels(name: str) -> None:
    assert selectors(RULES[name]["expr"])
    assert not_shown(RULES[name]["expr"]) == []


@pytest.mark.parametrize(
    "expression",
    ["callwatch_nothing > 1", 'increase(callwatch_events_total{kind="gone"}[5m])', 'callwatch_pairs{pase="unknown"}'],
)
def test_unknown_metric_or_label_is_detected(expression: str) -> None:
    assert not_shown(expression)


@every_rule
def test_alert_has_severity_and_runbook(name: str) -> None:
    rule = RULES[name]
    severity = rule["labels"]["severity"]
    assert severity in {"page", "ticket"}
    assert rule["annotations"]["summary"]
    assert rule["annotations"]["runbook_url"] == f"docs/alerts.md#{name.lower()}"
    assert f"\n## {name}\n`{severity}`. " in RUNBOOK


def test_the_runbook_has_an_entry_for_each_alert_and_no_other() -> None:
    """In the same order; each has checks and actions."""
    entries = re.split(r"^## ", RUNBOOK, flags=re.MULTILINE)[1:]
    assert [entry.splitlines()[0] for entry in entries] == list(RULES)
    assert [entry for entry in entries if "- Look: " not in entry or "- Do: " not in entry] == []
