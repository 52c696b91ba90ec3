"""`deploy/kubernetes`: what a cluster would refuse, and numbers that have to fit each other and the server's own."""

from pathlib import Path
from typing import Any, Final

import kubernetes_validate
import pytest
import yaml  # type: ignore[import-untyped]

from strandline._config import ALIASES, PREFIX, default_of, descriptions
from strandline._http.app import build as app
from strandline._http.middleware.guard import EXEMPT
from strandline._server import CONNECTIONS_GRACE_S

ROOT: Final = Path(__file__).parents[2]
FOLDER: Final = ROOT / "deploy" / "kubernetes"
VERSION: Final = "1.37"
STOP_CANCEL_GRACE_S: Final = 1.0
"""What a run gets to end after the drain's grace; see `Service.drain`."""


def manifest(name: str) -> dict[str, Any]:
    made: dict[str, Any] = yaml.safe_load((FOLDER / name).read_text())
    return made


KUSTOMIZATION: Final = manifest("kustomization.yaml")
STATEFUL_SET: Final = manifest("statefulset.yaml")
POD: Final = STATEFUL_SET["spec"]["template"]["spec"]
CONTAINER: Final = POD["containers"][0]
ENVIRONMENT: Final = {each["name"]: each.get("value") for each in CONTAINER["env"]}


@pytest.mark.parametrize("name", KUSTOMIZATION["resources"])
def test_a_cluster_would_take_it(name: str) -> None:
    kubernetes_validate.validate(manifest(name), VERSION, strict=True)


def test_the_schemas_do_see_what_is_wrong() -> None:
    wrong = {**STATEFUL_SET, "spec": {**STATEFUL_SET["spec"], "replica": 2}}
    with pytest.raises(kubernetes_validate.ValidationError, match="replica"):
        kubernetes_validate.validate(wrong, VERSION, strict=True)


def test_every_manifest_is_in_the_kustomization_which_replaces_the_image() -> None:
    assert {*KUSTOMIZATION["resources"], "kustomization.yaml"} == {path.name for path in FOLDER.iterdir()}
    assert [each["name"] for each in KUSTOMIZATION["images"]] == [CONTAINER["image"]]
    assert manifest("namespace.yaml")["metadata"]["name"] == KUSTOMIZATION["namespace"]


def test_there_is_one_pod_and_no_other_gets_at_its_disk() -> None:
    spec = STATEFUL_SET["spec"]
    (claim,) = spec["volumeClaimTemplates"]
    assert (spec["replicas"], claim["spec"]["accessModes"]) == (1, ["ReadWriteOncePod"])
    mounted = {each["name"]: each["mountPath"] for each in CONTAINER["volumeMounts"]}
    assert mounted[claim["metadata"]["name"]] == "/data"
    assert set(mounted) == {claim["metadata"]["name"], *(each["name"] for each in POD["volumes"])}
    # What was said outlives the pod and the StatefulSet, also one that is scaled to none for an hour.
    assert set(spec["persistentVolumeClaimRetentionPolicy"].items()) == {
        ("whenDeleted", "Retain"),
        ("whenScaled", "Retain"),
    }


def test_it_has_what_an_image_of_ours_needs_and_no_bound_that_ends_it() -> None:
    """A root that is read-only wants a /tmp, bounded and not in memory; a limit for CPU stops loops in mid-air."""
    (tmp,) = (each["name"] for each in CONTAINER["volumeMounts"] if each["mountPath"] == "/tmp")
    (volume,) = (each for each in POD["volumes"] if each["name"] == tmp)
    assert set(volume["emptyDir"]) == {"sizeLimit"}
    limits = CONTAINER["resources"]["limits"]
    assert set(limits) == {"memory"}
    # As much again as the container that is measured and tested has; an idle one takes all of its requests.
    assert (limits["memory"], CONTAINER["resources"]["requests"]["memory"]) == ("1Gi", "256Mi")


def test_a_drain_fits_into_the_time_that_the_cluster_gives() -> None:
    drain_s = float(ENVIRONMENT["STRANDLINE_DRAIN_GRACE"])
    # (one second more than uvicorn's grace is the bound of `server.life`)
    assert POD["terminationGracePeriodSeconds"] > drain_s + STOP_CANCEL_GRACE_S + CONNECTIONS_GRACE_S
    assert "preStop" not in CONTAINER.get("lifecycle", {}), "its time counts, too"


def test_probes_ask_what_is_there_and_open_to_all_and_on_its_port() -> None:
    (port,) = CONTAINER["ports"]
    assert port["containerPort"] == default_of("port")
    probes = {kind: CONTAINER[f"{kind}Probe"] for kind in ("startup", "liveness", "readiness")}
    paths = {kind: (probe["httpGet"]["path"], probe["httpGet"]["port"]) for kind, probe in probes.items()}
    # Alive is not ready: who waits for the journal of a pod that still stops must not be killed for it.
    assert paths == {"startup": ("/livez", "http"), "liveness": ("/livez", "http"), "readiness": ("/readyz", "http")}
    assert {path for path, _ in paths.values()} <= EXEMPT
    patience_s = {kind: probe["periodSeconds"] * probe["failureThreshold"] for kind, probe in probes.items()}
    assert patience_s["startup"] >= 60, "imports on a node that has much to do"
    assert patience_s["liveness"] >= 30, "a server that is slow for a moment is not ended"
    assert probes["liveness"]["timeoutSeconds"] >= 3
    assert patience_s["readiness"] <= 2, "who drains gets no further requests"
    annotations = STATEFUL_SET["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(port["containerPort"])
    routes = Path(app.__file__).read_text()
    assert f'Route("{annotations["prometheus.io/path"]}"' in routes
    (served,) = manifest("service.yaml")["spec"]["ports"]
    assert (served["port"], served["targetPort"]) == (port["containerPort"], port["name"])


def test_the_service_finds_the_pod() -> None:
    spec = STATEFUL_SET["spec"]
    service = manifest("service.yaml")
    labels = spec["template"]["metadata"]["labels"]
    assert spec["selector"]["matchLabels"] == service["spec"]["selector"] == labels
    assert spec["serviceName"] == service["metadata"]["name"]
    assert service["spec"]["clusterIP"] == "None", "a StatefulSet wants a headless one"


def test_what_is_set_are_settings_and_the_cluster_sets_none() -> None:
    known = {*(PREFIX + name.upper() for name in descriptions()), *ALIASES.values(), "STRANDLINE_API_KEYS_FILE"}
    assert set(ENVIRONMENT) <= known
    # A Service named strandline would become STRANDLINE_PORT=tcp://... in every pod.
    assert POD["enableServiceLinks"] is False


def merged(base: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    """Return what kustomize makes of a patch here: containers are merged by their names, None takes away."""
    made = dict(base)
    for name, value in patch.items():
        match made.get(name), value:
            case _, None:
                made.pop(name)
            case dict() as there, dict():
                made[name] = merged(there, value)
            case list() as there, [{"name": _}, *_]:
                patches = {each["name"]: each for each in value}
                made[name] = [merged(each, patches.pop(each["name"], {})) for each in there]
                assert not patches, "it names what is not there"
            case _:
                made[name] = value
    return made


def test_for_maintenance_it_is_the_same_pod_without_server_and_probes() -> None:
    folder = FOLDER.with_name("kubernetes-maintenance")
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert [(folder / each).resolve() for each in kustomization["resources"]] == [FOLDER]
    (patch,) = (yaml.safe_load((folder / each["path"]).read_text()) for each in kustomization["patches"])
    base = {**STATEFUL_SET, "metadata": {**STATEFUL_SET["metadata"], "namespace": KUSTOMIZATION["namespace"]}}
    for each in ("apiVersion", "kind"):
        assert patch[each] == base[each]
    assert patch["metadata"] == {name: base["metadata"][name] for name in ("name", "namespace")}
    idle = merged(base, patch)
    kubernetes_validate.validate(idle, VERSION, strict=True)
    (container,) = idle["spec"]["template"]["spec"]["containers"]
    assert not any("Probe" in each for each in container)
    assert {each for each in CONTAINER if "Probe" not in each} | {"args"} == set(container)
    # The entry becomes whatever command is no option; PID 1 hears SIGTERM only if it waits for it.
    assert container["args"][:2] == ["sh", "-c"]
    assert "trap exit TERM" in container["args"][2]


def test_nobody_gets_in_without_a_key() -> None:
    path = ENVIRONMENT["STRANDLINE_API_KEYS_FILE"]
    (folder,) = (each["mountPath"] for each in CONTAINER["volumeMounts"] if each["name"] == "api-keys")
    assert path.startswith(f"{folder}/")
    (secret,) = (each["secret"] for each in POD["volumes"] if each["name"] == "api-keys")
    assert not secret.get("optional"), "without it the pod must not start"
    page = (ROOT / "docs" / "container.md").read_text()
    assert f"{secret['secretName']} --from-file={path.removeprefix(folder + '/')}\n" in page
    assert ENVIRONMENT["STRANDLINE_ALLOW_ANONYMOUS"] == "false"


def test_the_pod_is_restricted_by_the_published_rules() -> None:
    """The profile `restricted` of the Pod Security Standards, and besides a root file system that is read-only."""
    assert manifest("namespace.yaml")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    # baseline
    assert not {"hostNetwork", "hostPID", "hostIPC", "hostUsers"} & set(POD)
    assert not any("hostPort" in port for port in CONTAINER["ports"])
    assert "sysctls" not in POD["securityContext"]
    own = CONTAINER["securityContext"]
    assert not own.get("privileged")
    assert "procMount" not in own
    # restricted
    kinds = {kind for volume in POD["volumes"] for kind in volume if kind != "name"}
    allowed = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected"}
    assert kinds <= allowed | {"secret"}
    assert own["allowPrivilegeEscalation"] is False
    assert own["capabilities"] == {"drop": ["ALL"]}
    assert POD["securityContext"]["runAsNonRoot"] is True
    assert POD["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
    # and ours
    assert own["readOnlyRootFilesystem"] is True
    identity = {POD["securityContext"][each] for each in ("runAsUser", "runAsGroup", "fsGroup")}
    assert identity == {10001}
    assert POD["automountServiceAccountToken"] is False
    assert "initContainers" not in POD
