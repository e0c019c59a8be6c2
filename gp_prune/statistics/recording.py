"""Streams what each layer sees and returns into its statistics while the model runs."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gp_prune.errors import UserError
from gp_prune.statistics.following import Call
from gp_prune.statistics.layers import as_maps
from gp_prune.statistics.moments import Moments
from gp_prune.statistics.pairing import Site
from gp_prune.statistics.sampling import Picks, Reservoir, SampledMaps, seed_for
from gp_prune.statistics.unfolding import tap_energy


class Sample(NamedTuple):
    """How much of the maps is kept: at most so many samples, and positions per layer."""

    seed: int
    max_samples: int
    max_positions: int

    def maps(self, *names: str) -> SampledMaps:
        """An empty store whose positions follow from the seed and the names."""
        return SampledMaps(self.max_positions, seed_for(self.seed, *names))


@dataclass
class LayerStatistics:
    """What has been accumulated for one layer; everything is bounded by the layer's size."""

    inputs: SampledMaps
    pre_activation: SampledMaps
    activation: SampledMaps
    output_moments: Moments = field(default_factory=Moments)  # one group, before any batch norm
    class_moments: Moments = field(default_factory=Moments)
    energy: Tensor | None = None  # (i, k)


class Recorder:
    """A listener of :class:`~gp_prune.statistics.following.Follower` that measures.

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
        self._reads_outputs = bool(needs & {"outputs", "labels"})
        self._reservoir = Reservoir(sample.max_samples, sample.seed)
        self._labels: Tensor | None = None
        self._samples = 0  # of the present batch
        self._picks = Picks([], [])
        self._open: set[Call] = set()  # uses whose activation has not come yet
        self.class_count = torch.zeros(0, dtype=torch.float64)  # (c,)
        self.statistics = {
            name: LayerStatistics(
                sample.maps(name, "inputs"),
                sample.maps(name, "outputs"),  # the same seed, so Z and A have the same positions
                sample.maps(name, "outputs"),
            )
            for name in layers
        }

    def start(self, samples: int, labels: Tensor | None) -> None:
        """Say what the next batch is, before the model runs on it."""
        self._samples, self._labels = samples, None
        self._picks = self._reservoir.offer(samples)
        self._open.clear()
        if "labels" in self._needs:
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
        if "inputs" in self._needs:
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
            self._read_before(call, self._maps(call, before, "output"))

    def activated(self, call: Call, after: Tensor) -> None:
        """Read what comes out of the activation."""
        if self._reads_outputs and self._site(call).activated:
            self._read_after(call, self._maps(call, after, "activation"))

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
        energy = tap_energy(self._layers[call.layer], inputs, output)
        statistics.energy = energy if statistics.energy is None else statistics.energy + energy
        if call.use == 0:
            statistics.inputs.put(maps, self._picks)

    def _read_output(self, call: Call, output: Tensor) -> None:
        if not self._reads_outputs:
            return
        maps = self._maps(call, output, "output")
        self._read_before(call, maps)
        self._read_after(call, maps)

    def _read_before(self, call: Call, maps: Tensor) -> None:
        if "outputs" in self._needs and call.use == 0:
            self.statistics[call.layer].pre_activation.put(maps, self._picks)

    def _read_after(self, call: Call, maps: Tensor) -> None:
        statistics = self.statistics[call.layer]
        if "outputs" in self._needs and call.use == 0:
            statistics.activation.put(maps, self._picks)
        if self._labels is not None:
            labels = self._labels.to(maps.device)
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
