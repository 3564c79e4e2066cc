"""The recipe: the typed, complete description of a run. YAML in, every finding at once out."""

from __future__ import annotations

import copy
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from clipzoo import files, plugins
from clipzoo.errors import MAX_FAILURES, CheckpointError, RecipeError
from clipzoo.files import AnyPath
from clipzoo.trust import listed

Arm = Literal["clip", "clip-ft", "clipzoo"]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(gt=0)]
Loc = tuple[str | int, ...]


_NUMBER, _WHOLE, _NAMED = "a number", "a whole number", "names and values, as {{name: value}}"
GIVE = {
    "string_type": "text", "bool_type": "true or false", "bool_parsing": "true or false",
    "int_type": _WHOLE, "int_parsing": _WHOLE, "int_from_float": _WHOLE, "int_parsing_size": "a smaller number",
    "float_type": _NUMBER, "float_parsing": _NUMBER, "finite_number": "a finite number",
    "tuple_type": "a list, as [a, b]", "dict_type": _NAMED, "model_type": _NAMED, "model_attributes_type": _NAMED,
    "greater_than": "a number above {gt:g}", "greater_than_equal": "{ge:g} or more",
    "less_than": "a number below {lt:g}", "less_than_equal": "{le:g} or less",
    "too_short": "{min_length} or more in the list", "too_long": "{max_length} in the list, no more",
    "literal_error": "one of {expected}",
}  # fmt: skip
"""Pydantic's kind of error -> what to give instead."""
TOKENIZER = "the tokenizer of "
"""How code begins that is a student's own."""
SHOWN = 60
"""Letters of a wrong value that are told."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class ColumnRecipe(_Model):
    """One expert's labels in training. Name the ``expert`` that makes them, or a ``column`` that a store holds."""

    expert: str | None = None
    """URI of the expert that makes the labels (docs/experts.md)."""
    column: str | None = None
    """``<task>/<slug>`` of labels that the store holds already."""
    weight: Annotated[float, Field(ge=0)] = 1.0
    """Of its loss, beside the contrastive loss's 1."""
    head: str = "conv"
    """The light module that learns the labels: a file of ``clipzoo/heads/``, or one of your own (docs/extending.md)."""
    head_options: dict[str, Any] = Field(default_factory=dict)
    """Keywords of the head."""
    loss: str | None = None
    """One of those that ``clipzoo tasks TASK`` tells, or one of your own; null is the task's default."""
    loss_options: dict[str, Any] = Field(default_factory=dict)
    """Keywords of the loss."""
    stride: Count = 2
    """Image pixels per target pixel."""
    min_confidence: float | None = None
    """Labels of less confidence are left out, where the expert tells one."""

    @model_validator(mode="after")
    def _one_source(self) -> ColumnRecipe:
        if (self.expert is None) == (self.column is None):
            raise ValueError("name either expert (a URI) or column (<task>/<slug> of the store)")
        asked = (("head", "heads", self.head), ("loss", "losses", self.loss))
        unknown = [(what, name, plugins.names(folder)) for what, folder, name in asked if name is not None]
        if wrong := [f"no {what} is named {n!r}; {plugins.hint(n, k)}" for what, n, k in unknown if n not in k]:
            raise ValueError("; ".join(wrong))
        return self


class StudentRecipe(_Model):
    """The CLIP to train: an OpenCLIP name, ``local-dir:``, ``hf-hub:`` or ``demo:clip``."""

    model: str
    """An OpenCLIP name, ``local-dir:PATH``, ``hf-hub:ID``, or ``demo:clip``."""
    pretrained: str | None = None
    """Weights tag or file of a plain OpenCLIP name."""
    random: bool = False
    """Keep the architecture, start from random weights."""
    trust_remote_code: bool = False
    """Let its tokenizer run Python code that comes with the model (docs/security.md)."""
    layers: Annotated[tuple[int, ...], Field(min_length=1)] = (-1,)
    """Layers of the vision tower that the heads read."""

    @model_validator(mode="after")
    def _weights_are_meant(self) -> StudentRecipe:
        if ":" not in self.model and self.pretrained is None and not self.random:
            _check_name(self.model)
            raise ValueError(
                f"{self.model} comes without weights: give pretrained, a tag of open_clip.list_pretrained() or a file, "
                "or random: true to start from random ones"
            )
        return self


class LabelingRecipe(_Model):
    """How the experts label."""

    batch_size: Count | None = None
    """Images a batch; null is each expert's own."""
    max_failures: Annotated[float, Field(ge=0, le=1)] = MAX_FAILURES
    """Labeling stops when more than this share of a column's samples fails."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of experts in torch; it stands in their columns' manifests, as the two below do."""
    channels_last: bool = False
    """Lay their images out in memory pixel by pixel, which convolutions on many devices are faster in."""
    compile: bool = False
    """Compile them by `torch.compile`."""
    engine: Literal["local", "ray"] = "local"
    """Where: on this machine, or on all machines of a Ray cluster (docs/cluster.md)."""
    ray_address: str | None = None
    """HOST:PORT of the cluster; null is the one that runs."""


class TrainingRecipe(_Model):
    """How both trained arms are trained; the arms differ in the pseudo-labels only."""

    steps: Count | None = None
    """Updates of each arm. Give these or ``epochs``."""
    epochs: Positive | None = None
    """Passes over all usable samples instead, also broken ones such as 0.5; whole batches count."""
    batch_size: Count = 128
    """Images a step."""
    learning_rates: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1e-4,)
    """Rates of the towers. More than one is a grid: each arm tries all and validation chooses."""
    search_steps: Count | None = None
    """Length of a trial run of the grid; default a quarter of the steps."""
    heads_learning_rate: Positive = 1e-3
    """Peak rate of the heads."""
    text_factor: Annotated[float, Field(ge=0)] = 1.0
    """The text tower's rate per image tower's rate."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of the steps."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    """Of AdamW, on matrices; gains, biases and embeddings have none."""
    clip_norm: Positive = 1.0
    """Largest norm of the gradient."""
    scale: tuple[Positive, Positive] = (0.5, 1.0)
    """Least and greatest share of the image's area in a view."""
    flip: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Chance that a view is mirrored."""
    jitter: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Largest relative change of brightness and contrast."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the student's forward pass; losses and weights stay float32."""
    deterministic: bool = False
    """Equal runs give equal bits: one CPU thread an operator, which takes up to as many times as long as the machine
    has cores, and deterministic kernels alone, which on a GPU are slower."""
    compile: bool = False
    """Compile the student with torch.compile: minutes at the start, then faster steps on a GPU."""
    max_failures: Annotated[float, Field(ge=0, le=1)] = MAX_FAILURES
    """Training stops when more than this share of the samples, or of a column's labels, cannot be read, of the last
    10,000."""
    workers: Annotated[int, Field(ge=0)] = 0
    """Processes that read and decode; 0 does it in the trainer."""
    log_every: Count = 10
    """Steps between lines of the log."""
    checkpoint_every: Count = 200
    """Steps between checkpoints."""
    checkpoint_minutes: Positive = 10.0
    """Most minutes between checkpoints."""
    evaluate_every: Count | None = None
    """Steps between zero-shot measurements on validation while training; null measures at the end only."""

    @model_validator(mode="after")
    def _scale_is_a_range(self) -> TrainingRecipe:
        if not self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(
                f"scale is {list(self.scale)}: it is the least and the greatest share of the area, up to 1"
            )
        return self

    @property
    def length(self) -> str:
        """``<n> steps`` or ``<n> epochs``."""
        return f"{self.epochs:g} epochs" if self.steps is None else f"{self.steps} steps"

    def updates(self, samples: int) -> int:
        """Steps of a training on so many samples: those given, or the epochs of whole batches."""
        return self.steps or max(round((self.epochs or 0) * (samples // self.batch_size)), 1)

    def trial_updates(self, steps: int) -> int:
        """Steps of a trial of a learning rate, where a training has so many."""
        return self.search_steps or max(steps // 4, 1)

    @model_validator(mode="after")
    def _one_length(self) -> TrainingRecipe:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give steps or epochs, one of them; with --set, the other one as null")
        return self


class EvaluationRecipe(_Model):
    """What the arms are measured on: benchmark folders or their addresses; null leaves that measurement out.

    A benchmark folder has ``images/`` (shards; with ``classnames.txt`` and a ``.cls`` a sample it measures zero-shot)
    and, for dense tasks, ``truth/``, a label store with one column ``<task>/truth`` a task.
    """

    probe: str | None = None
    """Pictures with true labels on which probes are fitted."""
    validation: str | None = None
    """Chooses rates and strengths; never reported as a result."""
    test: str | None = None
    """What is reported."""
    heldout: str | None = None
    """Objects that no training saw; scored apart."""
    layers: Annotated[tuple[int, ...], Field(min_length=1)] = (-1,)
    """Layers of the vision tower that probes read."""
    label_stride: Count = 2
    """Image pixels per pixel of the true labels that are compared."""
    pictures: Annotated[int, Field(ge=0)] = 2
    """Pictures of each case (best, median, worst) of each task on the page."""
    layout: str = "webdataset"
    """Of the benchmark folders: a file of ``clipzoo/benchmarks/``, or an installed one (docs/extending.md)."""
    preset: Literal["quick"] = "quick"
    """How arms are measured (docs/evaluation.md)."""

    @field_validator("layout")
    @classmethod
    def _layout_is_known(cls, layout: str) -> str:
        known = plugins.names("benchmarks")
        if layout not in known:
            raise ValueError(f"there is no benchmark layout {layout!r}; {plugins.hint(layout, known)}")
        return layout

    @model_validator(mode="after")
    def _probes_are_chosen(self) -> EvaluationRecipe:
        if self.probe is not None and self.validation is None:
            raise ValueError("probe fits probes whose strength validation chooses: give validation, too")
        return self


class Recipe(_Model):
    """A run: data, experts, student, training, arms, evaluation."""

    name: str
    """Also the folder's, ``runs/<name>``, unless ``--out`` gives another."""
    description: str = ""
    """Printed on the page."""
    data: str
    """Image–caption dataset that experts label and both trained arms train on."""
    max_samples: Count | None = None
    """Label and train on the first so many usable samples; null is all of them."""
    store: str | None = None
    """Folder or address of the label store; default ``labels`` inside the run's folder."""
    columns: tuple[ColumnRecipe, ...] = ()
    """The pseudo-labels of the arm ``clipzoo``."""
    labeling: LabelingRecipe = LabelingRecipe()
    student: StudentRecipe
    training: TrainingRecipe
    evaluation: EvaluationRecipe = EvaluationRecipe()
    arms: Annotated[tuple[Arm, ...], Field(min_length=1)] = ("clip", "clip-ft", "clipzoo")
    """What is compared: ``clip`` as it came, ``clip-ft`` on captions only, ``clipzoo`` on pseudo-labels as well."""
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (0,)
    """Each trained arm is trained once with each; they draw views, order and heads."""

    @model_validator(mode="after")
    def _arms_make_sense(self) -> Recipe:
        if "clipzoo" in self.arms and not self.columns:
            raise ValueError("the arm clipzoo needs columns: name at least one expert")
        sources = [c.expert or c.column for c in self.columns]
        for what, values in (("arms", self.arms), ("seeds", self.seeds), ("columns", sources)):
            if twice := [str(value) for value, count in Counter[Any](values).items() if count > 1]:
                raise ValueError(f"{what} has {', '.join(twice)} more than once")
        if len(self.training.learning_rates) > 1 and self.evaluation.validation is None:
            raise ValueError("several learning_rates are chosen from by evaluation.validation; give it, or one rate")
        return self

    @property
    def code(self) -> tuple[str, ...]:
        """Python of others that a run of this recipe runs, sorted: URIs of experts, and the student's own."""
        from clipzoo import experts  # with torch, slow to import

        found = {column.expert for column in self.columns if column.expert and experts.runs_code(column.expert)}
        own = {f"{TOKENIZER}{self.student.model}"} if self.student.trust_remote_code else set()
        return tuple(sorted(found | own))

    def to_yaml(self) -> str:
        """The complete recipe, defaults written out."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)

    def differences(self, other: Recipe) -> dict[str, str]:
        """Dotted path -> "ours, not theirs" of every value in which the two differ."""
        own, theirs = _flat(self.model_dump(mode="json")), _flat(other.model_dump(mode="json"))
        return {
            path: f"{own.get(path, 'nothing')}, not {theirs.get(path, 'nothing')}"
            for path in {**own, **theirs}
            if own.get(path) != theirs.get(path)
        }


def load(path: AnyPath, overrides: Sequence[str] = (), trust: bool = False) -> Recipe:
    """Read a recipe.

    Args:
        path: a YAML file.
        overrides: ``a.b=value`` each, the value read as YAML; list items by number.
        trust: the Python code that the recipe names may run (docs/security.md).

    Raises:
        RecipeError: all findings at once, each with its path and a did-you-mean; or it names code that is not trusted.
    """
    loaded = _parsed(path, overrides)
    if loaded.code and not trust:
        raise RecipeError(f"{listed(loaded.code, path)}: read it, and if you trust it, load the recipe with trust=True")
    return loaded


def _parsed(path: AnyPath, overrides: Sequence[str]) -> Recipe:
    try:
        values = yaml.safe_load(files.local(path, "a recipe").read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"cannot read the recipe {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not YAML: {error}") from error
    if not isinstance(values, dict):
        raise RecipeError(f"{path} holds {type(values).__name__}, not a mapping of a recipe's fields")
    for override in overrides:
        _set(values, override)
    return parse(values, f"{path}{' with' if overrides else ''}{''.join(f' --set {one}' for one in overrides)}")


def parse(values: Mapping[str, Any], source: str = "recipe") -> Recipe:
    """A recipe from plain values; `RecipeError` names every finding at once."""
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        found = [  # a list of which every item is wrong counts as empty
            (e["loc"], _line(e)) for e in error.errors() if not (e["type"] == "too_short" and e["input"])
        ]
        found += _hidden(values, [loc for loc, _ in found])
        lines = [line for _, line in found]
        raise RecipeError(f"{source} has {len(lines)} mistake{'s'[: len(lines) > 1]}:\n" + "\n".join(lines)) from error


def _hidden(values: Mapping[str, Any], told: Sequence[Loc]) -> list[tuple[Loc, str]]:
    """Mistakes of values together, which are looked for only once each of them alone is right.

    What is wrong already is left out, and so are findings that name it: they may come of its absence.
    """
    rest = copy.deepcopy(dict(values))
    for loc in told:
        _leave_out(rest, loc)
    try:
        Recipe.model_validate(rest)
    except ValidationError as error:
        return [
            (e["loc"], _line(e))
            for e in error.errors()
            if e["type"] == "value_error" and e["loc"] not in told and not _names(e["loc"], told) & _words(e["msg"])
        ]
    return []


def _names(parent: Loc, told: Iterable[Loc]) -> set[str]:
    """Of the values in ``parent`` that are, or hold, something told."""
    deep = len(parent)
    return {str(loc[deep]) for loc in told if loc[:deep] == parent and len(loc) > deep}


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text))


def _leave_out(values: Any, loc: Loc) -> None:
    """Delete the field at a place, if there is one; items of lists stay, for places count them."""
    try:
        for name in loc[:-1]:
            values = values[name]
    except (KeyError, IndexError, TypeError):
        return
    if isinstance(values, dict) and loc:
        values.pop(loc[-1], None)


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    """Dotted path -> plain value."""
    if not isinstance(value, dict | list) or not value:
        return {path: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return {p: v for name, inner in items for p, v in _flat(inner, f"{path}.{name}".lstrip(".")).items()}


def _set(values: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals:
        raise RecipeError(f"--set takes a.b=value, not {override!r}")
    *parents, last = path.strip().split(".")
    node: Any = values
    try:
        for name in parents:
            node = node[int(name)] if isinstance(node, list) else node.setdefault(name, {})
        node[int(last) if isinstance(node, list) else last] = yaml.safe_load(text)
    except (ValueError, IndexError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise RecipeError(f"--set {override}: {path} is not in the recipe ({error})") from error


def _check_name(model: str) -> None:
    """Raise `ValueError` unless OpenCLIP, which is slow to import and so is asked of a mistake alone, has the model."""
    from clipzoo.models._open_clip import check_model

    try:
        check_model(model)
    except CheckpointError as error:
        raise ValueError(str(error)) from error


def _line(error: Mapping[str, Any]) -> str:
    """A finding of pydantic in a user's words: where, what was seen, what to give."""
    loc, kind, seen, context = error["loc"], error["type"], error["input"], error.get("ctx", {})
    where = ".".join(map(str, loc)) or "recipe"
    if kind == "value_error":
        return f"  {where}: {error['msg'].removeprefix('Value error, ')}"
    if kind == "extra_forbidden":
        return f"  {where}: no such field; {plugins.hint(str(loc[-1]), _fields(Recipe, loc[:-1]))}"
    if kind == "missing":
        return f"  {where} is missing; give it, for there is no default"
    shown = json.dumps(seen, default=str, ensure_ascii=False)
    wanted = GIVE[kind].format(**context) if kind in GIVE else f"what is meant: {error['msg']}"
    near = plugins.nearest(str(seen), re.findall("'(.*?)'", wanted), 1) if kind == "literal_error" else ""
    return f"  {where} is {shown[:SHOWN]}{'…' * (len(shown) > SHOWN)}; give {wanted}{'; ' * bool(near)}{near}"


def _fields(root: type[BaseModel], loc: Iterable[str | int]) -> Iterable[str]:
    model: Any = root
    for name in loc:  # an item of a tuple is of the type that the tuple's first argument names
        model = model.model_fields[name].annotation if isinstance(name, str) else model.__args__[0]
    return list(model.model_fields)
