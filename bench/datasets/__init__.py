"""What is explained. A dataset is one file and one line in DATASETS."""

DATASETS: dict[str, str] = {
    "square": "bench.datasets.square_task:SquareDataset",
    "celebahq": "bench.datasets.celebahq:CelebaHqDataset",
    "folder": "bench.datasets.folder:FolderDataset",
}
"""Dataset name -> "module:class"; classes are imported only when asked for."""

UNITS: dict[str, int] = {"square": 255, "celebahq": 100}
"""Dataset -> what a target of 1.0 is in the attribute's own unit: grey levels of red, years."""
