"""What an edge tells Prometheus: off unless asked for, while it works, and not a word too much."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
from pathlib import Path
from urllib.error import URLError

import psutil
import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from baton.common.errors import Cancelled, InvalidRequest, Overloaded, Unreachable
from baton.common.families.loaded import LoadedFamily
from baton.edge_server.endpoint import Endpoint
from baton.edge_server.metrics import Metrics
from baton.edge_server.requests.lifecycle import State
from tests.support.commands import ROOT
from tests.support.engines import Gate
from tests.support.nodes import device, edge, until
from tests.support.scraped import exposed, scraped
from tests.support.tasks import PROMPTS, plan, task, work

PROMPT = PROMPTS[3]
HELD = work("r", task(plan("edge/small", 3)))


def serving_threads() -> set[threading.Thread]:
    """Those of any endpoint, and of its readers."""
    return {
        thread
        for thread in threading.enumerate()
        if "baton-metrics" in thread.name or "process_request" in thread.name
    }


async def test_without_a_port_nothing_is_told_and_nobody_listens(family: LoadedFamily) -> None:
    async with edge(family) as node:
        assert node.node.metrics_address == ""
        assert not serving_threads()


async def test_pictures_are_counted_by_their_ends(
    family: LoadedFamily, family_folder: Path
) -> None:
    async with edge(family, metrics_port=0) as node:
        with device(family_folder) as client:
            for arm in ("edge/large", "edge/small", "relay@0.5"):
                result = await client.generate(PROMPT, arm=arm, edge=node.address, steps=4)
        told = scraped(node)
    assert told["baton_requests_total{outcome=drawn}"] == 2
    assert told["baton_requests_total{outcome=handed_off}"] == 1
    assert told["baton_requests_total{outcome=failed}"] == 0
    assert told["baton_request_seconds_count{outcome=drawn}"] == 2
    assert told["baton_queue_wait_seconds_count"] == 3
    assert (
        0 < told["baton_queue_wait_seconds_sum"] < told["baton_request_seconds_sum{outcome=drawn}"]
    )
    assert told["baton_denoise_step_seconds_count{member=large}"] == 6
    assert told["baton_denoise_step_seconds_count{member=small}"] == 4
    assert told["baton_batch_rows_sum"] == 20
    assert told["baton_rounds_total{plan=greedy}"] == 10
    assert told["baton_rounds_total{plan=planned}"] == 0
    assert told["baton_vae_decode_seconds_count"] == 2
    assert told["baton_handoff_bytes_count"] == 1
    assert 0 < told["baton_handoff_bytes_sum"] < result.traffic.received
    assert told["baton_requests_running"] == told["baton_requests_waiting"] == 0
    assert told["baton_skip_after_share"] == told["baton_decode_chunks"] == 1


async def test_it_answers_while_the_model_and_the_loop_are_busy(family: LoadedFamily) -> None:
    gate = Gate()
    async with edge(family, gate, metrics_port=0, max_active=1, max_queue=1) as node:
        first, _ = node.registry.admit(HELD)
        node.registry.admit(work("other"))
        await asyncio.to_thread(gate.wait_for_call, 1)
        await until(lambda: first.state is State.RUNNING)
        with pytest.raises(Overloaded):
            node.registry.admit(work("more"))
        told = scraped(node)  # on the loop's own thread, and the model's is at the gate
        assert (told["baton_requests_running"], told["baton_requests_waiting"]) == (1, 1)
        assert told["baton_requests_total{outcome=refused}"] == 1
        node.registry.cancel("other")
        node.registry.cancel("r")
        told = scraped(node)
        assert (told["baton_requests_running"], told["baton_requests_waiting"]) == (0, 0)
        assert told["baton_requests_total{outcome=cancelled}"] == 2
        assert isinstance(first.outcome, Cancelled)


async def test_two_nodes_of_one_process_count_each_their_own(
    family: LoadedFamily, family_folder: Path
) -> None:
    async with (
        edge(family, metrics_port=0, node_id="one") as one,
        edge(family, metrics_port=0, node_id="two") as two,
    ):
        with device(family_folder) as client:
            await client.generate(PROMPT, arm="edge/small", edge=one.address, steps=2)
        drawn = "baton_requests_total{outcome=drawn}"
        assert (scraped(one)[drawn], scraped(two)[drawn]) == (1, 0)


async def test_labels_are_few_and_tell_of_nobody(family: LoadedFamily, family_folder: Path) -> None:
    async with edge(family, metrics_port=0) as node:
        with device(family_folder) as client:
            result = await client.generate(PROMPT, arm="edge/small", edge=node.address, steps=2)
        page = exposed(node)
    labels = set(re.findall(r'[{,](\w+)="', page))
    assert labels == {"le", "member", "outcome", "plan"}
    for word in (PROMPT, "photo", "orange", result.request_id, node.address):
        assert word not in page


def listeners() -> set[int]:
    """Ports at which this process listens."""
    found = psutil.Process().net_connections(kind="tcp")
    return {one.laddr.port for one in found if one.status == psutil.CONN_LISTEN}


async def test_no_thread_and_no_socket_outlive_the_node(family: LoadedFamily) -> None:
    """Nor those of a reader that says nothing."""
    before = serving_threads()
    async with edge(family, metrics_port=0) as node:
        host, _, port = node.node.metrics_address.rpartition(":")
        exposed(node)
        silent = socket.create_connection((host, int(port)))
        await until(lambda: len(serving_threads() - before) == 2)
        assert int(port) in listeners()
    with silent:
        silent.settimeout(60)
        assert silent.recv(1) == b""
    assert serving_threads() == before
    assert int(port) not in listeners()
    with pytest.raises(URLError):
        exposed(node)


def test_a_port_in_use_and_a_host_that_is_none_are_told_with_their_flags() -> None:
    metrics = Metrics([])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            Unreachable, match=rf"127.0.0.1:{port}: the port is in use.*--metrics-p"
        ):
            Endpoint("127.0.0.1", port, metrics.registry)
    with pytest.raises(InvalidRequest, match="--metrics-host"):
        Endpoint("no such host", 0, metrics.registry)


@pytest.fixture(scope="module")
def samples() -> set[str]:
    """The names of all that is exposed, before anything has happened."""
    page = generate_latest(Metrics(["large"]).registry).decode()
    families = text_string_to_metric_families(page)
    names = {sample.name for family in families for sample in family.samples}
    return {name for name in names if not name.endswith("_created")}


def test_the_dashboard_asks_for_what_there_is_and_shows_all_of_it(samples: set[str]) -> None:
    dashboard = json.loads((ROOT / "deploy/grafana/baton-edge.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    asked += [item["query"]["query"] for item in dashboard["templating"]["list"][1:]]
    names = set(re.findall(r"baton_\w+", " ".join(asked)))
    assert names <= samples
    assert {shown(name) for name in names} == {shown(name) for name in samples}
    by = {label for query in asked for label in re.findall(r"by \((\w+(?:, \w+)*)\)", query)}
    assert by <= {"le", "le, member", "le, outcome", "outcome", "plan"}


def test_every_metric_is_documented_and_no_other(samples: set[str]) -> None:
    rows = re.findall(r"^\| `(baton_\w+)` \|", (ROOT / "deploy/README.md").read_text(), re.M)
    assert len(rows) == len(set(rows))
    assert {shown(name) for name in rows} == {shown(name) for name in samples}


def shown(name: str) -> str:
    """The metric that a sample is of."""
    return re.sub(r"_(bucket|sum|count|total)$", "", name)


def test_what_the_controller_sets_and_guidance_that_is_left_out_are_told() -> None:
    metrics = Metrics(["large"])
    metrics.knobs(0.5, 4, 0.08)
    metrics.denoised("large", 5, 3, 0.25)
    metrics.round(planned=True)
    page = generate_latest(metrics.registry).decode().splitlines()
    for line in (
        "baton_skip_after_share 0.5",
        "baton_decode_chunks 4.0",
        "baton_throughput_delta 0.08",
        "baton_skipped_branches_total 3.0",
        'baton_rounds_total{plan="planned"} 1.0',
        'baton_denoise_step_seconds_sum{member="large"} 0.25',
    ):
        assert line in page


def test_every_end_is_there_from_the_beginning() -> None:
    page = generate_latest(Metrics([]).registry).decode()
    for state in State:
        assert (f'baton_requests_total{{outcome="{state.word}"}} 0.0' in page) == state.ended
