"""The resources of ops/kubernetes fit the published schemas of their kinds."""

import importlib
from copy import deepcopy

import pytest

from tests.kustomize import DOCUMENTS, Document

# The module of the models for each version of an API.
MODELS = {
    "v1": "kubernetes.core.v1",
    "apps/v1": "kubernetes.apps.v1",
    "policy/v1": "kubernetes.policy.v1",
    "networking.k8s.io/v1": "kubernetes.networking.v1",
    "monitoring.coreos.com/v1": "prometheus_operator.v1",
    "keda.sh/v1alpha1": "keda.v1alpha1",
}


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
