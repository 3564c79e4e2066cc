"""The fields of training, and the checks of fields together."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from clipzoo import plugins
from clipzoo.errors import MAX_FAILURES
from clipzoo.recipe.balancing import BalancingRecipe
from clipzoo.recipe.base import Count, ImageSize, Part, Positive, height_width
from clipzoo.recipe.protection import AnchorsRecipe, GuardRecipe


class TrainingRecipe(Part):
    """Settings of training. Both trained arms share them and differ only in the pseudo-labels."""

    FREE: ClassVar = frozenset({
        "workers", "log_every", "checkpoint_every", "checkpoint_minutes", "keep_every", "evaluate_every",
        "max_failures", "max_nonfinite", "tracking", "pictures_every", "gradients_every", "sharding", "accumulate",
        "contrastive_rows", "activation_checkpointing",
    })  # fmt: skip
    """Fields that may change when a training is resumed."""

    steps: Count | None = None
    """Number of updates of each arm. Give either ``steps`` or ``epochs``."""
    epochs: Annotated[float, Field(gt=0, le=1e6)] | None = None
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
    balancing: BalancingRecipe = BalancingRecipe()
    """Scheme that balances the losses of columns, by name or with options (docs/training.md)."""
    clip_norm: Positive = 1.0
    """Gradients are clipped to this norm."""
    mixture: dict[str, Positive] = Field(default_factory=dict)
    """Dataset -> weight, if ``data`` is a YAML file that names several: a sample of a dataset of weight 2 is seen twice
    as often as one of weight 1, the default. A list in ``data`` has the weights itself (docs/training.md)."""
    captions: dict[str, Positive] = Field(default_factory=dict)
    """Caption field -> how often it is drawn, relative to the others that a sample has, such as
    ``{caption: 0.5, recaption: 0.5}``; by default the captions of ``data`` (docs/training.md)."""
    sizes: tuple[ImageSize, ...] = ()
    """Image sizes, each one number or (height, width), of which every batch has one, drawn at random; by default all
    have that of the student (docs/training.md)."""
    scale: tuple[Positive, Positive] = (0.5, 1.0)
    """Smallest and largest share of the image's area that a random crop covers."""
    flip: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Probability of a horizontal flip."""
    resampling: Literal["pillow", "torch"] = "pillow"
    """Resampling of crops, bicubic with antialiasing: ``pillow`` cuts pixels at the border of a crop; ``torch`` moves
    the border to whole pixels and takes a quarter of the time (docs/data.md)."""
    jitter: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Largest relative change of brightness and contrast, 0 to 1."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of the exponential moving average of the weights, such as 0.9999; the averaged student is measured and
    saved. null saves the last weights."""
    precision: Literal["fp32", "bf16", "fp16", "auto"] = "fp32"
    """Precision of the student's forward pass; losses and weights stay float32. fp16 scales the loss. ``auto`` is bf16
    where the device has instructions for it, else fp32."""
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
    gradients_every: Count | None = None
    """Steps between measurements of the gradient of each loss at the tapped layers: its norm, and its cosine with the
    gradient of the contrastive loss (docs/training.md); null measures none."""
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

    @property
    def height_widths(self) -> tuple[tuple[int, int], ...]:
        """``sizes`` as (height, width)."""
        return tuple(map(height_width, self.sizes))

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
        """``<n> steps`` or ``<n> epochs``, or ``1 step``."""
        text = f"{self.epochs:g} epochs" if self.steps is None else f"{self.steps} steps"
        return text.removesuffix("s") if text.startswith("1 ") else text

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
