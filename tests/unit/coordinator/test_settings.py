from __future__ import annotations

import pytest
from pydantic import ValidationError

from baton.coordinator.settings import Settings


def test_unknown_keys_and_changes_are_refused() -> None:
    with pytest.raises(ValidationError):
        Settings(prot=7700)  # type: ignore[call-arg]
    with pytest.raises(ValidationError):
        Settings().port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    "field", ["lease_seconds", "exploration", "alpha", "ridge_lambda", "decision_expiry_seconds"]
)
@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_numbers_out_of_range_are_refused(field: str, value: float) -> None:
    with pytest.raises(ValidationError):
        Settings.model_validate({field: value})
