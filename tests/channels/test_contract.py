"""The contract of channels, on each channel of the package."""

from __future__ import annotations

from typing import ClassVar

from chatkeep.channels import Channel
from chatkeep.testing import ChannelContract
from chatkeep.testing.channel_contract import Sample

from ..support.samples import CHANNELS, CORPUS, SIGNED, case

WEBHOOK = {"conversation": "ada", "content": "hello", "id": "1"}


class Shipped(ChannelContract):
    """The contract on the channel of this name."""

    __test__ = False
    name: ClassVar[str]

    def channel(self) -> Channel:
        return CHANNELS[self.name]

    def signed(self, body: bytes) -> list[tuple[str, str]]:
        headers: list[tuple[str, str]] = SIGNED[self.name](body)
        return headers

    def samples(self) -> list[Sample]:
        found = [(path.stem, case(path)) for path in sorted(CORPUS.glob("*.json"))]
        return [
            Sample(
                name=name,
                body=one["body"],
                expected=one["expected"],
                headers=tuple((key, value) for key, value in one.get("headers", ())),
            )
            for name, one in found
            if one["channel"] == self.name
        ]


class TestWhatsApp(Shipped):
    __test__ = True
    name = "whatsapp"


class TestMessenger(Shipped):
    __test__ = True
    name = "messenger"


class TestInstagram(Shipped):
    __test__ = True
    name = "instagram"


class TestTelegram(Shipped):
    __test__ = True
    name = "telegram"
    signs_bodies = False


class TestWebhook(Shipped):
    __test__ = True
    name = "webhook"
