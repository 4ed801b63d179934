"""Kubernetes manifests: valid for the API, and true to the commands, options, ports, images and metrics that there are."""

from __future__ import annotations

import copy
import importlib.util
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import typer
import yaml

from hltfarm.proto.limits import Limits
from hltfarm.service.cli import build_app
from hltfarm.service.control.discovery import check_name
from hltfarm.workers.menu import Menu
from tests.unit.kubernetes_manifests import FOLDER, OVERLAYS, ROOT, Document, containers, environment, pods, rendered, the, written

VERSIONS = ("1.30", "1.37")  # the oldest that is promised, and the newest that can be checked
CRDS = yaml.safe_load(Path(__file__).with_name("kubernetes_crds.yaml").read_text())
MIB, GIB = 1 << 20, 1 << 30
overlays = pytest.mark.parametrize("overlay", OVERLAYS)


def validate(document: Document) -> None:
    """Against the schemas of the API, or, for what others define, the committed ones."""
    if document["kind"] in CRDS:
        jsonschema.validate(document["spec"], {**CRDS[document["kind"]], "$defs": CRDS["$defs"]})
        behavior = document["spec"].get("advanced", {}).get("horizontalPodAutoscalerConfig", {}).get("behavior")
        if behavior is not None:
            target = {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "x"}
            spec = {"maxReplicas": 1, "scaleTargetRef": target, "behavior": behavior}
            validate({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "x"}, "spec": spec})
        return
    for version in VERSIONS:
        kubernetes_validate.validate(document, version, strict=True)


def test_what_is_written_is_valid() -> None:
    documents = written()
    assert len(documents) > 10
    for path, document in documents:
        try:
            validate(document)
        except (kubernetes_validate.ValidationError, jsonschema.ValidationError) as error:
            pytest.fail(f"{path.relative_to(ROOT)}: {document['kind']}: {error}")


@overlays
def test_what_is_put_together_is_valid(overlay: str) -> None:
    for document in rendered(overlay):
        validate(document)


def test_the_validation_finds_faults() -> None:
    (node,) = [document for _, document in written() if document["kind"] == "StatefulSet"]
    for spoil in (
        lambda d: d["spec"]["template"]["spec"]["containers"][0].update(lifeCycle={}),
        lambda d: d["spec"].update(replicas="one"),
        lambda d: d["spec"].pop("selector"),
    ):
        broken = copy.deepcopy(node)
        spoil(broken)
        with pytest.raises(kubernetes_validate.ValidationError):
            validate(broken)
    (scaled,) = [document for _, document in written() if document["kind"] == "ScaledObject"]
    scaled["spec"]["triggers"][0]["metadata"]["treshold"] = "1"
    with pytest.raises(jsonschema.ValidationError):
        validate(scaled)


def test_kustomizations_name_files_that_are_there() -> None:
    named = set()
    for path in sorted(FOLDER.rglob("kustomization.yaml")):
        content = yaml.safe_load(path.read_text())
        places = [*content.get("resources", ()), *content.get("components", ())]
        places += [patch["path"] for patch in content.get("patches", ()) if "path" in patch]
        places += [file for generator in content.get("configMapGenerator", ()) for file in generator.get("files", ())]
        for place in places:
            target = (path.parent / place).resolve()
            assert target.is_file() or (target / "kustomization.yaml").is_file(), f"{path.relative_to(ROOT)}: {place}"
            named.add(target if target.is_file() else target / "kustomization.yaml")
    entries = {FOLDER / "overlays" / overlay / "kustomization.yaml" for overlay in OVERLAYS}
    unused = {FOLDER / "components/host-network/kustomization.yaml"}  # for sites to add
    assert set(FOLDER.rglob("*.yaml")) - named == entries | unused


# -- what the containers run -----------------------------------------------------------------------------------------------


def command_of(arguments: list[str]) -> Any:
    """The command that the arguments choose, its own arguments parsed. Raises for options that it does not have."""
    command, rest = typer.main.get_command(build_app(arguments[0])), arguments
    with command.make_context("hltfarm", list(arguments), resilient_parsing=False) as context:
        while hasattr(command, "resolve_command"):
            _, command, rest = command.resolve_command(context, rest)
            assert command is not None
            if hasattr(command, "resolve_command"):
                continue
    command.make_context("hltfarm", list(rest)).close()
    return command


def commands(container: Document) -> list[list[str]]:
    """Every command line of a container: its own, probes, hooks; without the name of the program."""
    found = [container["args"]]
    for place in ("startupProbe", "readinessProbe", "livenessProbe"):
        if "exec" in container.get(place, {}):
            found.append(container[place]["exec"]["command"])
    for hook in container.get("lifecycle", {}).values():
        found.append(hook["exec"]["command"])
    assert all(line[0] == "hltfarm" for line in found[1:]), found
    return [found[0], *(line[1:] for line in found[1:])]


@overlays
def test_commands_and_their_options_exist(overlay: str) -> None:
    lines = [line for container in containers(rendered(overlay)) for line in commands(container)]
    assert ["health", "ingest", "--ready"] in lines
    for line in lines:
        command_of(line)


@overlays
def test_variables_are_those_of_the_commands(overlay: str) -> None:
    documents = rendered(overlay)
    maps = {document["metadata"]["name"]: document["data"] for document in documents if document["kind"] == "ConfigMap"}
    for container in containers(documents):
        given = set(environment(container))
        for source in container.get("envFrom", ()):
            given |= set(maps[source["configMapRef"]["name"]])
        known = {"POD_NAME", "CUPY_CACHE_DIR"}
        for line in commands(container):
            known |= {name for option in command_of(line).params for name in _variables(option)}
        assert given <= known, f"{container['name']}: {given - known}"


def _variables(option: Any) -> list[str]:
    names = option.envvar
    return [names] if isinstance(names, str) else list(names or ())


@overlays
def test_ports_names_and_files_fit_together(overlay: str) -> None:
    documents = rendered(overlay)
    node = the(documents, "StatefulSet", "hltfarm-node")["spec"]["template"]["spec"]
    service = the(documents, "Service", node_service := the(documents, "StatefulSet", "hltfarm-node")["spec"]["serviceName"])
    (control,) = the(documents, "Deployment", "hltfarm-control")["spec"]["template"]["spec"]["containers"]
    open_ports = {port["name"]: port["containerPort"] for part in node["containers"] for port in part["ports"]}
    assert {port["targetPort"]: port["port"] for port in service["spec"]["ports"]} == open_ports
    names = environment(control)["HLTFARM_CONTROL_INGEST_DNS"].split()
    for name in names:
        check_name(name)
    controls = {f"_{port}._tcp.{node_service}" for port in open_ports if port.startswith("control")}
    assert set(names) == controls
    sockets, rings, folders = [], [], []
    for ingest in node["containers"]:
        told, ports = environment(ingest), {port["name"].partition("-")[0]: port["containerPort"] for port in ingest["ports"]}
        assert told["HLTFARM_INGEST_CLIENTS"] == f"tcp://0.0.0.0:{ports['clients']}"
        assert told["HLTFARM_INGEST_CONTROL"] == f"tcp://0.0.0.0:{ports['control']}"
        assert f"tcp://127.0.0.1:{ports['control']}" in ingest["lifecycle"]["preStop"]["exec"]["command"]
        sockets.append(told["HLTFARM_INGEST_WORKERS"])
        rings.append(told["HLTFARM_INGEST_RING"])
        folders += [told["HLTFARM_INGEST_ERRORS"], told["HLTFARM_INGEST_OUTPUT"]]
    (worker,) = node["initContainers"]
    assert environment(worker)["HLTFARM_WORKER_INGEST"].split() == sockets
    assert len(set(rings)) == len(rings)
    assert len(set(folders)) == len(folders)
    mounts = {mount["mountPath"] for mount in worker["volumeMounts"]} & {m["mountPath"] for m in node["containers"][0]["volumeMounts"]}
    assert {str(Path(place.removeprefix("ipc://")).parent) for place in (*sockets, *rings)} == {"/run/hltfarm"} <= mounts


@overlays
def test_network_policies_let_through_what_is_needed(overlay: str) -> None:
    documents = rendered(overlay)
    node = the(documents, "StatefulSet", "hltfarm-node")["spec"]["template"]["spec"]
    ports = {port["name"]: port["containerPort"] for part in node["containers"] for port in part["ports"]}
    clients, controls = (sorted(name for name in ports if name.startswith(kind)) for kind in ("clients", "control"))
    ingress = the(documents, "NetworkPolicy", "hltfarm-node")["spec"]["ingress"]
    assert [sorted(port["port"] for port in rule["ports"]) for rule in ingress] == [clients, controls]
    egress = the(documents, "NetworkPolicy", "hltfarm-control")["spec"]["egress"]
    assert sorted(port["port"] for port in egress[0]["ports"]) == sorted(ports[name] for name in controls)
    labels = {document["metadata"]["name"]: document for document in documents if document["kind"] in ("StatefulSet", "Deployment")}
    for name, rules in (("hltfarm-node", egress[0]["to"]), ("hltfarm-control", ingress[1]["from"])):
        given = labels[name]["spec"]["template"]["metadata"]["labels"]
        assert all(given[key] == value for key, value in rules[0]["podSelector"]["matchLabels"].items())


@overlays
def test_the_ring_fits_and_there_is_time_to_drain(overlay: str) -> None:
    documents = rendered(overlay)
    pod = the(documents, "StatefulSet", "hltfarm-node")["spec"]["template"]["spec"]
    slots = sum(int(environment(part)["HLTFARM_INGEST_SLOTS"]) for part in pod["containers"])
    (room,) = [volume["emptyDir"] for volume in pod["volumes"] if volume["name"] == "run"]
    assert room["medium"] == "Memory"
    assert _bytes(room["sizeLimit"]) >= 2 * slots * Limits().max_payload_bytes + 64 * MIB, "that of a killed ingest stays for a while"
    assert all(_bytes(part["resources"]["limits"]["memory"]) >= 2 * GIB for part in containers(documents))
    for ingest in pod["containers"]:
        hook = ingest["lifecycle"]["preStop"]["exec"]["command"]
        drain_s = float(hook[hook.index("--timeout") + 1])
        assert pod["terminationGracePeriodSeconds"] >= drain_s + float(environment(ingest)["HLTFARM_INGEST_STOP_TIMEOUT_S"]) + 30
    assert all(worker["restartPolicy"] == "Always" for worker in pod["initContainers"]), "workers end after the ingests"


def _bytes(text: str) -> int:
    return int(text[:-2]) * {"Mi": MIB, "Gi": GIB}[text[-2:]]


@overlays
def test_nobody_has_more_rights_than_needed(overlay: str) -> None:
    documents = rendered(overlay)
    for _, pod in pods(documents):
        context = pod["securityContext"]
        assert (context["runAsNonRoot"], context["seccompProfile"]["type"]) == (True, "RuntimeDefault")
        assert not pod["automountServiceAccountToken"]
        assert not pod["enableServiceLinks"], "they would be taken for options"
        volumes = {volume["name"] for volume in pod["volumes"]} | {"data"}
        for part in (*pod.get("initContainers", ()), *pod["containers"]):
            wanted = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
            assert part["securityContext"] == wanted
            assert {mount["name"] for mount in part["volumeMounts"]} <= volumes
            assert "/tmp" in {mount["mountPath"] for mount in part["volumeMounts"]}, "of the status file"
            assert "requests" in part["resources"]
    secured = "components/secured" in (FOLDER / "overlays" / overlay / "kustomization.yaml").read_text()
    told = [document["data"] for document in documents if "-security-" in document["metadata"]["name"]]
    assert len(told) == 2
    assert all(("HLTFARM_INSECURE" in data) != secured for data in told)


@overlays
def test_images_are_those_of_the_dockerfile_in_this_version(overlay: str) -> None:
    targets = re.findall(r"^FROM \S+ AS (\S+)", (ROOT / "docker/Dockerfile").read_text(), flags=re.M)
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for container in containers(rendered(overlay)):
        name, _, tag = container["image"].removeprefix("hltfarm/").partition(":")
        assert name in targets
        assert tag == version


def test_the_menu_can_be_used() -> None:
    assert [path.name for path in Menu.parse((FOLDER / "base/menu.yaml").read_text()).paths]


# -- monitoring ------------------------------------------------------------------------------------------------------------


def test_the_rules_are_those_of_deploy_prometheus() -> None:
    place = importlib.util.spec_from_file_location("prometheus_rule", FOLDER / "prometheus_rule.py")
    assert place is not None
    assert place.loader is not None
    module = importlib.util.module_from_spec(place)
    place.loader.exec_module(module)
    assert yaml.safe_load(module.TARGET.read_text()) == module.rule(), "run deploy/kubernetes/prometheus_rule.py"


def test_prometheus_finds_the_farm_under_the_name_that_the_rules_know() -> None:
    documents = rendered("many-nodes")
    monitor, service = the(documents, "ServiceMonitor", "hltfarm")["spec"], the(documents, "Service", "hltfarm-control")
    labels = service["metadata"]["labels"]
    assert labels[monitor["jobLabel"]] == "hltfarm"
    assert monitor["selector"]["matchLabels"].items() <= labels.items()
    assert monitor["endpoints"][0]["port"] in {port["name"] for port in service["spec"]["ports"]}


def test_queries_of_the_autoscaler_name_metrics_that_there_are(tmp_path: Path) -> None:
    (scaled,) = [document for _, document in written() if document["kind"] == "ScaledObject"]
    metrics = (ROOT / "service/control/metrics.py").read_text()
    queries = [trigger["metadata"]["query"] for trigger in scaled["spec"]["triggers"]]
    for query in queries:
        names = set(re.findall(r"hlt_\w+", query))
        assert names
        assert all(f'"{name}"' in metrics for name in names), names
    causes = re.findall(r'cause=~"([^"]+)"', queries[1])[0].split("|")
    server = (ROOT / "service/ingest/server.py").read_text()
    assert all(f'"{cause}":' in server for cause in causes)
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed: the language of the queries is not checked")
    rules = {"groups": [{"name": "keda", "rules": [{"record": f"keda:{i}", "expr": query} for i, query in enumerate(queries)]}]}
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(rules))
    checked = subprocess.run([promtool, "check", "rules", str(tmp_path / "rules.yml")], capture_output=True, text=True, timeout=30)
    assert checked.returncode == 0, checked.stdout + checked.stderr
