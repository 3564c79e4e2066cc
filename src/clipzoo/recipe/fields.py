"""The fields of a recipe, their defaults, and the checks of each field and of fields together."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Literal

import yaml
from pydantic import Field, field_validator, model_validator

from clipzoo import plugins
from clipzoo.errors import MAX_FAILURES, CheckpointError
from clipzoo.files import several
from clipzoo.recipe import arms as arms_of_columns
from clipzoo.recipe.base import Count, ImageSize, Part, height_width
from clipzoo.recipe.columns import ColumnRecipe
from clipzoo.recipe.data import Datasets, check_datasets
from clipzoo.recipe.protection import InterpolationRecipe
from clipzoo.recipe.training import TrainingRecipe
from clipzoo.recipe.values import WHOLE

TOKENIZER = "the tokenizer of "
"""First words of an entry of `Recipe.code` that is the student's own code."""


class StudentRecipe(Part):
    """The CLIP model to train."""

    model: str
    """OpenCLIP name, ``local-dir:PATH``, ``hf-hub:ID``, ``hf:FOLDER`` (a CLIP or SigLIP of transformers), or
    ``demo:clip`` (docs/students.md)."""
    pretrained: str | None = None
    """Pretrained tag or weights file, for an OpenCLIP name; other models have their own weights."""
    random: bool = False
    """Start from random weights; only the architecture of ``model`` is used."""
    trust_remote_code: bool = False
    """Allow the tokenizer to run Python code that comes with the model (docs/security.md)."""
    layers: Annotated[tuple[int, ...], Field(min_length=1)] = (-1,)
    """Layers of the vision tower whose feature maps the heads receive; negative numbers count from the end."""
    size: ImageSize | None = None
    """Image size in pixels, one number or (height, width), to which the position embeddings of the vision tower are
    interpolated; null keeps the size of the model (docs/students.md)."""

    @property
    def height_width(self) -> tuple[int, int] | None:
        """``size`` as (height, width)."""
        return None if self.size is None else height_width(self.size)

    @model_validator(mode="after")
    def _weights_are_given(self) -> StudentRecipe:
        if ":" not in self.model and self.pretrained is None and not self.random:
            _check_name(self.model)
            raise ValueError(
                f"{self.model} comes without weights: set pretrained to a tag of open_clip.list_pretrained() or to a "
                "file, or set random: true to start from random weights"
            )
        if self.pretrained is not None and ":" in self.model:
            raise ValueError(
                f"pretrained is {self.pretrained!r}, but {self.model} comes with its own weights: remove pretrained, "
                "or name the architecture of these weights in model as OpenCLIP does, such as ViT-B-16"
            )
        if self.pretrained is not None and self.random:
            raise ValueError(
                f"pretrained is {self.pretrained!r}, but random is true, which starts from random weights: remove one "
                "of both"
            )
        return self


class LabelingRecipe(Part):
    """Settings of labeling."""

    batch_size: Count | None = None
    """Images per batch; null uses the default of each expert."""
    max_failures: Annotated[float, Field(ge=0, le=1)] = MAX_FAILURES
    """Labeling stops if more than this share of a column's samples fails, 0 to 1."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Precision of experts in PyTorch. It is recorded in the column's manifest, like the next two fields."""
    channels_last: bool = False
    """Use the channels-last memory format, which makes convolutions faster on many devices."""
    compile: bool = False
    """Compile experts with ``torch.compile``."""
    codec: Literal["png-rle", "png-levels", "png"] | None = None
    """How maps of new columns are written; ``png-levels`` makes training read them faster (docs/labels.md). null is
    ``png-rle`` for new columns and their own codec for others."""
    engine: Literal["local", "ray"] = "local"
    """``local`` labels on this machine, ``ray`` on all machines of a Ray cluster (docs/cluster.md)."""
    ray_address: str | None = None
    """HOST:PORT of the Ray cluster; null selects the running cluster."""


class EvaluationRecipe(Part):
    """Benchmark folders, or their addresses, on which the arms are measured; null skips that measurement.

    A benchmark folder has ``images/`` with shards and, for dense tasks, ``truth/``: a label store with one column
    ``<task>/truth`` per task. Zero-shot accuracy needs ``classnames.txt`` in ``images/`` and a ``.cls`` per sample.
    """

    probe: str | None = None
    """Benchmark whose images and true labels fit the probes."""
    validation: str | None = None
    """Benchmark that selects learning rates and the strength of probes; never reported as a result."""
    test: str | None = None
    """Benchmark of the reported results."""
    heldout: str | None = None
    """Benchmark with objects that are absent from training; reported separately."""
    layers: Annotated[tuple[int, ...], Field(min_length=1)] = (-1,)
    """Layers of the vision tower whose feature maps the probes receive."""
    label_stride: Count = 2
    """Image pixels per compared pixel of the true labels, along each side."""
    pictures: Annotated[int, Field(ge=0)] = 2
    """Images per case (best, median, worst) and task on the page."""
    layout: str = "webdataset"
    """Layout of the benchmark folders: a file of ``clipzoo/benchmarks/``, or a custom layout (docs/extending.md)."""
    preset: Literal["quick"] = "quick"
    """Set of measurements (docs/evaluation.md)."""
    open_vocabulary: str | None = None
    """Measure every arm by prompts with the class names of the segmentation labels: ``maskclip``, ``sclip``,
    ``naclip``, ``value`` or ``plain`` (docs/evaluation.md); null skips it."""

    @field_validator("layout")
    @classmethod
    def _layout_is_known(cls, layout: str) -> str:
        known = plugins.names("benchmarks")
        if layout not in known:
            raise ValueError(f"there is no benchmark layout {layout!r}; {plugins.hint(layout, known)}")
        return layout

    @field_validator("open_vocabulary")
    @classmethod
    def _variant_is_known(cls, variant: str | None) -> str | None:
        known = plugins.names("models.dense")
        if variant is not None and variant not in known:
            raise ValueError(f"there is no variant {variant!r} of open vocabulary; {plugins.hint(variant, known)}")
        return variant

    @model_validator(mode="after")
    def _probes_have_validation(self) -> EvaluationRecipe:
        if self.probe is not None and self.validation is None:
            raise ValueError("probe needs validation, which selects the strength of the probes: give validation, too")
        return self


class Recipe(Part):
    """A run: data, experts, student, training, arms, evaluation."""

    name: str
    """Name of the run; its folder is ``runs/<name>`` unless ``--out`` is given."""
    description: str = ""
    """Text shown on the page."""
    license: str | None = None
    """License under which you publish the trained student, as the Hugging Face hub names it, such as ``mit`` or
    ``cc-by-nc-4.0``. The model card of an export states it; null states that there is none."""
    data: Datasets
    """Image–caption dataset to label and train on: a location, or a list of datasets, each a location or
    ``{data: LOCATION, name: web, weight: 2}``."""
    max_samples: Count | None = None
    """Number of usable samples to train on, from the first, whose shards are labeled; null uses all samples."""
    store: str | None = None
    """Folder or address of the label store; null is ``labels`` in the run's folder."""
    columns: tuple[ColumnRecipe, ...] = ()
    """The pseudo-labels of the arm ``clipzoo``."""
    labeling: LabelingRecipe = LabelingRecipe()
    student: StudentRecipe
    training: TrainingRecipe
    interpolation: InterpolationRecipe | None = None
    """Interpolate between the start and the trained students, and choose one on validation (docs/training.md). A change
    trains nothing again."""
    evaluation: EvaluationRecipe = EvaluationRecipe()
    variants: dict[str, Annotated[tuple[str, ...], Field(min_length=1)]] = Field(default_factory=dict)
    """Name -> subset of the columns that ``clipzoo ablate`` trains and compares, such as
    ``{geometry: [depth, normals]}``: names of columns, tasks or URIs of experts (docs/compare.md)."""
    arms: Annotated[tuple[arms_of_columns.Arm, ...], Field(min_length=1)] = arms_of_columns.ARMS
    """Arms to compare: ``clip`` is not trained, ``clip-ft`` is trained on captions, ``clipzoo`` on captions and
    pseudo-labels. ``{name: depth-only, columns: [depth]}`` is an arm with a subset of the columns; it is a name of
    ``variants`` (docs/compare.md)."""
    seeds: Annotated[tuple[Annotated[int, Field(ge=0, lt=WHOLE)], ...], Field(min_length=1)] = (0,)
    """Random seeds of views, sample order and heads; each trained arm is trained once per seed."""

    @model_validator(mode="before")
    @classmethod
    def _named_arms_are_variants(cls, values: object) -> object:
        return arms_of_columns.named(values)

    @model_validator(mode="after")
    def _arms_make_sense(self) -> Recipe:
        arms_of_columns.check(self.arms, self.variants)
        if "clipzoo" in self.arms and not self.columns:
            raise ValueError("the arm clipzoo needs columns: name at least one expert")
        sources = [c.expert or c.column for c in self.columns]
        for name, values in (("arms", self.arms), ("seeds", self.seeds), ("columns", sources)):
            repeated = [value for value, count in Counter(map(str, values)).items() if count > 1]
            if repeated:
                raise ValueError(f"{name} has {', '.join(repeated)} more than once")
        if self.student.random and (self.training.guard or self.training.anchors):
            raise ValueError(
                "student.random is true: random weights have no zero-shot recognition to protect. Remove "
                "training.guard and training.anchors, or start from pretrained weights"
            )
        if len(self.training.learning_rates) > 1 and self.evaluation.validation is None:
            raise ValueError(
                "several learning_rates need evaluation.validation, which selects one; give it, or one rate"
            )
        return self

    @model_validator(mode="after")
    def _interpolation_can_be_measured(self) -> Recipe:
        settings = self.interpolation
        if settings is None:
            return self
        if self.student.random:
            raise ValueError(
                "student.random is true: random weights have no zero-shot recognition to keep. Remove interpolation, "
                "or start from pretrained weights"
            )
        if self.evaluation.validation is None or self.evaluation.probe is None:
            raise ValueError(
                "interpolation is chosen on validation by dense probes: give evaluation.probe and "
                "evaluation.validation, or set interpolation to null"
            )
        missing = [arm for arm in settings.arms if arm not in self.arms]
        if missing:
            raise ValueError(
                f"interpolation.arms has {missing[0]}, which is not in arms: add it to arms, or remove it there"
            )
        return self

    @model_validator(mode="after")
    def _datasets_are_distinct(self) -> Recipe:
        check_datasets(self.data, self.training.mixture)
        return self

    @model_validator(mode="after")
    def _every_arm_has_a_loss(self) -> Recipe:
        if self.training.contrastive_weight > 0:
            return self
        if "clip-ft" in self.arms:
            raise ValueError(
                "training.contrastive_weight is 0, but the arm clip-ft has no other loss: give it a weight, or remove "
                "clip-ft from arms"
            )
        if "clipzoo" in self.arms and not any(column.weight for column in self.columns):
            raise ValueError(
                "training.contrastive_weight and the weights of all columns are 0: give at least one loss a weight"
            )
        return self

    @model_validator(mode="after")
    def _every_arm_is_trained(self) -> Recipe:
        if "clip-ft" in self.arms and self.training.text_factor == 0 and self.training.unlocked_image_layers == 0:
            raise ValueError(
                "training.text_factor and training.unlocked_image_layers are 0, which trains heads alone, but the arm "
                "clip-ft has none: remove clip-ft from arms, or set one of both to another value"
            )
        return self

    @property
    def named_arms(self) -> tuple[str, ...]:
        """The arms with a subset of the columns, which ``variants`` names."""
        return tuple(arm for arm in self.arms if arm not in arms_of_columns.ARMS)

    @property
    def datasets(self) -> dict[str, str]:
        """Name -> location of each dataset of ``data``; the name of a single one is ""."""
        return {"": self.data} if isinstance(self.data, str) else {one.name: one.data for one in self.data}

    @property
    def location(self) -> str:
        """The location that `clipzoo.open_dataset` opens: ``data``, or one for all datasets of the list."""
        return self.data if isinstance(self.data, str) else several.combine(self.datasets)

    @property
    def mixture(self) -> dict[str, float]:
        """Dataset -> weight, those of the list or ``training.mixture``; empty if all samples are seen equally often."""
        if isinstance(self.data, str):
            return self.training.mixture
        weights = {one.name: one.weight for one in self.data}
        return weights if len(set(weights.values())) > 1 else {}

    @property
    def code(self) -> tuple[str, ...]:
        """Third-party Python code that this recipe runs, sorted: URIs of experts, and the student's tokenizer."""
        from clipzoo import experts  # with torch, slow to import

        code = {column.expert for column in self.columns if column.expert and experts.runs_code(column.expert)}
        if self.student.trust_remote_code:
            code.add(f"{TOKENIZER}{self.student.model}")
        return tuple(sorted(code))

    def to_yaml(self) -> str:
        """Return the complete recipe as YAML, including defaults."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)

    def differences(self, other: Recipe) -> dict[str, str]:
        """Return dotted path -> "VALUE, not OTHER" of every value in which the two recipes differ."""
        own, theirs = flat(self.model_dump(mode="json")), flat(other.model_dump(mode="json"))
        return {
            path: f"{own.get(path, 'nothing')}, not {theirs.get(path, 'nothing')}"
            for path in {**own, **theirs}
            if own.get(path) != theirs.get(path)
        }


def flat(value: object, path: str = "") -> dict[str, object]:
    """Return dotted path -> plain value."""
    if not isinstance(value, dict | list) or not value:
        return {path: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return {p: v for name, inner in items for p, v in flat(inner, f"{path}.{name}".lstrip(".")).items()}


def _check_name(model: str) -> None:
    """Raise `ValueError` unless OpenCLIP has the model."""
    from clipzoo.models import check_model  # OpenCLIP is slow to import

    try:
        check_model(model)
    except CheckpointError as error:
        raise ValueError(str(error)) from error
