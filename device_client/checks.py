"""What can be refused before a model library is imported: settings, requests, saved pictures."""

from __future__ import annotations

from collections.abc import Sequence

from baton.common.errors import Incompatible, WeightsError
from baton.common.families.manifest import BUILT_IN, find_family, read_manifest
from baton.common.families.spec import FamilySpec, read_spec
from baton.common.naming import check_address
from baton.common.request import GenerationRequest
from baton.device_client.arm_names import ArmNames
from baton.device_client.provenance import Provenance
from baton.device_client.settings import DeviceSettings, split_list


def check_device(settings: DeviceSettings) -> FamilySpec:
    """The device's family without its models, if what the settings name can be used.

    Raises InvalidRequest for an address or a file of no use, UnknownName for a family or a member,
    WeightsError for a manifest or a configuration that is none.
    """
    check_addresses(settings.edge_list, settings.coordinator)
    settings.access()
    spec = read_spec(settings.family)
    for member in settings.held(spec):
        spec.check_member(member)
    return spec


def check_addresses(edges: Sequence[str], coordinator: str) -> None:
    """Raises InvalidRequest for what is no address; the coordinator's may be empty."""
    for address in [*edges, *filter(None, [coordinator])]:
        check_address(address)


def check_here(request: GenerationRequest, settings: DeviceSettings, spec: FamilySpec) -> None:
    """Raises BatonError for a request, checked already, that this device can never fulfil.

    What a coordinator knows better is left to it.
    """
    if request.size is not None:
        spec.check_size(request.size)
    check_addresses(split_list(request.edge or ""), "")
    held = settings.held(spec)
    arm = ArmNames(spec, held).requested(request)
    for member in arm.members_on("device") if arm else ():
        if member not in held:
            raise WeightsError(f"member {member} of {spec.name} is not loaded on this node")


def family_to_replay(provenance: Provenance, name: str | None) -> str:
    """The name or folder of the family that can draw a picture again.

    name: the caller's choice; None takes the built-in one that drew it. Raises Incompatible if it
    is another one, UnknownName or WeightsError if there is none.
    """
    drawn_by = provenance.task.plan.family
    if name is None:
        if drawn_by not in BUILT_IN:
            raise Incompatible(
                f"the picture was drawn by family {drawn_by!r}; name its folder with --family"
            )
        name = drawn_by
    manifest = read_manifest(find_family(name))
    if manifest.name != drawn_by:
        raise Incompatible(
            f"the picture was drawn by family {drawn_by!r}, {name} is {manifest.name!r};"
            " choose with --family"
        )
    for member in provenance.members_run:
        if member not in manifest.members:
            raise Incompatible(
                f"member {member!r} drew a part of it, and {name} has only"
                f" {', '.join(manifest.members)}"
            )
    return name
