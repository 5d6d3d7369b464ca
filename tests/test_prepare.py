"""Preparing CelebA-HQ from a miniature in the published layout."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.errors import RunError, UsageError
from bench.images import png_bytes
from bench.preparing import celebahq, store
from bench.preparing.command import prepare
from bench.preparing.prepared import open_prepared
from tests.mini_celebahq import picture, write_celebahq, write_jpeg

SIZE = 16


@pytest.fixture
def hq(tmp_path: Path) -> Path:
    return write_celebahq(tmp_path / "CelebAMask-HQ", size=32)


def edit(path: Path, old: str, new: str) -> None:
    """Replace one text once; it has to be there."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def tree(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, the lock aside."""
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"
    }


def test_celebahq_is_resized_as_published_and_split_like_celeba(hq: Path, tmp_path: Path) -> None:
    lines = prepare("celebahq", hq, tmp_path / "out", SIZE, "test")
    assert "6 test images of 16x16 pixels" in lines[1] and "not the full set: 12 of 30000 images" in lines
    prepared = open_prepared(tmp_path / "out", "celebahq")
    assert prepared.split("test")["id"].tolist() == ["0.jpg", "2.jpg", "5.jpg", "6.jpg", "8.jpg", "11.jpg"]
    assert sorted(p.name for p in (tmp_path / "out/images").iterdir())[:2] == ["0.png", "11.png"]
    assert (prepared.labels["split"] == "train").sum() == 4  # their labels are kept without their images
    expected = Image.open(hq / "CelebA-HQ-img/2.jpg").convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    assert np.array_equal(prepared.image(prepared.split("test").iloc[1]), np.asarray(expected))
    assert set(prepared.labels[list(celebahq.ATTRIBUTES)].to_numpy().ravel()) == {-1, 1}
    with pytest.raises(UsageError, match="no images of split 'train', but of test"):
        prepared.split("train")


def test_a_second_preparation_changes_nothing(hq: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare("celebahq", hq, out, SIZE, "all")
    before = tree(out)
    assert "prepared already" in prepare("celebahq", hq, out, SIZE, "all")[0]
    with pytest.raises(UsageError, match="prepared with another size"):
        prepare("celebahq", hq, out, 2 * SIZE, "all")
    with pytest.raises(UsageError, match="prepared with another split"):
        prepare("celebahq", hq, out, SIZE, "test")
    assert tree(out) == before


def test_an_interrupted_preparation_goes_on_to_the_same_bytes(
    hq: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare("celebahq", hq, tmp_path / "whole", SIZE, "all")
    write, calls = store.write_bytes, []

    def stop_after_five(path: Path, data: bytes) -> None:
        calls.append(path)
        if len(calls) > 5:
            raise OSError(28, "No space left on device", str(path))
        write(path, data)

    monkeypatch.setattr(store, "write_bytes", stop_after_five)
    with pytest.raises(RunError, match="No space left on device.*goes on from there"):
        prepare("celebahq", hq, tmp_path / "cut", SIZE, "all")
    with pytest.raises(UsageError, match=r"manifest.json is missing"):
        open_prepared(tmp_path / "cut", "celebahq")
    monkeypatch.setattr(store, "write_bytes", write)
    kept = {path: path.stat().st_ino for path in (tmp_path / "cut/images").iterdir()}
    assert kept
    with pytest.raises(UsageError, match="begun with other data or options"):
        prepare("celebahq", hq, tmp_path / "cut", SIZE + 1, "all")
    prepare("celebahq", hq, tmp_path / "cut", SIZE, "all")
    assert tree(tmp_path / "cut") == tree(tmp_path / "whole")
    assert all(path.stat().st_ino == inode for path, inode in kept.items())  # finished images are not made again


def test_a_foreign_folder_is_left_alone(hq: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.tex").write_text("text")
    with pytest.raises(UsageError, match="is not empty"):
        prepare("celebahq", hq, tmp_path / "out", SIZE, "all")
    assert list(tree(tmp_path / "out")) == ["thesis.tex"]


def move_partition(root: Path) -> None:
    """As in CelebA's own archive, beside CelebAMask-HQ."""
    (root.parent / "CelebA/Eval").mkdir(parents=True)
    shutil.move(root / celebahq.PARTITION, root.parent / "CelebA/Eval" / celebahq.PARTITION)


def partition_as_csv(root: Path) -> None:
    """As in Kaggle's copy of CelebA."""
    rows = (root / celebahq.PARTITION).read_text().replace(" ", ",")
    (root / celebahq.PARTITION).unlink()
    (root / "list_eval_partition.csv").write_text("image_id,partition\n" + rows)


def add_celeba_labels(root: Path) -> None:
    """CelebA's own label file, which says the same of the same faces."""
    text = (root / celebahq.ANNOTATION).read_text()
    for line in (root / celebahq.MAPPING).read_text().splitlines()[1:]:
        index, _, original = line.split()
        text = text.replace(f"\n{index}.jpg", f"\n{original}")
    (root / celebahq.CELEBA_LABELS).write_text(text)


@pytest.mark.parametrize("change", [move_partition, partition_as_csv, add_celeba_labels])
def test_layouts_that_people_have(hq: Path, tmp_path: Path, change: Callable[[Path], None]) -> None:
    change(hq)
    lines = prepare("celebahq", hq.parent, tmp_path / "out", SIZE, "all")  # the folder above is found too
    assert "4 train, 2 valid, 6 test" in lines[1]
    if change is add_celeba_labels:
        assert "0 of 480 labels differ from those in list_attr_celeba.txt" in lines


def swap_celeba_labels(root: Path) -> None:
    """Every face has the labels of the next one."""
    add_celeba_labels(root)
    lines = (root / celebahq.CELEBA_LABELS).read_text().splitlines()
    faces = [line.split(maxsplit=1) for line in lines[2:]]
    labels = [label for _, label in faces]
    swapped = [f"{name} {label}" for (name, _), label in zip(faces, labels[1:] + labels[:1], strict=True)]
    (root / celebahq.CELEBA_LABELS).write_text("\n".join([*lines[:2], *swapped]))


def refused(name: str, root: Path, output: Path) -> str:
    """The sentence with which a data set is refused before anything is written."""
    with pytest.raises(UsageError) as error:
        prepare(name, root, output, SIZE, "all")
    assert "\n" not in str(error.value) and error.value.exit_code == 2
    assert not output.exists()
    return str(error.value)


@pytest.mark.parametrize(
    ("missing", "text"),
    [
        (celebahq.ANNOTATION, "CelebAMask-HQ-attribute-anno.txt is missing; .*CelebAMask-HQ.zip"),
        (celebahq.MAPPING, "CelebA-HQ-to-CelebA-mapping.txt is missing; .*CelebAMask-HQ.zip"),
        (celebahq.PARTITION, r"list_eval_partition.txt is missing; .*CelebA \(mmlab"),
        (celebahq.IMAGES, "CelebA-HQ-img is missing; .*CelebAMask-HQ.zip"),
        ("CelebA-HQ-img/3.jpg", "lacks 1 of 12 images, the first 3.jpg"),
    ],
)
def test_missing_files_are_told_by_their_official_names(hq: Path, tmp_path: Path, missing: str, text: str) -> None:
    shutil.rmtree(hq / missing) if (hq / missing).is_dir() else (hq / missing).unlink()
    assert re.search(text, refused("celebahq", hq, tmp_path / "out"))


@pytest.mark.parametrize(
    ("file", "old", "new", "text"),
    [
        (celebahq.ANNOTATION, "12\n", "13\n", "line 1 says 13 images, 12 follow"),
        (celebahq.ANNOTATION, "Young", "Old", "has to name the 40 attributes"),
        (celebahq.ANNOTATION, "\n4.jpg  -1", "\n4.jpg  2", "line 7: label '2'; 40 labels of -1 or 1"),
        (celebahq.ANNOTATION, "\n4.jpg  -1", "\n4.jpg", "line 7: 39 labels"),
        (celebahq.ANNOTATION, "\n4.jpg", "\n3.jpg", "line 7: 3.jpg is there already, in .*line 6"),
        (celebahq.ANNOTATION, "\n4.jpg", "\n../4.jpg", r"line 7: '\.\./4.jpg' is not a file name"),
        (celebahq.MAPPING, "\n5  ", "\n50  ", "lacks 1 of the 12 images, the first 5.jpg"),
        (celebahq.MAPPING, "001007.jpg", "001000.jpg", "line 3: 001000.jpg is there already"),
        (celebahq.MAPPING, "\n5  ", "\n6  ", "line 8: 6.jpg is there already"),
        (celebahq.MAPPING, "orig_idx", "index", "not the mapping of CelebAMask-HQ"),
        (celebahq.PARTITION, "001007.jpg", "009007.jpg", "does not match CelebA-HQ-to-.*the first 001007.jpg"),
        (celebahq.PARTITION, "001007.jpg", "001000.jpg", "line 4: 001000.jpg is there already"),
        (celebahq.PARTITION, "001007.jpg 0", "001007.jpg 3", r"line 4: .*\(0, 1 or 2\) are needed"),
    ],
)
def test_files_that_do_not_fit_are_refused_with_their_line(
    hq: Path, tmp_path: Path, file: str, old: str, new: str, text: str
) -> None:
    edit(hq / file, old, new)
    assert re.search(text, refused("celebahq", hq, tmp_path / "out"))


def test_images_and_labels_of_other_sets_are_refused(hq: Path, tmp_path: Path) -> None:
    swap_celeba_labels(hq)
    assert "labels of the same faces differ" in refused("celebahq", hq, tmp_path / "out")
    (hq / celebahq.CELEBA_LABELS).unlink()
    write_jpeg(hq / celebahq.IMAGES / "12.jpg", picture(0, 8))
    assert "holds 1 images that CelebAMask-HQ-attribute-anno.txt does not name" in refused(
        "celebahq", hq, tmp_path / "out"
    )


def test_a_partition_of_the_full_set_has_to_be_the_published_one(hq: Path) -> None:
    splits = [name for name, count in celebahq.PUBLISHED_SPLITS.items() for _ in range(count)]
    assert len(splits) == 30_000 and celebahq._check_sizes(splits, hq) == []
    with pytest.raises(UsageError, match=r"not CelebA's partition: 24182 train images instead of the published 24183"):
        celebahq._check_sizes(["test", *splits[1:]], hq)


def test_damaged_and_wrong_images_are_named(hq: Path, tmp_path: Path) -> None:
    image = hq / celebahq.IMAGES / "2.jpg"
    image.write_bytes(image.read_bytes()[:-200])
    with pytest.raises(UsageError, match=r"2.jpg: damaged or unreadable"):
        prepare("celebahq", hq, tmp_path / "out", SIZE, "test")
    assert not (tmp_path / "out/manifest.json").exists()
    write_jpeg(image, picture(1, 32).crop((0, 0, 32, 20)))
    with pytest.raises(UsageError, match=r"2.jpg: 32x20 pixels; a square of at least 16"):
        prepare("celebahq", hq, tmp_path / "out", SIZE, "test")
    write_jpeg(image, picture(0, 32))  # as 0.jpg
    assert "2 images are equal to another one" in prepare("celebahq", hq, tmp_path / "out", SIZE, "test")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"name": "celeba-hq"}, "unknown data set 'celeba-hq'; did you mean 'celebahq'"),
        ({"split": "val"}, "--split val: train, valid, test or all"),
        ({"size": 2048}, "--size 2048: 8 to 1024"),
        ({"root": Path("nowhere")}, "--root nowhere: not a folder"),
    ],
)
def test_wrong_options(hq: Path, changes: dict[str, object], text: str) -> None:
    given = {"name": "celebahq", "root": hq, "output": None, "size": SIZE, "split": "all"} | changes
    with pytest.raises(UsageError, match=text):
        prepare(**given)


def test_the_bytes_that_were_checked_are_those_that_are_decoded(
    hq: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, read = tmp_path / "out", Path.read_bytes
    prepare("celebahq", hq, out, SIZE, "test")
    prepared = open_prepared(out, "celebahq")
    row = prepared.split("test").iloc[0]
    expected = prepared.image(row)

    def read_and_replace(path: Path) -> bytes:
        data = read(path)
        shutil.copy(out / "images/2.png", path)
        return data

    monkeypatch.setattr(Path, "read_bytes", read_and_replace)
    assert np.array_equal(prepared.image(row), expected)
    monkeypatch.undo()
    with pytest.raises(UsageError, match=r"0.png was changed since"):
        prepared.image(row)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"no image", "damaged or not a prepared image"),
        (png_bytes(np.zeros((SIZE, SIZE), np.uint8)), "L, 16x16 pixels; RGB, 16x16 is needed"),
        (png_bytes(np.zeros((8, 8, 3), np.uint8)), "RGB, 8x8 pixels; RGB, 16x16 is needed"),
    ],
)
def test_files_that_preparing_would_not_write_are_refused(hq: Path, tmp_path: Path, content: bytes, text: str) -> None:
    prepare("celebahq", hq, tmp_path / "out", SIZE, "test")
    prepared = open_prepared(tmp_path / "out", "celebahq")
    row = dict(prepared.split("test").iloc[0]) | {"sha256": hashlib.sha256(content).hexdigest()}
    (tmp_path / "out" / row["file"]).write_bytes(content)
    with pytest.raises(UsageError, match=f"0.png: {text}"):
        prepared.image(row)


def test_a_prepared_folder_notices_changes(hq: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare("celebahq", hq, out, SIZE, "test")
    prepared = open_prepared(out, "celebahq")
    row = prepared.split("test").iloc[0]
    shutil.copy(out / "images/2.png", out / "images/0.png")
    with pytest.raises(UsageError, match=r"0.png was changed since"):
        prepared.image(row)
    (out / "images/0.png").unlink()
    with pytest.raises(UsageError, match=r"0.png cannot be read"):
        prepared.image(row)
    with pytest.raises(UsageError, match="holds celebahq; imdb-wiki-clean is needed"):
        open_prepared(out, "imdb-wiki-clean")
    edit(out / "labels.csv", ",-1,", ",1,")
    with pytest.raises(UsageError, match=r"labels.csv was changed since"):
        open_prepared(out, "celebahq")
    manifest = json.loads((out / "manifest.json").read_text())
    (out / "manifest.json").write_text(json.dumps(manifest | {"format": 0}))
    with pytest.raises(UsageError, match="of format 0"):
        open_prepared(out, "celebahq")
    (out / "manifest.json").write_text("[]")
    with pytest.raises(UsageError, match="not the manifest"):
        open_prepared(out, "celebahq")
