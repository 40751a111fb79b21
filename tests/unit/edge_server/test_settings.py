from __future__ import annotations

import pytest
from pydantic import ValidationError

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
