"""Settings kept under a name, over the chat service. Knows no Gradio."""

from chatlab.chat import ChatService
from chatlab.errors import ChatlabError
from chatlab.messages import ChatSettings, Preset
from chatlab.ui.identity import Identities, Kept
from chatlab.ui.refusal import Refused, refusal


class Presets:
    """A person's presets."""

    def __init__(self, chats: ChatService, identities: Identities) -> None:
        self._chats = chats
        self._identities = identities

    async def names(self, kept: Kept) -> list[str]:
        """All names, in order."""
        return [preset.name for preset in await self._chats.presets(self._identities.require(kept))]

    async def chosen(self, kept: Kept, name: str) -> ChatSettings:
        """The settings kept under a name."""
        return ChatSettings.of(await self._named(kept, name))

    async def keep(self, kept: Kept, name: str, chosen: ChatSettings) -> str:
        """Keep settings under a name, in place of what it named before; returns the name."""
        try:
            preset = await self._chats.save_preset(self._identities.require(kept), name, chosen)
        except ChatlabError as error:
            raise refusal(error) from error
        return preset.name

    async def drop(self, kept: Kept, name: str) -> None:
        """Forget a preset."""
        preset = await self._named(kept, name)
        await self._chats.delete_preset(self._identities.require(kept), preset.preset_id)

    async def _named(self, kept: Kept, name: str) -> Preset:
        for preset in await self._chats.presets(self._identities.require(kept)):
            if preset.name == name:
                return preset
        raise Refused("Choose a preset first.")
