"""Streams what each layer sees and returns into its statistics while the model runs."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gp_prune.errors import UserError
from gp_prune.statistics.activation_tracer import Call, Site
from gp_prune.statistics.layers import as_maps, tap_energy
from gp_prune.statistics.matrices import MapRanks, NuclearLosses, SecondMoments
from gp_prune.statistics.moments import Centroids, Kernels, Moments
from gp_prune.statistics.running import derive_seed
from gp_prune.statistics.sampling import (
    Meter,
    Picks,
    Positions,
    Reservoir,
    SampledMaps,
    Seen,
)

LABEL_NEEDS = frozenset({"labels", "centroids", "kernels"})
"""Needs for which every batch must have class labels."""

_ACTIVATION_NEEDS = LABEL_NEEDS | {"outputs", "map_ranks", "map_norms"}
_OUTPUT_NEEDS = _ACTIVATION_NEEDS | {"output_gradients"}

RECORDED_NEEDS = _OUTPUT_NEEDS | {"inputs", "second_moments"}
"""Needs that a :class:`Recorder` measures while the model runs."""


class Sample(NamedTuple):
    """How much of the maps is kept: at most so many samples, and positions per layer."""

    seed: int
    max_samples: int
    max_positions: int

    def maps(self, *names: str) -> SampledMaps:
        """An empty store whose positions follow from the seed and the names."""
        return SampledMaps(self.max_positions, derive_seed(self.seed, *names, bits=63))

    def positions(self, *names: str) -> Positions:
        """The positions of :meth:`maps` of the same names."""
        return Positions(self.max_positions, derive_seed(self.seed, *names, bits=63))


@dataclass
class LayerStatistics:
    """What has been accumulated for one layer; everything is bounded by the layer's size."""

    inputs: SampledMaps
    pre_activation: SampledMaps
    activation: SampledMaps
    output_grad: SampledMaps
    meters: list[Meter]
    products: SecondMoments | None = None
    output_moments: Moments = field(default_factory=Moments)  # one group, before any batch norm
    class_moments: Moments = field(default_factory=Moments)
    energy: Tensor | None = None  # (i, k)


def _statistics(
    name: str, module: nn.Module, needs: AbstractSet[str], sample: Sample
) -> LayerStatistics:
    """Nothing measured yet. What is read from the outputs has the same positions throughout."""
    meters: list[Meter] = []
    if "centroids" in needs:
        meters.append(Centroids(name, sample.positions(name, "outputs")))
    if "kernels" in needs:
        meters.append(Kernels(sample.maps(name, "outputs")))
    if "map_ranks" in needs:
        meters.append(MapRanks())
    if "map_norms" in needs:
        meters.append(NuclearLosses())
    return LayerStatistics(
        inputs=sample.maps(name, "inputs"),
        pre_activation=sample.maps(name, "outputs"),
        activation=sample.maps(name, "outputs"),
        output_grad=sample.maps(name, "outputs"),
        meters=meters,
        products=SecondMoments(name, module) if "second_moments" in needs else None,
    )


class Recorder:
    """A listener of :class:`~gp_prune.statistics.activation_tracer.ActivationTracer` that measures.

    Every tensor is read at the moment it appears and then let go, before anything can overwrite
    it, so that no more than one layer's maps are held at a time.
    """

    def __init__(
        self,
        layers: Mapping[str, nn.Module],
        sites: Mapping[Call, Site],
        measured: AbstractSet[str],
        needs: AbstractSet[str],
        sample: Sample,
    ) -> None:
        """Nothing measured yet.

        Args:
            layers: the layers to measure.
            sites: what follows each use of each layer.
            measured: layers whose outputs' mean and variance are wanted (no running statistics).
            needs: see :func:`gp_prune.statistics.collect`.
            sample: how much is kept of the maps.
        """
        self._layers = layers
        self._sites = sites
        self._measured = measured
        self._needs = needs
        self._reads_outputs = bool(needs & _OUTPUT_NEEDS)
        self._reservoir = Reservoir(sample.max_samples, sample.seed)
        self._labels: Tensor | None = None
        self._samples = 0  # of the present batch
        self._picks = Picks([], [])
        self._open: set[Call] = set()  # uses whose activation has not come yet
        self.class_count = torch.zeros(0, dtype=torch.float64)  # (c,)
        self.statistics = {
            name: _statistics(name, module, needs, sample) for name, module in layers.items()
        }

    def start(self, samples: int, labels: Tensor | None) -> None:
        """Say what the next batch is, before the model runs on it."""
        self._samples, self._labels = samples, None
        self._picks = self._reservoir.offer(samples)
        self._open.clear()
        if self._needs & LABEL_NEEDS:
            if labels is None:
                raise UserError("the data has no class labels; yield Batch(inputs, target, labels)")
            self._labels = labels
            counts = torch.bincount(labels, minlength=self.class_count.shape[0])
            counts[: self.class_count.shape[0]] += self.class_count.to(counts)
            self.class_count = counts.to(torch.float64)

    def finish(self) -> None:
        """Say that the model has run."""
        for call in self._open:
            raise UserError(
                f"no activation followed layer {call.layer!r} on a later batch as on the first "
                "one; leave out layers whose surroundings depend on the data"
            )

    def ran(self, call: Call, inputs: Tensor, output: Tensor) -> None:
        """Read the layer's input, and its output before batch norm."""
        site = self._site(call)
        if self._needs & {"inputs", "second_moments"}:
            self._read_input(call, inputs, output)
        if "outputs" in self._needs and call.layer in self._measured:
            maps = self._maps(call, output, "output")
            alone = torch.zeros(self._samples, dtype=torch.int64, device=maps.device)
            self.statistics[call.layer].output_moments.add(maps, alone, 1)
        if site.activated:
            self._open.add(call)
        elif site.norm is None:
            self._read_output(call, output)

    def normalised(self, call: Call, norm: str, output: Tensor) -> None:
        """Read what comes out of the batch norm if no activation follows."""
        if not self._site(call).activated:
            self._read_output(call, output)

    def activating(self, call: Call, before: Tensor) -> None:
        """Read what goes into the activation."""
        self._open.discard(call)
        if self._reads_outputs and self._site(call).activated:
            self._read_before(call, before, self._maps(call, before, "output"))

    def activated(self, call: Call, after: Tensor) -> None:
        """Read what comes out of the activation."""
        if self._reads_outputs and self._site(call).activated:
            self._read_after(call, after, self._maps(call, after, "activation"))

    def _site(self, call: Call) -> Site:
        site = self._sites.get(call)
        if site is None:
            raise UserError(
                f"layer {call.layer!r} ran more often on a later batch than on the first one; "
                "leave out layers whose use depends on the data"
            )
        return site

    def _read_input(self, call: Call, inputs: Tensor, output: Tensor) -> None:
        statistics = self.statistics[call.layer]
        maps = self._maps(call, inputs, "input")
        if statistics.products is not None:
            statistics.products.add(inputs, output)
        if "inputs" not in self._needs:
            return
        energy = tap_energy(self._layers[call.layer], inputs, output)
        statistics.energy = energy if statistics.energy is None else statistics.energy + energy
        if call.use == 0:
            statistics.inputs.put(maps, self._picks)

    def _read_output(self, call: Call, output: Tensor) -> None:
        if not self._reads_outputs:
            return
        maps = self._maps(call, output, "output")
        self._read_before(call, output, maps)
        self._read_after(call, output, maps)

    def _read_before(self, call: Call, before: Tensor, maps: Tensor) -> None:
        if call.use > 0:
            return
        if "outputs" in self._needs:
            self.statistics[call.layer].pre_activation.put(maps, self._picks)
        if "output_gradients" in self._needs:
            self._await_gradient(call, before, maps)

    def _await_gradient(self, call: Call, before: Tensor, maps: Tensor) -> None:
        """Sample the gradient by ``before`` when the backward pass reaches it."""
        store, picks, samples = self.statistics[call.layer].output_grad, self._picks, self._samples
        store.put(maps.new_zeros(1).expand(maps.shape), picks)  # stays if the loss ignores it

        def arrived(gradient: Tensor) -> None:
            # The loss is a mean over the batch; of the summed loss, each sample has its own part.
            store.put(self._maps(call, gradient * samples, "output's gradient"), picks)

        if before.requires_grad:
            before.register_hook(arrived)  # type: ignore[no-untyped-call]

    def _read_after(self, call: Call, after: Tensor, maps: Tensor) -> None:
        statistics = self.statistics[call.layer]
        labels = None if self._labels is None else self._labels.to(maps.device)
        if call.use == 0:
            if "outputs" in self._needs:
                statistics.activation.put(maps, self._picks)
            linear = isinstance(self._layers[call.layer], nn.Linear)
            seen = Seen(maps, 1 if linear else after.shape[-1], self._picks, labels)
            for meter in statistics.meters:
                meter.add(seen)
        if labels is not None and "labels" in self._needs:
            statistics.class_moments.add(maps, labels, self.class_count.shape[0])

    def _maps(self, call: Call, values: Tensor, what: str) -> Tensor:
        """The values as (n, channels, positions).

        Where the model has folded something into the sample axis (the frames of a clip, windows
        of an image), a sample has as many rows one after the other; they count as positions.
        """
        maps = as_maps(values.detach(), self._layers[call.layer])
        if not bool(torch.isfinite(maps).all()):
            raise UserError(
                f"layer {call.layer!r} has non-finite activations (its {what}); "
                "check the data and the model's weights"
            )
        rows, channels, positions = maps.shape
        if rows == self._samples:
            return maps
        if rows == 0 or rows % self._samples:
            raise UserError(
                f"layer {call.layer!r} runs on {rows} rows where the batch has {self._samples} "
                "samples; leave it out of the layers or let the first axis count the samples"
            )
        maps = maps.reshape(self._samples, rows // self._samples, channels, positions)
        return maps.transpose(1, 2).flatten(2)
