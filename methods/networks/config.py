"""Options of the published networks: their shapes are fixed."""

from pydantic import BaseModel, ConfigDict


class PublishedConfig(BaseModel):
    """A published network has no options.

    Attributes:
        note: free text, kept in the card.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    note: str = ""
