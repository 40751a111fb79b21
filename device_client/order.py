"""What one picture is asked of one device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from baton.common.errors import Incompatible
from baton.common.families.spec import FamilySpec
from baton.common.quality.verifier import Scorer
from baton.common.request import GenerationRequest
from baton.common.rpc.access import Access
from baton.common.rpc.channels import Channels
from baton.common.size import Size
from baton.device_client.arm_names import ArmNames
from baton.device_client.budget import StepTimes, Timer
from baton.device_client.coordination import Link
from baton.device_client.events import Event
from baton.device_client.model_thread import ModelThread
from baton.device_client.offline_tickets import OfflineTickets
from baton.device_client.outbox import Outbox
from baton.device_client.settings import DeviceSettings

if TYPE_CHECKING:  # a device that holds no member draws without torch
    from baton.common.families.loaded import LoadedFamily

NO_MEMBER = "this device holds no member to draw with"


@dataclass(frozen=True)
class Device:
    """What the pictures of one client share. loaded: None on a device that holds no member."""

    spec: FamilySpec
    settings: DeviceSettings
    scorer: Scorer | None
    model_thread: ModelThread
    access: Access
    offline_tickets: OfflineTickets
    loaded: LoadedFamily | None = None
    times: StepTimes = field(default_factory=StepTimes)
    channels: Channels = field(default_factory=Channels)
    outbox: Outbox = field(default_factory=Outbox)

    @property
    def members(self) -> list[str]:
        """Those that it holds."""
        return self.settings.held(self.spec)

    @property
    def arm_names(self) -> ArmNames:
        return ArmNames(self.spec, self.members)

    @property
    def family(self) -> LoadedFamily:
        """The loaded one. Raises Incompatible on a device that holds no member."""
        if self.loaded is None:
            raise Incompatible(NO_MEMBER)
        return self.loaded


@dataclass(frozen=True)
class Order:
    """One picture as it is asked of a device, the time that it has, and who hears how it goes."""

    device: Device
    request: GenerationRequest
    request_id: str
    hear: Callable[[Event], None] = field(repr=False)
    timer: Timer = field(default_factory=Timer)

    def emit(self, event: Event) -> None:
        self.hear(replace(event, request_id=self.request_id))

    @property
    def size(self) -> Size:
        size = self.request.size
        return self.device.spec.default_size if size is None else Size.of(size)

    @property
    def link(self) -> Link:
        """To the coordinator that the settings name."""
        device, of = self.device, self.device.settings
        limit, clean = of.coordinator_timeout, self.request.hide
        return Link(of.coordinator, device.access, limit, clean, device.channels)

    def unheard(self, quote: bool) -> list[str]:
        """What of the prompts is lost on the encoder; without ``quote``, none of it is told.

        A device without one cannot tell.
        """
        texts = {"prompt": self.request.prompt, "negative prompt": self.request.negative_prompt}
        family = self.device.loaded
        if family is None:
            return []
        return [
            note for what, text in texts.items() for note in family.heard(text).notes(what, quote)
        ]
