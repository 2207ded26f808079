"""The alerts can fire: they use metrics and label values that callwatch exports, and each has its runbook entry."""

import itertools
import re
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from cli.exposition import State, expose
from config.settings import Settings
from gateway.metrics import Metrics
from tests.deployment import ROOT
from tests.unit.test_exposition import BUSY, EMPTY, samples
from worker.core.interfaces import StoreUnavailable

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
QUERY = "last_over_time(callwatch_runbook_info[1d])"  # still known while the metrics are away
RUNBOOK_URL = (
    f'{{{{ with query "{QUERY}" }}}}{{{{ . | first | label "url" }}}}{{{{ else }}}}docs/alerts.md{{{{ end }}}}'
)
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
    assert rule["annotations"]["runbook_url"] == RUNBOOK_URL + f"#{name.lower()}"
    assert f"\n## {name}\n`{severity}`. " in RUNBOOK


def test_the_link_to_the_runbook_is_the_setting_that_the_metrics_export() -> None:
    """Also while Redis is away; without the setting the link is the path in the project."""

    def away() -> State:
        raise StoreUnavailable("gone")

    promql_parser.parse(QUERY)
    url = Settings(runbook_url="https://docs.example.org/alerts/").runbook_url
    page = expose(away, url).decode()
    assert 'callwatch_runbook_info{url="https://docs.example.org/alerts/"} 1.0' in page
    assert "callwatch_redis_up 0.0" in page
    assert "callwatch_runbook_info" not in expose(away, Settings(runbook_url="").runbook_url).decode()


@pytest.mark.parametrize(
    ("name", "severity", "threshold"),
    [
        pytest.param("CallwatchOutcomeUnknown", "ticket", 0, id="one is normal in a network"),
        pytest.param("CallwatchAnswersLost", "page", 2.5, id="three in ten minutes"),
        pytest.param("CallwatchNothingFound", "page", 0, id="nothing found"),
    ],
)
def test_s14_a_single_lost_answer_pages_only_if_its_call_is_not_found(
    name: str, severity: str, threshold: float
) -> None:
    kind = "nothing_found" if name == "CallwatchNothingFound" else "unknown"
    assert RULES[name]["expr"] == f'increase(callwatch_events_total{{kind="{kind}"}}[10m]) > {threshold}'
    assert RULES[name]["labels"]["severity"] == severity
    assert "for" not in RULES[name]


def test_the_runbook_has_an_entry_for_each_alert_and_no_other() -> None:
    """In the same order; each has checks and actions."""
    entries = re.split(r"^## ", RUNBOOK, flags=re.MULTILINE)[1:]
    assert [entry.splitlines()[0] for entry in entries] == list(RULES)
    assert [entry for entry in entries if "- Look: " not in entry or "- Do: " not in entry] == []


def table(head: str) -> list[list[str]]:
    """Return the rows below a header row of the runbook."""
    lines = RUNBOOK[RUNBOOK.index(head) :].splitlines()[2:]
    rows = itertools.takewhile(lambda line: line.startswith("|"), lines)
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in rows]


def test_every_action_of_the_runbook_has_its_form_for_each_kind_of_installation() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
    rows = table("| action | plain processes | compose | Kubernetes |")
    assert [len(row) for row in rows] == [4] * len(rows)
    for _, plain, compose, kubernetes in rows:
        assert re.match(r"`(?:\.venv/bin/callwatch|systemctl|journalctl) ", plain)
        assert re.match(r"`docker compose ", compose)
        assert re.match(r"`kubectl ", kubernetes)
        assert set(re.findall(r"\b[a-z]+-worker\b", compose + kubernetes)) <= services.keys()
        assert re.findall(r"deploy/([a-z-]+)", kubernetes) in ([], re.findall(r"\b[a-z]+-worker\b", compose))
    outside = RUNBOOK.replace(
        RUNBOOK[RUNBOOK.index("| action |") : RUNBOOK.index("`poll-worker`, `trigger-worker`")], ""
    )
    assert "docker compose" not in outside, "the forms stand in one table"


def test_overdue_polls_are_decided_by_the_workers_that_doctor_lists() -> None:
    rows = table("| line `workers` of `callwatch doctor` | cause | action |")
    assert [row[2] for row in rows] == [
        "list the processes: start the stopped ones, restart the running ones",
        "check each worker, restart the one that is unhealthy",
        "see CallwatchUpstreamAway",
        "start more",
    ]
