"""Source of a Hugging Face model: ``<folder or hub id>[@revision][?option=value&…]`` -> a folder on disk.

A hub model is downloaded once into the hub's own cache (config, processor, safetensors; code only if the URI allows it)
and read from there, so that the card records the exact commit and bytes that made the labels.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl

import yaml

from clipzoo.errors import ExpertError, brief
from clipzoo.experts.base import fetching, sha256
from clipzoo.progress import no_bars

CONFIG = "config.json"
TEXTS = ("*.json", "*.txt", "*.model")
"""Settings and tokenizers. These and the weights determine labels, the README does not."""

FILES = (*TEXTS, "README.md", "model*.safetensors")

SMALL = 10_000_000
"""Maximum size of a text file of a model, in bytes."""


@dataclass(frozen=True, slots=True)
class Source:
    """A model's folder on disk, its commit on the hub (empty for a local folder), and the URI's options.

    ``name`` is the hub id or the folder's name.
    """

    name: str
    folder: Path
    revision: str
    options: Mapping[str, str]

    @property
    def config(self) -> dict[str, object]:
        """Contents of ``config.json``."""
        return read_json(self.folder / CONFIG)

    @property
    def preprocessing(self) -> dict[str, object]:
        """Settings of the image processor, of the file that transformers 5.24 reads; empty if there is none."""
        whole, own = self.folder / "processor_config.json", self.folder / "preprocessor_config.json"
        nested = read_json(whole).get("image_processor") if whole.is_file() else None
        if isinstance(nested, dict):
            return dict(nested)
        return dict(read_json(own)) if own.is_file() else {}

    @property
    def license(self) -> str:
        """License in the README's front matter; "unknown" if it has none."""
        path = self.folder / "README.md"
        head = re.match(r"---\n(.*?)\n---", _read(path), re.DOTALL) if path.is_file() else None
        try:
            metadata = yaml.load(head[1], yaml.BaseLoader) if head else None  # texts alone: it makes no dates
        except (yaml.YAMLError, RecursionError):
            metadata = None
        value = metadata.get("license") if isinstance(metadata, dict) else None
        return str(value) if value else "unknown"

    def weights_sha256(self) -> str:
        """Return the hex digest of the weights; for several files, of the sorted list of their names and digests.

        Raises:
            ExpertError: there are no weights in the format safetensors.
        """
        files = sorted(self.folder.glob("model*.safetensors"))
        if not files:
            raise ExpertError(
                f"{self.folder} has no model.safetensors, and pickles (.bin) are not read, since they can run code. "
                "Save the model with save_pretrained(), or name a revision with safetensors, such as @refs/pr/1 (the "
                "hub's converter, huggingface.co/spaces/safetensors/convert, makes one)"
            )
        return _digest(files[0]) if len(files) == 1 else _listed(files)

    def files_sha256(self) -> str:
        """Return the hex digest of the sorted list of names and digests of `TEXTS`."""
        return _listed(sorted({path for pattern in TEXTS for path in self.folder.glob(pattern)}))


def resolve(name: str, known: Iterable[str], code: str) -> Source:
    """Return the source of the model that a URI names.

    Args:
        name: the URI after its scheme; see the docstring of this module.
        known: names of options.
        code: the option that allows a hub model's Python files to be downloaded if its value is 1.

    Raises:
        ExpertError: an option is unknown, or there is no such folder and no such hub model.
    """
    place, _, query = name.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    wrong = sorted(set(options) - set(known))
    if wrong:
        raise ExpertError(f"hf:{name} has the unknown option {wrong[0]!r}; options are: {', '.join(known)}")
    folder = Path(place).expanduser()
    if folder.is_dir():
        if not (folder / CONFIG).is_file():
            raise ExpertError(
                f"{folder} has no {CONFIG}, so it is no model folder: save the model there with save_pretrained()"
            )
        return Source(folder.resolve().name, folder, "", options)
    repo, _, revision = place.partition("@")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise ExpertError(f"{place!r} is neither a folder nor a hub id (<owner>/<model>): correct it")
    files = (*FILES, "*.py") if options.get(code) == "1" else FILES
    folder = _download(repo, revision or None, files)
    if not (folder / CONFIG).is_file():
        raise ExpertError(f"{repo} has no {CONFIG} on the hub, so transformers cannot load it: use another model")
    return Source(repo, folder, folder.name, options)


def _download(repo: str, revision: str | None, files: Iterable[str]) -> Path:
    from huggingface_hub import constants, errors, snapshot_download, try_to_load_from_cache

    cached = isinstance(try_to_load_from_cache(repo, CONFIG, revision=revision), str)
    if not cached:
        fetching(repo, constants.HF_HUB_CACHE)
    try:
        with no_bars(downloads=cached):  # they appear even if there is nothing to download
            return Path(snapshot_download(repo, revision=revision, allow_patterns=list(files)))
    except errors.GatedRepoError as error:
        raise ExpertError(
            f"{repo} is gated: accept its terms at huggingface.co/{repo}, then log in with `hf auth login`"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ExpertError(
            f"{repo} has no revision {revision!r}: choose one of huggingface.co/{repo}/commits/main"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ExpertError(
            f"there is no folder and no public hub model {repo!r}: correct the name, or log in with `hf auth login` if "
            "the model is private"
        ) from error
    except (OSError, ValueError, RuntimeError) as error:  # no network, offline mode, a full disk; httpx or requests
        wanted = f"{repo} --revision {revision}" if revision else repo
        raise ExpertError(
            f"cannot download {repo}, and it is not in the hub's cache ({type(error).__name__}: {brief(error)}). On a "
            f"machine with a network run `hf download {wanted} --local-dir FOLDER`, copy FOLDER here and use hf:FOLDER"
        ) from error


def read_json(path: Path) -> dict[str, object]:
    """Read a JSON object.

    Raises:
        ExpertError: the file cannot be read or contains no object.
    """
    try:
        values = json.loads(_read(path))
    except (OSError, ValueError) as error:
        raise ExpertError(f"cannot read {path}: {error}") from error
    if not isinstance(values, dict):
        raise ExpertError(f"{path} contains a {type(values).__name__}, not an object: restore the model's own file")
    return values


def _read(path: Path) -> str:
    with path.open(encoding="utf-8", errors="replace") as file:
        return file.read(SMALL)


def _listed(files: Iterable[Path]) -> str:
    """Return the hex digest of a list of names and digests of files."""
    listed = "".join(f"{file.name} {_digest(file)}\n" for file in files)
    return hashlib.sha256(listed.encode()).hexdigest()


def _digest(file: Path) -> str:
    blob = file.resolve().name  # the hub's cache names large files by their digests
    return blob if re.fullmatch("[0-9a-f]{64}", blob) else sha256(file)
