"""The list of variants: method options that are run side by side."""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bench.config import describe, load_toml
from bench.errors import UsageError

VARIANTS = Path(__file__).with_name("variants.toml")
FAMILIES = {"ac-re": "AC-RE", "diffae-re": "Diff-AE-RE"}
"""Beginning of a method's name -> title of its panels."""


class Variant(BaseModel):
    """One entry of the list.

    Attributes:
        name: of its folder.
        label: in the figure; the name where it is empty.
        group: "paper", "default" or "variant": colours of the figure.
        options: of the method.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")
    method: str
    label: str = ""
    group: Literal["paper", "default", "variant"] = "variant"
    options: dict[str, Any] = {}

    @property
    def family(self) -> str:
        """The published method that it is a form of."""
        return next((title for prefix, title in FAMILIES.items() if self.method.startswith(prefix)), self.method)


def read_variants(path: Path = VARIANTS) -> list[Variant]:
    """The list.

    Raises:
        UsageError: not TOML, an entry with an unknown key or a bad value, or two of one name.
    """
    content = load_toml(path)
    if set(content) != {"variant"}:
        raise UsageError(f"{path} must hold [[variant]] entries and nothing else; it has {', '.join(content)}")
    try:
        variants = [Variant(**entry) for entry in content["variant"]]
    except ValidationError as error:
        raise UsageError(f"{path}: {describe(error, 'variant')}") from error
    names = [variant.name for variant in variants]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"{path}: two variants are called {name!r}; rename one")
    return variants
