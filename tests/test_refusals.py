"""What is refused when data and weights are brought in, as a user meets it: one sentence, exit 2, nothing written."""

import os
from pathlib import Path

import torch

from tests.mini_celebahq import write_celebahq
from tests.test_cli import bench, sentence


class _Hostile:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.canary}",)


def test_a_pickle_that_wants_to_run_code(tmp_path: Path) -> None:
    file, canary = tmp_path / "last.ckpt", tmp_path / "canary"
    torch.save({"state_dict": {"model.fc.bias": torch.zeros(1)}, "callbacks": _Hostile(canary)}, file)
    done = bench("import", "square-resnet18", str(file), "-o", "out", folder=tmp_path)
    assert "last.ckpt" in sentence(done, 2)
    assert not canary.exists() and not (tmp_path / "out").exists()


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    file = tmp_path / "last.pt"
    torch.save({"layer.weight": torch.zeros(2, 2)}, file)
    done = bench("import", "adm", str(file), "-o", "out", folder=tmp_path)
    assert "last.pt" in sentence(done, 2)
    assert not (tmp_path / "out").exists()


def test_a_partition_that_does_not_match(tmp_path: Path) -> None:
    root = write_celebahq(tmp_path / "CelebAMask-HQ", count=6, size=32)
    (partition,) = tmp_path.rglob("list_eval_partition.txt")
    partition.write_text("000001.jpg 0\n")
    done = bench("prepare", "celebahq", "--root", str(root), "--size", "16", "-o", "out", folder=tmp_path)
    assert "list_eval_partition" in sentence(done, 2)
    assert not (tmp_path / "out").exists()


def test_a_first_image_that_is_too_small_leaves_the_folder_free(tmp_path: Path) -> None:
    root = write_celebahq(tmp_path / "CelebAMask-HQ", count=6, size=32)
    arguments = ["prepare", "celebahq", "--root", str(root), "-o", "out"]
    sentence(bench(*arguments, "--size", "64", folder=tmp_path), 2)
    assert not (tmp_path / "out").exists()
    done = bench(*arguments, "--size", "16", folder=tmp_path)
    assert done.returncode == 0, done.stderr
