"""One request for measurements: decide what is kept, then pass over the data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field

import torch
from torch import nn

from gp_prune.errors import UserError
from gp_prune.language.record import (
    LOSS_NEEDS,
    MAP_FIELDS,
    MAP_NEEDS,
    Coverage,
    LayerRecord,
    map_fields,
)
from gp_prune.statistics.activation_tracer import ActivationTracer
from gp_prune.statistics.batches import Batch, Loss, batch_size, in_parts
from gp_prune.statistics.formulas import Formulas, Stream
from gp_prune.statistics.gradients import MINI_BATCH, Gradients, HessianGradients, synaptic_flow
from gp_prune.statistics.layers import prunable_layers
from gp_prune.statistics.passes import DataPasses
from gp_prune.statistics.recording import RECORDED_NEEDS, Recorder, Wanted
from gp_prune.statistics.records import Consumer, LayerPlace, Measured, has_running_statistics
from gp_prune.statistics.running import Forward, Inputs, to_device
from gp_prune.statistics.sampling import SIDES, Census, Demand, Sampling, share_memory
from gp_prune.statistics.surroundings import Surroundings, look_around

_DATA_NEEDS = RECORDED_NEEDS | LOSS_NEEDS

_WHOLE_BYTES = 4 * 8
"""Bytes that evaluating a formula on the whole maps of a layer takes for every value, about."""


@dataclass
class Request:
    """What is measured, and on what.

    Attributes:
        model: the model.
        forward: runs it.
        loss: mean loss over a batch.
        seed: seed of the noise and of samples.
        asked: needs of which the records hold the measurements.
        needs: these, and needs of operands that formulas do not read sample by sample.
        formulas: what is evaluated.
        memory: bytes that may be held.
        consumers: name of a layer -> the layers that read it.
        places: name of a layer -> its place in the network.
        home: the device of the model.
        surroundings: what follows each layer.
        example: what the model can be called with, if anything.
        sampling: how much is kept, and which layers are measured together.
    """

    model: nn.Module
    forward: Forward
    loss: Loss | None
    seed: int
    asked: frozenset[str]
    needs: frozenset[str]
    formulas: Formulas
    memory: int
    consumers: Mapping[str, Sequence[Consumer]]
    places: Mapping[str, LayerPlace]
    home: torch.device
    surroundings: Surroundings = field(default_factory=lambda: Surroundings({}, {}, {}, None, {}))
    example: Inputs | None = None
    sampling: Sampling = field(default_factory=Sampling)

    @property
    def kept(self) -> frozenset[str]:
        """Return the fields with a value for each sample that are kept for all samples."""
        return self.formulas.plan.stored | map_fields(self.asked)

    @property
    def exact(self) -> bool:
        """Return whether maps are given away, and so in float64."""
        return self.formulas.plan.opaque or bool(self.asked & MAP_NEEDS)

    def reads_data(self, stage: int) -> bool:
        """Return whether a pass over the data has something to measure."""
        plan = self.formulas.plan
        first = stage == 1 and bool(self.needs & _DATA_NEEDS or plan.stored)
        return first or bool(plan.sources(stage))

    def prepare(
        self,
        data: DataPasses,
        chosen: dict[str, nn.Module],
        example: Inputs | None,
        named: bool,
        norms: bool,
    ) -> None:
        """Find out what surrounds the layers, and decide how much of their maps is kept."""
        stages = max(1, self.formulas.plan.stages)
        reads, around = self.reads_data(1) or stages > 1, example
        in_groups = reads and self._may_need_memory()
        if in_groups or stages > 1 or "hessian" in self.needs:
            data.keep()
        if reads or ("synflow" in self.needs and example is None):
            around = data.peek().inputs  # its maps may be larger than those of the example
            example = around if example is None else example
        self.example = to_device(example, self.home)
        if self.needs or self.formulas.plan.targets or norms:
            self.surroundings = look_around(
                self.model, chosen, to_device(around, self.home), self.forward, named=named
            )
        else:
            self.surroundings = Surroundings(chosen, dict.fromkeys(chosen), {}, None, {})
        names = list(self.surroundings.layers)
        sizes = {side: maps.positions for side, maps in self.surroundings.sizes.items()}
        self.sampling = Sampling(self.seed, groups=[names], sizes=sizes)
        if in_groups:
            self._share_memory(data, names)
        data.expect(len(self.sampling.groups) * (stages + ("hessian" in self.needs)))

    def _may_need_memory(self) -> bool:
        plan = self.formulas.plan
        by_position = any("s" in target.node.axes for target in plan.targets.values())
        return bool(
            self.kept or plan.gathered or by_position or self.needs & {"centroids", "kernels"}
        )

    def _share_memory(self, data: DataPasses, names: Sequence[str]) -> None:
        census = data.census()
        together = bool(self.asked & (MAP_NEEDS | {"centroids"}))
        demands = [d for name in names for d in self._demands(name, census, together)]
        self.sampling = share_memory(
            demands, names, census, memory=self.memory, together=together, seed=self.seed
        )
        data.choose(self.sampling.chosen_samples(census.samples))

    def _demands(self, name: str, census: Census, together: bool) -> Iterator[Demand]:
        """Yield what the maps of a layer take for all samples and positions."""
        plan, kept = self.formulas.plan, self.kept
        if "kernels" in self.needs:
            kept = kept | {"activation"}
        for side in ("inputs", "outputs"):
            size = self.surroundings.sizes.get((name, side))
            if size is None:
                continue
            item = 8 if self.exact else size.item_bytes
            maps = census.samples * sum(SIDES.get(field) == side for field in kept)
            each, moment = item * maps, 0 if plan.by_channel else _WHOLE_BYTES * maps
            channel = side == "inputs"  # whether it is i, or else o
            values = sum(("i" in node.axes) == channel for node in plan.gathered)
            if side == "outputs":
                values += sum(field not in SIDES for field in kept)
                each += 24 * sum("s" in node.axes for node in plan.targets)
                if "centroids" in self.needs:
                    each += 8 * census.classes
                    moment += 2 * 8 * census.classes
            yield Demand(name, "", 1, census.samples * 8 * values * size.channels)
            if together:  # what is made of it is kept, too
                each, moment = each + moment, 0
            yield Demand(name, side, size.positions, each * size.channels, moment * size.channels)

    def measure(self, data: DataPasses, group: Sequence[str]) -> Measured:
        """Measure some layers, and evaluate the formulas on them as far as the data is needed."""
        chosen = {name: self.surroundings.layers[name] for name in group}
        modules = _with_consumers(self.model, chosen, self.consumers)
        norms = self.surroundings.norm_modules(self.model, group)
        plan = self.formulas.plan
        measured = Measured(
            self.needs, modules, norms, self.consumers, self.places, self.seed,
            sampling=self.sampling, samples=data.samples, exact=self.exact,
            streamed=frozenset().union(*(plan.sources(s + 1) for s in range(plan.stages))),
        )  # fmt: skip
        for stage in range(1, max(1, plan.stages) + 1):
            self._stage(data, stage, chosen, measured)
        return measured

    def _stage(
        self, data: DataPasses, stage: int, chosen: Mapping[str, nn.Module], measured: Measured
    ) -> None:
        """Pass over the data once; the first time, once more for the Hessian."""

        def record_of(name: str) -> LayerRecord:
            return measured.record(name, self.home)

        def coverage_of(name: str) -> dict[str, Coverage]:
            seen = {f: self.sampling.coverage(name, f, *data.samples) for f in MAP_FIELDS}
            return {} if all(part.whole for part in seen.values()) else seen

        formulas = self.formulas
        streams = formulas.streams(stage, chosen, record_of, coverage_of, self.home)
        if self.reads_data(stage):
            self._read(data, stage, chosen, measured, streams)
            measured.samples = data.samples
        if stage == 1 and measured.gradients is not None and "hessian" in self.needs:
            measured.curvature = HessianGradients(self.model, measured.gradients)
            parts = in_parts(data.read(), None, self.surroundings.at_once)
            _run_pass(self.model, parts, self.forward, self.loss, measured.curvature)
        if stage == 1 and self.example is not None and "synflow" in self.needs:
            measured.flow = synaptic_flow(self.model, chosen, self.example, self.forward)
        formulas.close(stage, chosen, streams, record_of)

    def _read(
        self,
        data: DataPasses,
        stage: int,
        chosen: Mapping[str, nn.Module],
        measured: Measured,
        streams: Mapping[str, Stream],
    ) -> None:
        """Measure forward and, where something needs the loss, backward."""
        needs = self.needs if stage == 1 else frozenset()
        kept = self.kept if stage == 1 else frozenset()
        plan = self.formulas.plan
        wanted = Wanted(needs, kept, streams, plan.sources(stage), plan.placed)
        recorder, tracer, gradients = None, None, None
        if needs & RECORDED_NEEDS or wanted.maps:
            unknown = {n for n, norm in measured.norms.items() if not has_running_statistics(norm)}
            sites = self.surroundings.sites
            recorder = Recorder(chosen, sites, unknown, wanted, self.sampling, data.samples[0])
            tracer = ActivationTracer(self.model, chosen, recorder)
        if needs & LOSS_NEEDS or "output_grad" in wanted.maps:
            layers = dict(measured.modules)
            if "hessian" in needs:  # the gradient along which it differentiates is by all layers
                layers |= prunable_layers(self.model)
            gradients = Gradients(
                self.model,
                layers,
                squares="fisher" in needs,
                sample_squares="sample_fisher" in needs,
            )
        most = MINI_BATCH if "fisher" in needs else None
        at_once = None if gradients is None else self.surroundings.at_once
        parts = in_parts(data.read(), most, at_once)
        _run_pass(self.model, parts, self.forward, self.loss, gradients, recorder, tracer)
        if stage == 1:
            measured.recorder, measured.gradients = recorder, gradients


def _run_pass(
    model: nn.Module,
    parts: Iterable[tuple[Batch, bool]],
    forward: Forward,
    loss: Loss | None,
    gradients: Gradients | None,
    recorder: Recorder | None = None,
    tracer: ActivationTracer | None = None,
) -> None:
    """Run the model forward over the data, and backward where gradients are wanted."""
    with ExitStack() as stack:
        stack.enter_context(torch.set_grad_enabled(gradients is not None))
        if gradients is not None:  # before the tracer, which must see the rescaled batch norms
            stack.enter_context(gradients.attached())
        if tracer is not None:
            stack.enter_context(tracer.attached())
        for part, last in parts:
            samples = batch_size(part.inputs)
            with recorder.batch(samples, part.labels) if recorder else nullcontext():
                with tracer.run() if tracer else nullcontext():
                    output = forward(model, part.inputs)
                if gradients is not None and loss is not None:
                    if part.target is None:
                        raise UserError("the data has no targets; yield Batch(inputs, target)")
                    gradients.add(loss(output, part.target), samples, last=last)
                del output  # and with it what autograd keeps, before the next part runs


def _with_consumers(
    model: nn.Module, chosen: Mapping[str, nn.Module], consumers: Mapping[str, Sequence[Consumer]]
) -> dict[str, nn.Module]:
    """Return the layers and those that read them; UserError if one is not in the model."""
    known, modules = dict(model.named_modules()), dict(chosen)
    for name in chosen:
        for consumer in consumers.get(name, ()):
            if consumer.module not in known:
                raise UserError(
                    f"layer {name!r} is said to be read by {consumer.module!r}, which the model "
                    "does not have; trace this model for its consumers"
                )
            modules[consumer.module] = known[consumer.module]
    return modules
