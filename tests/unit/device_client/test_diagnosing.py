"""What ``baton doctor`` says of this device's own certificates."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from baton.device_client.cli.diagnosing import doctor
from baton.device_client.settings import DeviceSettings
from tests.support.certificates import Issuer


def findings(
    days: float, folder: Path, family: Path, capsys: pytest.CaptureFixture[str]
) -> tuple[int, list[dict[str, object]]]:
    path = folder / "ca.pem"
    path.write_bytes(Issuer.new("root", days=(-100, days), hosts=()).pem)
    settings = DeviceSettings(family=str(family), members="large", tls_ca=path)
    code = doctor(settings, None, as_json=True)
    rows = json.loads(capsys.readouterr().out)
    return code, [row for row in rows if row["check"] == "certificates"]


ENDS = {
    40: (0, True, False, "good for more than 30 days"),
    20.5: (0, True, True, "ends in 20 days"),
    -1: (5, False, False, "expired on"),
}


@pytest.mark.parametrize("days", ENDS)
def test_the_doctor_warns_a_month_before_a_certificate_ends(
    days: float, tmp_path: Path, family_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, (row,) = findings(days, tmp_path, family_folder, capsys)
    *expected, words = ENDS[days]
    assert [code, row["ok"], row["warning"]] == expected
    assert str(words) in str(row["detail"])


def test_the_doctor_marks_a_warning(
    tmp_path: Path, family_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "ca.pem"
    path.write_bytes(Issuer.new("root", days=(-1, 5.5), hosts=()).pem)
    doctor(DeviceSettings(family=str(family_folder), tls_ca=path), None, as_json=False)
    assert f"warn certificates: tls_ca {path} ends in 5 days" in capsys.readouterr().out
