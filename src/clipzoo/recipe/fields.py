"""The fields of a recipe, their defaults, and the checks of each field and of fields together."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any, ClassVar, Literal

import yaml
from pydantic import Field, field_validator, model_validator

from clipzoo import plugins
from clipzoo.errors import MAX_FAILURES, CheckpointError, RecipeError
from clipzoo.recipe.base import Part as _Model
from clipzoo.recipe.protection import AnchorsRecipe, GuardRecipe

Arm = Literal["clip", "clip-ft", "clipzoo"]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(gt=0)]
TOKENIZER = "the tokenizer of "
"""First words of an entry of `Recipe.code` that is the student's own code."""


class ColumnRecipe(_Model):
    """One expert's labels in training. Name either the ``expert`` that makes them or an existing ``column``."""

    expert: str | None = None
    """URI of the expert that makes the labels (docs/experts.md)."""
    column: str | None = None
    """``<task>/<slug>`` of existing labels in the store."""
    weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of this loss, relative to that of the contrastive loss (``training.contrastive_weight``, 1)."""
    head: str = "conv"
    """Head that predicts the labels: a file of ``clipzoo/heads/``, or a custom head (docs/extending.md)."""
    head_options: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the head."""
    loss: str | None = None
    """Loss of this column: one that ``clipzoo tasks TASK`` lists, or a custom loss; null selects the task's default."""
    loss_options: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the loss."""
    stride: Count = 2
    """Image pixels per target pixel, along each side."""
    min_confidence: float | None = None
    """Labels below this confidence are not used; it applies to experts that report a confidence."""
    where: str | None = None
    """Condition on the statistics of used labels, such as ``valid > 0.3 and confidence >= 0.5``: ``valid`` is the share
    of the image with a label, ``bytes`` the size of the label (docs/training.md)."""

    @field_validator("where")
    @classmethod
    def _condition_is_sound(cls, where: str | None) -> str | None:
        if where is not None:
            from clipzoo.data.filters import Where  # with torch, slow to import

            try:
                Where.parse(where)
            except RecipeError as error:
                raise ValueError(str(error)) from error
        return where

    @model_validator(mode="after")
    def _one_source(self) -> ColumnRecipe:
        if (self.expert is None) == (self.column is None):
            raise ValueError("name either expert (a URI) or column (<task>/<slug> of the store)")
        mistakes = []
        for kind, folder, name in (("head", "heads", self.head), ("loss", "losses", self.loss)):
            known = plugins.names(folder)
            if name is not None and name not in known:
                mistakes.append(f"no {kind} is named {name!r}; {plugins.hint(name, known)}")
        if mistakes:
            raise ValueError("; ".join(mistakes))
        return self


class StudentRecipe(_Model):
    """The CLIP model to train."""

    model: str
    """OpenCLIP name, ``local-dir:PATH``, ``hf-hub:ID``, or ``demo:clip``."""
    pretrained: str | None = None
    """Pretrained tag or weights file, for an OpenCLIP name."""
    random: bool = False
    """Start from random weights; only the architecture of ``model`` is used."""
    trust_remote_code: bool = False
    """Allow the tokenizer to run Python code that comes with the model (docs/security.md)."""
    layers: Annotated[tuple[int, ...], Field(min_length=1)] = (-1,)
    """Layers of the vision tower whose feature maps the heads receive; negative numbers count from the end."""

    @model_validator(mode="after")
    def _weights_are_given(self) -> StudentRecipe:
        if ":" not in self.model and self.pretrained is None and not self.random:
            _check_name(self.model)
            raise ValueError(
                f"{self.model} comes without weights: set pretrained to a tag of open_clip.list_pretrained() or to a "
                "file, or set random: true to start from random weights"
            )
        return self


class LabelingRecipe(_Model):
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
    engine: Literal["local", "ray"] = "local"
    """``local`` labels on this machine, ``ray`` on all machines of a Ray cluster (docs/cluster.md)."""
    ray_address: str | None = None
    """HOST:PORT of the Ray cluster; null selects the running cluster."""


class TrainingRecipe(_Model):
    """Settings of training. Both trained arms share them and differ only in the pseudo-labels."""

    FREE: ClassVar = frozenset({
        "workers", "log_every", "checkpoint_every", "checkpoint_minutes", "keep_every", "evaluate_every",
        "max_failures", "max_nonfinite", "tracking", "pictures_every", "sharding", "accumulate", "contrastive_rows",
        "activation_checkpointing",
    })  # fmt: skip
    """Fields that may change when a training is resumed."""

    steps: Count | None = None
    """Number of updates of each arm. Give either ``steps`` or ``epochs``."""
    epochs: Positive | None = None
    """Number of passes over all usable samples, in whole batches; fractional epochs such as 0.5 are allowed."""
    batch_size: Count = 128
    """Images per step, on all processes together."""
    accumulate: Count = 1
    """Chunks in which each process computes its share of the batch. The gradient stays that of the whole batch; a step
    needs the memory of a chunk and computes all features twice (docs/several-gpus.md)."""
    contrastive_rows: Count | None = None
    """Rows of the contrastive logits that are computed at a time; null computes all (docs/several-gpus.md)."""
    sharding: Literal["ddp", "fsdp2"] = "ddp"
    """On several processes: ``ddp`` replicates the student, ``fsdp2`` shards weights, gradients and optimizer. One
    process holds all of them."""
    activation_checkpointing: bool = False
    """Compute the activations of the towers' blocks again in the backward pass instead of keeping them."""
    learning_rates: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1e-4,)
    """Peak learning rates of the image tower. If there are several, each arm tries all of them and the validation score
    selects one."""
    search_steps: Count | None = None
    """Steps of each trial when there are several learning rates; null is a quarter of the steps."""
    heads_learning_rate: Positive = 1e-3
    """Peak learning rate of the heads."""
    text_factor: Annotated[float, Field(ge=0)] = 1.0
    """Learning rate of the text tower, as a factor of the image tower's rate; 0 freezes the text tower."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Factor on the learning rate per layer of a tower, from the last layer to the first; 1 gives all layers one rate
    (docs/training.md)."""
    unlocked_image_layers: Annotated[int, Field(ge=0)] | None = None
    """Number of last layers of the image tower that are trained; the others are locked. 0 locks the tower, null trains
    all layers."""
    unlocked_text_layers: Annotated[int, Field(ge=0)] | None = None
    """Number of last layers of the text tower that are trained, as for the image tower."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Learning rates after the warm-up: they fall to 0 as half a cosine, or stay constant until the cooldown."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of the steps in which the learning rates rise linearly."""
    cooldown: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the steps, at the end of a constant schedule, in which the learning rates fall linearly to 0."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.98)
    """Decay rates of AdamW's averages of the gradient and of its square."""
    eps: Positive = 1e-6
    """Term of AdamW's denominator."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    """Weight decay of AdamW; it applies to matrices and convolutions, not to gains, biases and embeddings."""
    contrastive_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the contrastive loss. 0 trains on labels alone; the text tower is then frozen."""
    clip_norm: Positive = 1.0
    """Gradients are clipped to this norm."""
    mixture: dict[str, Positive] = Field(default_factory=dict)
    """Dataset -> weight, if ``data`` is a YAML file that names several: a sample of a dataset of weight 2 is seen twice
    as often as one of weight 1, the default (docs/training.md)."""
    scale: tuple[Positive, Positive] = (0.5, 1.0)
    """Smallest and largest share of the image's area that a random crop covers."""
    flip: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Probability of a horizontal flip."""
    jitter: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Largest relative change of brightness and contrast, 0 to 1."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of the exponential moving average of the weights, such as 0.9999; the averaged student is measured and
    saved. null saves the last weights."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Precision of the student's forward pass; losses and weights stay float32. fp16 scales the loss."""
    max_nonfinite: Annotated[int, Field(ge=0)] = 0
    """Number of steps with a gradient that is not finite, which are skipped, before training stops; at most a tenth of
    the steps (docs/training.md)."""
    deterministic: bool = False
    """Make equal runs give equal bits: one CPU thread per operator and only deterministic kernels. This is slower, on a
    CPU by up to the number of its cores."""
    compile: bool = False
    """Compile the student with ``torch.compile``: takes minutes at the start, then makes steps on a GPU faster."""
    max_failures: Annotated[float, Field(ge=0, le=1)] = MAX_FAILURES
    """Training stops if more than this share of the last 10,000 samples, or of a column's labels, cannot be read, 0
    to 1."""
    workers: Annotated[int, Field(ge=0)] = 0
    """Processes that read and decode images; 0 uses the training process."""
    log_every: Count = 10
    """Steps between log lines."""
    tracking: tuple[str, ...] = ("tensorboard",)
    """Where the values of the log are shown: ``tensorboard``, ``wandb``, ``trackio``, or a custom tracker
    (docs/extending.md)."""
    pictures_every: Count | None = None
    """Steps between pictures of predictions next to labels, which are shown there; null shows none."""
    checkpoint_every: Count = 200
    """Steps between checkpoints."""
    checkpoint_minutes: Positive = 10.0
    """Maximum time between checkpoints, in minutes."""
    keep_every: Count | None = None
    """Steps between checkpoints that are kept as ``checkpoint-<step>.pt``; null keeps only the last one."""
    evaluate_every: Count | None = None
    """Steps between zero-shot measurements on the validation split; null measures only at the end."""
    guard: GuardRecipe | None = None
    """Measure zero-shot recognition during training and act on a loss (docs/training.md)."""
    anchors: AnchorsRecipe | None = None
    """Weights of losses that keep the image tower near the start (docs/training.md)."""

    @field_validator("tracking")
    @classmethod
    def _trackers_are_known(cls, tracking: tuple[str, ...]) -> tuple[str, ...]:
        known = plugins.names("training.tracking")
        for name in tracking:
            if name not in known:
                raise ValueError(f"there is no tracker {name!r}; {plugins.hint(name, known)}")
        if len(set(tracking)) < len(tracking):
            raise ValueError("a tracker is listed twice; list each one once")
        return tracking

    @model_validator(mode="after")
    def _scale_is_a_range(self) -> TrainingRecipe:
        if not self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(
                f"scale is {list(self.scale)}: give the smallest and the largest share of the area, at most 1"
            )
        return self

    @model_validator(mode="after")
    def _cooldown_fits(self) -> TrainingRecipe:
        if self.cooldown and self.schedule == "cosine":
            raise ValueError(
                f"cooldown is {self.cooldown:g}, but a cosine schedule already falls to 0: set schedule: constant, or "
                "cooldown: 0"
            )
        if self.warmup + self.cooldown > 1:
            raise ValueError(
                f"warmup {self.warmup:g} and cooldown {self.cooldown:g} are more than all steps: lower one of them"
            )
        return self

    @property
    def length(self) -> str:
        """``<n> steps`` or ``<n> epochs``."""
        return f"{self.epochs:g} epochs" if self.steps is None else f"{self.steps} steps"

    def updates(self, samples: int) -> int:
        """Return the steps of a training on this number of samples; epochs count whole batches."""
        return self.steps or max(round((self.epochs or 0) * (samples // self.batch_size)), 1)

    def trial_updates(self, steps: int) -> int:
        """Return the steps of a trial of one learning rate, for a training of ``steps``."""
        return self.search_steps or max(steps // 4, 1)

    @model_validator(mode="after")
    def _one_length(self) -> TrainingRecipe:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give steps or epochs, not both; with --set, set the other one to null")
        return self


class EvaluationRecipe(_Model):
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

    @field_validator("layout")
    @classmethod
    def _layout_is_known(cls, layout: str) -> str:
        known = plugins.names("benchmarks")
        if layout not in known:
            raise ValueError(f"there is no benchmark layout {layout!r}; {plugins.hint(layout, known)}")
        return layout

    @model_validator(mode="after")
    def _probes_have_validation(self) -> EvaluationRecipe:
        if self.probe is not None and self.validation is None:
            raise ValueError("probe needs validation, which selects the strength of the probes: give validation, too")
        return self


class Recipe(_Model):
    """A run: data, experts, student, training, arms, evaluation."""

    name: str
    """Name of the run; its folder is ``runs/<name>`` unless ``--out`` is given."""
    description: str = ""
    """Text shown on the page."""
    data: str
    """Image–caption dataset to label and train on."""
    max_samples: Count | None = None
    """Number of usable samples to train on, from the first, whose shards are labeled; null uses all samples."""
    store: str | None = None
    """Folder or address of the label store; null is ``labels`` in the run's folder."""
    columns: tuple[ColumnRecipe, ...] = ()
    """The pseudo-labels of the arm ``clipzoo``."""
    labeling: LabelingRecipe = LabelingRecipe()
    student: StudentRecipe
    training: TrainingRecipe
    evaluation: EvaluationRecipe = EvaluationRecipe()
    arms: Annotated[tuple[Arm, ...], Field(min_length=1)] = ("clip", "clip-ft", "clipzoo")
    """Arms to compare: ``clip`` is not trained, ``clip-ft`` is trained on captions, ``clipzoo`` on captions and
    pseudo-labels."""
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (0,)
    """Random seeds of views, sample order and heads; each trained arm is trained once per seed."""

    @model_validator(mode="after")
    def _arms_make_sense(self) -> Recipe:
        if "clipzoo" in self.arms and not self.columns:
            raise ValueError("the arm clipzoo needs columns: name at least one expert")
        sources = [c.expert or c.column for c in self.columns]
        for name, values in (("arms", self.arms), ("seeds", self.seeds), ("columns", sources)):
            repeated = [str(value) for value, count in Counter[Any](values).items() if count > 1]
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
        own, theirs = _flat(self.model_dump(mode="json")), _flat(other.model_dump(mode="json"))
        return {
            path: f"{own.get(path, 'nothing')}, not {theirs.get(path, 'nothing')}"
            for path in {**own, **theirs}
            if own.get(path) != theirs.get(path)
        }


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    """Return dotted path -> plain value."""
    if not isinstance(value, dict | list) or not value:
        return {path: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return {p: v for name, inner in items for p, v in _flat(inner, f"{path}.{name}".lstrip(".")).items()}


def _check_name(model: str) -> None:
    """Raise `ValueError` unless OpenCLIP has the model."""
    from clipzoo.models import check_model  # OpenCLIP is slow to import

    try:
        check_model(model)
    except CheckpointError as error:
        raise ValueError(str(error)) from error
