from __future__ import annotations

import pytest
from pydantic import ValidationError

from baton.edge_server.daemon import limits_of
from baton.edge_server.engine.scheduler import Limits
from baton.edge_server.settings import EdgeSettings


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
