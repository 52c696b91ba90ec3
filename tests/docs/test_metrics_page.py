"""`docs/metrics.md` names every metric and alert, and whatever `deploy/` asks Prometheus for is there."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import yaml  # type: ignore[import-untyped]
from prometheus_client import ProcessCollector

from acceptance.server import serving
from docs.pages import DOCS, ROOT, block, blocks, printed
from docs.test_words import INSTEAD
from reference_tables import alerts_table, metrics_table
from strandline._telemetry.catalogue import METRICS, PREFIX
from strandline._telemetry.recorder import CUTS

PAGE: Final = (DOCS / "metrics.md").read_text()
RULES: Final = ROOT / "deploy" / "prometheus" / "rules.yaml"
RULES_TEST: Final = ROOT / "deploy" / "prometheus" / "rules_test.yaml"
DASHBOARD: Final = ROOT / "deploy" / "grafana" / "strandline.json"
NAMES: Final = re.compile(rf"\b(?:{PREFIX}|process_)[a-z_]+\b")


def series() -> set[str]:
    """Return the names of all series of a server."""
    names = set()
    for each in METRICS:
        if each.kind == "histogram":
            names |= {f"{each.shown}_{part}" for part in ("bucket", "sum", "count")}
        else:
            names.add(each.shown)
    return names | {sample.name for family in ProcessCollector(registry=None).collect() for sample in family.samples}


def expressions(node: Any) -> list[str]:
    """Return everything that a dashboard asks Prometheus for."""
    if isinstance(node, dict):
        own = [node[name] for name in ("expr", "query") if isinstance(node.get(name), str)]
        return own + [found for each in node.values() for found in expressions(each)]
    return [found for each in node for found in expressions(each)] if isinstance(node, list) else []


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


@pytest.mark.parametrize("row", [*metrics_table().splitlines(), *alerts_table().splitlines()])
def test_every_metric_and_alert_stands_on_the_page(row: str) -> None:
    assert row in PAGE.splitlines(), "print the rows with: python tests/reference_tables.py"


def test_the_page_lists_no_other() -> None:
    listed = set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE))
    assert listed == {each.shown for each in METRICS} | {rule["alert"] for rule in rules()}


def test_the_page_explains_every_reason_for_which_a_connection_is_ended() -> None:
    reasons = PAGE.partition("| reason | the connection |")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| (\w+) \|", reasons, re.MULTILINE)) == set(CUTS)


def test_every_queried_series_exists() -> None:
    known, queries = series(), [rule["expr"] for rule in rules()] + expressions(json.loads(DASHBOARD.read_text()))
    named = {name for each in queries for name in NAMES.findall(each)}
    assert named - known == set()
    assert len(named) > len(METRICS) / 2
    tested = set(re.findall(rf"{PREFIX}\w+(?={{)", RULES_TEST.read_text()))
    assert tested - known == set()
    prose = set(NAMES.findall(PAGE + RULES.read_text())) - {f"{PREFIX}runs_"}  # what `grep` looks for
    assert prose - known - {each.shown for each in METRICS} == set()


def test_dashboard_and_alerts_use_plain_words() -> None:
    texts = re.findall(r'"(?:title|description|legendFormat)": "([^"]*)"', DASHBOARD.read_text())
    texts += [rule["annotations"][each] for rule in rules() for each in ("summary", "description")]
    assert len(texts) > 100
    words = "|".join([*INSTEAD, r"held|holds?", r"given up", r"not let in", r"most that"])
    assert [each for each in texts if re.search(rf"\b(?:{words})\b", each, re.IGNORECASE)] == []


def test_the_dashboard_shows_every_metric_and_no_panel_twice() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    shown = "\n".join(expressions(dashboard))
    untold = {f"{PREFIX}draining", f"{PREFIX}runs_waiting_max"}
    assert {each.shown for each in METRICS if each.shown not in shown} == untold
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    for panel in dashboard["panels"]:
        assert panel["type"] == "row" or panel["description"], panel["title"]


def test_every_alert_is_tried_and_says_what_to_do() -> None:
    tried = RULES_TEST.read_text()
    for rule in rules():
        assert rule["alert"] in tried
        assert rule["annotations"]["summary"]
        assert len(rule["annotations"]["description"]) > 50
        assert rule["labels"]["severity"] in ("warning", "critical")


def test_the_alerts_are_what_prometheus_reads_and_fire_when_they_should() -> None:
    promtool("check", "rules", str(RULES))
    promtool("test", "rules", str(RULES_TEST))


def test_prometheus_understands_the_dashboards_queries(tmp_path: Path) -> None:
    queries = [each for each in expressions(json.loads(DASHBOARD.read_text())) if PREFIX in each or "process_" in each]
    queries = [each for each in queries if not each.startswith("label_values(")]
    ready = [each.replace("$__rate_interval", "5m").replace("$instance", ".*") for each in queries]
    group = {"name": "dashboard", "rules": [{"record": f"panel:{n}", "expr": each} for n, each in enumerate(ready)]}
    (tmp_path / "dashboard.yaml").write_text(yaml.safe_dump({"groups": [group]}))
    promtool("check", "rules", str(tmp_path / "dashboard.yaml"))


def promtool(*arguments: str) -> None:
    """Run promtool. Without it the test is skipped, or fails where CI promised one."""
    command = shutil.which("promtool")
    if command is None:
        if os.environ.get("CI"):
            pytest.fail("there is no promtool")
        pytest.skip("there is no promtool")
    done = subprocess.run([command, *arguments], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_takes_the_configurations(tmp_path: Path) -> None:
    configurations = blocks("metrics.md", "yaml")
    assert len(configurations) == 2
    for text in configurations:
        (tmp_path / "key").touch()
        (tmp_path / "prometheus.yaml").write_text(text.replace("/etc/prometheus/strandline.key", str(tmp_path / "key")))
        promtool("check", "config", str(tmp_path / "prometheus.yaml"))


def test_the_command_of_the_page_shows_the_present_values(tmp_path: Path) -> None:
    (tmp_path / "agent.py").write_text("async def agent(message, session):\n    return message\n")
    with serving(tmp_path / "agent.py", folder=tmp_path) as server:
        shown = printed(block("metrics.md", "sh", "curl"), folder=tmp_path, url=server.url)
        assert "strandline_runs_waiting 0.0\n" in shown
        host = yaml.safe_load(block("metrics.md", "yaml", "targets"))["scrape_configs"][0]["static_configs"][0][
            "targets"
        ]
        assert httpx.get(f"{server.url}/metrics", headers={"Host": host[0]}, trust_env=False).status_code == 200
