"""Where a Hugging Face model is: ``<folder or hub id>[@revision][?option=value&…]`` -> a folder on disk.

A hub id is downloaded once into the hub's own cache (config, processor, safetensors; code only if it is asked for) and
read from there, so the card names the very commit and bytes that labels come from.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import yaml

from clipzoo.errors import ExpertError, brief
from clipzoo.experts.base import fetching, sha256
from clipzoo.progress import no_bars

CONFIG = "config.json"
FILES = ("*.json", "*.txt", "*.model", "README.md", "model*.safetensors")
SMALL = 10_000_000
"""Bytes that a text file of a model may have."""


@dataclass(frozen=True, slots=True)
class Source:
    """A model's folder on disk, the hub's commit of it (empty for a local folder), and the URI's options.

    ``name`` is the hub id, or the folder's own name.
    """

    name: str
    folder: Path
    revision: str
    options: Mapping[str, str]

    @property
    def config(self) -> dict[str, Any]:
        """``config.json``."""
        return read_json(self.folder / CONFIG)

    @property
    def preprocessing(self) -> dict[str, Any]:
        """What the image processor does; empty if the model's own library fills it in."""
        for name, key in (("preprocessor_config.json", None), ("processor_config.json", "image_processor")):
            if (self.folder / name).is_file():
                values = read_json(self.folder / name)
                return dict(values.get(key, {}) if key else values)
        return {}

    @property
    def license(self) -> str:
        """As the README's front matter tells it."""
        path = self.folder / "README.md"
        head = re.match(r"---\n(.*?)\n---", _read(path), re.DOTALL) if path.is_file() else None
        try:
            told = yaml.safe_load(head[1]) if head else None
        except yaml.YAMLError:
            told = None
        found = told.get("license") if isinstance(told, dict) else None
        return str(found) if found else "unknown"

    def weights_sha256(self) -> str:
        """Hex digest of the weights; of a sorted list of names and digests where they are several files.

        Raises:
            ExpertError: there are none as safetensors.
        """
        files = sorted(self.folder.glob("model*.safetensors"))
        if not files:
            raise ExpertError(
                f"{self.folder} holds no model.safetensors, and weights as pickles (.bin) are not read, since they can "
                "run code; save the model with save_pretrained(), or name a revision that has them, as @refs/pr/1 (the "
                "hub's converter, huggingface.co/spaces/safetensors/convert, makes one)"
            )
        digests = [_digest(file) for file in files]
        if len(digests) == 1:
            return digests[0]
        listed = "".join(f"{file.name} {digest}\n" for file, digest in zip(files, digests, strict=True))
        return hashlib.sha256(listed.encode()).hexdigest()


def find(name: str, known: Iterable[str], code: str) -> Source:
    """The model of a URI's part behind the scheme.

    Args:
        name: see the head of this file.
        known: names of options.
        code: the option that, being 1, has a hub model's Python files downloaded, too.

    Raises:
        ExpertError: an option is not known, or there is no such folder and no such hub model at hand.
    """
    place, _, query = name.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    if wrong := sorted(set(options) - set(known)):
        raise ExpertError(f"hf:{name} has the option {wrong[0]!r}; there are: {', '.join(known)}")
    folder = Path(place).expanduser()
    if folder.is_dir():
        if not (folder / CONFIG).is_file():
            raise ExpertError(f"{folder} has no {CONFIG}: save the model there with save_pretrained()")
        return Source(folder.resolve().name, folder, "", options)
    repo, _, revision = place.partition("@")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise ExpertError(f"{place!r} is neither a folder nor a hub id (<owner>/<model>); check the name")
    files = (*FILES, "*.py") if options.get(code) == "1" else FILES
    folder = _download(repo, revision or None, files)
    if not (folder / CONFIG).is_file():
        raise ExpertError(f"{repo} has no {CONFIG} on the hub: transformers cannot load it")
    return Source(repo, folder, folder.name, options)


def _download(repo: str, revision: str | None, files: Iterable[str]) -> Path:
    from huggingface_hub import constants, errors, snapshot_download, try_to_load_from_cache

    cached = isinstance(try_to_load_from_cache(repo, CONFIG, revision=revision), str)
    if not cached:
        fetching(repo, constants.HF_HUB_CACHE)
    try:
        with no_bars(downloads=cached):  # which are drawn even if nothing is left to fetch
            return Path(snapshot_download(repo, revision=revision, allow_patterns=list(files)))
    except errors.GatedRepoError as error:
        raise ExpertError(
            f"{repo} is gated: accept its terms at huggingface.co/{repo}, then log in with `hf auth login`"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ExpertError(f"{repo} has no revision {revision!r}; see huggingface.co/{repo}/commits/main") from error
    except errors.RepositoryNotFoundError as error:
        raise ExpertError(
            f"there is no folder and no hub model {repo!r} (or it is private); check the name, or `hf auth login`"
        ) from error
    except (OSError, ValueError, RuntimeError) as error:  # no network, offline mode, a full disk; httpx or requests
        wanted = f"{repo} --revision {revision}" if revision else repo
        raise ExpertError(
            f"cannot download {repo}, and the hub's cache does not hold it ({type(error).__name__}: {brief(error)}); "
            f"where there is a network run `hf download {wanted} --local-dir FOLDER`, copy FOLDER here, name hf:FOLDER"
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ExpertError: it cannot be read.
    """
    try:
        values = json.loads(_read(path))
    except (OSError, ValueError) as error:
        raise ExpertError(f"cannot read {path}: {error}") from error
    if not isinstance(values, dict):
        raise ExpertError(f"{path} holds {type(values).__name__}, not an object")
    return values


def _read(path: Path) -> str:
    with path.open(encoding="utf-8", errors="replace") as file:
        return file.read(SMALL)


def _digest(file: Path) -> str:
    blob = file.resolve().name  # in the hub's cache a large file is named by its digest
    return blob if re.fullmatch("[0-9a-f]{64}", blob) else sha256(file)
