"""What is explained. A dataset is one file and a line in DATASETS and in SOURCES."""

DATASETS: dict[str, str] = {
    "square": "bench.datasets.square_task:SquareDataset",
    "celebahq": "bench.datasets.celebahq:CelebaHqDataset",
    "elpv": "bench.datasets.elpv:ElpvDataset",
    "folder": "bench.datasets.folder:FolderDataset",
}
"""Dataset name -> "module:class"; classes are imported only when asked for."""

SOURCES: dict[str, str] = {
    "square": "made here on first use: no images of others",
    "celebahq": "faces, CelebA and CelebAMask-HQ, downloaded by hand: non-commercial research and education only",
    "elpv": "electroluminescence photographs of solar cells, Buerhop-Lutz et al. 2018: CC BY-NC-SA 4.0",
    "folder": "your own images, under whatever holds for them",
}
"""Dataset -> where its images come from, and their licence."""

PACKAGES: dict[str, str] = {"elpv": "elpv_dataset"}
"""Dataset -> the package that holds its images; the extra that installs it has the dataset's name."""

UNITS: dict[str, int] = {"square": 255, "celebahq": 100, "elpv": 1}
"""Dataset -> what a target of 1.0 is in the attribute's own unit: grey levels of red, years."""
