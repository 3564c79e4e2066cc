"""Balancing of the losses: formulas, resumed trainings, chunks, and measured gradients."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from clipzoo import recipe as recipes
from clipzoo.errors import DivergedError, RecipeError
from clipzoo.models import Student
from clipzoo.recipe import BalancingRecipe, TrainingRecipe
from clipzoo.runs import Run
from clipzoo.training import balancing, read_log, train
from clipzoo.training.balancing import Columns, Losses, _tapped
from clipzoo.training.checks import check_balancing
from clipzoo.training.processes import ranks
from clipzoo.training.processes.sharding import gathered
from installing import installed
from test_checkpoints import interrupted
from test_guard import guarded
from test_ranks import RESNET, SIZE, Updates, assert_same, batch, variant
from test_training import job, same_student

SCHEMES = ("uncertainty", "gradient_norm", "equal_scale", "expert_dropping")
COLUMNS = ("segmentation/test-truth", "depth/test-truth")
STEPS = 5


def scheme(name: str, weights: tuple[float, ...] = (1.0, 1.0, 1.0), **options: Any) -> balancing.Balancing:
    columns = Columns(tuple(f"c{i}" for i in range(len(weights))), torch.tensor(weights), seed=3)
    return balancing.create(BalancingRecipe(name=name, options=options), columns)


def series(seed: int = 0) -> list[Losses]:
    """Losses of some steps; the second column has no label in the first and third step."""
    rng = torch.Generator().manual_seed(seed)
    steps = []
    for number in range(STEPS):
        labeled = torch.tensor([True, number not in (0, 2), True])
        values = (0.1 + torch.rand(3, generator=rng)) * torch.tensor([1.0, 10.0, 0.1]) * labeled
        steps.append(Losses(number, values, labeled, (0.1 + torch.rand(3, generator=rng)) * labeled))
    return steps


# Formulas --------------------------------------------------------------------------------------------------


def test_fixed_changes_no_weight() -> None:
    assert scheme("fixed").factors(None) is None
    assert not scheme("fixed").state_dict()


def test_uncertainty_minimizes_the_loss_of_kendall() -> None:
    ours, s = scheme("uncertainty"), nn.Parameter(torch.zeros(3))
    adam, theirs = (torch.optim.AdamW(p, lr=0.1, weight_decay=0.0) for p in (ours.parameters(), [s]))
    for losses in series():
        assert torch.allclose(ours.factors(None), torch.exp(-s.detach()))  # type: ignore[arg-type]
        ours.learn(losses)
        adam.step()
        theirs.zero_grad()
        known = losses.labeled.nonzero().flatten()
        (torch.exp(-s[known]) * losses.values[known] + s[known] / 2).sum().backward()
        theirs.step()
    assert not torch.equal(s, torch.zeros(3))


def test_uncertainty_ends_at_half_the_inverse_loss() -> None:
    ours, values = scheme("uncertainty"), torch.tensor([0.2, 3.0, 1e-9])
    adam = torch.optim.AdamW(ours.parameters(), lr=0.05, weight_decay=0.0)
    for number in range(500):
        ours.learn(Losses(number, values, torch.ones(3, dtype=torch.bool)))
        adam.step()
    factors = ours.factors(None)
    assert factors is not None
    assert torch.allclose(factors[:2], 0.5 / values[:2], rtol=1e-2)
    assert factors[2].item() == pytest.approx(100, rel=1e-3)


def test_gradient_norm_minimizes_the_loss_of_chen() -> None:
    ours = scheme("gradient_norm", alpha=0.7)
    rate, f, first = 0.05, torch.ones(3), torch.zeros(3)
    sgd = torch.optim.SGD(ours.parameters(), lr=rate)
    for losses in series():
        f = (f * 3 / f.sum()).requires_grad_()
        assert torch.allclose(ours.factors(None), f.detach())  # type: ignore[arg-type]
        ours.learn(losses)
        sgd.step()
        assert losses.gradients is not None
        known = losses.labeled.nonzero().flatten()
        first = torch.where(losses.labeled & (first == 0), losses.values, first)
        norms = f[known] * losses.gradients[known]
        relative = losses.values[known] / first[known]
        target = norms.mean().detach() * (relative / relative.mean()) ** 0.7
        (gradient,) = torch.autograd.grad((norms - target).abs().sum(), f)
        f = f.detach() - rate * gradient


def test_equal_scale_divides_by_the_running_mean() -> None:
    ours, sums, counts = scheme("equal_scale", decay=0.5), [0.0] * 3, [0.0] * 3
    for losses in series():
        factors = ours.factors(losses)
        ours.learn(losses)
        assert factors is not None
        for i in range(3):
            if losses.labeled[i]:
                sums[i] = 0.5 * sums[i] + losses.values[i].item()
                counts[i] = 0.5 * counts[i] + 1
            assert factors[i].item() == pytest.approx(counts[i] / sums[i] if counts[i] else 1, rel=1e-5)


def test_equal_scale_without_memory_is_the_logarithm() -> None:
    ours, x = scheme("equal_scale", decay=0), torch.tensor([0.5, 2.0, 7.0], requires_grad=True)
    losses = Losses(0, x.detach() ** 2, torch.ones(3, dtype=torch.bool))
    factors = ours.factors(losses)
    assert factors is not None
    (found,) = torch.autograd.grad((factors * x**2).sum(), x)
    (expected,) = torch.autograd.grad(torch.log(x**2).sum(), x)
    assert torch.allclose(found, expected)


def test_expert_dropping_keeps_the_largest_labeled_loss_and_drops_others() -> None:
    weights = (1.0, 1.0, 2.0, 1.0)
    ours = scheme("expert_dropping", weights, p=0.7)
    values, labeled = torch.tensor([1.0, 9.0, 0.9, 0.3]), torch.tensor([True, False, True, True])
    state = torch.get_rng_state()
    drawn = [ours.factors(Losses(step, values, labeled)) for step in range(400)]
    assert torch.equal(torch.get_rng_state(), state)
    kept = torch.stack(drawn)  # type: ignore[arg-type]
    assert set(kept.unique().tolist()) == {0.0, 1.0}
    assert (kept[:, 2] == 1).all(), "2 · 0.9 is the largest weighted loss with a label"
    assert kept[:, [0, 3]].mean(0).tolist() == pytest.approx([0.3, 0.3], abs=0.07)
    assert not torch.equal(kept[:, 0], kept[:, 3])
    again = [scheme("expert_dropping", weights, p=0.7).factors(Losses(step, values, labeled)) for step in range(400)]
    assert torch.equal(torch.stack(again), kept)  # type: ignore[arg-type]


# Trainings -------------------------------------------------------------------------------------------------


def test_fixed_is_the_weighted_sum_to_the_last_bit(tiny_clip: str) -> None:
    ours, plain = Updates(tiny_clip), Updates(tiny_clip)
    updater, data = ours.updater, batch(ours.student, slice(0, SIZE))
    update = updater.update(data, 0)
    outputs = plain.student(data.images, data.tokens)
    terms = {one.name: one(outputs, data) for one in updater.objectives}
    loss = torch.stack([one.weight * terms[one.name] for one in updater.objectives]).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    assert torch.equal(update.loss, loss)
    assert update.values().keys() == {f"loss/{name}" for name in terms} | {"loss", "gradient_norm", "rate"}
    assert set(updater.states) == {"skips"}
    torch.nn.utils.clip_grad_norm_(plain.student.parameters(), 1e9)
    for (name, one), other in zip(ours.student.named_parameters(), plain.student.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None), name
        assert one.grad is None or torch.equal(one.grad, other.grad), name  # type: ignore[arg-type]


@pytest.mark.parametrize("name", SCHEMES)
def test_weights_are_logged_and_a_resumed_training_ends_in_the_same_bits(
    dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path, name: str
) -> None:
    settings: dict[str, Any] = {"balancing": name, "steps": 8, "checkpoint_every": 3}
    train(weighted(job(dataset, labels, tiny_clip, tmp_path / "whole", **settings)))
    log = read_log(tmp_path / "whole")
    for line in log:
        columns = sum(line[f"weight/{column}"] * line[f"loss/{column}"] for column in COLUMNS)
        assert line["loss"] == pytest.approx(line["loss/contrastive"] + columns, rel=1e-5)
    depth = [line["weight/depth/test-truth"] for line in log]
    assert len(set(depth)) > 1
    if name in ("uncertainty", "gradient_norm"):
        assert depth[0] == 0.5
    stop = partial(interrupted, dataset, labels, tiny_clip, tmp_path / "halved", 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("test_checkpoints.job", lambda *a, **k: weighted(job(*a, **k)))
        stop(**settings)
    train(weighted(job(dataset, labels, tiny_clip, tmp_path / "halved", **settings)))
    assert same_student(tmp_path / "halved", tmp_path / "whole")
    assert [line["loss"] for line in read_log(tmp_path / "halved")] == [line["loss"] for line in log]


def weighted(training: Any) -> Any:
    return replace(training, job=replace(training.job, weights={"depth/test-truth": 0.5}))


def test_parameters_of_a_scheme_do_not_decay_and_follow_the_schedule(tiny_clip: str) -> None:
    updates = Updates(tiny_clip, balancing={"name": "uncertainty", "options": {"learning_rate": 0.2}})
    updater = updates.updater
    updater.update(batch(updates.student, slice(0, SIZE)), 0)
    group = updates.adam.param_groups[-1]
    assert (group["weight_decay"], group["peak"]) == (0.0, 0.2)
    assert group["lr"] == pytest.approx(0.2 * updates.adam.param_groups[0]["lr"] / updates.adam.param_groups[0]["peak"])
    (variances,) = group["params"]
    assert variances.abs().min() > 0.05


def test_columns_of_weight_0_and_arms_without_columns_are_not_balanced(
    dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path
) -> None:
    made = job(dataset, labels, tiny_clip, tmp_path, balancing="equal_scale", steps=2)
    train(replace(made, job=replace(made.job, weights={"depth/test-truth": 0.0})))
    assert "weight/segmentation/test-truth" in read_log(tmp_path)[0]
    assert "weight/depth/test-truth" not in read_log(tmp_path)[0]
    updates = Updates(tiny_clip, balancing="gradient_norm")
    updates.job = replace(updates.job, weights=dict.fromkeys(updates.student.specs, 0.0))
    update = updates.updater.update(batch(updates.student, slice(0, SIZE)), 0)
    assert not update.balancing


@pytest.mark.slow
def test_a_rollback_of_the_guard_restores_the_balancing(
    dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path
) -> None:
    made = guarded(dataset, labels, tiny_clip, tmp_path, max_rollbacks=2)
    settings = made.job.settings.model_copy(update={"balancing": BalancingRecipe(name="uncertainty")})
    train(replace(made, job=replace(made.job, settings=settings)))
    log = read_log(tmp_path)
    good = next(line["guard/returned_to"] for line in log if "guard/event" in line)
    train(job(dataset, labels, tiny_clip, tmp_path / "plain", balancing="uncertainty", steps=12))
    name = "weight/depth/test-truth"
    repeated, first = (
        next(line[name] for line in lines if line["step"] == good and name in line)
        for lines in (log, read_log(tmp_path / "plain"))
    )
    assert 0 < good < 12
    assert repeated == first != 1


def test_a_step_that_is_skipped_teaches_nothing(
    tiny_clip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the step is recorded there
    updates = Updates(tiny_clip, balancing="equal_scale")
    updater, data = updates.updater, batch(updates.student, slice(0, SIZE))
    updater.update(data, 0)
    before = {name: value.clone() for name, value in updater.balancer.scheme.state_dict().items()}
    with torch.no_grad():
        next(updates.student.heads.parameters()).fill_(math.nan)
    with pytest.raises(DivergedError):
        updater.update(data, 1)
    for name, value in updater.balancer.scheme.state_dict().items():
        assert torch.equal(value, before[name]), name


# Several processes and chunks ------------------------------------------------------------------------------


def balanced_steps(model: str, count: int = 3, **settings: object) -> dict[str, Any]:
    """The weights of each of some updates, and the first update as `test_ranks.step` returns it."""
    updates = Updates(model, **settings)
    updater, share = updates.updater, SIZE // ranks.world_size()
    part = batch(updates.student, slice(ranks.rank() * share, (ranks.rank() + 1) * share))
    update = updater.update(part, 0)
    named = {name: p.grad for name, p in updates.student.named_parameters() if p.grad is not None}
    gradients = gathered({name: gradient.clone() for name, gradient in named.items()})
    terms = {name: value.detach() for name, value in update.terms.items()}
    every = [update, *(updater.update(part, number) for number in range(1, count))]
    weights = torch.stack([torch.stack(list(one.balancing.values())) for one in every])
    return {"weights": weights, "terms": terms, "gradients": gradients, "norm": update.gradient_norm}


@pytest.mark.parametrize("contrastive", [1.0, 0.0])
@pytest.mark.parametrize("name", ["uncertainty", "equal_scale", "expert_dropping"])
def test_chunks_have_the_weights_and_gradients_of_the_whole_batch(
    tiny_clip: str, name: str, contrastive: float
) -> None:
    run = partial(balanced_steps, tiny_clip, 2, balancing=name, contrastive_weight=contrastive)
    chunks, whole = run(accumulate=3), run()
    assert torch.allclose(chunks["weights"], whole["weights"], rtol=1e-4)
    if contrastive:  # chunks do not compute a contrastive loss of weight 0
        assert_same(chunks, whole)


# Measured gradients ----------------------------------------------------------------------------------------


def by_hand(updates: Updates, modules: list[nn.Module]) -> dict[str, list[Tensor]]:
    """Gradient of each term at the outputs of modules, by autograd."""
    outputs: list[Tensor] = []
    handles = [one.register_forward_hook(lambda module, given, output: outputs.append(output)) for one in modules]
    data = batch(updates.student, slice(0, SIZE))
    found = updates.student(data.images, data.tokens)
    for handle in handles:
        handle.remove()
    terms = {one.name: one(found, data) for one in updates.updater.objectives}
    zeros = [torch.zeros_like(one) for one in outputs]
    return {
        name: [
            zero if gradient is None else gradient
            for gradient, zero in zip(
                torch.autograd.grad(term, outputs, retain_graph=True, allow_unused=True), zeros, strict=True
            )
        ]
        for name, term in terms.items()
    }


def assert_measured(values: Mapping[str, float], gradients: Mapping[str, list[Tensor]]) -> None:
    flat = {name: torch.cat([one.flatten() for one in parts]) for name, parts in gradients.items()}
    for name, gradient in flat.items():
        assert values[f"gradient_norm/{name}"] == pytest.approx(gradient.norm().item(), rel=1e-4), name
    contrastive = flat.pop("contrastive")
    assert "gradient_cosine/contrastive" not in values
    for name, gradient in flat.items():
        cosine = torch.nn.functional.cosine_similarity(gradient, contrastive, 0).item()
        assert values[f"gradient_cosine/{name}"] == pytest.approx(cosine, abs=1e-4), name


@pytest.mark.parametrize("layers", [(0,), (0, 1)])
def test_measured_gradients_are_those_of_autograd_in_a_vit(
    tiny_clip: str, monkeypatch: pytest.MonkeyPatch, layers: tuple[int, ...]
) -> None:
    monkeypatch.setattr("test_ranks.Student.create", partial(created, layers))
    updates = Updates(tiny_clip, gradients_every=2)
    blocks = updates.student.clip.visual.transformer.resblocks
    expected = by_hand(updates, [blocks[i] for i in layers])
    assert all(one.norm() > 0 for parts in expected.values() for one in parts)
    assert_measured(updates.updater.update(batch(updates.student, slice(0, SIZE)), 0).values(), expected)
    nothing = updates.updater.update(batch(updates.student, slice(0, SIZE)), 1)
    assert not nothing.balancing
    assert not nothing.measured


def created(layers: tuple[int, ...], model: str, **arguments: Any) -> Any:
    from clipzoo.models import _open_clip
    from clipzoo.models.student import Student

    clip, tokenizer, config = _open_clip.make(model, None, arguments.get("random", False), False)
    return Student(clip, tokenizer, config, arguments["specs"], layers)


def test_measured_gradients_are_those_of_autograd_in_a_resnet(
    tiny_clip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("test_ranks.Student.create", partial(created, (3, 4)))
    updates = Updates(variant(tiny_clip, tmp_path / "resnet", RESNET), gradients_every=1)
    visual = updates.student.clip.visual
    expected = by_hand(updates, [visual.layer3, visual.layer4])
    for module in updates.student.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
    assert_measured(updates.updater.update(batch(updates.student, slice(0, SIZE)), 0).values(), expected)


@pytest.mark.parametrize(("name", "shapes"), [("test_vit", [(2, 101, 64)] * 2), ("test_convnext", [(2, 48, 10, 10)])])
def test_towers_of_timm_are_measured_at_the_outputs_of_their_layers(
    tiny_clip: str, tmp_path: Path, name: str, shapes: list[tuple[int, ...]]
) -> None:
    vision = {"timm_model_name": name, "timm_model_pretrained": False, "timm_proj": "linear", "image_size": 160}
    vision |= {"timm_pool": "token"} if name == "test_vit" else {"timm_pool": ""}
    model = variant(tiny_clip, tmp_path / "timm", vision)
    student = Student.create(model, random=True, layers=[-2, -1][: len(shapes)])
    student.returns_maps = True
    found = student(torch.zeros(2, 160, 160, 3, dtype=torch.uint8))
    at = _tapped.outputs(found["maps"])
    gradients = torch.autograd.grad(found["image_features"].sum(), at)
    assert [tuple(one.shape) for one in gradients] == shapes


def test_measured_gradients_change_no_bit_and_are_logged(
    dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path
) -> None:
    train(job(dataset, labels, tiny_clip, tmp_path / "plain", steps=6))
    train(job(dataset, labels, tiny_clip, tmp_path / "measured", steps=6, log_every=5, gradients_every=2))
    assert same_student(tmp_path / "plain", tmp_path / "measured")
    log = {line["step"]: line for line in read_log(tmp_path / "measured")}
    assert list(log) == [0, 2, 4, 5]
    names = {f"gradient_norm/{name}" for name in ("contrastive", *COLUMNS)}
    names |= {f"gradient_cosine/{name}" for name in COLUMNS}
    for number, line in log.items():
        assert {name for name in line if name.startswith(("gradient_norm/", "gradient_cosine/"))} == (
            set() if number == 5 else names
        )


# Recipes and plugins ---------------------------------------------------------------------------------------


def recipe(**training: object) -> recipes.Recipe:
    values = {"name": "x", "data": "d", "student": {"model": "demo:clip"}, "columns": [{"expert": "demo:depth"}]}
    return recipes.parse({**values, "training": {"steps": 1, **training}})


def test_a_recipe_names_a_scheme_with_or_without_options() -> None:
    assert recipe().training.balancing == BalancingRecipe(name="fixed")
    assert recipe(balancing="uncertainty").training.balancing == BalancingRecipe(name="uncertainty")
    options = {"name": "expert_dropping", "options": {"p": 0.25}}
    assert recipe(balancing=options).training.balancing.model_dump() == options


def test_unknown_schemes_and_options_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"balancing.name: there is no balancing 'uncertain'; did you mean uncer"):
        recipe(balancing="uncertain")
    for name, options, says in (
        ("uncertainty", {"learningrate": 1}, "has no such option; did you mean learning_rate"),
        ("expert_dropping", {"p": 1.5}, "p is 1.5, which is no probability"),
        ("equal_scale", {"decay": 1}, "decay is 1; it must be at least 0 and below 1. Correct this option"),
        ("uncertainty", {"learning_rate": 0}, "learning_rate is 0, and a rate above 0"),
        ("gradient_norm", {"alpha": -1}, "alpha is -1"),
        ("gradient_norm", {"alpha": "x"}, "the balancing gradient_norm refuses"),
    ):
        with pytest.raises(RecipeError, match=says):
            check_balancing(TrainingRecipe(steps=1, balancing=BalancingRecipe(name=name, options=options)))


@pytest.mark.parametrize("measuring", [{"balancing": "gradient_norm"}, {"gradients_every": 5}])
@pytest.mark.parametrize(
    "setting", [{"accumulate": 2}, {"compile": True}, {"unlocked_image_layers": 0}, {"sharding": "fsdp2"}]
)
def test_settings_without_single_gradients_are_refused(
    monkeypatch: pytest.MonkeyPatch, measuring: dict[str, object], setting: dict[str, object]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    name, value = next(iter(measuring.items()))
    with pytest.raises(RecipeError, match=rf"training.{name} is {value}, but training.{next(iter(setting))} is"):
        check_balancing(TrainingRecipe.model_validate({"steps": 1, **measuring, **setting}))
    check_balancing(TrainingRecipe.model_validate({"steps": 1, **setting}))


def test_a_run_refuses_before_any_work(dataset: Path, tiny_clip: str, tmp_path: Path) -> None:
    training = {"steps": 1, "gradients_every": 5, "accumulate": 2}
    values = {"name": "x", "data": str(dataset), "student": {"model": tiny_clip}, "arms": ["clip-ft"]}
    with pytest.raises(RecipeError, match=r"accumulate is 2.*Set training.gradients_every to null, or training.accumu"):
        Run(recipes.parse({**values, "training": training}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_locked_tapped_layers_are_refused(tiny_clip: str) -> None:
    updates = Updates(tiny_clip, gradients_every=1)
    for name, parameter in updates.student.named_parameters():
        parameter.requires_grad_(not name.startswith("clip.visual."))
    with pytest.raises(RecipeError, match=r"all of these layers are locked.*Raise training.unlocked_image_layers"):
        updates.updater.update(batch(updates.student, slice(0, SIZE)), 0)


PLUGIN = '''
"""The first column alone."""

import torch
from clipzoo.training.balancing import Balancing


class First(Balancing):
    def __init__(self, count, factor):
        super().__init__()
        self.count, self.factor = count, factor
        self.register_buffer("steps", torch.zeros(()))

    def factors(self, losses):
        return torch.eye(self.count)[0] * self.factor

    def learn(self, losses):
        self.steps += 1


def create(columns, factor=1.0):
    return First(len(columns.names), factor)
'''
PROJECT = """
[project]
name = "first-column"
version = "0"
[project.entry-points."clipzoo.training.balancing"]
first = "first_column"
[tool.setuptools]
py-modules = ["first_column"]
"""


def test_a_scheme_of_another_package_is_one_module(dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    with installed(tmp_path / "package", {"pyproject.toml": PROJECT, "first_column.py": PLUGIN}):
        scheme = {"name": "first", "options": {"factor": 3.0}}
        train(job(dataset, labels, tiny_clip, tmp_path / "out", balancing=scheme, steps=2))
        with pytest.raises(RecipeError, match="did you mean factor"):
            check_balancing(TrainingRecipe.model_validate({"steps": 1, "balancing": {"name": "first", "options": {"factr": 1}}}))  # fmt: skip  # noqa: E501
    line = read_log(tmp_path / "out")[-1]
    assert {name: line[name] for name in line if name.startswith("weight/")} in (
        {"weight/segmentation/test-truth": 3.0, "weight/depth/test-truth": 0.0},
        {"weight/segmentation/test-truth": 0.0, "weight/depth/test-truth": 3.0},
    )
