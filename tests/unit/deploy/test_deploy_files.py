"""The files in `deploy/` agree with the program, with each other and with SECURITY.md."""

import configparser
import importlib.util
import json
import re
import tomllib
from pathlib import Path

import pytest

import core
from core.cli.machine import HomeCollector
from core.config import load_lanes
from core.settings import load_settings

yaml = pytest.importorskip("yaml", reason="PyYAML comes with the engines")

ROOT = Path(__file__).resolve().parents[3]
DEPLOY = ROOT / "deploy"
CONTAINERFILES = [DEPLOY / "Containerfile.cpu", DEPLOY / "Containerfile.gpu"]
PUBLIC_IMAGES = {
    "nginx",
    "postgres",
    "prom/prometheus",
    "grafana/grafana",
    "quay.io/oauth2-proxy/oauth2-proxy",
    "lmdyno",  # built here
    "registry.example/lmdyno",  # to be replaced
}


def compose() -> dict:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))


def manifests() -> dict[tuple[str, str], dict]:
    text = (DEPLOY / "kubernetes" / "lmdyno.yaml").read_text("utf-8")
    return {(item["kind"], item["metadata"]["name"]): item for item in yaml.safe_load_all(text)}


def pod() -> dict:
    return manifests()["Deployment", "lmdyno"]["spec"]["template"]["spec"]


def nginx() -> str:
    lines = (DEPLOY / "nginx" / "nginx.conf").read_text("utf-8").splitlines()
    return "\n".join(line for line in lines if not line.lstrip().startswith("#"))


def location(name: str) -> str:
    """The body of one of nginx's locations; none of them is nested."""
    match = re.search(rf"location (?:= )?{re.escape(name)} {{(.*?)}}", nginx(), re.DOTALL)
    assert match, f"nginx has no location {name}"
    return match[1]


@pytest.mark.parametrize("file", CONTAINERFILES, ids=lambda path: path.name)
def test_containers_run_as_a_user_who_is_not_root(file):
    users = re.findall(r"^USER (\S+)", file.read_text("utf-8"), re.MULTILINE)
    assert users == ["10001:10001"]


@pytest.mark.parametrize("file", CONTAINERFILES, ids=lambda path: path.name)
def test_containers_have_one_volume_and_a_health_check(file):
    text = file.read_text("utf-8")
    assert re.findall(r"^VOLUME (\S+)", text, re.MULTILINE) == ["/data"]
    assert "LMDYNO_HOME=/data/" in text
    health_check = text.split("HEALTHCHECK", 1)[1].split("\nCMD", 1)[0]
    assert "/_stcore/health" in health_check


@pytest.mark.parametrize("file", CONTAINERFILES, ids=lambda path: path.name)
def test_containers_install_what_is_locked(file):
    text = file.read_text("utf-8")
    commands = text.replace("\\\n", " ").replace("\n", "&&").split("&&")
    installs = [command for command in commands if "pip install" in command]
    assert len(installs) == 2
    assert all("--require-hashes" in command for command in installs)
    assert "--constraint requirements.lock" in installs[1]
    python = re.search(r"^ARG BASE=python:(\d+\.\d+)-", text, re.MULTILINE)
    assert python
    assert python[1] in {"3.11", "3.12", "3.13"}


def test_the_cpu_image_can_leave_out_the_engines():
    dashboard = (ROOT / "requirements.txt").read_text("utf-8").split("\n# The engines")[0]
    assert "streamlit" in dashboard
    assert "torch" not in dashboard
    assert "'/^# The engines/,$d'" in CONTAINERFILES[0].read_text("utf-8")


def test_the_driver_for_postgresql_is_installed_where_it_is_needed():
    assert re.search(
        r"^psycopg\[binary\]==", (ROOT / "requirements-dev.txt").read_text("utf-8"), re.MULTILINE
    )
    assert all("/^psycopg/p" in file.read_text("utf-8") for file in CONTAINERFILES)


def test_versions_are_those_of_the_requirements():
    pins = dict(
        re.findall(r"^([\w-]+)(?:\[\w+\])?==([\w.]+)", (ROOT / "requirements.txt").read_text("utf-8"), re.M)
    )
    notes = CONTAINERFILES[1].read_text("utf-8")
    assert f"LMDeploy {pins['lmdeploy']} requires" in notes
    assert f"torch {pins['torch']} as locked" in notes
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert str(citation["version"]) == core.__version__
    assert citation["license"] == "Apache-2.0"


def test_images_come_from_their_public_places():
    images = [service["image"] for service in compose()["services"].values()]
    images += [container["image"] for container in pod()["containers"]]
    assert {image.rpartition(":")[0] for image in images} == PUBLIC_IMAGES
    assert not [image for image in images if image.endswith(":latest")]


def test_the_services_of_compose_reach_each_other():
    services = compose()["services"]
    networks = {name: set(service["networks"]) for name, service in services.items()}
    pairs = [
        ("nginx", "dashboard"),
        ("nginx", "login"),
        ("dashboard", "postgres"),
        ("dashboard", "proxy"),
        ("dashboard", "engine-a"),
        ("engine-a", "proxy"),
        ("engine-b", "proxy"),
        ("prometheus", "engine-a"),
        ("prometheus", "engine-b"),
        ("grafana", "prometheus"),
        ("prometheus", "metrics"),
        ("metrics", "postgres"),
    ]
    assert not [pair for pair in pairs if not networks[pair[0]] & networks[pair[1]]]
    assert set().union(*networks.values()) == set(compose()["networks"])


def test_only_nginx_is_reachable_from_other_machines():
    ports = {name: service["ports"] for name, service in compose()["services"].items() if "ports" in service}
    open_to_all = {
        name for name, ones in ports.items() if not all(one.startswith("127.0.0.1:") for one in ones)
    }
    assert open_to_all == {"nginx"}


def test_dependencies_of_compose_exist_and_can_be_healthy():
    services = compose()["services"]
    for name, service in services.items():
        for other, condition in service.get("depends_on", {}).items():
            assert other in services, f"{name} depends on {other}"
            if condition["condition"] == "service_healthy":
                assert "healthcheck" in services[other] or services[other]["image"] == "lmdyno:cpu"


def test_engines_register_at_the_proxy_under_their_own_names():
    services = compose()["services"]
    for name in ("engine-a", "engine-b"):
        command = services[name]["command"]
        assert command[command.index("--server-name") + 1] == name
        assert command[command.index("--proxy-url") + 1] == "http://proxy:8000"
        assert "--disable-metrics" not in command
    gpus = [
        services[name]["deploy"]["resources"]["reservations"]["devices"][0]["device_ids"]
        for name in ("engine-a", "engine-b")
    ]
    assert gpus == [["0"], ["1"]]


def test_prometheus_scrapes_the_engines():
    scraped = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text("utf-8"))["scrape_configs"]
    targets = {job["job_name"]: job["static_configs"][0]["targets"] for job in scraped}
    assert targets == {"lmdeploy": ["engine-a:23333", "engine-b:23333"], "lmdyno": ["metrics:9464"]}
    command = compose()["services"]["metrics"]["command"]
    assert command[command.index("--port") + 1] == "9464"
    source = yaml.safe_load((DEPLOY / "grafana" / "datasource.yaml").read_text("utf-8"))
    assert source["datasources"][0]["url"] == "http://prometheus:9090"


def test_the_metrics_service_sees_the_processes_and_files_of_the_dashboard():
    services = compose()["services"]
    metrics, dashboard = services["metrics"], services["dashboard"]
    assert metrics["pid"] == "service:dashboard"
    assert "data:/data" in metrics["volumes"]
    assert (
        metrics["environment"]["LMDYNO_DATABASE_URL"].split("@")[1]
        in (dashboard["environment"]["LMDYNO_DATABASE_URL"])
    )


def board_metrics() -> set[str]:
    panels = json.loads((DEPLOY / "grafana" / "lmdyno.json").read_text("utf-8"))["panels"]
    queries = [target["expr"] for panel in panels for target in panel.get("targets", [])]
    return {name for query in queries for name in re.findall(r"\b(?:lmdyno_|lmdeploy:)\w+", query)}


def test_grafana_finds_the_board_and_its_files():
    mounts = {
        volume.split(":")[0]: volume.split(":")[1] for volume in compose()["services"]["grafana"]["volumes"]
    }
    provider = yaml.safe_load((DEPLOY / "grafana" / "boards.yaml").read_text("utf-8"))["providers"][0]
    assert mounts["./grafana/lmdyno.json"].startswith(f"{provider['options']['path']}/")
    assert not [file for file in mounts if file.startswith("./grafana/") and not (DEPLOY / file).exists()]


def test_the_board_shows_metrics_that_lmdyno_publishes(tmp_path):
    settings = load_settings({"LMDYNO_HOME": str(tmp_path)})
    published = {
        sample.name for metric in HomeCollector(settings, gpu=True).collect() for sample in metric.samples
    }
    shown = {name for name in board_metrics() if name.startswith("lmdyno_")}
    assert shown
    assert shown <= published | {"lmdyno_engine_state_seconds"}


def test_the_board_shows_metrics_that_lmdeploy_publishes():
    package = importlib.util.find_spec("lmdeploy")
    if package is None or not package.submodule_search_locations:
        pytest.skip("LMDeploy isn't installed")
    source = Path(package.submodule_search_locations[0], "metrics", "loggers.py").read_text("utf-8")
    published = set(re.findall(r"name='(lmdeploy:\w+)'", source))
    shown = {
        re.sub(r"_(bucket|sum|count)$", "", name) for name in board_metrics() if name.startswith("lmdeploy:")
    }
    assert shown
    assert shown <= published


def test_every_variable_of_compose_is_in_the_example():
    named = set(re.findall(r"\$\{(\w+)", (DEPLOY / "compose.yaml").read_text("utf-8")))
    given = set(re.findall(r"^(\w+)=", (DEPLOY / "env.example").read_text("utf-8"), re.MULTILINE))
    assert named == given


def test_the_lanes_of_compose_are_valid_and_lead_to_its_services(tmp_path):
    file = DEPLOY / "lanes.toml.example"
    urls = {lane["url"] for lane in tomllib.loads(file.read_text("utf-8"))["lanes"].values()}
    assert urls == {"http://engine-a:23333/v1", "http://engine-b:23333/v1", "http://proxy:8000/v1"}
    settings = load_settings({"LMDYNO_HOME": str(tmp_path), "LMDYNO_LANES": str(file)})
    assert {lane.name for lane in load_lanes(settings, gpu=False).lanes} == {"engine-a", "engine-b", "both"}


def test_nginx_closes_each_path_that_streamlit_answers_to_everybody():
    security = (ROOT / "SECURITY.md").read_text("utf-8")
    paths = {path.rstrip("…") for path in re.findall(r"`(/(?:_stcore|media)/[^`]*)`", security)}
    assert paths == {"/_stcore/upload_file", "/_stcore/metrics", "/media/"}
    for path in paths:
        body = location(path)
        assert "auth_request /oauth2/auth;" in body or "return 403;" in body, path
    assert "return 403;" in location("/_stcore/metrics")


def test_nginx_asks_for_the_login_wherever_it_passes_something_on():
    locations = re.findall(r"location (?:= )?(\S+) {(.*?)}", nginx(), re.DOTALL)
    to_dashboard = {path: body for path, body in locations if "proxy_pass http://dashboard;" in body}
    assert {path for path, body in to_dashboard.items() if "auth_request" not in body} == {"/_stcore/health"}


def test_nginx_passes_websockets_and_the_host():
    text = nginx()
    assert "proxy_set_header Upgrade $http_upgrade;" in text
    assert "proxy_set_header Connection $connection_upgrade;" in text
    assert "proxy_set_header Host $host;" in text
    # A location with headers of its own would lose those.
    assert not [
        path
        for path, body in re.findall(r"location (?:= )?(\S+) {(.*?)}", text, re.DOTALL)
        if "proxy_pass http://dashboard;" in body and "proxy_set_header" in body
    ]
    assert "proxy_read_timeout" in location("/_stcore/stream")


def test_nginx_lets_through_what_the_dashboard_takes():
    limit_mb = tomllib.loads((ROOT / ".streamlit" / "config.toml").read_text("utf-8"))["server"][
        "maxUploadSize"
    ]
    size = re.search(r"client_max_body_size (\d+)m;", nginx())
    assert size
    assert int(size[1]) > limit_mb


def service_of(name: str) -> configparser.SectionProxy:
    unit = configparser.ConfigParser(strict=False, interpolation=None, delimiters=("=",))
    unit.optionxform = str
    unit.read(DEPLOY / "systemd" / f"{name}.service", "utf-8")
    return unit["Service"]


@pytest.mark.parametrize("name", ["lmdyno", "lmdyno-metrics"])
def test_the_services_are_not_root_and_hardened(name):
    service = service_of(name)
    assert service["User"] == "lmdyno"
    assert service["NoNewPrivileges"] == "yes"
    assert service["ProtectSystem"] == "strict"
    assert "address" not in service["ExecStart"]  # loopback is the default of both


def test_kubernetes_runs_one_dashboard_that_is_not_root():
    deployment = manifests()["Deployment", "lmdyno"]["spec"]
    assert deployment["replicas"] == 1
    assert deployment["strategy"]["type"] == "Recreate"
    assert pod()["securityContext"]["runAsNonRoot"] is True
    container = pod()["containers"][0]
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    probes = [
        container[name]["httpGet"]["path"] for name in ("startupProbe", "readinessProbe", "livenessProbe")
    ]
    assert set(probes) == {"/_stcore/health"}


def test_kubernetes_wires_claim_service_and_ingress():
    objects = manifests()
    mounts = {mount["name"] for mount in pod()["containers"][0]["volumeMounts"]}
    assert mounts == {volume["name"] for volume in pod()["volumes"]}
    claims = [
        volume["persistentVolumeClaim"]["claimName"]
        for volume in pod()["volumes"]
        if "persistentVolumeClaim" in volume
    ]
    assert all(("PersistentVolumeClaim", claim) in objects for claim in claims)
    assert claims
    labels = objects["Deployment", "lmdyno"]["spec"]["template"]["metadata"]["labels"]
    assert objects["Service", "lmdyno"]["spec"]["selector"].items() <= labels.items()
    for (kind, _), item in objects.items():
        if kind == "Ingress":
            backend = item["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]
            assert ("Service", backend["name"]) in objects


def test_nothing_secret_is_committed_or_built_into_an_image():
    ignored = (DEPLOY / ".gitignore").read_text("utf-8").split()
    assert {".env", "secrets.toml", "lanes.toml", "certs/"} <= set(ignored)
    lines = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    assert next(line for line in lines if not line.startswith("#")) == "*"
    assert not [line for line in lines if line.startswith("!") and ("secrets" in line or "deploy" in line)]
