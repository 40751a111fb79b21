"""What a node tells Prometheus."""

from __future__ import annotations

from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

from tests.support.nodes import Edge

#: By name and labels, ``name{label=value}``.
Samples = dict[str, float]


def exposed(node: Edge) -> str:
    """The page; asked for on this thread, whatever the node's loop and model do meanwhile."""
    with urlopen(f"http://{node.node.metrics_address}/metrics", timeout=60) as answer:
        return str(answer.read(), "utf-8")


def scraped(node: Edge) -> Samples:
    found = {}
    for family in text_string_to_metric_families(exposed(node)):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found
