"""Pictures without captions, for label truth and benchmarks: every format reads them where captions are optional."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import clipzoo
from clipzoo.benchmarks import open_benchmark, read_split
from clipzoo.errors import DatasetError, RecipeError
from clipzoo.labeling import import_labels
from clipzoo.pages import inspect
from clipzoo.readers import Reader, open_dataset
from clipzoo.readers.webdataset import write_shard
from clipzoo.recipe import Recipe
from clipzoo.runs import Run
from clipzoo.store import Store
from making import encoded, image, raw_tar

PICTURES = {f"{i}": encoded(image(i)) for i in range(3)}


def tars(folder: Path) -> str:
    """One sample without a caption, one with an empty and one with a sound caption."""
    captions = [("1.txt", b""), ("2.txt", b"a caption")]
    return str(raw_tar(folder / "a.tar", sorted([*captions, *((f"{k}.png", data) for k, data in PICTURES.items())])))


def files(folder: Path) -> str:
    folder.mkdir()
    for key, data in PICTURES.items():
        (folder / f"{key}.png").write_bytes(data)
    (folder / "1.txt").write_bytes(b"")
    (folder / "2.txt").write_bytes(b"a caption")
    return str(folder)


def table(folder: Path) -> str:
    files(folder)
    with (folder / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["key", "image", "caption"], *([k, f"{k}.png", ""] for k in "01")])
        csv.writer(file).writerow(["2", "2.png", "a caption"])
    return str(folder / "a.csv")


def parquet(folder: Path) -> str:
    folder.mkdir()
    columns = {"key": [*PICTURES], "image": [*PICTURES.values()], "caption": [None, "", "a caption"]}
    pq.write_table(pa.table(columns), folder / "a.parquet")
    return str(folder)


def joined(folder: Path) -> str:
    tars(folder)
    (folder / "all.yaml").write_text("datasets:\n  a: a.tar\n")
    return str(folder / "all.yaml")


def read(reader: Reader) -> list[tuple[str, bytes, str]]:
    samples = [reader.read(entry) for shard in reader.shards for entry in reader.index(shard)]
    return [(sample.key, sample.image, sample.caption) for sample in samples]


@pytest.mark.parametrize("made", [tars, files, table, parquet, joined])
def test_a_picture_without_a_caption_is_a_sample_where_captions_are_optional(made, tmp_path: Path) -> None:
    reader = open_dataset(made(tmp_path / "data"), captions="optional")
    assert read(reader) == [(k, data, "a caption" if k == "2" else "") for k, data in PICTURES.items()]


def test_the_orientation_of_a_missing_json_is_none(tmp_path: Path) -> None:
    data = raw_tar(tmp_path / "0.tar", [("0.png", PICTURES["0"]), ("0.title.txt", b"t")])
    reader = open_dataset(f"{data}?exif=json&captions=optional", fields=["title"])
    (entry,) = reader.index("0")
    found = reader.read(entry)
    assert (found.image, found.fields) == (PICTURES["0"], {"title": ("t",)})


def test_a_table_without_a_caption_column_is_read_where_captions_are_optional(tmp_path: Path) -> None:
    files(tmp_path / "data")
    (tmp_path / "data/a.csv").write_text("id,image\n" + "".join(f"{k},{k}.png\n" for k in PICTURES))
    location = f"{tmp_path}/data/a.csv?key=id"
    assert read(open_dataset(location, captions="optional")) == [(k, data, "") for k, data in PICTURES.items()]
    with pytest.raises(DatasetError, match="no caption column"):
        open_dataset(location)


def test_true_labels_are_imported_for_pictures_without_captions(tmp_path: Path) -> None:
    """By an option of the location, which every command takes."""
    bench = tmp_path / "bench"
    write_shard(bench / "images" / "0.tar", [(str(i), {"png": encoded(image(i))}) for i in range(3)])
    (tmp_path / "masks").mkdir()
    for i in range(3):
        Image.fromarray(np.full((12, 16), i % 2, np.uint8)).save(tmp_path / "masks" / f"{i}.png")
    meaning = {"task": "segmentation", "classes": "floor,wall", "void": "none", "as": "truth"}
    import_labels(
        f"{bench / 'images'}?captions=optional", tmp_path / "masks", "files", meaning, bench / "truth", progress=False
    )
    truth = read_split(open_benchmark(str(bench)), (12, 16)).truth["segmentation"]
    assert [int(label.ids.max()) for label in truth.labels] == [0, 1, 0]
    assert inspect(bench / "truth", f"{bench / 'images'}?captions=optional", tmp_path / "page.html").keys
    assert clipzoo.verify(Store(bench / "truth"), open_dataset(f"{bench / 'images'}?captions=optional")) == []


def test_training_refuses_a_dataset_whose_captions_are_optional(tmp_path: Path, dataset: Path, tiny_clip: str) -> None:
    recipe = {
        "name": "mute", "data": f"{dataset}?captions=optional", "columns": [],
        "student": {"model": tiny_clip, "layers": [0]},
        "training": {"steps": 1, "batch_size": 2, "learning_rates": [1e-3]},
        "arms": ["clip", "clip-ft"],
    }  # fmt: skip
    with pytest.raises(RecipeError, match="training needs a caption"):
        _ = Run(Recipe.model_validate(recipe), tmp_path / "run").inputs.reader


def test_an_unknown_value_of_the_option_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="captions=maybe is neither required nor optional"):
        open_dataset(f"{tmp_path}?captions=maybe")
