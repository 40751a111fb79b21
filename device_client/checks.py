"""What can be refused before a model library is imported: settings, requests, saved pictures."""

from __future__ import annotations

from baton.common.errors import Incompatible, WeightsError
from baton.common.families.manifest import BUILT_IN, Manifest, find_family, read_manifest
from baton.common.request import GenerationRequest
from baton.common.rpc.naming import check_address
from baton.device_client.decide import ArmNames
from baton.device_client.png import Provenance
from baton.device_client.settings import DeviceSettings, split_list


def check_device(settings: DeviceSettings) -> Manifest:
    """The manifest of the device's family, if what the settings name can be used.

    Raises InvalidRequest for an address or a file of no use, UnknownName for a family or a member,
    WeightsError for a manifest that is none.
    """
    for address in [*settings.edge_list, *filter(None, [settings.coordinator])]:
        check_address(address)
    settings.access()
    manifest = read_manifest(find_family(settings.family))
    for member in settings.member_list:
        manifest.check_member(member)
    return manifest


def check_here(request: GenerationRequest, settings: DeviceSettings, manifest: Manifest) -> None:
    """Raises BatonError for a request, checked already, that this device can never fulfil.

    What a coordinator knows better is left to it.
    """
    if request.size is not None:
        manifest.check_size(request.size)
    for address in split_list(request.edge or ""):
        check_address(address)
    if request.arm is None:
        return
    arm = ArmNames(manifest, settings.member_list).resolve(request.arm)
    if arm.kind != "edge" and arm.members[-1] not in settings.member_list:
        raise WeightsError(
            f"member {arm.members[-1]} of {manifest.name} is not loaded on this node"
        )


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
