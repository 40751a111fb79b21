from __future__ import annotations

import pytest
from pydantic import ValidationError

from edge_server.settings import EdgeSettings


@pytest.mark.parametrize("name", ["", "x" * 129, "a\nb", "\x1b[2J", "device"])
def test_a_name_that_no_device_would_take_is_refused_at_the_start(name: str) -> None:
    with pytest.raises(ValidationError, match="printable"):
        EdgeSettings(node_id=name)


def test_without_a_name_an_edge_is_called_after_its_host() -> None:
    assert EdgeSettings().node_id.startswith("edge-")
