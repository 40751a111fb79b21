from __future__ import annotations

import pytest
from pydantic import ValidationError

from baton.edge_server.daemon import limits_of, steering_of
from baton.edge_server.engine.scheduler import Limits
from baton.edge_server.engine.steering import Sized
from baton.edge_server.scheduling.profile import Beside
from baton.edge_server.settings import EdgeSettings
from tests.support.profiles import CONDITIONS, SIZE, member, profile


@pytest.mark.parametrize("name", ["", "x" * 129, "a\nb", "\x1b[2J", "two words", "größe", "device"])
def test_a_name_that_no_device_would_take_is_refused_at_the_start(name: str) -> None:
    with pytest.raises(ValidationError, match=r"node_id|called"):
        EdgeSettings(node_id=name)


@pytest.mark.parametrize("field", ["advertise", "coordinator"])
@pytest.mark.parametrize("address", ["edge", "edge:0", "http://edge:80", "::1:7701", "0:7701"])
def test_an_address_that_is_none_is_refused_at_the_start(field: str, address: str) -> None:
    with pytest.raises(ValidationError, match="expected HOST:PORT"):
        EdgeSettings.model_validate({field: address})


def test_without_a_name_an_edge_is_called_after_its_host() -> None:
    assert EdgeSettings().node_id.startswith("edge-")


def test_an_engine_has_the_limits_that_the_settings_say() -> None:
    assert limits_of(EdgeSettings()) == Limits()
    told = EdgeSettings(max_active=3, max_rows=5, cache_mib=7, activation_mib=11)
    assert limits_of(told) == Limits(3, 5, 7 << 20, 11 << 20)


@pytest.mark.parametrize(("device", "lane"), [("cpu", False), ("cpu", True), ("cuda:0", False)])
def test_rounds_are_planned_for_the_lanes_that_the_device_has(device: str, lane: bool) -> None:
    """Two of them are planned by what was measured on two."""
    beside = {"rows": 8, "chunks": 1, "decodes": 1, "alone": 0.05}
    measured = [
        Beside(lanes=1, unet=0.05, vae=0.12, **beside),
        Beside(lanes=2, unet=0.1, vae=0.2, **beside),
    ]
    conditions = CONDITIONS.model_copy(update={"device": device})
    known = profile([member(beside=measured)], conditions=conditions)
    found = steering_of(EdgeSettings(decode_lane=lane), known).find(Sized("large", SIZE), 1)
    assert found is not None
    assert found.unet(4, 1, 0) == pytest.approx(0.05 if (device, lane) == ("cpu", False) else 0.1)
