"""Export of trained students, one file for each target. The target's own library loads the result and is compared.

`export_student` writes the folder of a target. Other packages add a target by an entry point of the group
``clipzoo.export`` (docs/export.md).
"""

from __future__ import annotations

from clipzoo.export._card import card as model_card
from clipzoo.export._hub import check_login, check_repository, upload
from clipzoo.export._writing import PLUGINS, export_student
from clipzoo.export.base import PARITY, ExportPlugin, Source, sentence

__all__ = [
    "PARITY", "PLUGINS", "ExportPlugin", "Source", "check_login", "check_repository", "export_student", "model_card",
    "sentence", "upload",
]  # fmt: skip
