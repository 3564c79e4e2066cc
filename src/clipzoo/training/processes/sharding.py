"""The student on several processes: replicated (DDP) or sharded (FSDP2), with states in the format of one process."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from open_clip.modified_resnet import ModifiedResNet
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from clipzoo.errors import RecipeError, counted
from clipzoo.models import Student
from clipzoo.recipe import TrainingRecipe
from clipzoo.training.job import Job
from clipzoo.training.objectives import Start
from clipzoo.training.processes import ranks, shards, spread
from clipzoo.training.processes.sync_norm import synchronize
from clipzoo.training.updates import locking

T = TypeVar("T")


class Sharding:
    """A student as the processes of a training hold it.

    Made after the student's trained parts are chosen, and before its optimizer is.

    Attributes:
        student: the student; under FSDP2 its parameters are shards.
        forward: the student's forward pass, to be called in training.
        start: the frozen start that anchors compare with, whole on every process; None without anchors.
    """

    def __init__(self, job: Job, student: Student) -> None:
        self.student, self.device = student, torch.device(job.device)
        self.mode = job.settings.sharding if ranks.world_size() > 1 else "none"
        self.start = Start(student, job.settings.precision) if job.settings.anchors else None
        student.returns_maps |= self.start is not None
        self._template: Student | None = None
        self._ignored: list[nn.Parameter] = []
        self._ddp: DistributedDataParallel | None = None
        if job.settings.activation_checkpointing:
            student.clip.set_grad_checkpointing(True)
        if self.mode != "none":
            synchronize(student, self.device)
        if self.mode == "ddp":
            self._ddp = self._replicated(job.settings.deterministic)
        elif self.mode == "fsdp2":
            self._shard(job)
        whole: Callable[..., Any] = self._ddp or student
        self.forward = torch.compile(whole) if job.settings.compile else whole

    def _replicated(self, deterministic: bool) -> DistributedDataParallel:
        """Return the student in DDP.

        A search for unused parameters also keeps the buckets of the first step. They are otherwise sorted again in the
        second step of each process (torch 2.14), so that a resumed training of three or more ranks adds in another
        order.
        """
        search = deterministic or bool(_unused(self.student))
        warnings.filterwarnings("ignore", message="find_unused_parameters=True was specified")
        ids = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(self.student, ids, find_unused_parameters=search, gradient_as_bucket_view=True)

    def _shard(self, job: Job) -> None:
        """Shard every block of the towers separately, and all else with the student as root.

        A tower is no unit of its own, since `forward_intermediates` does not call its forward. FSDP2 (torch 2.14)
        refuses scalars, so these stay whole, and the channels-last order of convolutions.
        """
        self._template = copy.deepcopy(self.student).cpu() if ranks.is_main() else None
        self._ignored = [p for p in self.student.parameters() if p.ndim == 0]
        self.student.to(memory_format=torch.contiguous_format)
        mesh = init_device_mesh(self.device.type, (ranks.world_size(),))
        for block in blocks(self.student):
            fully_shard(block, mesh=mesh)
        fully_shard(self.student, mesh=mesh, ignored_params=set(self._ignored))

    @contextmanager
    def accumulating(self, last: bool) -> Iterator[None]:
        """Add gradients over several backward passes; the ``last`` one reduces them over the processes."""
        if isinstance(self.student, FSDPModule):
            self.student.set_requires_gradient_sync(last)
        with nullcontext() if last or self._ddp is None else self._ddp.no_sync():
            yield

    def clip(self, limit: float) -> Tensor:
        """Clip the gradients to a norm; return their norm before, which is that of one process."""
        if self.mode != "fsdp2":
            return torch.nn.utils.clip_grad_norm_(self.student.parameters(), limit)
        for scalar in self._ignored:
            if scalar.grad is not None:
                scalar.grad = ranks.summed(scalar.grad) / ranks.world_size()
        gradients = [p.grad for p in self.student.parameters() if p.grad is not None]
        sharded = [one for one in gradients if isinstance(one, DTensor)]
        norms = [torch.nn.utils.get_total_norm([one for one in gradients if not isinstance(one, DTensor)])]
        if sharded:
            norms.append(whole(torch.nn.utils.get_total_norm(sharded)))
        norm: Tensor = torch.linalg.vector_norm(torch.stack([one.to(self.device) for one in norms]))
        torch._foreach_mul_(
            [local(one) for one in gradients], (limit / (norm + 1e-6)).clamp(max=1.0)
        )  # as torch.nn.utils.clip_grads_with_norm_
        return norm

    def state(self, adam: torch.optim.Optimizer) -> dict[str, Any]:
        """Return the states of student and optimizer, which under FSDP2 have sharded tensors."""
        return {"student": self.student.state_dict(), "optimizer": adam.state_dict()}

    def reference(self, adam: torch.optim.Optimizer) -> shards.Reference:
        """Return a function from keys in a checkpoint to tensors that are sharded alike."""
        current = self.student.state_dict()
        parameters = [p for group in adam.param_groups for p in group["params"]]

        def of(key: str) -> object:
            part, _, name = key.partition("/")
            if part != "optimizer":  # the student, or the average of its weights
                return current.get(name)
            index = int(name.split("/")[1])
            return parameters[index] if index < len(parameters) else None

        return of

    def load(self, adam: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
        """Load what `state` returned, on any number of processes and another device.

        Fused kernels are used as on this device: a scaler of float16 requires them where the optimizer was made with
        them.
        """
        current = self.student.state_dict()
        self.student.load_state_dict({name: like(current.get(name), one) for name, one in state["student"].items()})
        parameters = [p for group in adam.param_groups for p in group["params"]]
        moments = {
            index: {name: _laid_out(parameters[index], one) for name, one in values.items()}
            for index, values in state["optimizer"]["state"].items()
            if index < len(parameters)
        }
        groups = [{**group, "fused": adam.defaults["fused"]} for group in state["optimizer"]["param_groups"]]
        adam.load_state_dict({"state": moments, "param_groups": groups})

    def measured(self, measure: Callable[[Student], T]) -> T:
        """Return the value of a measurement of the student on all processes, which call this; the main one measures.

        Under FSDP2 it also encodes all pictures, since no other process holds the whole student.
        """
        self.student.eval()
        student = self.gathered()
        if student is None and self.mode != "fsdp2":
            spread.follow(self.student)
        elif student is not None:
            whole, everywhere = student.eval(), self.mode != "fsdp2"
            value = spread.lead(whole, lambda: measure(whole)) if everywhere else measure(whole)
            ranks.announce(value)
            return value
        received: T = ranks.receive()
        return received

    def gathered(self) -> Student | None:
        """Return the student with whole parameters, on the device; None in other processes than the main one.

        All processes call it.
        """
        if self.mode != "fsdp2":
            return self.student if ranks.is_main() else None
        state = gathered(self.student.state_dict())
        if self._template is None:
            return None
        self._template.load_state_dict(state)
        return copy.deepcopy(self._template).to(self.device)


def blocks(student: Student) -> list[nn.Module]:
    """Return the repeated blocks of the towers: the items of lists of several modules of one type with parameters."""
    found: list[nn.Module] = []
    for module in student.clip.modules():
        items = list(module) if isinstance(module, nn.ModuleList | nn.Sequential) else []
        alike = len({type(item) for item in items}) == 1 and len(items) > 1
        inside = any(module is one for block in found for one in block.modules())
        if alike and not inside and any(item.ndim > 1 for item in items[0].parameters()):
            found += items
    return found


def whole(value: Any) -> Any:
    """Return a tensor of all shards; other values as they are. The main process copies it to the CPU."""
    if not isinstance(value, DTensor):
        return value
    full = value.full_tensor()
    return full if full.ndim == 0 or not ranks.is_main() else full.cpu()


def gathered(tree: Any) -> Any:
    """Return nested dictionaries and lists with whole tensors; the main process keeps them."""
    if isinstance(tree, dict):
        return {name: gathered(value) for name, value in tree.items()}
    if isinstance(tree, list):
        return [gathered(value) for value in tree]
    full = whole(tree)
    return full if full is tree or ranks.is_main() else None


def local(value: Tensor) -> Tensor:
    """Return this process's shard of a tensor, which shares its memory; a whole tensor as it is."""
    if not isinstance(value, DTensor):
        return value
    shard: Tensor = value.to_local()
    return shard


def like(reference: Any, value: Any) -> Any:
    """Return a whole tensor as the shards of ``reference``, if that has shards and the same shape."""
    if (
        isinstance(value, DTensor)
        or not isinstance(reference, DTensor)
        or not torch.is_tensor(value)
        or value.shape != reference.shape
    ):
        return value
    on_device = value.to(reference.device).contiguous()  # shards do not keep the channels-last order
    return distribute_tensor(on_device, reference.device_mesh, reference.placements, src_data_rank=None)


def _laid_out(reference: Tensor, value: Any) -> Any:
    """Return a moment of the optimizer as `like`, and whole ones in the memory order of their parameter.

    The moments of FSDP2 are contiguous; those of channels-last convolutions on one process must not be, since the fused
    AdamW of CUDA compares strides (torch 2.14).
    """
    moment = like(reference, value)
    if isinstance(moment, DTensor) or not torch.is_tensor(moment) or moment.shape != reference.shape:
        return moment
    if moment.stride() == reference.stride():
        return moment
    return torch.empty_like(reference, dtype=moment.dtype, device=moment.device).copy_(moment)


def _unused(student: Student) -> list[nn.Parameter]:
    """Return trained parameters that no output depends on, for which DDP would wait."""
    training, trained = student.training, [p for p in student.parameters() if p.requires_grad]
    device = student.mean.device
    images = torch.zeros(2, *student.image_size, 3, dtype=torch.uint8, device=device)
    outputs = student.eval()(images, student.tokenize(["a picture"] * 2).to(device))  # leaves batch norm as it is
    total = torch.stack([one.float().sum() for one in tensors(outputs) if one.requires_grad]).sum()
    gradients = torch.autograd.grad(total, trained, allow_unused=True)
    student.train(training)
    return [p for p, gradient in zip(trained, gradients, strict=True) if gradient is None]


def tensors(outputs: Mapping[str, Any]) -> list[Tensor]:
    """Return the tensors of the student's outputs."""
    return [value for value in (*outputs.values(), *outputs["predictions"].values()) if torch.is_tensor(value)]


def check_batch(settings: TrainingRecipe) -> None:
    """Raise `RecipeError` if the batch cannot be divided among these processes and chunks."""
    check_shares(settings, ranks.world_size())


def check_shares(settings: TrainingRecipe, count: int) -> None:
    """Raise `RecipeError` if the batch cannot be divided among ``count`` processes and the chunks of each."""
    if settings.batch_size % count or settings.batch_size // count < settings.accumulate:
        raise RecipeError(
            f"training.batch_size is {settings.batch_size}, the images of one step on all processes. "
            f"{counted(count, 'process', 'processes')} with {counted(settings.accumulate, 'chunk')} each cannot share "
            f"it evenly. Choose a multiple of {count * settings.accumulate}"
        )


def check_student(settings: TrainingRecipe, student: Student) -> None:
    """Raise `RecipeError` if the student cannot be computed in chunks, or its activations not again."""
    if settings.activation_checkpointing and isinstance(student.clip.visual, ModifiedResNet):
        raise RecipeError(
            "training.activation_checkpointing is true, but OpenCLIP has none for the student's ModifiedResNet. Set it "
            "to false. To save memory, lower training.batch_size"
        )
    if settings.activation_checkpointing and _norms_twice(settings, student):
        raise RecipeError(
            "training.activation_checkpointing is true, but the student's image tower then computes batch norms twice "
            "in a step, which would also move their statistics twice. Set it to false, or lock the tower with "
            "training.unlocked_image_layers: 0. To save memory, lower training.batch_size"
        )
    if settings.accumulate == 1:
        return
    chunks = f"training.accumulate is {settings.accumulate}"
    dependent = [name for name, spec in student.specs.items() if spec.loss == "berhu"]
    if dependent:
        raise RecipeError(
            f"{chunks}, and the loss berhu of {dependent[0]} depends on the largest error of the whole batch, which "
            "chunks do not know. Set training.accumulate to 1, or choose silog"
        )
    if any(isinstance(module, _BatchNorm) for module in student.modules()):
        raise RecipeError(
            f"{chunks}, and the student has batch norm, whose statistics would be those of a chunk instead of the "
            "batch. Set training.accumulate to 1, or choose a student without batch norm, such as a ViT"
        )


def _norms_twice(settings: TrainingRecipe, student: Student) -> bool:
    """Return True if a step computes a trained batch norm of the towers again, as a step of a copy shows.

    It depends on the tower: timm (1.0.31) checkpoints the blocks of FastViT and ResNets, but not the stem of the ViT of
    MobileCLIP-B.
    """
    if not any(isinstance(module, _BatchNorm) for module in student.clip.modules()):
        return False
    copied = copy.deepcopy(student).cpu()
    locking.lock(copied, "image", settings.unlocked_image_layers)
    copied.clip.set_grad_checkpointing(True)
    norms = [module for module in copied.train().clip.modules() if isinstance(module, _BatchNorm) and module.training]
    counts = [norm.num_batches_tracked for norm in norms if norm.num_batches_tracked is not None]
    if not counts:
        return False
    torch._foreach_zero_(counts)
    with torch.random.fork_rng(devices=[]):
        images = torch.zeros(2, *copied.image_size, 3, dtype=torch.uint8)
        copied(images)["image_features"].sum().backward()
    return any(int(count) > 1 for count in counts)
