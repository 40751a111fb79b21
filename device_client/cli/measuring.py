"""What every kind of ``baton analyze`` goes through: check, measure, write, tell."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from baton.common.cli import print_json
from baton.common.families.spec import FamilySpec, read_spec
from baton.common.quiet import quiet_libraries
from baton.common.tooling.analysis import AnalyzeRequest
from baton.common.tooling.places import Place
from baton.device_client.settings import DeviceSettings

if TYPE_CHECKING:
    from baton.common.families.loaded import LoadedFamily


class Measured(Protocol):
    """What comes of a measurement."""

    def write(self, place: Place) -> dict[str, Any]:
        """Returns what the file holds."""
        ...


T = TypeVar("T")
M = TypeVar("M", bound=Measured)


@dataclass(frozen=True)
class Measurement(Generic[T, M]):
    """One kind.

    terms_of, place_of: refuse what can never work, before any model code is imported. measured:
    the work, with a bar unless it is to be quiet; tell: the outcome, and what its file holds.
    """

    terms_of: Callable[[FamilySpec, AnalyzeRequest], T]
    place_of: Callable[[Path, T], Place]
    measured: Callable[[DeviceSettings, T, bool], M]
    tell: Callable[[M, dict[str, Any]], None]

    def __call__(self, settings: DeviceSettings, request: AnalyzeRequest, as_json: bool) -> None:
        """Raises BatonError."""
        terms = self.terms_of(read_spec(settings.family), request)
        place = self.place_of(request.out, terms)
        quiet_libraries()
        made = self.measured(settings, terms, as_json)
        found = made.write(place)
        if as_json:
            print_json(found)
        else:
            self.tell(made, found)


def loaded(settings: DeviceSettings, members: Iterable[str]) -> LoadedFamily:
    """The settings' family with these members, and as many threads as they say."""
    from baton.common.families.loaded import load_family
    from baton.common.families.local import use_threads

    use_threads(settings.threads)
    return load_family(settings.family, members)
