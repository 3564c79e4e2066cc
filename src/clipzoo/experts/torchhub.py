"""Models of torch.hub repositories: ``torchhub:<owner/repo:ref or folder>#<entry>?trust_repo=1&task=…&…``, or a card.

The repository's own code builds the model and runs with all your rights: it is refused without ``trust_repo=1``. The
model's input and output are described as in the card of an ONNX model (`clipzoo.experts.onnx.card`), in the URI or in a
YAML file (``torchhub:card.yaml?trust_repo=1``), with these additional fields:

    repo: yvanyin/metric3d:main       # or a folder, relative to this file
    entry: metric3d_vit_small         # a function of the repository's hubconf.py
    arguments: {pretrain: true}       # keyword arguments of this function
    method: inference                 # a method of the object that it returns; by default the object itself is called
    takes: tensor                     # float [B,3,H,W] as `input` says; or image: one uint8 H×W×3 RGB array per call
    key: input                        # the argument is {"input": tensor}; by default the tensor itself
    output: {name: 2.prediction_normal, channels: 3, frame: "x-right,y-down,z-forward"}

``output.name`` is a path into the returned value: indices of sequences, keys of mappings and attributes, with dots.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Literal, cast

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, Field, model_validator

from clipzoo.errors import ExpertError
from clipzoo.experts.base import Expert, ExpertCard, fetching, sha256
from clipzoo.experts.families.torchhub import FAMILIES
from clipzoo.experts.onnx import check_output, label, prepare
from clipzoo.experts.onnx.card import BaseCard, Input, Output, parse_yaml, read_yaml
from clipzoo.experts.options import split, validated
from clipzoo.types import ImageArray

__all__ = ["FAMILIES", "create"]

HUBCONF = "hubconf.py"
LIST_OPTIONS = ("classes", "size", "mean", "std")
"""Options whose value may be a list, separated by commas."""

REQUIRED = ("size", "scale", "mean", "std")
"""Required fields of the input of a model that takes a tensor."""


class HubCard(BaseCard):
    """Card of a model of a torch.hub repository, from a URI or a YAML file."""

    repo: str
    entry: str
    arguments: dict[str, bool | int | float | str | None] = Field(default_factory=dict)
    method: str | None = None
    takes: Literal["tensor", "image"] = "tensor"
    key: str | None = None

    @model_validator(mode="after")
    def _complete_input(self) -> HubCard:
        missing = [name for name in REQUIRED if name not in self.input.model_fields_set]
        if self.takes == "tensor" and missing:
            raise ValueError(
                f"input.{missing[0]} is missing: find in the repository's code what its model takes, and give size (or "
                "none), scale (255, by which images are divided, or none), mean and std"
            )
        if self.takes == "image" and (self.input.model_fields_set or self.key):
            raise ValueError("takes: image passes images unchanged: remove input and key")
        return self


SECTIONS: Mapping[str, type[BaseModel]] = {"": HubCard, "output": Output, "input": Input}
"""Prefix of an option -> the model with its field; an option without a prefix belongs to the first that has it."""

TEXT_TYPES = (str, str | None, tuple[str, ...])
"""Types of fields that are text, even if the text is a number."""


def runs_code(name: str) -> bool:
    """Return true: the repository's code builds the model."""
    return True


def create(name: str) -> TorchHub:
    """Return the expert of ``<repo>#<entry>?…`` or ``<card>.yaml?…``; a missing repository is downloaded.

    Raises:
        ExpertError: its code is not trusted, the card is incomplete, or the repository is not available.
    """
    place, _, query = name.partition("?")
    given = split(query)
    if given.pop("trust_repo", "0") != "1":
        raise ExpertError(
            f"torchhub:{place} runs the Python code of that repository with all your rights. Read the code; if you "
            "trust it, add ?trust_repo=1 to the URI"
        )
    card, base = _card(place, given)
    folder, ref = _repository(card.repo, base)
    return TorchHub(f"torchhub:{name}", card, folder, ref)


class TorchHub(Expert):
    """A model that an entry of a repository's hubconf.py returns."""

    def __init__(self, uri: str, spec: HubCard, folder: Path, ref: str) -> None:
        self.spec, self.folder = spec, folder
        self.batch_size = spec.batch_size
        fields = {name: getattr(spec, name) for name in ("repo", "entry", "arguments", "method", "takes", "key")}
        files = [Path(value) for value in spec.arguments.values() if isinstance(value, str) and Path(value).is_file()]
        self.card = ExpertCard(
            uri,
            spec.task,
            spec.convention,
            spec.license,
            revision=" ".join(part for part in (spec.revision, ref, f"files {_digest(folder)[:16]}") if part),
            weights_sha256=" ".join(sha256(file) for file in files),
            preprocessing={**spec.preprocessing, **fields, "trust_repo": True},
        )
        self._call: Callable[..., object] | None = None
        self._device = "cpu"

    def load(self, device: str = "cpu") -> None:
        """Call the repository's entry.

        Raises:
            ExpertError: its code fails, or one of its modules has the same name as one of another loaded repository.
        """
        import torch

        _check_modules(self.folder)
        hub: ModuleType = torch.hub  # its functions have no types
        try:
            made = hub.load(str(self.folder), self.spec.entry, source="local", trust_repo=True, **self.spec.arguments)
        except Exception as error:  # third-party code may raise anything
            raise ExpertError(
                f"{self.card.uri}: {self.spec.entry}() of {self.folder / HUBCONF} raised {type(error).__name__}: "
                f"{error}. Install the packages that it imports, and check entry and arguments"
            ) from error
        if isinstance(made, torch.nn.Module):
            made = made.eval().to(device)
        method = _follow(made, self.spec.method or "", "method")
        self._call, self._device = cast(Callable[..., object], method), device

    def predict(self, images: Sequence[ImageArray]) -> list[object]:
        """Return one label per image."""
        if self._call is None:
            raise ExpertError(f"{self.card.uri} is not loaded; call load() first")
        import torch

        with torch.inference_mode():
            if self.spec.takes == "image":
                raw = np.concatenate([self._maps(self._call(image), 1) for image in images])
            else:
                batch = torch.from_numpy(np.stack([prepare(image, self.spec.input) for image in images]))
                batch = batch.to(self._device)
                raw = self._maps(self._call({self.spec.key: batch} if self.spec.key else batch), len(images))
        return [label(one, self.spec, image.shape[:2]) for one, image in zip(raw, images, strict=True)]

    def _maps(self, returned: object, count: int) -> NDArray[np.number]:
        """Return the selected output [B,…] of the returned value."""
        import torch

        output = self.spec.output
        path = output.name or (str(output.index) if "index" in output.model_fields_set else "")
        maps = _follow(returned, path, "output")
        if torch.is_tensor(maps):
            maps = maps.float().cpu().numpy()
        if not isinstance(maps, np.ndarray):
            raise ExpertError(
                f"{self.card.uri} returns {_describe(maps)}, but a label is one map: select it with output.index or "
                "output.name, a path with dots"
            )
        if self.spec.takes == "image" and (maps.ndim == 2 or (maps.ndim == 3 and len(maps) != 1)):
            maps = maps[None]
        return check_output(maps, count, path or "of the model")


# The card --------------------------------------------------------------------------------------------------


def _card(place: str, given: Mapping[str, str]) -> tuple[HubCard, Path]:
    """Return the card, and the folder to which the path of its repository is relative."""
    repo, hash_, entry = place.partition("#")
    if hash_:
        return validated(HubCard, {"repo": repo, "entry": entry, **_nested(given)}, f"torchhub:{place}"), Path()
    path = Path(place).expanduser()
    if path.suffix not in (".yaml", ".yml"):
        raise ExpertError(
            f"torchhub:{place} names no entry: write <owner/repo:ref or folder>#<function of its {HUBCONF}>, or "
            "the path of a YAML file"
        )
    if given:
        raise ExpertError(f"torchhub:{place}: options are part of the card: write {', '.join(given)} into {path}")
    return validated(HubCard, read_yaml(path), str(path)), path.parent


def _nested(given: Mapping[str, str]) -> dict[str, object]:
    """Return the options of a URI as a card: ``mean`` in ``input``, ``frame`` in ``output``, ``arguments.x`` as named.

    A name of several sections belongs to the first of: the card itself, output, input. A full name such as
    ``input.layout`` selects another.
    """
    card: dict[str, object] = {}
    sections: dict[str, dict[str, object]] = {"": card}
    for option, text in given.items():
        section, _, name = option.rpartition(".")
        if not section:
            section = next((prefix for prefix, model in SECTIONS.items() if name in model.model_fields), "")
        if section not in sections:
            card[section] = sections[section] = {}
        sections[section][name] = _value(section, name, text)
    return card


def _value(section: str, name: str, text: str) -> object:
    """Return the value of an option: a list where the field has several values."""
    parse = _parser(section, name)
    if name not in LIST_OPTIONS:
        return parse(text)
    values = [parse(part) for part in text.split(",")]
    return values[0] if len(values) == 1 and name != "classes" else values


def _parser(section: str, name: str) -> Callable[[str], object]:
    """Return the parser of an option: the text itself for fields of text."""
    field = SECTIONS[section].model_fields.get(name) if section in SECTIONS else None
    return str if field and field.annotation in TEXT_TYPES else _scalar


def _scalar(text: str) -> object:
    """Return a number, a boolean or None as YAML reads it, otherwise the text itself."""
    try:
        value = parse_yaml(text)
    except yaml.YAMLError:
        return text
    return value if isinstance(value, bool | int | float) or value is None else text


def _repository(repo: str, base: Path) -> tuple[Path, str]:
    """Return the folder of a repository, downloaded if necessary, and its ref; empty for a local folder."""
    folder = base / Path(repo).expanduser()
    if folder.is_dir():
        if not (folder / HUBCONF).is_file():
            raise ExpertError(f"{folder} has no {HUBCONF}, so it is not a torch.hub repository: correct the path")
        return folder.resolve(), ""
    name, _, ref = repo.partition(":")
    owner, _, project = name.partition("/")
    if not (owner and project and ref) or "/" in project:
        raise ExpertError(
            f"{repo!r} is neither a folder nor <owner>/<repo>:<ref>: add the ref, a branch or tag, so that the code to "
            "run is stated"
        )
    return _download(repo, f"{owner}_{project}_{ref.replace('/', '_')}"), ref


def _download(repo: str, name: str) -> Path:
    import torch

    hub: ModuleType = torch.hub
    folder = Path(hub.get_dir()) / name  # the name that torch.hub gives it
    if not folder.is_dir():
        try:
            fetching(repo, folder.parent)
            hub.list(repo, trust_repo=True, verbose=False)
        except Exception as error:  # no network, no such ref, or hubconf.py itself fails
            if not folder.is_dir():
                raise ExpertError(
                    f"cannot fetch {repo} from GitHub ({type(error).__name__}: {error}). On a machine with a "
                    "network clone it at that ref, copy the folder here and use torchhub:FOLDER#…"
                ) from error
    if not (folder / HUBCONF).is_file():
        raise ExpertError(f"{repo} has no {HUBCONF}, so it is not a torch.hub repository: correct the name")
    return folder.resolve()


def _digest(folder: Path) -> str:
    """Return the SHA-256 of the names and contents of a folder's files, without those of git and Python's caches."""
    whole = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.is_file() and not {".git", "__pycache__"} & set(parts):
            whole.update(f"{'/'.join(parts)} {sha256(path)}\n".encode())
    return whole.hexdigest()


def _check_modules(folder: Path) -> None:
    """Raise `ExpertError` if Python would import a module of another repository in place of one of this repository."""
    for path in folder.iterdir():
        if path.name == HUBCONF or not (path.suffix == ".py" or path.is_dir()):
            continue
        module = sys.modules.get(path.stem)
        if module is None:
            continue
        origins = [getattr(module, "__file__", None), *getattr(module, "__path__", ())]
        places = [Path(origin).resolve() for origin in origins if origin]
        if places and not any(folder in place.parents for place in places):
            raise ExpertError(
                f"{folder} has a module {path.stem!r}, and this process has loaded another one of this name from "
                f"{places[0]}: Python cannot load both. Label with one of the two experts at a time"
            )


def _follow(value: object, path: str, what: str) -> object:
    """Return the part of a value at ``path``: indices, keys and attributes, with dots."""
    for step in path.split(".") if path else ():
        try:
            if isinstance(value, Mapping):
                value = value[step]
            elif isinstance(value, list | tuple) and step.lstrip("-").isdecimal():
                value = value[int(step)]
            else:
                value = getattr(value, step)
        except (KeyError, IndexError, AttributeError) as error:
            raise ExpertError(
                f"{what} {path!r}: there is no {step!r} in {_describe(value)}: correct the path"
            ) from error
    return value


def _describe(value: object) -> str:
    """Return a short description of a value."""
    if isinstance(value, Mapping):
        return f"a mapping of {', '.join(map(str, value))}"
    if isinstance(value, list | tuple):
        return f"{len(value)} values ({', '.join(type(one).__name__ for one in value)})"
    return f"a {type(value).__name__}"
