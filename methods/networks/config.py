"""Options of the published networks: their shapes are fixed."""

from typing import ClassVar

from pydantic import BaseModel, ConfigDict


class PublishedConfig(BaseModel):
    """A published network has no options.

    Attributes:
        note: free text, kept in the card.
        in_channels: all of them take colour images.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    in_channels: ClassVar[int] = 3
    note: str = ""
