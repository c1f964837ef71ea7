"""A job as a user states it: model, loss, data, optimizer, and how long to train."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence, Sized
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import nn

from executor.batches import Batch, first_batch
from executor.errors import JobError
from executor.evaluation import Metric
from executor.layout import buffers_of, parameters_of
from executor.recipe import OptimizerRecipe
from executor.scaling import LossScaling
from executor.step import Scheduler, StepOptions
from executor.ties import shared_parameters
from executor.weights import Weights
from hydrasim.dataflow import aligned
from hydrasim.errors import told
from hydrasim.workload import JOB_NAME, ActivationMode, HostUpdates

_NOT_OPTIONS = ("params", "param_names")
UpdateOn = Literal["device", "host", "auto"]
OptimizerFactory = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


@dataclass(frozen=True, eq=False)
class TorchJob:
    """One model to train.

    model: an nn.Sequential or a list of layers, each fed the output of the one before; or any module that
    `executor.extract` can turn into one, called with the input, or with a dict of its arguments.
    loss_fn(output, target) returns a scalar. dataloader yields (input, target) pairs and has a length.
    optimizer: a callable that makes one from parameters, such as `lambda p: AdamW(p, lr=1e-3)`, or an
    instance over the model's parameters. epochs: passes over the data; max_steps: stop after so many
    mini-batches. accumulate: so many mini-batches make a step of the optimizer, on the mean of their losses; what is
    left over at the end makes none. clip_norm, clip_value: limits of the norm of all gradients, and of each of their
    elements. scheduler: makes one from the optimizer, such as `lambda o: CosineAnnealingLR(o, 100)`; it steps after
    the optimizer. autocast: the type in which the forward and the loss compute, such as torch.bfloat16; weights
    stay as they are. grad_scaler: for float16: losses are scaled, and steps left out, as it would from its scale on; it
    stays as it is. seed: of the job's random stream, set after the model was built. cuts: index of the
    first layer of every shard but the first; None lets the partitioner choose. activation_mode: what becomes of a
    forward's activations: kept on the device, spilled to host memory, or recomputed by the backward; by default
    kept if the job fits a device, else spilled if copies are at memory speed, else recomputed. largest_batch: the pair
    that takes most memory, where that is not the first that the dataloader yields. update_on: where the optimizer
    steps: on the device that ran the backward, or in host memory, so that its state never moves; "auto": where
    `prepare` predicts the sooner end. evaluate_on: a second loader, which each epoch ends with, an epoch cut short by
    max_steps too: the model in evaluation mode, without gradients; its first mini-batch must be its largest.
    metric(output, target): what evaluations measure, by default the loss; their mean over samples counts. weights: the
    safetensors checkpoint from which a model made `without_weights` takes them; save_to: the folder that gets the
    trained ones as such a checkpoint, a file a shard.

    Raises:
        JobError: something is missing or unsupported.
    """

    name: str
    model: nn.Module | list[nn.Module]
    loss_fn: Callable[[Any, Any], torch.Tensor]
    dataloader: Iterable[Batch]
    optimizer: torch.optim.Optimizer | OptimizerFactory
    epochs: int = 1
    max_steps: int | None = None
    seed: int = 0
    cuts: tuple[int, ...] | None = None
    activation_mode: ActivationMode | Literal["auto"] = "auto"
    accumulate: int = 1
    clip_norm: float | None = None
    clip_value: float | None = None
    scheduler: Scheduler | None = None
    autocast: torch.dtype | None = None
    grad_scaler: torch.amp.GradScaler | None = None
    largest_batch: Batch | None = None
    update_on: UpdateOn = "device"
    evaluate_on: Iterable[Batch] | None = None
    metric: Metric | None = None
    weights: Path | None = None
    save_to: Path | None = None

    def __post_init__(self) -> None:
        self._check_types()
        if not JOB_NAME.fullmatch(self.name):
            raise JobError(f"job name {self.name!r}: use letters, digits, dot, dash and underscore.")
        if not isinstance(self.dataloader, Sized) or len(self.dataloader) < 1:
            raise JobError(f"job {self.name!r}: the dataloader must have a length of at least one mini-batch.")
        self._check_evaluation()
        if self.accumulate < 1 or not all(limit is None or limit > 0 for limit in (self.clip_norm, self.clip_value)):
            raise JobError(f"job {self.name!r}: accumulate must be at least 1, clip_norm and clip_value above 0.")
        if self.autocast is not None and self.autocast not in (torch.bfloat16, torch.float16):
            raise JobError(f"job {self.name!r}: autocast is {self.autocast}; it is torch.bfloat16 or torch.float16.")
        if self.epochs < 1 or (self.max_steps is not None and self.max_steps < 1):
            raise JobError(f"job {self.name!r}: epochs and max_steps must be at least 1.")
        if self.weights is not None and self.source is not None and self.save_to is None:
            raise JobError(f"job {self.name!r}: its weights stay on disk; say by save_to where the trained ones go.")
        self._check_layers()

    @cached_property
    def layers(self) -> tuple[nn.Module, ...]:
        """The chain of layers that shards are cut from."""
        if isinstance(self.model, nn.Sequential):
            return tuple(self.model)  # children() would leave out the second use of a module
        if isinstance(self.model, (list, tuple)) and all(isinstance(layer, nn.Module) for layer in self.model):
            return tuple(self.model)
        if isinstance(self.model, nn.Module):
            from executor.extract import chain_of

            holders: list[nn.Module] = [self.module]
            with nullcontext() if self.source is None else self.source.filled(holders, self.names):
                layers = chain_of(self.module, self.first_batch, self.loss_fn, self.first_evaluation_batch)
                holders += layers
            return tuple(layers)
        raise JobError(
            f"job {self.name!r}: the model is a {type(self.model).__name__}; give a module or a list of layers, each "
            "fed the output of the one before."
        )

    @cached_property
    def module(self) -> nn.Module:
        """The whole model as one module of one input, as the reference loop wants it."""
        if isinstance(self.model, nn.Sequential):
            return self.model
        if isinstance(self.model, nn.Module):
            from executor.extract import called_with

            return called_with(self.model, self.first_batch[0])
        return nn.Sequential(*self.model)

    @cached_property
    def named_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters by the names that the user's model has for them."""
        return dict((self.model if isinstance(self.model, nn.Module) else self.module).named_parameters())

    @cached_property
    def names(self) -> dict[int, str]:
        """The names of the parameters by their identity."""
        return {id(parameter): name for name, parameter in self.named_parameters.items()}

    def named_state(self, layers: Sequence[nn.Module]) -> dict[str, torch.Tensor]:
        """Return what of the model's state dict lies in these layers, by name."""
        whole = self.model if isinstance(self.model, nn.Module) else self.module
        left = {id(tensor) for tensor in (*parameters_of(layers), *buffers_of(layers))}
        found: dict[str, torch.Tensor] = {}
        for name, tensor in whole.state_dict(keep_vars=True).items():
            if id(tensor) in left:  # what is shared goes by its first name
                left.remove(id(tensor))
                found[name] = tensor
        return found

    @cached_property
    def source(self) -> Weights | None:
        """Where parameters without memory have their values.

        Raises:
            JobError: there are such and no `weights`, or these lack one.
        """
        parameters = self.named_parameters
        if self.weights is None:
            if empty := [name for name, parameter in parameters.items() if parameter.is_meta]:
                raise JobError(f"job {self.name!r}: {empty[0]} has no memory (meta); give its checkpoint as `weights`.")
            return None
        source = Weights(Path(self.weights))
        source.check(parameters)
        return source

    @cached_property
    def first_batch(self) -> Batch:
        """The first mini-batch that a copy of the dataloader yields; the random state stays as it is.

        Raises:
            JobError: it fails, or yields something else than (input, target) pairs.
        """
        return first_batch(self.name, self.dataloader)

    @cached_property
    def first_evaluation_batch(self) -> Batch | None:
        """The first mini-batch that it is evaluated on, None where it is not."""
        return None if self.evaluate_on is None else first_batch(self.name, self.evaluate_on, "evaluate_on")

    @property
    def metric_fn(self) -> Metric:
        """What evaluations measure: by default the loss."""
        return self.loss_fn if self.metric is None else self.metric

    @property
    def measured_batch(self) -> Batch:
        """The mini-batch by which pilots tell what the job takes."""
        return self.first_batch if self.largest_batch is None else self.largest_batch

    @property
    def lengths(self) -> dict[str, Any]:
        """How many mini-batches it has, in a `TrainingJob`'s words."""
        length = len(self.dataloader)  # type: ignore[arg-type]
        return {
            "minibatches": length,
            "epochs": self.epochs,
            "max_minibatches": None if self.max_steps is None else min(self.max_steps, length * self.epochs),
            "evaluation_minibatches": 0 if self.evaluate_on is None else len(self.evaluate_on),  # type: ignore[arg-type]
        }

    @property
    def step_options(self) -> StepOptions:
        """How its mini-batches become steps."""
        scaling = LossScaling.of(self.grad_scaler)
        return StepOptions(self.autocast, self.accumulate, self.clip_norm, self.clip_value, scaling)

    @property
    def host_updates(self) -> HostUpdates:
        """When the optimizer steps in host memory: with each shard's gradients, or once all are there to be clipped."""
        if self.update_on != "host":
            return "no"
        return "each" if self.clip_norm is None and self.step_options.scaling is None else "all"

    def shards(self, cuts: tuple[int, ...]) -> list[tuple[nn.Module, ...]]:
        """Return the layers of each shard.

        Raises:
            JobError: the cuts are not strictly increasing layer indices.
        """
        bounds = [0, *cuts, len(self.layers)]
        if any(low >= high for low, high in itertools.pairwise(bounds)):
            raise JobError(
                f"job {self.name!r}: cuts {list(cuts)} must increase and lie between 1 and {len(self.layers) - 1}."
            )
        return [self.layers[low:high] for low, high in itertools.pairwise(bounds)]

    @cached_property
    def whole_optimizer(self) -> torch.optim.Optimizer:
        """The optimizer as the reference loop has it, over the whole model; shards get their share of it.

        Raises:
            JobError: it is unsupported.
        """
        made = self.optimizer
        if not isinstance(made, torch.optim.Optimizer):
            try:
                made = made(self.module.parameters())
            except (Exception, SystemExit) as reason:
                raise JobError(f"job {self.name!r}: its optimizer could not be made: {told(reason)}") from reason
        if not isinstance(made, torch.optim.Optimizer):
            raise JobError(f"job {self.name!r}: optimizer made a {type(made).__name__}, which is no optimizer.")
        if isinstance(made, torch.optim.LBFGS):
            raise JobError(f"job {self.name!r}: LBFGS reruns the model within a step, which shards cannot.")
        if "step" in vars(made):  # a scheduler puts a method of its own there
            raise JobError(
                f"job {self.name!r}: the optimizer has a scheduler already; give what makes it as `scheduler`, such as "
                "`lambda optimizer: CosineAnnealingLR(optimizer, 100)`."
            )
        return made

    def recipe(self, parameters: list[nn.Parameter]) -> OptimizerRecipe:
        """Return what makes the optimizer of a shard with these of the model's parameters."""
        whole = self.whole_optimizer
        group_of = {id(p): index for index, group in enumerate(whole.param_groups) for p in group["params"]}
        members = tuple(group_of.get(id(parameter)) for parameter in parameters)
        if all(member is None for member in members):
            return OptimizerRecipe(None)
        options = [{k: v for k, v in group.items() if k not in _NOT_OPTIONS} for group in whole.param_groups]
        attributes = {k: v for k, v in vars(whole).items() if k not in ("state", "param_groups")}
        return OptimizerRecipe(type(whole), attributes, tuple(options), members)

    def recipe_of_groups(self, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
        """Return an optimizer of the same groups, of one of these parameters each."""
        recipe = replace(self.recipe(list(self.module.parameters())), members=tuple(range(len(parameters))))
        made = recipe.make(list(parameters))
        assert made is not None
        return made

    def initial_state(self, parameter: nn.Parameter) -> dict[str, Any]:
        """Return the state that the optimizer has for a parameter before the first step, mostly none."""
        return dict(self.whole_optimizer.state.get(parameter, {}))

    def _check_evaluation(self) -> None:
        if self.evaluate_on is None:
            if self.metric is not None:
                raise JobError(f"job {self.name!r}: has a metric, and no evaluate_on to measure it on.")
            return
        if not isinstance(self.evaluate_on, Sized) or len(self.evaluate_on) < 1:
            raise JobError(f"job {self.name!r}: evaluate_on must have a length of at least one mini-batch.")

    def _check_types(self) -> None:
        wholes = {name: getattr(self, name) for name in ("epochs", "max_steps", "seed", "accumulate")}
        for name, value in wholes.items():
            if not isinstance(value, int) and not (name == "max_steps" and value is None):
                raise JobError(f"job {self.name!r}: {name} is {value!r}; it must be a whole number.")
        if not isinstance(self.name, str):
            raise JobError(f"job name {self.name!r} is no text.")
        if not -(1 << 63) <= self.seed < 1 << 64:
            raise JobError(f"job {self.name!r}: seed is {self.seed}; it must be from -2**63 to 2**64 - 1.")
        if self.activation_mode not in (modes := ("auto", *get_args(ActivationMode))):
            raise JobError(
                f"job {self.name!r}: activation_mode is {self.activation_mode!r}; it is one of {', '.join(modes)}."
            )
        if self.update_on not in (places := get_args(UpdateOn)):
            raise JobError(f"job {self.name!r}: update_on is {self.update_on!r}; it is {', '.join(places)}.")
        if self.cuts is not None and not all(isinstance(cut, int) for cut in self.cuts):
            raise JobError(f"job {self.name!r}: cuts {self.cuts!r} must be indices of layers.")

    @cached_property
    def shared(self) -> set[int]:
        """The identities of the trained parameters that several layers have."""
        return shared_parameters([[layer] for layer in self.layers])

    @cached_property
    def shared_bytes(self) -> int:
        """What gradients of these take, at most: cuts may leave them in one shard."""
        shared = [parameter for parameter in self.module.parameters() if id(parameter) in self.shared]
        return sum(aligned(parameter.numel() * parameter.element_size()) for parameter in shared)

    def _check_layers(self) -> None:
        if not any(True for layer in self.layers for _ in layer.parameters()):
            raise JobError(f"job {self.name!r}: the model has no parameters.")
