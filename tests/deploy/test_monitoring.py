"""The dashboard and the alert rules ask for metrics that there are, in Prometheus' language."""

import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

import promql_parser
import pytest
import yaml  # type: ignore[import-untyped]

from local.settings import ROOT
from worker.metrics import METRICS

SUFFIXES = {"Counter": ["_total"], "Histogram": ["_bucket", "_sum", "_count"], "Gauge": [""]}
LABELS = {
    f"scheduler_{name}{suffix}": {*one.labels, *(["le"] if suffix == "_bucket" else [])}
    for name, one in METRICS.items()
    for suffix in SUFFIXES[one.kind]
}
"""Of every metric that is served."""
VARIABLES = {"$__rate_interval": "5m", "$type": ".*"}
DURATION = re.compile(r"[1-9][0-9]*[smhd]")


def selectors(query: str) -> Iterator[tuple[str, set[str]]]:
    """Each metric that a query names, and the labels by which it selects."""
    found: list[tuple[str, set[str]]] = []

    def note(node: Any) -> bool:
        selector = node.vector_selector if hasattr(node, "vector_selector") else node
        if isinstance(selector, promql_parser.VectorSelector):
            labels = {matcher.name for matcher in selector.matchers.matchers}
            found.append((selector.name or "", labels))
        return True

    promql_parser.walk(promql_parser.parse(query), note)
    yield from found


def grouping(query: str) -> set[str]:
    """Labels that a query groups by."""
    groups = re.findall(r"\bby \(([^)]*)\)", query)
    return {label.strip() for group in groups for label in group.split(",")}


def check(query: str) -> None:
    found = list(selectors(query))
    assert found, query
    for name, labels in found:
        assert name in LABELS, f"{name} in {query}"
        assert labels <= LABELS[name], f"labels of {name} in {query}"
    assert grouping(query) <= set().union(*(LABELS[name] for name, _ in found)), query


def dashboard() -> Any:
    return json.loads((ROOT / "deploy" / "grafana.json").read_text(encoding="utf-8"))


def queries_of_dashboard() -> list[str]:
    return [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]


def rules() -> Any:
    text = (ROOT / "deploy" / "alerts.yaml").read_text(encoding="utf-8")
    (group,) = yaml.safe_load(text)["groups"]
    assert group["name"] == "scheduler"
    return group["rules"]


@pytest.mark.parametrize("query", queries_of_dashboard())
def test_the_dashboard_asks_for_what_there_is(query: str) -> None:
    for variable, value in VARIABLES.items():
        query = query.replace(variable, value)
    assert "$" not in query
    check(query)


def test_the_panels_stand_beside_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        at = panel["gridPos"]
        across, down = range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"])
        cells = set(itertools.product(across, down))
        assert not cells & taken and at["x"] + at["w"] <= 24, panel["title"]
        taken |= cells
    ids = [panel["id"] for panel in dashboard()["panels"]]
    assert len(ids) == len(set(ids))


def test_the_dashboard_shows_every_metric() -> None:
    shown = set(re.findall(r"scheduler_\w+", " ".join(queries_of_dashboard())))
    missing = [
        name
        for name, one in METRICS.items()
        if not shown & {f"scheduler_{name}{suffix}" for suffix in SUFFIXES[one.kind]}
    ]
    assert missing == []


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_each_rule_is_one_of_prometheus(rule: Any) -> None:
    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
    assert re.fullmatch(r"[A-Za-z_]\w*", rule["alert"])
    assert DURATION.fullmatch(rule.get("for", "1m"))
    assert rule["labels"]["severity"] in ("warning", "critical")
    check(rule["expr"])
    used = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
    assert used <= grouping(rule["expr"])


def test_operations_tells_what_to_do_about_each_alert() -> None:
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    told = re.findall(r"^\| `(Scheduler\w+)` \|", page, re.MULTILINE)
    assert told == [rule["alert"] for rule in rules()]


def test_operations_has_every_metric() -> None:
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    suffixes = {"Counter": "_total", "Gauge": "", "Histogram": ""}
    names = [f"scheduler_{name}{suffixes[one.kind]}" for name, one in METRICS.items()]
    assert [name for name in names if f"`{name}`" not in page] == []


@pytest.mark.parametrize(
    "query",
    [
        "sum(scheduler_nope)",
        'scheduler_places{type="Foo"}',
        "sum by (kind) (scheduler_places)",
        "rate(scheduler_tasks_total[5m]",
        "scheduler_lateness_seconds > 3",
    ],
)
def test_what_is_wrong_is_found(query: str) -> None:
    with pytest.raises((AssertionError, ValueError)):
        check(query)
