"""Fingerprints of datasets stay as they are: stores and runs recognize a dataset by them."""

from __future__ import annotations

from pathlib import Path

from clipzoo.readers import fingerprint, open_dataset
from making import encoded, image


def test_the_text_of_a_failure_is_not_part_of_a_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "0.jpg").write_bytes(encoded(image(0), "JPEG"))
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "0.jpg", "text": "a"}\n{malformed\n')
    reader = open_dataset(str(tmp_path))
    sha256 = "264b7d77993bafad2f583c1ce059ee1f0f1bd6b4befa6cc2cc1c53e979c36ce2"  # stored before texts were reworded
    assert fingerprint(reader)["sha256"] == sha256
