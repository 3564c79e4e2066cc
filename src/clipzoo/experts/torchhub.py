"""Models of torch.hub repositories: ``torchhub:<owner/repo:ref or folder>#<entry>?trust_repo=1&task=…&…``, or a card.

The repository's own code builds the model and runs with all your rights: it is refused without ``trust_repo=1``. What
the model takes and gives is answered as in the card of an ONNX file (`clipzoo.experts.onnx.card`), in the URI or in a
YAML (``torchhub:card.yaml?trust_repo=1``) that also says:

    repo: yvanyin/metric3d:main       # or a folder, beside this file
    entry: metric3d_vit_small         # a function of the repository's hubconf.py
    arguments: {pretrain: true}       # what it is called with
    method: inference                 # of what it returns; left out: that is called itself
    takes: tensor                     # float [B,3,H,W] as `input` says; image: each picture alone, uint8 H×W×3 RGB
    key: input                        # the tensor is handed over as {"input": tensor}
    output: {name: 2.prediction_normal, channels: 3, frame: "x-right,y-down,z-forward"}

``output.name`` leads through what is returned: places of sequences, keys of mappings, attributes, with dots.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, Field, model_validator

from clipzoo.errors import ExpertError
from clipzoo.experts.base import Expert, ExpertCard, Family, fetching, sha256
from clipzoo.experts.onnx import checked, label, prepare
from clipzoo.experts.onnx.card import Described, Input, Output, read_yaml
from clipzoo.experts.options import split, validated
from clipzoo.types import ImageArray

HUBCONF = "hubconf.py"
LISTS = ("classes", "size", "mean", "std")
"""Answers that may be several, with commas."""

NEEDED = ("size", "scale", "mean", "std")
"""What must be said of the input of a model that takes a tensor."""

FAMILIES: tuple[Family, ...] = (
    Family(
        "DSINE", "normals", "frame x-left,y-up,z-toward: negated vectors of (right, down, front)",
        "github.com/baegwangbin/DSINE: README, 'About the coordinate system', and issues 8 and 12: axes are (right, "
        "down, front), yet a wall that faces the camera is (0, 0, 1)",
    ),
    Family(
        "Omnidata, normals", "normals", "frame x-right,y-down,z-forward, after multiply=2 and add=-1",
        "github.com/EPFL-VILAB/omnidata issue 13: the authors' transform into PyTorch3D's (left, up, forward) negates "
        "x and y alone; their sentence beside it says z toward the viewer, and rooms measured in "
        "github.com/maturk/dn-splatter issue 9 contradict it: look at a wall first",
    ),
    Family(
        "Omnidata, depth", "depth", "kind affine-depth, along z",
        "github.com/EPFL-VILAB/omnidata: omnidata_tools/torch/demo.py inverts the output to show it; train_depth.py "
        "beside it: truth is depth_zbuffer, up to scale and shift",
    ),
    Family(
        "Metric3D, normals", "normals", "frame x-right,y-down,z-forward",
        "github.com/YvanYin/Metric3D: training/mono/model/losses/depth_to_normal.py turns normals of points (right, "
        "down, forward) against the line of sight",
    ),
    Family(
        "Metric3D, depth", "depth", "kind affine-depth, along z: meters only times focal length / 1000, which differs "
        "from picture to picture", "github.com/YvanYin/Metric3D: hubconf.py, canonical_to_real_scale",
    ),
)  # fmt: skip


class HubCard(Described):
    """What is to be run, and what a URI or YAML says of it."""

    repo: str
    entry: str
    arguments: dict[str, bool | int | float | str | None] = Field(default_factory=dict)
    method: str | None = None
    takes: Literal["tensor", "image"] = "tensor"
    key: str | None = None

    @model_validator(mode="after")
    def _answered(self) -> HubCard:
        lacking = [name for name in NEEDED if name not in self.input.model_fields_set]
        if self.takes == "tensor" and lacking:
            raise ValueError(
                f"input.{lacking[0]} is not answered: the code says what its model takes: size (or none), scale (255: "
                "images are divided by it; none), mean and std"
            )
        if self.takes == "image" and (self.input.model_fields_set or self.key):
            raise ValueError("takes: image hands pictures over as they are; leave input and key out")
        return self


PLACES: Mapping[str, type[BaseModel]] = {"": HubCard, "output": Output, "input": Input}
"""Where a field of a URI may be, the first place first."""

TEXTS = (str, str | None, tuple[str, ...])
"""Types of fields that hold text, whatever it looks like."""


def runs_code(name: str) -> bool:
    """True: the repository's code builds the model."""
    return True


def create(name: str) -> TorchHub:
    """The expert of ``<repo>#<entry>?…`` or ``<card>.yaml?…``; a repository that is not there is fetched.

    Raises:
        ExpertError: its code is not trusted, a question is open, or the repository is not at hand.
    """
    place, _, query = name.partition("?")
    given = split(query)
    if given.pop("trust_repo", "0") != "1":
        raise ExpertError(
            f"torchhub:{place} runs the Python code of that repository with all your rights; read it, and if you trust "
            "it, add ?trust_repo=1 to the URI"
        )
    card, base = _card(place, given)
    folder, ref = _repository(card.repo, base)
    return TorchHub(f"torchhub:{name}", card, folder, ref)


class TorchHub(Expert):
    """What an entry of a repository's hubconf.py returns, asked as its card says."""

    def __init__(self, uri: str, spec: HubCard, folder: Path, ref: str) -> None:
        self.spec, self.folder = spec, folder
        self.batch_size = spec.batch_size
        asked = {name: getattr(spec, name) for name in ("repo", "entry", "arguments", "method", "takes", "key")}
        files = [Path(value) for value in spec.arguments.values() if isinstance(value, str) and Path(value).is_file()]
        self.card = ExpertCard(
            uri,
            spec.task,
            spec.convention,
            spec.license,
            revision=" ".join(part for part in (spec.revision, ref, f"files {_digest(folder)[:16]}") if part),
            weights_sha256=" ".join(sha256(file) for file in files),
            preprocessing={**spec.preprocessing, **asked, "trust_repo": True},
        )
        self._call: Any = None
        self._device = "cpu"

    def load(self, device: str = "cpu") -> None:
        """Run the repository's entry.

        Raises:
            ExpertError: its code fails, or has modules of the same names as another repository in this process.
        """
        import torch

        _alone(self.folder)
        hub: Any = torch.hub  # whose functions have no types
        try:
            made = hub.load(str(self.folder), self.spec.entry, source="local", trust_repo=True, **self.spec.arguments)
        except Exception as error:  # anybody's code
            raise ExpertError(
                f"{self.card.uri}: {self.spec.entry}() of {self.folder / HUBCONF} raised {type(error).__name__}: "
                f"{error}; install what it needs, and check entry and arguments"
            ) from error
        if isinstance(made, torch.nn.Module):
            made = made.eval().to(device)
        self._call, self._device = _follow(made, self.spec.method or "", "method"), device

    def predict(self, images: Sequence[ImageArray]) -> list[Any]:
        """One label an image."""
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

    def _maps(self, returned: Any, count: int) -> NDArray[Any]:
        """The chosen output [B,…] of what the model returned."""
        import torch

        output = self.spec.output
        asked = output.name or (str(output.index) if "index" in output.model_fields_set else "")
        found = _follow(returned, asked, "output")
        if torch.is_tensor(found):
            found = found.float().cpu().numpy()
        if not isinstance(found, np.ndarray):
            raise ExpertError(
                f"{self.card.uri} returns {_inside(found)}, of which the label is one: say which by output.index or "
                "output.name, with dots to go on inside"
            )
        if self.spec.takes == "image" and (found.ndim == 2 or (found.ndim == 3 and len(found) != 1)):
            found = found[None]
        return checked(found, count, asked or "as it is")


# What is asked ---------------------------------------------------------------------------------------------


def _card(place: str, given: Mapping[str, str]) -> tuple[HubCard, Path]:
    """The card, and the folder that its repository may be relative to."""
    repo, hash_, entry = place.partition("#")
    if hash_:
        return validated(HubCard, {"repo": repo, "entry": entry, **_nested(given)}, f"torchhub:{place}"), Path()
    path = Path(place).expanduser()
    if path.suffix not in (".yaml", ".yml"):
        raise ExpertError(
            f"torchhub:{place} names no entry: write <owner/repo:ref or folder>#<function of its {HUBCONF}>, or "
            "the path of a YAML"
        )
    if given:
        raise ExpertError(f"torchhub:{place}: a card answers all questions; write {', '.join(given)} into it")
    return validated(HubCard, read_yaml(path), str(path)), path.parent


def _nested(given: Mapping[str, str]) -> dict[str, Any]:
    """Answers of a URI as a card has them: ``mean`` in ``input``, ``frame`` in ``output``, ``arguments.x`` in its own.

    A name that is in several places means the first of: the card's own, output, input; ``input.layout`` and the like
    name them in full.
    """
    found: dict[str, Any] = {}
    for name, text in given.items():
        part, _, leaf = name.rpartition(".")
        if not part:
            part = next((where for where, model in PLACES.items() if leaf in model.model_fields), "")
        read = _reader(part, leaf)
        value: Any = [read(one) for one in text.split(",")] if leaf in LISTS else read(text)
        if leaf in LISTS and leaf != "classes" and len(value) == 1:
            (value,) = value
        (found.setdefault(part, {}) if part else found)[leaf] = value
    return found


def _reader(part: str, leaf: str) -> Callable[[str], Any]:
    """What makes a field's value of an answer: the text itself where the field holds text."""
    field = PLACES[part].model_fields.get(leaf) if part in PLACES else None
    return str if field and field.annotation in TEXTS else _scalar


def _scalar(text: str) -> Any:
    """A number, yes or no, null, or the text itself."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    return value if isinstance(value, bool | int | float) or value is None else text


def _repository(repo: str, base: Path) -> tuple[Path, str]:
    """The repository on disk, and its ref; a folder has none."""
    folder = base / Path(repo).expanduser()
    if folder.is_dir():
        if not (folder / HUBCONF).is_file():
            raise ExpertError(f"{folder} has no {HUBCONF}: it is no torch.hub repository")
        return folder.resolve(), ""
    name, _, ref = repo.partition(":")
    owner, _, project = name.partition("/")
    if not (owner and project and ref) or "/" in project:
        raise ExpertError(
            f"{repo!r} is neither a folder nor <owner>/<repo>:<ref>; the ref, a branch or tag, says what is run"
        )
    return _fetched(repo, f"{owner}_{project}_{ref.replace('/', '_')}"), ref


def _fetched(repo: str, name: str) -> Path:
    import torch

    hub: Any = torch.hub
    folder = Path(hub.get_dir()) / name  # as torch.hub calls it
    if not folder.is_dir():
        try:
            fetching(repo, folder.parent)
            hub.list(repo, trust_repo=True, verbose=False)
        except Exception as error:  # no network, no such ref, or hubconf.py itself fails
            if not folder.is_dir():
                raise ExpertError(
                    f"cannot fetch {repo} from GitHub ({type(error).__name__}: {error}); where there is a network, "
                    "clone it at that version, copy the folder here, and name torchhub:FOLDER#…"
                ) from error
    if not (folder / HUBCONF).is_file():
        raise ExpertError(f"{repo} has no {HUBCONF}: it is no torch.hub repository")
    return folder.resolve()


def _digest(folder: Path) -> str:
    """SHA-256 of a folder's files, by their names; what git and Python keep for themselves does not count."""
    whole = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.is_file() and not {".git", "__pycache__"} & set(parts):
            whole.update(f"{'/'.join(parts)} {sha256(path)}\n".encode())
    return whole.hexdigest()


def _alone(folder: Path) -> None:
    """Raise `ExpertError` if a module of the repository would be found in another one that was loaded before."""
    for path in folder.iterdir():
        module = sys.modules.get(path.stem) if path.suffix == ".py" or path.is_dir() else None
        origins = [getattr(module, "__file__", None), *getattr(module, "__path__", ())] if module else []
        places = [Path(origin).resolve() for origin in origins if origin]
        if places and path.name != HUBCONF and not any(folder in place.parents for place in places):
            raise ExpertError(
                f"{folder} has a module {path.stem!r}, and this process one of the same name from {places[0]}: Python "
                "would take one for the other; label with one of the two experts at a time"
            )


def _follow(value: Any, path: str, what: str) -> Any:
    """The value inside a value that ``path`` leads to: places, keys and attributes, with dots."""
    for step in path.split(".") if path else ():
        try:
            if isinstance(value, Mapping):
                value = value[step]
            elif isinstance(value, list | tuple) and step.lstrip("-").isdecimal():
                value = value[int(step)]
            else:
                value = getattr(value, step)
        except (KeyError, IndexError, AttributeError) as error:
            raise ExpertError(f"{what} {path!r}: there is no {step!r} in {_inside(value)}") from error
    return value


def _inside(value: Any) -> str:
    """A value in a few words."""
    if isinstance(value, Mapping):
        return f"a mapping of {', '.join(map(str, value))}"
    if isinstance(value, list | tuple):
        return f"{len(value)} values ({', '.join(type(one).__name__ for one in value)})"
    return f"a {type(value).__name__}"
