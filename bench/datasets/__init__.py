"""What is explained. A dataset is one file and a line in DATASETS and in SOURCES."""

from typing import NamedTuple


class Credit(NamedTuple):
    """What has to stand by pictures made of a data set's images.

    Attributes:
        source: the data set, who made it, and where it is.
        licence: of the images, and of what is made of them.
        link: to the licence.
    """

    source: str
    licence: str
    link: str

    def text(self) -> str:
        """The words for people."""
        return (
            f"Photographs: {self.source}, {self.licence} ({self.link}); reduced in size, and changed as shown. "
            f"Pictures made of them: {self.licence}."
        )


DATASETS: dict[str, str] = {
    "square": "bench.datasets.square_task:SquareDataset",
    "celebahq": "bench.datasets.celebahq:CelebaHqDataset",
    "elpv": "bench.datasets.elpv:ElpvDataset",
    "folder": "bench.datasets.folder:FolderDataset",
}
"""Dataset name -> "module:class"; classes are imported only when asked for."""

CREDITS: dict[str, Credit] = {
    "elpv": Credit(
        "ELPV data set (Buerhop-Lutz et al. 2018; Deitsch et al. 2019, 2021), github.com/zae-bayern/elpv-dataset",
        "CC BY-NC-SA 4.0",
        "creativecommons.org/licenses/by-nc-sa/4.0",
    ),
}
"""Dataset -> the credit that its images' licence asks for, where it asks for one."""

SOURCES: dict[str, str] = {
    "square": "made here on first use: no images of others",
    "celebahq": "faces, CelebA and CelebAMask-HQ, downloaded by hand: non-commercial research and education only",
    "elpv": f"electroluminescence photographs of solar cells, Buerhop-Lutz et al. 2018: {CREDITS['elpv'].licence}",
    "folder": "your own images, under whatever holds for them",
}
"""Dataset -> where its images come from, and their licence."""

PACKAGES: dict[str, str] = {"elpv": "elpv_dataset"}
"""Dataset -> the package that holds its images; the extra that installs it has the dataset's name."""

UNITS: dict[str, int] = {"square": 255, "celebahq": 100, "elpv": 1}
"""Dataset -> what a target of 1.0 is in the attribute's own unit: grey levels of red, years."""
