"""`deploy/kubernetes-scale`: several pods without a disk over one PostgreSQL."""

from pathlib import Path
from typing import Any, Final

import kubernetes_validate
import pytest
import yaml  # type: ignore[import-untyped]

from strandline._config import default_of, resolve

FOLDER: Final = Path(__file__).parents[2] / "deploy" / "kubernetes-scale"
ALONE: Final = FOLDER.with_name("kubernetes")
VERSION: Final = "1.37"


def manifest(name: str, folder: Path = FOLDER) -> dict[str, Any]:
    made: dict[str, Any] = yaml.safe_load((folder / name).read_text())
    return made


KUSTOMIZATION: Final = manifest("kustomization.yaml")
DEPLOYMENT: Final = manifest("deployment.yaml")
POD: Final = DEPLOYMENT["spec"]["template"]["spec"]
CONTAINER: Final = POD["containers"][0]
ENVIRONMENT: Final = {each["name"]: each.get("value") for each in CONTAINER["env"]}


@pytest.mark.parametrize("name", KUSTOMIZATION["resources"])
def test_a_cluster_would_take_it(name: str) -> None:
    kubernetes_validate.validate(manifest(name), VERSION, strict=True)


def test_every_manifest_is_in_the_kustomization_which_replaces_the_image() -> None:
    assert {*KUSTOMIZATION["resources"], "kustomization.yaml"} == {path.name for path in FOLDER.iterdir()}
    assert [each["name"] for each in KUSTOMIZATION["images"]] == [CONTAINER["image"]]
    assert manifest("namespace.yaml") == manifest("namespace.yaml", ALONE)


def test_service_pods_and_budget_are_of_one_application() -> None:
    labels = DEPLOYMENT["spec"]["template"]["metadata"]["labels"]
    assert DEPLOYMENT["spec"]["selector"]["matchLabels"] == labels
    assert manifest("service.yaml")["spec"]["selector"] == labels
    assert manifest("disruption.yaml")["spec"]["selector"]["matchLabels"] == labels
    (spread,) = POD["topologySpreadConstraints"]
    assert spread["labelSelector"]["matchLabels"] == labels


def test_pods_leave_one_at_a_time_and_keep_nothing() -> None:
    assert DEPLOYMENT["spec"]["replicas"] > 1
    assert DEPLOYMENT["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert manifest("disruption.yaml")["spec"]["maxUnavailable"] == 1
    assert all(set(each) & {"emptyDir", "secret"} for each in POD["volumes"])
    assert POD["terminationGracePeriodSeconds"] > float(ENVIRONMENT["STRANDLINE_DRAIN_GRACE"]) + 5


def test_pods_reach_each_other_by_their_own_addresses_on_a_port_that_no_service_has() -> None:
    address = ENVIRONMENT["STRANDLINE_CLUSTER_ADDRESS"].replace("$(POD_IP)", "10.1.2.3")
    (ip,) = (each["valueFrom"]["fieldRef"]["fieldPath"] for each in CONTAINER["env"] if each["name"] == "POD_IP")
    assert ip == "status.podIP"
    listen = ENVIRONMENT["STRANDLINE_CLUSTER_LISTEN"]
    flags = {"cluster_listen": listen, "cluster_address": address, "journal": "postgresql://"}
    settings = resolve(flags, {}).settings
    host, _, port = listen.rpartition(":")
    assert (host, settings.cluster_address) == ("0.0.0.0", f"10.1.2.3:{port}")
    ports = {each["name"]: each["containerPort"] for each in CONTAINER["ports"]}
    assert ports == {"http": default_of("port"), "cluster": int(port)}
    assert [each["targetPort"] for each in manifest("service.yaml")["spec"]["ports"]] == ["http"]


def test_what_contains_a_pod_is_as_for_one_alone() -> None:
    alone = manifest("statefulset.yaml", ALONE)["spec"]["template"]["spec"]
    for name in ("automountServiceAccountToken", "enableServiceLinks"):
        assert POD[name] == alone[name], name
    assert POD["securityContext"].items() <= alone["securityContext"].items()
    (one,) = alone["containers"]
    for name in ("securityContext", "startupProbe", "livenessProbe", "readinessProbe", "resources"):
        assert CONTAINER[name] == one[name], name
    assert ENVIRONMENT["STRANDLINE_ALLOW_ANONYMOUS"] == "false"
