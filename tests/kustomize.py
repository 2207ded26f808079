"""Read the resources of ops/kubernetes as kustomize renders them."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deployment import ROOT

SITE = ROOT / "ops" / "kubernetes" / "site"
Document = dict[str, Any]


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


def selected(selector: Document) -> set[str]:
    """Return the deployments whose pods a selector selects."""

    def fits(labels: dict[str, str]) -> bool:
        expressions = selector.get("matchExpressions", [])
        assert {one["operator"] for one in expressions} <= {"In"}
        return selector.get("matchLabels", {}).items() <= labels.items() and all(
            labels.get(one["key"]) in one["values"] for one in expressions
        )

    return {name for name in DEPLOYMENTS if fits(pod(name)["metadata"]["labels"])}
