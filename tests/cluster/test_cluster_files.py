"""cluster.yaml, deploy/, Dockerfile and the commands of docs/running_on_a_cluster.md, as far as they can be checked
without a cluster: Ray's schema, EC2's parameters, the project's own options and its plan of processes."""

import copy
import json
import re
import shlex
import subprocess
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import botocore.session
import pytest
import tyro
import yaml
from botocore.model import ServiceModel
from botocore.validate import ParamValidator

from pipeline.cluster.pools import Pools, plan_pools
from pipeline.config import EvaluateConfig, SegmentConfig
from pipeline.run.metrics import METRICS

ROOT = Path(__file__).parents[2]
CLUSTER = yaml.safe_load((ROOT / "cluster.yaml").read_text())
NODE_TYPES = CLUSTER["available_node_types"]
SERVICE_ACCOUNT, RAY_JOB = yaml.safe_load_all((ROOT / "deploy" / "rayjob.yaml").read_text())
DOCUMENT = (ROOT / "docs" / "running_on_a_cluster.md").read_text()
POLICIES = {path.stem: json.loads(path.read_text()) for path in sorted((ROOT / "deploy" / "iam").glob("*.json"))}
POD_MONITOR = yaml.safe_load((ROOT / "deploy" / "podmonitor.yaml").read_text())
BOARD = json.loads((ROOT / "deploy" / "grafana" / "deconvnet.json").read_text())
JOBS = {"segment_dataset": SegmentConfig, "evaluate": EvaluateConfig}


def shell_blocks() -> list[str]:
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
    return [block for language, block in blocks if not language]


def commands_of_jobs() -> list[str]:
    lines = "".join(shell_blocks()).replace("\\\n", " ").splitlines()
    return [line for line in lines if re.search(r"jobs/\w+\.py", line)]


def parse(command: str) -> Any:
    """The job's own reading of the arguments in a command line; exits where the job would."""
    before, name, arguments = re.split(r"jobs/(\w+)\.py", command, maxsplit=1)
    assert "python" in before
    return tyro.cli(JOBS[name], args=shlex.split(arguments, comments=True), config=(tyro.conf.OmitArgPrefixes,))


@cache
def service(name: str) -> ServiceModel:
    return botocore.session.get_session().get_service_model(name)


def pools_of(config: SegmentConfig, cpus: float, gpus: float) -> Pools:
    return plan_pools(cpus, gpus, config.predict_workers, config.refine_workers)


# cluster.yaml


def test_ray_accepts_cluster_yaml() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(copy.deepcopy(CLUSTER)))


def errors_of(node_config: dict[str, Any]) -> str:
    shape = service("ec2").operation_model("RunInstances").input_shape
    return ParamValidator().validate({**node_config, "MinCount": 1, "MaxCount": 1}, shape).generate_report()


@pytest.mark.parametrize("name", NODE_TYPES)
def test_ec2_accepts_the_node_configuration(name: str) -> None:
    config = NODE_TYPES[name]["node_config"]
    members = service("ec2").operation_model("RunInstances").input_shape.members
    assert errors_of(config) == ""
    assert config["InstanceType"] in members["InstanceType"].enum
    if "InstanceMarketOptions" in config:
        market = members["InstanceMarketOptions"].members["MarketType"]
        assert config["InstanceMarketOptions"]["MarketType"] in market.enum


def test_a_misspelt_parameter_of_ec2_is_found() -> None:
    config = copy.deepcopy(NODE_TYPES["gpu"]["node_config"])
    config["InstanceMarketOption"] = config.pop("InstanceMarketOptions")
    config["BlockDeviceMappings"][0]["Ebs"]["VolumeSize"] = "150 GB"
    assert "InstanceMarketOption" in errors_of(config)
    assert "VolumeSize" in errors_of(config)


def test_gpus_are_spot_machines_and_the_head_is_not() -> None:
    assert NODE_TYPES["gpu"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert "InstanceMarketOptions" not in NODE_TYPES["head"]["node_config"]
    assert NODE_TYPES["head"]["resources"] == {"CPU": 0}


def test_the_groups_have_the_size_that_the_job_plans_for() -> None:
    workers = [node_type for name, node_type in NODE_TYPES.items() if name != CLUSTER["head_node_type"]]
    assert all(node_type["min_workers"] == node_type["max_workers"] for node_type in workers)
    assert CLUSTER["max_workers"] == sum(node_type["max_workers"] for node_type in workers)


def test_what_only_the_user_knows_stands_at_the_top() -> None:
    lines = (ROOT / "cluster.yaml").read_text().splitlines()
    assert [i for i, line in enumerate(lines) if "CHANGE-ME" in line and i >= lines.index("provider:")] == []


def test_nodes_install_the_pinned_packages() -> None:
    mounted = CLUSTER["file_mounts"]
    assert all((ROOT / local).is_file() for local in mounted.values())
    metadata = {"README.md", "LICENSE"}  # named in pyproject.toml
    assert metadata | {"pyproject.toml", "constraints.txt", "setup.py", "native/densecrf_lattice.cpp"} == set(
        mounted.values()
    )
    assert all(remote.removeprefix("~/deconvnet-ray/") == local for remote, local in mounted.items())
    assert any(
        command.endswith("--no-deps --build-constraints constraints.txt .") for command in CLUSTER["setup_commands"]
    )
    install = next(command for command in CLUSTER["setup_commands"] if "-r pyproject.toml" in command)
    assert "-c constraints.txt" in install
    assert any("--python 3.11 ~/venv" in command for command in CLUSTER["setup_commands"])


def test_ray_starts_with_the_virtual_environment_first_and_the_dashboard_on_loopback() -> None:
    starts = [CLUSTER["head_start_ray_commands"][-1], CLUSTER["worker_start_ray_commands"][-1]]
    assert all(command.startswith(". ~/deconvnet-ray/environment;") for command in starts)
    assert all("ulimit -n 65536" in command for command in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]


@pytest.mark.parametrize(
    "commands",
    [CLUSTER[key] for key in CLUSTER if key.endswith("_commands")] + [shell_blocks()],
)
def test_commands_are_shell(commands: list[str]) -> None:
    for command in commands:
        subprocess.run(["bash", "-n"], input=command, text=True, check=True)


# The rights that a run needs


def statements(*names: str) -> list[dict[str, Any]]:
    return [statement for name in names for statement in POLICIES[name]["Statement"]]


def actions(*names: str) -> set[str]:
    listed = [statement["Action"] for statement in statements(*names)]
    return {action for entry in listed for action in ([entry] if isinstance(entry, str) else entry)}


def test_every_ec2_right_names_an_operation() -> None:
    asked = {action.removeprefix("ec2:") for action in actions(*POLICIES) if action.startswith("ec2:")}
    assert asked <= set(service("ec2").operation_names)
    assert not any("*" in action for action in actions(*POLICIES))


def test_the_head_and_the_user_may_do_what_rays_launcher_does() -> None:
    # Recorded from Ray 2.60's bootstrap and node provider with this cluster.yaml, against a simulated EC2.
    calls = {"DescribeInstanceTypes", "DescribeKeyPairs", "DescribeSecurityGroups", "DescribeSubnets"}
    calls |= {"DescribeInstances", "RunInstances", "CreateTags", "TerminateInstances"}
    assert {f"ec2:{call}" for call in calls} <= actions("autoscaler")
    assert "ec2:CreateKeyPair" in actions("operator")


def test_rights_and_cluster_agree_on_names() -> None:
    ended = next(statement for statement in statements("autoscaler") if "ec2:TerminateInstances" in statement["Action"])
    assert ended["Condition"] == {"StringEquals": {"ec2:ResourceTag/ray-cluster-name": CLUSTER["cluster_name"]}}
    passed = {statement["Resource"].rpartition("/")[2] for statement in statements("autoscaler", "operator")
              if statement["Action"] == "iam:PassRole"}  # fmt: skip
    assert passed == {node_type["node_config"]["IamInstanceProfile"]["Name"] for node_type in NODE_TYPES.values()}


def test_machines_without_a_right_to_start_machines_have_the_worker_profile() -> None:
    profiles = {name: node_type["node_config"]["IamInstanceProfile"]["Name"] for name, node_type in NODE_TYPES.items()}
    assert profiles == {"head": "deconvnet-ray-head", "cpu": "deconvnet-ray-worker", "gpu": "deconvnet-ray-worker"}


# deploy/rayjob.yaml and the image

SPEC = RAY_JOB["spec"]
RAY_CLUSTER = SPEC["rayClusterSpec"]
GROUPS = {group["groupName"]: group for group in RAY_CLUSTER["workerGroupSpecs"]}
PODS = [group["template"]["spec"] for group in [RAY_CLUSTER["headGroupSpec"], *GROUPS.values()]]


def test_the_manifest_is_a_ray_job_that_cleans_up_and_goes_on() -> None:
    assert (RAY_JOB["apiVersion"], RAY_JOB["kind"]) == ("ray.io/v1", "RayJob")
    assert SPEC["shutdownAfterJobFinishes"] is True
    assert SPEC["backoffLimit"] >= 1
    assert RAY_CLUSTER["enableInTreeAutoscaling"] is True
    assert RAY_CLUSTER["authOptions"] == {"mode": "token"}
    assert set(SPEC) <= {
        "entrypoint", "backoffLimit", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "rayClusterSpec",
    }  # fmt: skip


def test_ray_in_the_manifest_is_the_pinned_one() -> None:
    assert f"ray=={RAY_CLUSTER['rayVersion']}" in (ROOT / "constraints.txt").read_text().splitlines()


def test_every_pod_has_one_image_bounded_resources_and_the_account_for_s3() -> None:
    containers = [pod["containers"][0] for pod in PODS]
    assert all(set(pod) <= {"serviceAccountName", "containers", "tolerations", "nodeSelector"} for pod in PODS)
    assert all(pod["serviceAccountName"] == SERVICE_ACCOUNT["metadata"]["name"] for pod in PODS)
    assert len({container["image"] for container in containers}) == 1
    for resources in (container["resources"] for container in containers):
        assert resources["requests"] == resources["limits"]
        assert {"cpu", "memory"} <= set(resources["limits"]) <= {"cpu", "memory", "nvidia.com/gpu"}
        assert re.fullmatch(r"\d+Gi", resources["limits"]["memory"])


def test_groups_start_complete_and_only_shrink() -> None:
    assert all(0 <= group["minReplicas"] <= group["replicas"] == group["maxReplicas"] for group in GROUPS.values())


def test_gpu_pods_ask_for_a_gpu_and_tolerate_its_taint() -> None:
    pod = GROUPS["gpu"]["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert "nvidia.com/gpu" in {toleration["key"] for toleration in pod["tolerations"]}


def cpus_of(group: dict[str, Any]) -> float:
    cpu = (
        group["rayStartParams"].get("num-cpus")
        or group["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"]
    )
    return float(cpu)


def test_the_entrypoint_is_a_command_of_the_job_that_fits_the_pods() -> None:
    config = parse(SPEC["entrypoint"])
    cpus = sum(group["replicas"] * cpus_of(group) for group in GROUPS.values())
    gpus = GROUPS["gpu"]["replicas"]
    assert cpus_of(RAY_CLUSTER["headGroupSpec"]) == 0
    assert pools_of(config, cpus, gpus).predict_workers == gpus
    assert config.predict.device == "cuda"  # a run whose GPUs are not there must not go on without


def test_the_entrypoint_finds_its_script_in_the_image() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    workdir = re.search(r"^WORKDIR (\S+)$", dockerfile, re.MULTILINE)
    script = Path(SPEC["entrypoint"].split()[1])
    assert workdir is not None
    assert (ROOT / script.relative_to(workdir[1])).is_file()
    assert f"COPY {script.parent.name} {script.parent.name}" in dockerfile


def test_the_image_is_built_from_files_that_exist_and_are_sent() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {name for line in re.findall(r"^COPY (.*)$", dockerfile, re.MULTILINE) for name in line.split()[:-1]}
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]["include"]
    assert copied == sent
    assert all((ROOT / name).exists() for name in copied)
    assert {package.rstrip("*") for package in packages} <= copied
    assert dockerfile.splitlines()[1].startswith("FROM python:3.11-")


# Metrics: the ports, deploy/podmonitor.yaml, and the queries of deploy/grafana

EXPORTED = {f"ray_{metric.name}": metric for metric in METRICS}
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
VARIABLES = {variable["name"]: variable for variable in BOARD["templating"]["list"]}
QUERIES = [target["expr"] for panel in PANELS for target in panel["targets"]]
QUERIES += [variable["definition"] for variable in VARIABLES.values() if variable["type"] == "query"]


def test_every_machine_and_pod_exports_its_metrics_at_the_same_port() -> None:
    starts = [CLUSTER[f"{kind}_start_ray_commands"][-1] for kind in ("head", "worker")]
    ports = {re.search(r"--metrics-export-port=(\d+)", command)[1] for command in starts}  # type: ignore[index]
    groups = [RAY_CLUSTER["headGroupSpec"], *GROUPS.values()]
    ports |= {group["rayStartParams"]["metrics-export-port"] for group in groups}
    assert ports == {"8080"}  # KubeRay names this port `metrics` on every pod


def test_the_pod_monitor_reads_the_port_that_kuberay_opens_on_its_pods() -> None:
    assert (POD_MONITOR["apiVersion"], POD_MONITOR["kind"]) == ("monitoring.coreos.com/v1", "PodMonitor")
    assert set(POD_MONITOR["spec"]) == {"selector", "podMetricsEndpoints"}
    assert POD_MONITOR["spec"]["selector"] == {"matchLabels": {"ray.io/is-ray-node": "yes"}}
    assert [endpoint["port"] for endpoint in POD_MONITOR["spec"]["podMetricsEndpoints"]] == ["metrics"]
    assert not any("ports" in pod["containers"][0] for pod in PODS)  # a head's own list would hide Ray's other ports


@pytest.mark.parametrize("query", QUERIES)
def test_queries_of_the_board_name_metrics_labels_and_variables_that_exist(query: str) -> None:
    for operand in query.split(" / "):
        names = set(re.findall(r"\bray_\w+", operand))
        assert names
        assert names <= set(EXPORTED)
        selected = re.findall(r"(\w+)=~?\"", operand)
        grouped = [label for group in re.findall(r"\bby \(([^)]*)\)", operand) for label in group.split(", ")]
        looked_up = re.findall(r", (\w+)\)$", operand) if operand.startswith("label_values") else []
        known = set.intersection(*(set(EXPORTED[name].labels) for name in names)) | {"__name__"}
        assert {*selected, *grouped, *looked_up} <= known
    assert set(re.findall(r"\$(\w+)", query)) <= {*VARIABLES, "__rate_interval"}
    assert all(query.count(opening) == query.count(closing) for opening, closing in ("()", "[]", "{}"))


def test_only_counters_are_turned_into_rates() -> None:
    rated = {name for query in QUERIES for name in re.findall(r"rate\((\w+)", query)}
    assert rated
    assert all(EXPORTED[name].is_counter for name in rated)


def test_the_board_shows_every_metric_once_or_more_in_panels_that_do_not_overlap() -> None:
    assert {name for query in QUERIES for name in re.findall(r"\bray_\w+", query)} == set(EXPORTED)
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])
    taken = [(x, y) for panel in BOARD["panels"] for at in [panel["gridPos"]]
             for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])]  # fmt: skip
    assert len(taken) == len(set(taken))
    assert max(x for x, _ in taken) < 24
    for panel in PANELS:
        assert panel["description"]
        assert panel["datasource"]["uid"] == "${datasource}"
        legend = {label for target in panel["targets"] for label in re.findall(r"{{(\w+)}}", target["legendFormat"])}
        grouped = [re.search(r"\bby \(([^)]*)\)", target["expr"]) for target in panel["targets"]]
        assert legend == {label for group in grouped if group for label in group[1].split(", ")}


# docs/running_on_a_cluster.md


def test_the_document_explains_every_metric() -> None:
    rows = dict(re.findall(r"^\| `(ray_deconvnet_\w+)` \| (?:`(\w+)`)? *\|", DOCUMENT, re.MULTILINE))
    assert rows == {name: metric.by for name, metric in EXPORTED.items()}


@pytest.mark.parametrize("command", commands_of_jobs())
def test_commands_of_the_document_have_options_that_exist(command: str) -> None:
    parse(command)


def test_the_document_starts_the_job_with_processes_that_fit_cluster_yaml() -> None:
    config = next(parse(command) for command in commands_of_jobs() if "--device cuda" in command)
    size = re.fullmatch(r"c7a\.(\d+)xlarge", NODE_TYPES["cpu"]["node_config"]["InstanceType"])
    assert size is not None
    cpu, gpu = NODE_TYPES["cpu"], NODE_TYPES["gpu"]
    cpus = cpu["min_workers"] * 4 * int(size[1]) + gpu["min_workers"] * gpu["resources"]["CPU"]
    gpus = gpu["min_workers"] * gpu["resources"]["GPU"]
    assert pools_of(config, cpus, gpus).predict_workers == gpus
    assert config.predict.device == "cuda"


def test_files_that_the_document_names_exist() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)", DOCUMENT) if "://" not in link]
    assert links
    assert all((ROOT / "docs" / link).exists() for link in links)
    assert {*re.findall(r"\$\(fill (\w+)\)", DOCUMENT), "trust"} == set(POLICIES)
