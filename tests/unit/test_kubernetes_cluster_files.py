"""The folders of `cluster/`: what `kubectl apply -k` sends, and what it opens."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml
from kubernetes_schemas import (
    REPOSITORY,
    job_of,
    pod_templates,
    profile_with,
    schema_faults,
    submission_of,
)

from tap_platform.config.load_profile import load_profile, profile_files
from tap_platform.config.profile import KubernetesProfile
from tap_platform.launch.gauges import GAUGES
from tap_platform.places.kubernetes.objects import render

CLUSTER = REPOSITORY / "cluster"
OF_OTHERS = {"kueue.x-k8s.io/v1beta2", "monitoring.coreos.com/v1"}
"""Kinds whose schemas do not come with Kubernetes."""
DASHBOARD = json.loads((CLUSTER / "monitoring" / "training.json").read_text())
KUBECTL = shutil.which("kubectl", path=str(Path(sys.executable).parent)) or shutil.which("kubectl")


@cache
def kustomized(folder):
    assert KUBECTL is not None
    done = subprocess.run(
        [KUBECTL, "kustomize", str(CLUSTER / folder)], capture_output=True, text=True, check=True
    )
    return list(yaml.safe_load_all(done.stdout))


def named(folder, kind, name):
    (found,) = [
        each
        for each in kustomized(folder)
        if (each["kind"], each["metadata"]["name"]) == (kind, name)
    ]
    return found


@pytest.mark.parametrize("folder", ["namespace", "kuberay", "monitoring", "queues"])
def test_what_is_applied_passes_strict_schemas(folder):
    objects = kustomized(folder)
    assert objects
    for each in objects:
        if each["apiVersion"] not in OF_OTHERS:
            assert schema_faults(each) == [], each["metadata"]["name"]


def test_all_but_the_cluster_wide_lies_in_the_namespace():
    for each in kustomized("namespace"):
        if each["kind"] not in ("Namespace", "PriorityClass"):
            assert each["metadata"]["namespace"] == "tap", each["metadata"]["name"]


def test_the_namespace_takes_restricted_pods_only():
    labels = named("namespace", "Namespace", "tap")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_the_names_that_profiles_use_are_there():
    profile = profile_with()
    account = named("namespace", "ServiceAccount", profile.service_account)
    assert account["automountServiceAccountToken"] is False
    for _, each in map(load_profile, profile_files()):
        if isinstance(each, KubernetesProfile):
            if each.priority:
                assert named("namespace", "PriorityClass", each.priority)
            if each.storage.claim:
                assert named("namespace", "PersistentVolumeClaim", each.storage.claim)
            if each.queue and each.queue.system == "kueue":
                assert named("queues", "LocalQueue", each.queue.name)


def verbs(role, group, resource):
    rules = [
        rule
        for rule in named("namespace", "Role", role)["rules"]
        if group in rule["apiGroups"] and resource in rule["resources"]
    ]
    return {verb for rule in rules for verb in rule["verbs"]}


def test_people_may_do_what_tap_does_and_no_more():
    assert verbs("tap-submitter", "ray.io", "rayjobs") == {"create", "delete", "patch"}
    assert verbs("tap-submitter", "", "configmaps") == {"create", "get", "patch", "delete"}
    assert verbs("tap-viewer", "ray.io", "rayjobs") == {"get", "list", "watch"}
    assert verbs("tap-viewer", "", "pods/log") == {"get"}
    # `tap stop --now` ends them.
    assert verbs("tap-submitter", "", "pods") == {"delete"}
    assert verbs("tap-viewer", "", "pods") == {"get", "list", "watch"}
    for role in ("tap-viewer", "tap-submitter"):
        for resource in ("secrets", "pods/exec", "pods/portforward", "services/proxy"):
            assert verbs(role, "", resource) == set()
        assert not {"create", "patch", "update"} & verbs(role, "", "pods")
        for rule in named("namespace", "Role", role)["rules"]:
            assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]


def test_submitters_view_too():
    groups = {each["name"] for each in named("namespace", "RoleBinding", "tap-viewers")["subjects"]}
    assert groups == {"tap-viewers", "tap-submitters"}


def test_the_operator_is_bound_to_its_role_in_the_namespace_of_runs_only():
    assert {each["kind"] for each in kustomized("kuberay")} == {"Role", "RoleBinding"}
    (subject,) = named("kuberay", "RoleBinding", "kuberay-operator")["subjects"]
    assert subject["namespace"] == "kuberay-system"
    values = yaml.safe_load((CLUSTER / "kuberay" / "values.yaml").read_text())
    assert values["singleNamespaceInstall"] is True
    assert values["crNamespacedRbacEnable"] is False
    spaces = {each["metadata"]["namespace"] for each in kustomized("kuberay")}
    assert spaces == set(values["watchNamespace"])


def test_the_operator_has_what_it_gives_to_autoscalers():
    rules = named("kuberay", "Role", "kuberay-operator")["rules"]
    held = {
        (group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    given = [("", "pods", verb) for verb in ("get", "list", "watch", "patch")]
    given += [("ray.io", "rayclusters", verb) for verb in ("get", "patch")]
    assert set(given) <= held


def policies():
    return [each for each in kustomized("namespace") if each["kind"] == "NetworkPolicy"]


def matches(selector, labels):
    """Whether labels are selected: the two forms that these policies use."""
    exact = selector.get("matchLabels", {}).items() <= labels.items()
    return exact and all(
        each["operator"] == "In" and labels.get(each["key"]) in each["values"]
        for each in selector.get("matchExpressions", [])
    )


def may_reach(labels, peer, port):
    """Whether pods with these labels take TCP from a peer: labels here, or a namespace's name."""
    for policy in policies():
        if not matches(policy["spec"]["podSelector"], labels):
            continue
        for rule in policy["spec"].get("ingress", []):
            ports = [each["port"] for each in rule.get("ports", [])]
            if (not ports or port in ports) and any(is_peer(each, peer) for each in rule["from"]):
                return True
    return False


def is_peer(told, peer):
    if isinstance(peer, str):
        space = told.get("namespaceSelector", {}).get("matchLabels", {})
        return space.get("kubernetes.io/metadata.name") == peer
    return "namespaceSelector" not in told and matches(told["podSelector"], peer)


def pod_labels(node_type):
    """As KubeRay makes a pod: the template's labels and its own."""
    objects = render(submission_of(job_of()), profile_with())
    name = {"head": "head", "worker": "cpu", None: "submitter"}[node_type]
    labels = pod_templates(objects[-1])[name]["metadata"]["labels"]
    return {**labels, **({"ray.io/node-type": node_type} if node_type else {})}


def test_nothing_is_open_that_no_policy_opens():
    deny = named("namespace", "NetworkPolicy", "default-deny")["spec"]
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for each in policies():
        for rule in [*each["spec"].get("ingress", [])]:
            assert rule.get("from"), f"{each['metadata']['name']} opens to everybody"


@pytest.mark.parametrize("port", [6379, 8265, 10001, 40000])
def test_pods_of_runs_reach_each_other_and_strangers_do_not(port):
    head, worker, submitter = pod_labels("head"), pod_labels("worker"), pod_labels(None)
    for peer in (worker, submitter, head):
        assert may_reach(head, peer, port)
    assert may_reach(worker, head, port)
    for stranger in ({"app": "web"}, {}, "default", "kube-system"):
        assert not may_reach(head, stranger, port)
        assert not may_reach(worker, stranger, port)


def test_the_operator_reaches_the_dashboard_and_nothing_else():
    head = pod_labels("head")
    assert may_reach(head, "kuberay-system", 8265)
    assert not may_reach(head, "kuberay-system", 6379)
    assert not may_reach(head, "kuberay-system", 10001)
    assert not may_reach(pod_labels("worker"), "kuberay-system", 8265)


def test_prometheus_reaches_metrics_and_nothing_else():
    for node in ("head", "worker"):
        assert may_reach(pod_labels(node), "monitoring", 8080)
        assert not may_reach(pod_labels(node), "monitoring", 8265)


@pytest.mark.parametrize("resolver", ["kube-system", "169.254.20.10/32"])
def test_runs_ask_for_names_where_clusters_answer(resolver):
    """By services of kube-system, or a cache on every node with an address of its own."""
    rules = named("namespace", "NetworkPolicy", "runs-to-outside")["spec"]["egress"]
    answers = [
        rule
        for rule in rules
        if any(
            is_peer(to, resolver) or to.get("ipBlock", {}).get("cidr") == resolver
            for to in rule["to"]
        )
    ]
    ports = {(port["protocol"], port["port"]) for rule in answers for port in rule["ports"]}
    assert ports == {("UDP", 53), ("TCP", 53)}


def flavors():
    """Of the queue, in the order in which Kueue tries them: name to quota of GPUs."""
    (group,) = named("queues", "ClusterQueue", "tap")["spec"]["resourceGroups"]
    return {
        flavor["name"]: int(quota["nominalQuota"])
        for flavor in group["flavors"]
        for quota in flavor["resources"]
        if quota["name"] == "nvidia.com/gpu"
    }


def tolerates(pod, taint):
    """Whether a pod puts up with a taint, as profiles tolerate: any value of a key."""
    return any(
        (each["key"], each["operator"], each["effect"]) == (taint["key"], "Exists", taint["effect"])
        for each in pod.get("tolerations", [])
    )


def test_heads_take_no_room_of_workers_in_the_queue():
    (cpu, gpu), name = flavors(), "h100_32x8_rdma"
    assert (flavors()[cpu], flavors()[gpu]) == (0, 256)
    assert not named("queues", "ResourceFlavor", cpu).get("spec")
    (taint,) = named("queues", "ResourceFlavor", gpu)["spec"]["nodeTaints"]
    _, profile = load_profile(CLUSTER / "profiles" / f"{name}.yaml")
    job = job_of("tap_vit_b")
    templates = pod_templates(render(submission_of(job), profile)[-1])
    assert tolerates(templates["h100"]["spec"], taint)
    assert not tolerates(templates["head"]["spec"], taint)
    assert not tolerates(templates["submitter"]["spec"], taint)


def test_pods_of_profiles_ask_for_nothing_that_the_namespace_refuses():
    for name, profile in map(load_profile, profile_files()):
        if isinstance(profile, KubernetesProfile):
            for template in pod_templates(render(submission_of(None), profile)[-1]).values():
                for container in template["spec"]["containers"]:
                    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}, name


def test_redis_is_reached_by_heads_only():
    redis = {"app.kubernetes.io/name": "tap-redis"}
    assert may_reach(redis, pod_labels("head"), 6379)
    assert not may_reach(redis, pod_labels("worker"), 6379)


def test_prometheus_finds_the_port_that_pods_name():
    (endpoint,) = named("monitoring", "PodMonitor", "tap-runs")["spec"]["podMetricsEndpoints"]
    selector = named("monitoring", "PodMonitor", "tap-runs")["spec"]["selector"]
    templates = pod_templates(render(submission_of(job_of()), profile_with())[-1])
    for name, node in (("head", "head"), ("cpu", "worker")):
        assert matches(selector, pod_labels(node))
        ports = templates[name]["spec"]["containers"][0]["ports"]
        assert endpoint["port"] in [each["name"] for each in ports]


def test_the_dashboard_is_delivered_as_it_stands():
    delivered = named("monitoring", "ConfigMap", "tap-dashboards")
    assert json.loads(delivered["data"]["training.json"]) == DASHBOARD
    assert delivered["metadata"]["labels"]["grafana_dashboard"] == "1"


def expressions():
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def test_the_dashboard_shows_every_metric_that_runs_tell_and_no_other():
    shown = {name for each in expressions() for name in re.findall(r"ray_(tap_\w+)", each)}
    assert shown == set(GAUGES)


def test_the_dashboard_is_asked_by_project_and_run():
    variables = {each["name"]: each for each in DASHBOARD["templating"]["list"]}
    assert list(variables) == ["datasource", "project", "run"]
    assert variables["datasource"]["type"] == "datasource"
    for each in expressions():
        assert 'project=~"$project", run=~"$run"' in each
    for panel in DASHBOARD["panels"]:
        assert panel["datasource"]["uid"] == "${datasource}"
        assert all(each["datasource"]["uid"] == "${datasource}" for each in panel["targets"])


def test_panels_have_their_own_number_title_and_place():
    panels = DASHBOARD["panels"]
    for key in ("id", "title"):
        assert len({panel[key] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
