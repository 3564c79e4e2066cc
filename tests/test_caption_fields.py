"""Captions of several fields: how readers hand them out, how training draws them, and what is refused."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from clipzoo.checking import scan
from clipzoo.data import Plan, TrainingSet, Viewing, entry_of, kept_plan, loader
from clipzoo.data.captions import check_captions, draw_caption
from clipzoo.errors import PlanError, RecipeError, SampleError
from clipzoo.models import Student
from clipzoo.pages.check import rows
from clipzoo.readers import fingerprint, open_dataset
from clipzoo.readers._samples import fields
from clipzoo.readers.webdataset import write_shard
from clipzoo.recipe import TrainingRecipe, parse
from clipzoo.runs import Run
from clipzoo.training import Job, Training, train
from making import encoded, image, raw_tar

PNG = encoded(image(0))
FIELDS = ("caption", "recaption")
TEXTS: tuple[dict[str, Any], ...] = (
    {"caption": "a", "recaption": "A"},
    {"caption": "b", "recaption": None},
    {"caption": "c", "recaption": ["C", "CC"]},
    {"caption": "d"},
)


def tars(folder: Path) -> str:
    shard = [
        (f"{i}", {"png": PNG, "txt": f"t{i}".encode(), "json": json.dumps(one).encode()}) for i, one in enumerate(TEXTS)
    ]
    write_shard(folder / "00000.tar", shard)
    return str(folder)


def test_members_without_a_known_ending_are_captions_if_they_are_named(tmp_path: Path) -> None:
    members = [
        ("0.png", PNG),
        ("0.cap", b"one"),
        ("0.Alt", b"two"),
        ("1.png", PNG),
        ("1.cap", b" "),
        ("1.alt", b"only"),
    ]
    data = raw_tar(tmp_path / "0.tar", members)

    def captions(location: str, names: tuple[str, ...] = ()) -> list[Any]:
        reader = open_dataset(location, fields=names)
        found = [reader.read(entry) for entry in reader.index("0")]
        return [one.fields if names else (one.caption, *one.others) for one in found]

    assert captions(f"{data}?caption=cap|alt") == [("one", "two"), ("only",)]
    assert captions(f"{data}?caption=cap,alt") == [("one",), ("only",)]
    drawn = captions(f"{data}?caption=cap,alt", ("cap", "alt"))
    assert drawn == [{"cap": ("one",), "alt": ("two",)}, {"alt": ("only",)}]
    check_captions({"cap": 1, "alt": 1}, open_dataset(data, fields=("cap", "alt")))


def folder_of_files(folder: Path) -> str:
    for i, one in enumerate(TEXTS):
        (folder / f"{i}.png").write_bytes(PNG)
        (folder / f"{i}.txt").write_text(f"t{i}")
        (folder / f"{i}.json").write_text(json.dumps(one))
    return str(folder)


def imagefolder(folder: Path) -> str:
    lines = [json.dumps({"file_name": f"{i}.png", **one}) for i, one in enumerate(TEXTS)]
    (folder / "metadata.jsonl").write_text("\n".join(reversed(lines)))  # the first row does not have all fields
    for i in range(len(TEXTS)):
        (folder / f"{i}.png").write_bytes(PNG)
    return str(folder)


def tar_with_metadata(folder: Path) -> str:
    lines = [json.dumps({"file_name": f"{i}.png", **one}) for i, one in enumerate(TEXTS)]
    pictures = [(f"{i}.png", PNG) for i in range(len(TEXTS))]
    raw_tar(folder / "00000.tar", [*pictures, ("metadata.jsonl", "\n".join(lines).encode())])
    return str(folder)


def table(folder: Path) -> str:
    imagefolder(folder)
    (folder / "metadata.jsonl").unlink()
    with (folder / "x.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [["file", "caption", "recaption"]] + [[f"{i}.png", *_flat(one)] for i, one in enumerate(TEXTS)]
        )
    return str(folder / "x.csv")


def parquet(folder: Path) -> str:
    columns = {"image": [PNG] * 4, "key": list("0123"), "n": [1, 2, 3, 4], **_columns()}
    pq.write_table(pa.table(columns), folder / "x.parquet", row_group_size=3)
    return str(folder)


def huggingface(folder: Path) -> str:
    data = pa.table({"image": [PNG] * 4, "key": list("0123"), "n": [1, 2, 3, 4], **_columns()})
    with pa.OSFile(str(folder / "data.arrow"), "wb") as file, pa.ipc.new_stream(file, data.schema) as stream:
        stream.write_table(data)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data.arrow"}]}))
    return str(folder)


def _flat(one: Mapping[str, Any]) -> list[str]:
    text = one.get("recaption")
    return [one["caption"], "C" if isinstance(text, list) else text or ""]


def _columns() -> dict[str, list[Any]]:
    lists = [None if one.get("recaption") is None else [one["recaption"]] for one in TEXTS]
    return {
        "caption": [one["caption"] for one in TEXTS],
        "recaption": [x[0] if x and isinstance(x[0], list) else x for x in lists],
    }


MAKERS = (tars, folder_of_files, imagefolder, tar_with_metadata, table, parquet, huggingface)


@pytest.fixture(params=MAKERS, ids=lambda maker: maker.__name__)
def made(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    (tmp_path / "data").mkdir()
    location: str = request.param(tmp_path / "data")
    return location


def training_set(location: str, captions: Mapping[str, float], seed: int = 0) -> TrainingSet:
    reader = open_dataset(location, fields=tuple(captions))
    return TrainingSet(Plan.build(reader, {}), reader, {}, Viewing((8, 8)), seed, captions=captions)


def drawn(data: TrainingSet, row: int, epochs: int) -> Counter[str]:
    return Counter(data[epoch, row].caption for epoch in range(epochs))


def test_samples_carry_the_fields_that_the_dataset_was_opened_with(made: str) -> None:
    reader, plain = open_dataset(made, fields=FIELDS), open_dataset(made)
    (shard,) = reader.shards
    found = {entry.key: reader.read(entry) for entry in reader.index(shard)}
    assert {key.strip("0") or "0" for key in found} == set("0123")
    by_caption = {sample.fields["caption"][0]: sample for sample in found.values()}
    assert by_caption["a"].fields == {"caption": ("a",), "recaption": ("A",)}
    assert "recaption" not in by_caption["b"].fields
    assert by_caption["c"].fields["recaption"][0] == "C"
    assert by_caption["d"].fields == {"caption": ("d",)}
    assert fingerprint(reader) == fingerprint(plain)
    for entry in plain.index(shard):
        sample = plain.read(entry)
        assert sample.fields == {}
        assert sample == replace(found[entry.key], fields={})
        assert plain.fields(entry).items() >= found[entry.key].fields.items()


def test_training_reads_fields_by_the_plan_and_keeps_the_default(made: str, tmp_path: Path) -> None:
    data = training_set(made, {"caption": 1, "recaption": 1})
    data.plan.save(tmp_path / "plan.parquet")
    data.plan = Plan.load(tmp_path / "plan.parquet")
    captions = {c for row in range(4) for c in drawn(data, row, 30)}
    assert captions >= {"a", "A", "b", "c", "C", "d"}
    assert captions <= {"a", "A", "b", "c", "C", "CC", "d"}


def test_probabilities_are_exact_over_epochs_and_missing_fields_leave_their_share(tmp_path: Path) -> None:
    names = {"caption": 1.0, "recaption": 2.0, "txt": 1.0}
    data = training_set(tars(tmp_path), names)

    def shares(row: int) -> dict[str, float]:
        sample = data.reader.read(entry_of(data.plan.rows([row])[0]))
        generators = (np.random.default_rng([0, epoch, row]) for epoch in range(20_000))
        counts = Counter(draw_caption(sample, rng, names) for rng in generators)
        return {name: count / 20_000 for name, count in counts.items()}

    assert shares(0) == pytest.approx({"a": 0.25, "A": 0.5, "t0": 0.25}, abs=0.015)
    assert shares(1) == pytest.approx({"b": 0.5, "t1": 0.5}, abs=0.015)
    assert shares(2) == pytest.approx({"c": 0.25, "C": 0.25, "CC": 0.25, "t2": 0.25}, abs=0.015)


def test_weights_are_normalized_and_draws_depend_on_seed_epoch_and_row_alone(tmp_path: Path) -> None:
    location = tars(tmp_path)
    one, two = training_set(location, {"caption": 0.5, "txt": 1.5}), training_set(location, {"caption": 2, "txt": 6})
    order = [(epoch, row) for epoch in range(20) for row in range(4)]
    captions = [one[position].caption for position in order]
    assert captions == [two[position].caption for position in reversed(order)][::-1]
    assert captions != [
        training_set(location, {"caption": 0.5, "txt": 1.5}, seed=1)[position].caption for position in order
    ]


def test_views_are_those_of_a_training_without_fields(tmp_path: Path) -> None:
    location = tars(tmp_path)
    with_fields, plain = training_set(location, {"caption": 1, "txt": 1}), training_set(location, {})
    for epoch in range(3):
        assert (with_fields[epoch, 0].image == plain[epoch, 0].image).all()  # type: ignore[union-attr]
        assert plain[epoch, 0].caption == "t0"


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("ranks", [1, 2])
def test_ranks_and_workers_draw_the_captions_of_one_process(tmp_path: Path, ranks: int, workers: int) -> None:
    def batches(ranks: int, workers: int) -> list[list[str]]:
        data = training_set(tars(tmp_path), {"caption": 1, "recaption": 1, "txt": 2})
        parts = [
            list(loader(data, 4 // ranks, _tokens, start=2, steps=6, rank=rank, ranks=ranks, workers=workers))
            for rank in range(ranks)
        ]
        return [sorted(c for batch in step for c in batch.captions) for step in zip(*parts, strict=True)]

    assert batches(ranks, workers) == batches(1, 0)


def _tokens(texts: Any) -> Any:
    return torch.zeros(len(texts), 1, dtype=torch.int64)


def test_a_sample_without_any_field_has_its_caption_as_before(tmp_path: Path) -> None:
    write_shard(
        tmp_path / "00000.tar", [("0", {"png": PNG, "txt": b"old"}), ("1", {"png": PNG, "txt": b"t", "json": b"{"})]
    )
    data = training_set(str(tmp_path), {"recaption": 1})
    assert drawn(data, 0, 5) == {"old": 5}
    assert drawn(data, 1, 5) == {"t": 5}


def test_a_sample_without_its_default_caption_is_used_by_its_field(tmp_path: Path) -> None:
    text = json.dumps({"recaption": "new"}).encode()
    for name, members in {"0": {"txt": b""}, "1": {}, "2": {"txt": b" "}}.items():
        write_shard(tmp_path / name / "00000.tar", [("x", {"png": PNG, **members, "json": text})])
        data = training_set(str(tmp_path / name), {"recaption": 1, "alt": 1})
        assert drawn(data, 0, 3) == {"new": 3}
        plain = open_dataset(str(tmp_path / name))
        with pytest.raises(SampleError):
            plain.read(plain.index("00000")[0])


def test_members_of_other_names_are_fields(tmp_path: Path) -> None:
    members = {"png": PNG, "txt": b"t", "recap.txt": b"r", "long.json": b'{"caption": "l"}'}
    write_shard(tmp_path / "00000.tar", [("0", members)])
    reader = open_dataset(str(tmp_path), fields=("recap", "long"))
    (entry,) = reader.index("00000")
    assert reader.read(entry).fields == {"recap": ("r",), "long": ("l",)}
    assert dict(reader.fields(entry)) == {"txt": ("t",), "recap": ("r",), "long": ("l",)}


def test_json_is_read_only_where_a_field_needs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    location, parsed = tars(tmp_path), Counter[str]()
    real = fields.parse_json
    monkeypatch.setattr(fields, "parse_json", lambda data: parsed.update(["json"]) or real(data))
    drawn(training_set(location, {"txt": 1}), 0, 3)
    drawn(training_set(location, {}), 0, 3)
    assert not parsed
    reader = open_dataset(location, fields=("txt",))
    assert [entry.texts for entry in reader.index("00000")] == [("txt",)] * 4
    drawn(training_set(location, {"txt": 1, "recaption": 1}), 0, 3)
    assert parsed["json"] == 3


def test_a_plan_without_fields_is_unchanged_and_one_without_them_is_built_again(tmp_path: Path) -> None:
    location = tars(tmp_path / "data")
    plain, fielded = open_dataset(location), open_dataset(location, fields=FIELDS)
    assert "texts" not in Plan.build(plain, {}).table.column_names
    (tmp_path / "run").mkdir()
    before = kept_plan(tmp_path / "run", plain, {}, lambda path: Plan.build(plain, {}, path=path), trained=False)
    after = kept_plan(tmp_path / "run", fielded, {}, lambda path: Plan.build(fielded, {}, path=path), trained=False)
    assert after.table.drop_columns("texts") == before.table
    assert after.coverage() == {}


def recipe(location: str, captions: Mapping[str, float]) -> Any:
    training = {"steps": 2, "batch_size": 2, "captions": dict(captions)}
    values = {"name": "x", "data": location, "arms": ["clip-ft"], "student": {"model": "demo:clip"}}
    return parse({**values, "training": training})


def test_a_wrong_field_is_refused_before_any_work_with_the_fields_that_exist(made: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as raised:
        Run(recipe(made, {"caption": 0.5, "recaptoin": 0.5}), tmp_path / "run")
    message = str(raised.value)
    assert "training.captions has 'recaptoin'" in message
    assert "did you mean recaption" in message
    assert "caption (100%), " in message
    assert "recaption (50%)" in message
    assert not (tmp_path / "run").exists()
    Run(recipe(made, {"caption": 0.5, "recaption": 0.5}), tmp_path / "run")


def test_fields_of_one_of_several_datasets_are_enough(tmp_path: Path) -> None:
    write_shard(tmp_path / "plain" / "00000.tar", [(str(i), {"png": PNG, "txt": b"plain"}) for i in range(4)])
    (tmp_path / "rich").mkdir()
    places = [str(tmp_path / "plain"), parquet(tmp_path / "rich")]
    run = Run(recipe(places, {"recaption": 1}), tmp_path / "run")  # type: ignore[arg-type]
    data = run.trainings._job("clip-ft", 0, 1e-4, 2, tmp_path / "t").dataset
    assert {data[0, row].caption for row in range(len(run.plan))} >= {"plain", "A", "b"}


@pytest.mark.parametrize(("share", "message"), [(0, "captions.b is 0; give a number above 0"), ("x", "captions.b is")])
def test_shares_are_positive_numbers(share: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe("data", {"a": 1, "b": share})


def test_a_dataset_that_was_opened_without_fields_is_an_error(tmp_path: Path) -> None:
    reader = open_dataset(tars(tmp_path))
    with pytest.raises(PlanError, match=r"captions has 'caption'.*fields=\['caption', 'recaption'\]"):
        TrainingSet(Plan.build(reader, {}), reader, {}, Viewing((8, 8)), captions={"caption": 1, "recaption": 1})


def test_check_shows_the_fields_with_their_shares(made: str) -> None:
    findings = scan(open_dataset(made), progress=False)
    assert findings.fields["caption"] == 4
    assert findings.fields["recaption"] == 2
    (row,) = [row for row in rows(findings) if row[0] == "fields with text"]
    assert "caption: 100 %" in row[2]
    assert "recaption: 50 %" in row[2]


def test_a_training_resumes_with_the_same_captions(tiny_clip: str, dataset: Path, tmp_path: Path) -> None:
    source = open_dataset(str(dataset))
    shard = source.shards[0]
    pairs = [(e.key, source.read(e)) for e in source.index(shard)]
    extra: Callable[[str], bytes] = lambda text: json.dumps({"recaption": f"again {text}"}).encode()  # noqa: E731
    members = [
        (k.replace("/", "_"), {"png": s.image, "txt": s.caption.encode(), "json": extra(s.caption)}) for k, s in pairs
    ]
    write_shard(tmp_path / "data" / "00000.tar", members)

    def training(out: Path) -> Training:
        data = training_set(str(tmp_path / "data"), {"txt": 1, "recaption": 1})
        data.viewing = Viewing((32, 32))
        captions = {"txt": 1.0, "recaption": 1.0}
        settings = TrainingRecipe(steps=6, batch_size=4, log_every=1, checkpoint_every=2, captions=captions)
        return Training(Job(settings, rate=1e-3, steps=6, out=out), Student.create(tiny_clip), data)

    train(training(tmp_path / "whole"))

    def stop(step: int, values: object) -> None:
        if step == 3:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train(replace(training(tmp_path / "resumed"), on_step=stop))
    train(training(tmp_path / "resumed"))
    name = "student/open_clip_model.safetensors"
    assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "resumed" / name).read_bytes()
