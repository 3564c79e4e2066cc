"""Edges of tables and tars: stray quotes, repeated rows, odd headers, tables in several folders, captions by name."""

from __future__ import annotations

import gzip
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipzoo.data import Plan, entry_of
from clipzoo.errors import DatasetError, SampleError
from clipzoo.readers import Entry, fingerprint, open_dataset
from clipzoo.readers.webdataset import write_shard
from making import encoded, image, raw_tar

PICTURES = [encoded(image(i)) for i in range(4)]


def pictures(folder: Path, *names: str) -> Path:
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(PICTURES[i])
    return folder


def entries(where: object) -> list[Entry]:
    reader = open_dataset(str(where))
    return [entry for shard in reader.shards for entry in reader.index(shard)]


def results(where: object) -> list[tuple[str, tuple[str, ...] | str]]:
    """(key, captions, or the reason why there are none) of all samples."""
    reader, found = open_dataset(str(where)), []
    for entry in entries(where):
        try:
            sample = reader.read(entry)
            found.append((entry.key, (sample.caption, *sample.others)))
        except SampleError as error:
            found.append((entry.key, str(error)))
    return found


def captions(where: object) -> dict[str, tuple[str, ...] | str]:
    return dict(results(where))


# Quotes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lines",
    [
        ["image\tcaption", 'a.jpg\t"Great TV', "a.jpg\tred car", "a.jpg\tblue car", 'a.jpg\tTV of 55"', "a.jpg\tlast"],
        ["caption\timage", '"Great TV\ta.jpg', "red car\ta.jpg", "blue car\ta.jpg", 'TV of 55"\ta.jpg', "last\ta.jpg"],
        ["n\timage\tcaption", '1\ta.jpg\t"Great TV', "2\ta.jpg\tr", "3\ta.jpg\tb", '4\ta.jpg\tof 55"', "5\ta.jpg\tl"],
        ["image\tcaption", 'a.jpg\t"5', 'a.jpg\tTV"', "a.jpg\tr", "a.jpg\tb", "a.jpg\tl"],
        ["caption\timage", '"5\ta.jpg', 'TV"\ta.jpg', "r\ta.jpg", "b\ta.jpg", "l\ta.jpg"],
        ["image\tcaption", 'a.jpg\t"Great TV', "too few", "a.jpg\tr", "a.jpg\tb", 'a.jpg\tTV of 55"'],
    ],
)
@pytest.mark.parametrize("separator", ["\t", ","])
def test_a_stray_quote_breaks_its_own_row_only(lines: list[str], separator: str, tmp_path: Path) -> None:
    pictures(tmp_path, "a.jpg")
    (tmp_path / "t.csv").write_text("\n".join(lines).replace("\t", separator))
    found = entries(f"{tmp_path}/t.csv?sep={separator}")
    assert len(found) == 5
    assert "quote is not closed" in (found[0].error or "")
    assert [entry.key for entry in found[1:] if entry.error] == (["00000001"] if "too few" in lines else [])


@pytest.mark.parametrize("header", ["image,caption", "caption,image"])
def test_captions_of_several_lines_with_separators_are_kept(header: str, tmp_path: Path) -> None:
    pictures(tmp_path, "a.jpg")
    texts = ["A dog,\nrunning, in a park", "see\nphoto.jpg", 'one\n"two", three\nfour', "a\n\nb", "a,\nb,\n"]
    cells = ['"' + text.replace('"', '""') + '"' for text in texts]
    rows = [f"a.jpg,{cell}" if header == "image,caption" else f"{cell},a.jpg" for cell in cells]
    (tmp_path / "t.csv").write_text("\n".join([header, *rows]))
    assert [*captions(tmp_path / "t.csv").values()] == [(text.strip(),) for text in texts]


def test_a_stray_quote_in_the_metadata_of_a_tar_takes_no_caption_of_another_picture(tmp_path: Path) -> None:
    table = 'file_name,caption\n0.jpg,"Great\n1.jpg,red\n2.jpg,TV of 55"\n'
    members = [*((f"{i}.jpg", PICTURES[i]) for i in range(3)), ("metadata.csv", table.encode())]
    found = captions(raw_tar(tmp_path / "a.tar", members))
    assert (found["1"], found["2"]) == (("red",), ('TV of 55"',))
    assert "no caption" in found["0"]


def test_a_row_with_quotes_in_quotes_is_read_from_the_metadata_of_a_tar(tmp_path: Path) -> None:
    table = 'file_name,caption\n0.jpg,"a "cat" sits"\n1.jpg,b\n'
    members = [("metadata.csv", table.encode()), ("0.jpg", PICTURES[0]), ("1.jpg", PICTURES[1])]
    path = raw_tar(tmp_path / "a.tar", members)
    assert captions(path) == {"0": ('a cat" sits"',), "1": ("b",)}
    reader = open_dataset(str(path))
    entry = reader.index("a")[0]
    path.write_bytes(path.read_bytes().replace(b'0.jpg,"a "cat" sits"', b'0.jpg; a "cat" sits "'))
    with pytest.raises(SampleError, match="has changed"):
        reader.read(entry)


# Headers ---------------------------------------------------------------------------------------------------


HEADERS = {
    "quoted after a byte order mark": ('\ufeff"image","caption"', '"a.jpg","c"'),
    "with a comma in quotes": ('\ufeff"image","caption","x, y"', '"a.jpg","c","d"'),
    "with empty columns": ("image,caption,,", "a.jpg,c,,note"),
    "with a repeated column": ("image,caption,tag,tag", "a.jpg,c,1,2"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers_are_read(name: str, tmp_path: Path) -> None:
    pictures(tmp_path, "a.jpg")
    (tmp_path / "t.csv").write_text("\n".join(HEADERS[name]))
    assert captions(tmp_path / "t.csv") == {"00000000": ("c",)}
    reader = open_dataset(str(tmp_path / "t.csv"))
    assert "" not in reader.fields(entries(tmp_path / "t.csv")[0])


def test_the_header_of_metadata_in_a_tar_may_be_quoted(tmp_path: Path) -> None:
    table = '\ufeff"file_name","caption"\n"0.jpg","c"\n'
    path = raw_tar(tmp_path / "a.tar", [("0.jpg", PICTURES[0]), ("metadata.csv", table.encode())])
    assert captions(path) == {"0": ("c",)}


def test_a_repeated_column_that_is_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("image,caption,caption\na.jpg,b,c\n")
    with pytest.raises(DatasetError, match="2 columns named 'caption'; rename"):
        open_dataset(str(tmp_path / "t.csv"))


def test_the_column_of_row_numbers_that_pandas_writes_is_the_key_as_ever(tmp_path: Path) -> None:
    pictures(tmp_path, "a.jpg")
    (tmp_path / "t.csv").write_text(",image,caption\n7,a.jpg,c\n")
    assert captions(tmp_path / "t.csv") == {"7": ("c",)}


def test_long_captions_are_read(tmp_path: Path) -> None:
    pictures(tmp_path, "a.jpg")
    text = "word " * 50_000
    (tmp_path / "t.csv").write_text(f'image,caption\na.jpg,"{text}"\n')
    assert captions(tmp_path / "t.csv") == {"00000000": (text.strip(),)}


@pytest.mark.parametrize("name", ["1.tar", "a b.tar"])
def test_the_command_for_a_compressed_tar_works(name: str, tmp_path: Path) -> None:
    write_shard(tmp_path / "plain.tar", [("0", {"png": PICTURES[0], "txt": b"c"})])
    (tmp_path / name).write_bytes(gzip.compress((tmp_path / "plain.tar").read_bytes()))
    (tmp_path / "plain.tar").unlink()
    with pytest.raises(DatasetError, match="gunzip") as error:
        open_dataset(str(tmp_path))
    subprocess.run(["sh", "-c", str(error.value).split("`")[1]], cwd=tmp_path, check=True)
    assert captions(tmp_path) == {"0": ("c",)}


# Metadata --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_further_rows_of_a_picture_are_reported_in_tars_as_in_folders(kind: str, tmp_path: Path) -> None:
    names, texts = ["0.jpg", "1.jpg", "0.jpg", "0.jpg"], ["a", "b", "c", "d"]
    table = "\n".join(["file_name,text", *(f"{name},{text}" for name, text in zip(names, texts, strict=True))])
    if kind == "jsonl":
        table = "\n".join(json.dumps({"file_name": n, "text": t}) for n, t in zip(names, texts, strict=True))
    folder = pictures(tmp_path / "folder", "0.jpg", "1.jpg")
    (folder / f"metadata.{kind}").write_text(table)
    members = [("0.jpg", PICTURES[0]), ("1.jpg", PICTURES[1]), (f"metadata.{kind}", table.encode())]
    for where in (folder, raw_tar(tmp_path / "a.tar", members)):
        found = captions(where)
        assert (found.pop("0"), found.pop("1")) == (("a",), ("b",))
        assert {entry.failure.code for entry in entries(where) if entry.failure} == {"duplicate-key"}
        assert [*found] == ["0#2", "0#3"]
        assert all("the first one is used" in reason for reason in found.values())


def test_an_imagefolder_may_have_a_root(tmp_path: Path) -> None:
    pictures(tmp_path, "images/a.jpg", "images/train/b.jpg")
    for folder, name in (("", "a"), ("train", "b")):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "metadata.csv").write_text(f"file_name,text\n{name}.jpg,{name}\n")
    assert captions(f"{tmp_path}?root=images") == {"a": ("a",), "train/b": ("b",)}
    (tmp_path / "train/metadata.csv").rename(tmp_path / "images/train/metadata.csv")
    (tmp_path / "metadata.csv").unlink()
    assert captions(f"{tmp_path}?root=images") == {"train/b": ("b",)}  # the table is below the root


@pytest.mark.parametrize("location", ["p/*/metadata.jsonl", "p/{a,b}/metadata.jsonl", "lists/list.txt"])
def test_tables_of_imagefolders_may_be_listed(location: str, tmp_path: Path) -> None:
    pictures(tmp_path, "p/a/x.jpg", "p/b/x.jpg", "lists/list.txt")
    for name in "ab":
        (tmp_path / f"p/{name}/metadata.jsonl").write_text(json.dumps({"file_name": "x.jpg", "text": name}))
    (tmp_path / "lists/list.txt").write_text("".join(f"{tmp_path}/p/{name}/metadata.jsonl\n" for name in "ab"))
    assert captions(tmp_path / location) == {"a/x": ("a",), "b/x": ("b",)}


@pytest.mark.parametrize("options", ["", "?caption=text", "?key=id"])
def test_fields_of_later_lines_are_columns(options: str, tmp_path: Path) -> None:
    pictures(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    rows = [{"file_name": "a.jpg", "id": 0}, {"file_name": "b.jpg", "text": "y", "id": 6}, {"file_name": "c.jpg"}]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = captions(f"{tmp_path}{options}")
    assert [*found] == (["0", "6", "00000002"] if "key" in options else ["a", "b", "c"])
    assert [*found.values()][1] == ("y",)
    with pytest.raises(DatasetError, match="no caption column named 'title'; its columns are file_name, id, text"):
        open_dataset(f"{tmp_path}?caption=title")


def test_the_first_line_selects_the_columns_as_ever(tmp_path: Path) -> None:
    pictures(tmp_path, "a.jpg", "b.jpg")
    rows = [{"file_name": "a.jpg", "text": "x"}, {"file_name": "b.jpg", "text": "y", "caption": "z"}]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert captions(tmp_path) == {"a": ("x",), "b": ("y",)}


# Several tables --------------------------------------------------------------------------------------------


def write_table(path: Path, name: str, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        path.write_text(f"image,caption\n{name},{text}\n")
    else:
        pq.write_table(pa.table({"image": [name], "caption": [text]}), path)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("location", ["p?format={}", "p/{{a,b}}/t.{}", "p/*/t.{}", "p/**/*.{}", "lists/{}.txt"])
@pytest.mark.parametrize("root", ["", "images"])
def test_images_are_relative_to_the_folder_of_their_table(location: str, kind: str, root: str, tmp_path: Path) -> None:
    for i, name in enumerate("ab"):
        write_table(tmp_path / f"p/{name}/t.{kind}", "x.jpg", name)
        (tmp_path / f"p/{name}" / root).mkdir(exist_ok=True)
        (tmp_path / f"p/{name}" / root / "x.jpg").write_bytes(PICTURES[i])
    (tmp_path / "lists").mkdir()
    (tmp_path / f"lists/{kind}.txt").write_text("".join(f"../p/{name}/t.{kind}\n" for name in "ab"))
    where = f"{tmp_path}/{location.format('table' if kind == 'csv' and '?' in location else kind)}"
    reader = open_dataset(where + (("&" if "?" in where else "?") + f"root={root}" if root else ""))
    samples = [reader.read(entry) for shard in reader.shards for entry in reader.index(shard)]
    assert [(sample.image, sample.caption) for sample in samples] == [(PICTURES[0], "a"), (PICTURES[1], "b")]


@pytest.mark.parametrize("root", ["", "?root=images"])
def test_images_may_be_relative_to_the_folder_of_all_tables(root: str, tmp_path: Path) -> None:
    below = root.partition("=")[2]
    pictures(tmp_path / below, "x.jpg")
    write_table(tmp_path / "tables/t.csv", "x.jpg", "c")
    write_table(tmp_path / "tables/u.csv", "gone.jpg", "c")
    (tmp_path / "list.txt").write_text("tables/t.csv\ntables/u.csv\n")
    for location in (f"{tmp_path}?format=table", f"{tmp_path}/list.txt"):
        (_, first), (_, second) = results(location + root.replace("?", "&" if "?" in location else "?"))
        assert first == ("c",)
        assert "No such file" in second
        assert str(tmp_path / "tables" / below) in second


def test_labels_in_rows_are_relative_to_the_folder_of_their_table(tmp_path: Path) -> None:
    from clipzoo.importers import rows

    for i, name in enumerate("ab"):
        write_table(tmp_path / f"p/{name}/t.csv", "x.jpg", "c")
        (tmp_path / f"p/{name}/x.png").write_bytes(encoded(image(i)[:, :, 0]))
        (tmp_path / f"p/{name}/t.csv").write_text(f"key,image,caption,mask\n{name},x.jpg,c,x.png\n")
    classes = ",".join(f"c{i}" for i in range(256))
    importer = rows.create(f"{tmp_path}/p/*/t.csv?label=mask&task=segmentation&void=none&classes={classes}")
    assert importer.look_up("b", (12, 16)) is not None
    assert importer.state("a") != importer.state("c") == ""


@pytest.mark.parametrize("name", ["gone.tar", "gone.csv", "gone/metadata.jsonl", "gone/metadata.csv", "gone.parquet"])
def test_a_file_that_is_listed_and_missing_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(name)
    with pytest.raises(DatasetError, match=rf"{name}.*No such file|No such file.*{name}"):
        open_dataset(str(tmp_path / "list.txt"))


# Captions by name ------------------------------------------------------------------------------------------

TEXTS = {"txt": b"text", "json": json.dumps({"caption": "of json", "title": "title"}).encode()}


def stored(folder: Path, form: str, members: Mapping[str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    members = {"jpg": PICTURES[0], **members}
    if form == "tar":
        return raw_tar(folder / "a.tar", [(f"0.{name}", data) for name, data in members.items()])
    for name, data in members.items():
        (folder / f"0.{name}").write_bytes(data)
    return folder


def trained(where: str) -> tuple[str, ...]:
    """The captions of a row of a training plan, which has only the members that are needed."""
    reader = open_dataset(where)
    sample = reader.read(entry_of(Plan.build(reader, {}).rows([0])[0]))
    return sample.caption, *sample.others


@pytest.mark.parametrize("form", ["tar", "folder"])
@pytest.mark.parametrize(
    ("names", "texts"),
    [
        ("title,txt", ["title"]), ("txt,title", ["text"]), ("none,txt", ["text"]), ("none,title", ["title"]),
        ("txt|title", ["text", "title"]), ("title|txt", ["title", "text"]), ("txt|caption", ["text", "of json"]),
        ("title|caption", ["title", "of json"]), ("title", ["title"]), ("txt", ["text"]), ("txt|none", ["text"]),
    ],
)  # fmt: skip
def test_captions_are_those_of_names_in_their_order(form: str, names: str, texts: list[str], tmp_path: Path) -> None:
    where = f"{stored(tmp_path / form, form, TEXTS)}?caption={names}"
    assert captions(where) == {"0": tuple(texts)}
    assert trained(where) == tuple(texts)
    joined = tmp_path / "all.yaml"
    joined.write_text(json.dumps({"datasets": {"one": where}}))
    assert trained(str(joined)) == tuple(texts)


@pytest.mark.parametrize("names", ["alt,txt", "txt|alt", "alt|txt", "alt,none,txt"])
@pytest.mark.parametrize("alt", [b"", b"  \n", b"\xff", b"other", None])
def test_members_without_text_are_passed_over(names: str, alt: bytes | None, tmp_path: Path) -> None:
    where = stored(tmp_path, "tar", TEXTS | ({} if alt is None else {"alt.txt": alt}))
    wanted = ["text"] if alt != b"other" else ["other"] if "," in names else ["text", "other"]
    assert sorted(captions(f"{where}?caption={names}")["0"]) == sorted(wanted)
    assert sorted(trained(f"{where}?caption={names}")) == sorted(wanted)


def test_a_sample_without_text_under_any_name_says_so(tmp_path: Path) -> None:
    where = stored(tmp_path, "tar", {"txt": b" ", "json": b'{"caption": "c"}'})
    assert "white space" in captions(f"{where}?caption=txt,title")["0"]
    assert captions(f"{where}?caption=txt,title&captions=optional") == {"0": ("",)}


@pytest.mark.parametrize("form", ["tar", "folder"])
@pytest.mark.parametrize(("names", "member"), [("none,txt", "txt"), ("title,txt", "txt"), ("title|txt", "json")])
def test_the_member_of_an_entry_is_the_same_as_ever(form: str, names: str, member: str, tmp_path: Path) -> None:
    """Kept plans of runs are compared by it."""
    where = f"{stored(tmp_path / form, form, TEXTS)}?caption={names}"
    assert [entry.caption for entry in entries(where)] == [member]
    assert len(entries(where)[0].members) == (3 if form == "tar" else 2)


def test_names_of_captions_change_no_fingerprint(tmp_path: Path) -> None:
    where = stored(tmp_path, "tar", TEXTS)
    found = {fingerprint(open_dataset(f"{where}{end}"))["sha256"] for end in ("", "?caption=title,txt", "?caption=a|b")}
    assert len(found) == 1


@pytest.mark.parametrize("text", ["datasets: {a: 2024-02-30}", 'datasets: {a: !!int "x"}', "datasets: [1, 2]"])
def test_a_list_of_datasets_that_is_no_sound_yaml_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "all.yaml").write_text(text)
    with pytest.raises(DatasetError, match=r"cannot read|names no datasets"):
        open_dataset(str(tmp_path / "all.yaml"))
