"""The student: any OpenCLIP model, its feature maps, and light heads on them."""

from __future__ import annotations

import inspect
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from open_clip.modified_resnet import ModifiedResNet
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from clipzoo import files, heads, plugins
from clipzoo.errors import CheckpointError, ClipzooError, RecipeError, brief
from clipzoo.files import AnyPath
from clipzoo.models import _open_clip
from clipzoo.models._open_clip import CONFIG, HEADS
from clipzoo.models._weights import FAILS
from clipzoo.tasks import Convention, Task
from clipzoo.tasks import get as get_task

WEIGHTS = "open_clip_model.safetensors"


@dataclass(frozen=True, slots=True)
class HeadSpec:
    """A head to build: for labels of ``task`` under ``convention``, the head ``name`` with its options.

    ``loss`` (None: the task's default) and its options say how it is trained; some losses need channels of their own.
    """

    task: str
    convention: Convention
    name: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    loss: str | None = None
    loss_options: Mapping[str, Any] = field(default_factory=dict)

    @torch.no_grad()
    def build(self, maps: Sequence[Tensor]) -> nn.Module:
        """The head, tried on ``maps`` [1,C,h,w] of one picture, one a tapped layer.

        Raises:
            PluginError: there is no such head, or the task is not learned by the loss.
            RecipeError: the head or the loss does not take its options, or does not give what it has to.
        """
        task, name = get_task(self.task), self.name or get_task(self.task).head
        channels = task.raw_channels(self.convention, self.loss)
        if self.loss or self.loss_options:
            self._check_loss(task, channels)
        _takes(f"the head {name}", heads.PLUGINS.load(name).Head, self.options)
        try:
            head = heads.create(name, [m.shape[1] for m in maps], channels, **self.options)
            raw = head.eval()(maps)
        except Exception as error:  # anybody's code
            raise RecipeError(f"the head {name} cannot be made and run{_with(self.options)}: {error}") from error
        gives = list(raw.shape) if torch.is_tensor(raw) else type(raw).__name__
        if not isinstance(gives, list) or len(gives) != 4 or gives[:2] != [1, channels]:
            raise RecipeError(f"the head {name} gives {gives} of one picture; it has to give [1, {channels}, h, w]")
        return head.train()

    def _check_loss(self, task: Task[Any], channels: int) -> None:
        """Compute the loss of one picture that has no label: what is wrong with it, or its options, it says now."""
        offered = task.losses(self.convention)
        if not offered and not self.loss:
            raise RecipeError(
                f"{self.task} has a loss of its own, not to be had{_with(self.loss_options)}; leave that out"
            )
        name = self.loss or offered[0]
        _takes(f"the loss {name}", task.criterion(self.convention, self.loss), self.loss_options)
        target = task.collate([None], (8, 8))
        with torch.inference_mode(False), torch.enable_grad():
            raw = torch.zeros(1, channels, 8, 8, requires_grad=True)
            try:
                value = task.loss(raw, target, self.convention, self.loss, **self.loss_options)
            except Exception as error:  # anybody's code
                raise RecipeError(f"the loss {name} fails{_with(self.loss_options)}: {error}") from error
        if not (torch.is_tensor(value) and value.ndim == 0 and value.requires_grad and value.item() == 0):
            raise RecipeError(
                f"the loss {name} of pictures without labels is {value}; it has to be a scalar 0 with its graph, as "
                "(losses * valid).sum() / valid.sum().clamp(min=1) is"
            )


@dataclass(frozen=True, slots=True)
class Tokenize:
    """A tokenizer of OpenCLIP, called with texts; workers get it without the student."""

    tokenizer: Any

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Token ids, int64 [B,L] on the CPU, padded and cut to the L tokens of the text tower."""
        if not texts:  # tokenizers fail on none
            return torch.zeros(0, self.tokenizer.context_length, dtype=torch.int64)
        ids: Tensor = self.tokenizer(list(texts))
        return ids


class Student(nn.Module):
    """An OpenCLIP model plus heads by column name.

    Images go in as uint8 [B,H,W,3] RGB of `image_size`; normalization happens inside. ``tokenize`` makes token ids of
    texts.

    Args:
        clip: an OpenCLIP model with ``forward_intermediates``.
        tokenizer: its tokenizer.
        config: its OpenCLIP model configuration, written beside the weights on `save`.
        specs: column -> head to build.
        layers: tapped layers of the vision tower, as ``forward_intermediates`` counts them; negative from the end.
        trust_remote_code: whether its tokenizer may run code of its own when the student is loaded again.
    """

    mean: Tensor
    std: Tensor
    clip: Any

    def __init__(
        self,
        clip: nn.Module,
        tokenizer: Any,
        config: Mapping[str, Any],
        specs: Mapping[str, HeadSpec] | None = None,
        layers: Sequence[int] = (-1,),
        trust_remote_code: bool = False,
    ) -> None:
        super().__init__()
        self.clip, self.tokenizer, self.config = clip, tokenizer, dict(config)
        self.trust_remote_code = trust_remote_code
        self.tokenize = Tokenize(tokenizer)
        self.specs, self.layers = dict(specs or {}), tuple(layers)
        preprocess = self.preprocess_cfg
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(preprocess[name]).view(1, 3, 1, 1), persistent=False)
        maps = self._probe_maps() if self.specs else []
        self.heads = nn.ModuleDict({_safe(column): _built(column, spec, maps) for column, spec in self.specs.items()})

    @classmethod
    def create(
        cls,
        model: str,
        pretrained: str | None = None,
        specs: Mapping[str, HeadSpec] | None = None,
        layers: Sequence[int] = (-1,),
        random: bool = False,
        trust_remote_code: bool = False,
    ) -> Student:
        """The student of an OpenCLIP name (``ViT-B-16``), ``local-dir:PATH`` or ``hf-hub:ID``.

        Args:
            model: what ``open_clip.create_model`` takes; a folder's heads are not loaded (see `load`).
            pretrained: weights tag or file for a plain name; None starts from random weights. A file may be another
                trainer's: names under ``module.`` and the like, another precision, an optimizer beside do not matter.
            specs: column -> head to build.
            layers: tapped layers of the vision tower.
            random: take the architecture only, with random weights; none are fetched.
            trust_remote_code: let its tokenizer run Python code that comes with the model.

        Raises:
            CheckpointError: OpenCLIP does not know or cannot load the model, its weights are another architecture's, it
                would run code that is not trusted, or it has no such layers.
            RecipeError: a head or its loss cannot be made.
        """
        clip, tokenizer, config = _open_clip.make(model, pretrained, random, trust_remote_code)
        clip.visual.to(memory_format=torch.channels_last)  # images come as H×W×3; convolutions keep their order
        try:
            return cls(clip, tokenizer, config, specs, layers, trust_remote_code)
        except RecipeError:
            raise
        except (AssertionError, IndexError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{model} has no layers {list(layers)}: {error}; check student.layers, as forward_intermediates counts "
                "them, negative from the end"
            ) from error

    @property
    def preprocess_cfg(self) -> dict[str, Any]:
        """OpenCLIP's preprocessing of this model: size, mean, std, interpolation, resize_mode."""
        return dict(self.clip.visual.preprocess_cfg)

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) of the images that the tower takes."""
        size = self.clip.visual.image_size
        return (size, size) if isinstance(size, int) else (size[0], size[1])

    @property
    def crop(self) -> Literal["whole", "center"]:
        """What its preprocessing sees of an image: the whole, squashed, or a centered part of the tower's aspect."""
        return "whole" if self.preprocess_cfg["resize_mode"] == "squash" else "center"

    def normalize(self, images: Tensor) -> Tensor:
        """Uint8 [B,H,W,3] to float [B,3,H,W] with the model's mean and deviation."""
        return (images.permute(0, 3, 1, 2).to(self.mean.dtype) / 255.0 - self.mean) / self.std

    def forward(self, images: Tensor, tokens: Tensor | None = None) -> dict[str, Any]:
        """Everything that the losses need.

        Args:
            images: uint8 [B,H,W,3].
            tokens: int64 [B,L], or None for images alone.

        Returns:
            ``image_features`` and ``text_features`` [B,D] of unit length, ``logit_scale`` (and ``logit_bias``),
            ``predictions``: column -> raw [B,C,h,w].
        """
        out = self._forward(images, tokens, self.layers)
        maps = heads.Maps(out.pop("image_intermediates"))
        out["predictions"] = {column: self.heads[_safe(column)](maps) for column in self.specs}
        out.pop("text_intermediates", None)
        return out

    def maps(self, images: Tensor, layers: Sequence[int] | None = None) -> list[Tensor]:
        """Feature maps [B,C,h,w] of the tapped (or given) layers, shallow to deep."""
        out: list[Tensor] = self._forward(images, None, layers or self.layers)["image_intermediates"]
        return out

    def encode_image(self, images: Tensor) -> Tensor:
        """Unit-length embeddings [B,D] of uint8 [B,H,W,3]."""
        out: Tensor = self.clip.encode_image(self.normalize(images), normalize=True)
        return out

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Unit-length embeddings [B,D] of texts, on the student's device."""
        out: Tensor = self.clip.encode_text(self.tokenize(texts).to(self.mean.device), normalize=True)
        return out

    def parameter_groups(self) -> dict[str, list[tuple[str, nn.Parameter]]]:
        """Named parameters by part: ``heads``, ``image`` (vision tower), ``text`` (the rest)."""
        groups: dict[str, list[tuple[str, nn.Parameter]]] = {"heads": [], "image": [], "text": []}
        for name, parameter in self.named_parameters():
            part = "heads" if name.startswith("heads.") else "image" if ".visual." in name else "text"
            groups[part].append((name, parameter))
        return groups

    def save(self, folder: AnyPath, heads: bool = True) -> None:
        """Write an OpenCLIP ``local-dir:`` folder, with the heads in files of their own beside it, or without.

        Raises:
            OSError: the disk refuses it.
        """
        folder = files.local(folder, "a student")
        folder.mkdir(parents=True, exist_ok=True)
        with _disk(folder):
            self._write(folder, heads)

    def _write(self, folder: Path, heads: bool) -> None:
        _write_tensors(folder / WEIGHTS, self.clip)
        config = {"model_cfg": self.config, "preprocess_cfg": _jsonable(self.preprocess_cfg)}
        files.write(folder / CONFIG, json.dumps(config, indent=2).encode())
        if hasattr(self.tokenizer, "save_pretrained"):
            with TemporaryDirectory() as scratch:  # it would write through links
                self.tokenizer.save_pretrained(scratch)
                _pair(Path(scratch, "tokenizer_config.json"))
                for path in Path(scratch).iterdir():
                    files.write(folder / path.name, path.read_bytes())
        if not heads:
            return
        specs = {c: {**asdict(s), "convention": s.convention.to_json()} for c, s in self.specs.items()}
        files.write(folder / f"{HEADS}.json", json.dumps({"layers": self.layers, "heads": specs}, indent=2).encode())
        if self.specs:
            _write_tensors(folder / f"{HEADS}.safetensors", self.heads)

    @classmethod
    def load(cls, folder: AnyPath, trust_remote_code: bool = False) -> Student:
        """The student that `save` wrote, heads included if they are there; on the CPU.

        Args:
            folder: its folder.
            trust_remote_code: let its tokenizer run Python code that comes with it.

        Raises:
            CheckpointError: a file of it is damaged, OpenCLIP cannot load it, or its heads do not fit the model.
        """
        folder = files.local(folder, "a student")
        layers, specs = _described(folder / f"{HEADS}.json")
        try:
            student = cls.create(f"local-dir:{folder}", specs=specs, layers=layers, trust_remote_code=trust_remote_code)
        except RecipeError as error:
            raise CheckpointError(f"{folder / HEADS}.json describes heads that cannot be made: {error}") from error
        if specs:
            path = folder / f"{HEADS}.safetensors"
            try:
                student.heads.load_state_dict(load_file(path))
            except (SafetensorError, *FAILS) as error:
                why = " ".join(str(error).split())
                raise CheckpointError(
                    f"{path} is damaged, or of other heads than {HEADS}.json has: {why[:300]}"
                ) from error
        return student

    def _forward(self, images: Tensor, tokens: Tensor | None, layers: Sequence[int]) -> dict[str, Any]:
        # OpenCLIP's ModifiedResNet ends at the deepest layer asked for and pools that: its last is always asked for.
        cut = isinstance(self.clip.visual, ModifiedResNet) and not {4, -1} & set(layers)
        out: dict[str, Any] = self.clip.forward_intermediates(
            self.normalize(images),
            tokens,
            image_indices=[*layers, -1] if cut else list(layers),
            text_indices=[-1],  # None would keep every layer's tokens alive
            image_output_fmt="NCHW",
            output_logit_scale_bias=True,
        )
        if cut:
            out["image_intermediates"].pop()
        return out

    def check_layers(self, layers: Sequence[int], name: str) -> None:
        """Raise `RecipeError` unless the tower, on the CPU, has these layers; ``name`` is the recipe's field."""
        try:
            self._probe_maps(layers)
        except (AssertionError, IndexError, ValueError) as error:
            raise RecipeError(
                f"{name} is {list(layers)}, and the vision tower has no such layers ({error}): they count from 0, or "
                "from the end by negative numbers"
            ) from error

    @torch.no_grad()
    def _probe_maps(self, layers: Sequence[int] | None = None) -> list[Tensor]:
        training = self.clip.training
        self.clip.eval()  # keeps batch norm's statistics out of this
        maps = self.maps(torch.zeros(1, *self.image_size, 3, dtype=torch.uint8), layers)
        self.clip.train(training)
        return maps


def _takes(what: str, function: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Raise `RecipeError` for options that a head or a loss, ``what``, does not have."""
    known = inspect.signature(function).parameters.values()
    names = [one.name for one in known if one.default is not one.empty]
    unknown = [name for name in options if name not in names]
    if unknown and not any(one.kind is one.VAR_KEYWORD for one in known):
        raise RecipeError(f"{what} has no option {unknown[0]!r}; {plugins.hint(unknown[0], names)}")


def _built(column: str, spec: HeadSpec, maps: Sequence[Tensor]) -> nn.Module:
    """The head of a column; a mistake in it names the column."""
    try:
        return spec.build(maps)
    except ClipzooError as error:
        raise RecipeError(f"the column {column}: {error}") from error


def _with(options: Mapping[str, Any]) -> str:
    shown = ", ".join(f"{name}: {value!r}" for name, value in options.items())
    return f" with {shown}" if shown else ""


def _safe(column: str) -> str:
    return column.replace(".", "_")  # ModuleDict takes no dots


def _described(path: Path) -> tuple[Sequence[int], dict[str, HeadSpec]]:
    """Tapped layers and heads that ``clipzoo_heads.json`` names; none where a student was saved without heads."""
    if not path.exists():
        return (-1,), {}
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
        specs = {
            column: HeadSpec(**{**s, "convention": Convention.from_json(s["convention"])})
            for column, s in described["heads"].items()
        }
        return [int(layer) for layer in described["layers"]], specs
    except FAILS as error:
        raise CheckpointError(f"{path} is damaged: {type(error).__name__}: {brief(error)}") from error


def _pair(path: Path) -> None:
    """Name a tokenizer's own code as it is read: transformers 5.24.0 writes one name, and reads a pair (slow, fast)."""
    described = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    named = described.get("auto_map", {})
    if isinstance(named, dict) and isinstance(one := named.get("AutoTokenizer"), str):
        described["auto_map"] = {**named, "AutoTokenizer": [None, one]}  # the fast one is preferred, of any class
        files.write(path, json.dumps(described, indent=2, ensure_ascii=False).encode())


def _write_tensors(path: Path, module: nn.Module) -> None:
    """A safetensors file of a module's tensors, whole or not at all."""
    with files.whole(path, alone=True) as beside:
        save_file(_contiguous(module), beside)


@contextmanager
def _disk(path: Path) -> Iterator[None]:
    """Makes an `OSError` of what the disk refuses to libraries in Rust: safetensors 0.8.0, tokenizers 0.23.3."""
    try:
        yield
    except Exception as error:  # tokenizers raises no other type
        number = re.search(r"os error (\d+)", str(error))
        if number is None or isinstance(error, OSError):
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def _contiguous(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.contiguous() for name, value in module.state_dict().items()}


def _jsonable(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
