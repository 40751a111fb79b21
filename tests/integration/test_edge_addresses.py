"""Where an edge says that it is: what devices could never call is refused when it starts."""

from __future__ import annotations

import pytest

from baton.common.errors import InvalidRequest
from baton.common.families.loaded import LoadedFamily
from baton.edge_server.daemon import running
from baton.edge_server.settings import EdgeSettings
from tests.support.nodes import coordinator, until

FAR = "coordinator.example.org:7700"
REFUSED = {
    "every interface": {"host": "0.0.0.0", "coordinator": FAR},
    "every interface, near": {"host": "0.0.0.0", "coordinator": "127.0.0.1:7700"},
    "every interface of IPv6": {"host": "::", "coordinator": FAR},
    "every interface, in brackets": {"host": "[::]", "coordinator": FAR},
    "loopback and a remote coordinator": {"coordinator": FAR},
    "a name of loopback": {"host": "localhost", "coordinator": "10.0.0.1:7700"},
    "loopback of IPv6": {"host": "::1", "coordinator": "[2001:db8::1]:7700"},
    "advertised: nobody's": {"advertise": "0.0.0.0:7701", "coordinator": FAR},
    "advertised: loopback": {"advertise": "localhost:7701", "coordinator": FAR},
}


@pytest.mark.parametrize("how", REFUSED)
async def test_an_edge_that_devices_could_not_call_does_not_start(
    how: str, family: LoadedFamily
) -> None:
    settings = EdgeSettings.model_validate({"port": 0, "insecure": True} | REFUSED[how])
    with pytest.raises(InvalidRequest, match="--advertise"):
        async with running(settings, family):
            pass


async def test_an_edge_alone_may_listen_everywhere(family: LoadedFamily) -> None:
    settings = EdgeSettings(port=0, host="0.0.0.0", insecure=True)
    async with running(settings, family) as node:
        assert node.address.startswith("0.0.0.0:")


async def test_a_coordinator_for_other_machines_takes_no_loopback_address(
    family: LoadedFamily, caplog: pytest.LogCaptureFixture
) -> None:
    """The edge cannot know: it reaches the coordinator by loopback."""
    async with coordinator(host="0.0.0.0", insecure=True) as brain:
        near = f"127.0.0.1:{brain.address.rpartition(':')[2]}"
        settings = EdgeSettings(port=0, coordinator=near)
        async with running(settings, family):
            await until(lambda: "--advertise" in caplog.text)
        assert brain.fleet.nodes() == []
        settings = settings.model_copy(update={"advertise": "edge.example.org:7701"})
        async with running(settings, family):
            await until(brain.fleet.nodes)
