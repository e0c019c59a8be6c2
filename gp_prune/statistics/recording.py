"""Measure what each layer sees and returns while the model runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from gp_prune.errors import UserError
from gp_prune.statistics.activation_tracer import Call, Listener, Site
from gp_prune.statistics.layers import as_maps, tap_energy
from gp_prune.statistics.matrices import MapRanks, NuclearLosses, SecondMoments
from gp_prune.statistics.moments import Centroids, Kernels, Moments
from gp_prune.statistics.sampling import MapBatch, Meter, Picks, SampledMaps, Sampling

LABEL_NEEDS = frozenset({"labels", "centroids", "kernels"})
"""Needs for which every batch must have class labels."""

_ACTIVATION_NEEDS = LABEL_NEEDS | {"outputs", "map_ranks", "map_norms"}
_OUTPUT_NEEDS = _ACTIVATION_NEEDS | {"output_gradients"}

RECORDED_NEEDS = _OUTPUT_NEEDS | {"inputs", "second_moments"}
"""Needs that a :class:`Recorder` measures while the model runs."""


class _LayerStatistics:
    """What has been accumulated for one layer; everything is bounded by the layer's size."""

    def __init__(
        self, name: str, module: nn.Module, needs: AbstractSet[str], sampling: Sampling
    ) -> None:
        def maps(side: str) -> SampledMaps:
            return SampledMaps(sampling.positions(name, side))

        self.inputs = maps("inputs")
        # What is read from the outputs has the same positions throughout.
        self.pre_activation, self.activation = maps("outputs"), maps("outputs")
        self.output_grad = maps("outputs")
        self.energy: Tensor | None = None  # (i, k)
        self.products = SecondMoments(name, module) if "second_moments" in needs else None
        self.output_moments = Moments()  # one group, before any batch norm
        self.class_moments = Moments()
        self.meters: list[Meter] = []  # of the activation
        if "centroids" in needs:
            self.meters.append(Centroids(name, sampling.positions(name, "outputs")))
        if "kernels" in needs:
            self.meters.append(Kernels(maps("outputs")))
        if "map_ranks" in needs:
            self.meters.append(MapRanks())
        if "map_norms" in needs:
            self.meters.append(NuclearLosses())

    def fields(self, class_count: Tensor) -> dict[str, Tensor | None]:
        """Return everything by field of the record; ``class_count`` (c,) counts the samples."""
        fields = {
            "inputs": self.inputs.result(),
            "pre_activation": self.pre_activation.result(),
            "activation": self.activation.result(),
            "output_grad": self.output_grad.result(),
            "input_norm": None if self.energy is None else self.energy.sqrt(),
            "inverse_factor": None if self.products is None else self.products.result(),
        }
        if self.output_moments.count.numel():
            fields["mu"] = self.output_moments.mean[:, 0]
            fields["var"] = self.output_moments.variance[:, 0]
        for meter in self.meters:
            fields.update(meter.result(class_count.shape[0]))
        return fields

    def class_fields(self, class_count: Tensor) -> dict[str, Tensor | None]:
        """Return moments of the activation by class, likewise."""
        moments = self.class_moments
        moments.grow(class_count.shape[0])
        rest = moments.rest()
        return {
            "class_mean": moments.mean,
            "class_var": moments.variance,
            "class_count": class_count,
            "rest_mean": rest.mean,
            "rest_var": rest.variance,
            "rest_count": class_count.sum() - class_count,
        }


class Recorder(Listener):
    """Measures what an :class:`~gp_prune.statistics.activation_tracer.ActivationTracer` tells.

    Every tensor is read at the moment it appears and then let go, before anything can overwrite
    it, so that no more than one layer's maps are held at a time.
    """

    def __init__(
        self,
        layers: Mapping[str, nn.Module],
        sites: Mapping[Call, Site],
        without_running: AbstractSet[str],
        needs: AbstractSet[str],
        sampling: Sampling,
    ) -> None:
        """Prepare to measure.

        Args:
            layers: the layers to measure.
            sites: what follows each use of each layer.
            without_running: layers whose outputs' mean and variance no batch norm knows.
            needs: see :func:`gp_prune.statistics.collect`.
            sampling: how much is kept of the maps.
        """
        self._layers = layers
        self._sites = sites
        self._without_running = without_running
        self._needs = needs
        self._reads_outputs = bool(needs & _OUTPUT_NEEDS)
        self._reservoir = sampling.samples()
        self._labels: Tensor | None = None
        self._samples = 0  # of the present batch
        self._picks = Picks([], [])
        self._open: set[Call] = set()  # uses whose activation has not come yet
        self._class_count = torch.zeros(0, dtype=torch.float64)  # (c,)
        self._statistics = {
            name: _LayerStatistics(name, module, needs, sampling) for name, module in layers.items()
        }

    def take(self, name: str) -> dict[str, Tensor | None]:
        """Return everything that was measured on a layer, by field of the record, and forget it."""
        statistics = self._statistics.pop(name)
        fields = statistics.fields(self._class_count)
        if "labels" in self._needs:
            fields |= statistics.class_fields(self._class_count)
        return fields

    @contextmanager
    def batch(self, samples: int, labels: Tensor | None) -> Iterator[None]:
        """Measure on a batch, which the model runs on inside."""
        self._samples, self._labels = samples, None
        self._picks = self._reservoir.offer(samples)
        self._open.clear()
        if self._needs & LABEL_NEEDS:
            if labels is None:
                raise UserError("the data has no class labels; yield Batch(inputs, target, labels)")
            self._labels = labels
            counts = torch.bincount(labels, minlength=self._class_count.shape[0])
            counts[: self._class_count.shape[0]] += self._class_count.to(counts)
            self._class_count = counts.to(torch.float64)
        yield
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
        if "outputs" in self._needs and call.layer in self._without_running:
            maps = self._maps(call, output, "output")
            one_group = torch.zeros(self._samples, dtype=torch.int64, device=maps.device)
            self._statistics[call.layer].output_moments.add(maps, one_group, 1)
        if site.activated:
            self._open.add(call)
        if site.norm is None:
            self._read_output(call, output)

    def normalised(self, call: Call, norm: str, output: Tensor) -> None:
        """Read what comes out of the batch norm if no activation takes it."""
        self._read_output(call, output)

    def activating(self, call: Call, before: Tensor, *, summed: bool) -> None:
        """Read what goes into the activation, if that is the output itself."""
        if not self._awaits(call, summed):
            return
        self._open.discard(call)
        if self._reads_outputs and not summed:
            self._read_before(call, before, self._maps(call, before, "output"))

    def activated(self, call: Call, after: Tensor, *, summed: bool) -> None:
        """Read what comes out of the activation."""
        if self._reads_outputs and self._awaits(call, summed):
            self._read_after(call, after, self._maps(call, after, "activation"))

    def _awaits(self, call: Call, summed: bool) -> bool:
        """Return whether this activation, of an output or of a sum of some, is the layer's."""
        site = self._site(call)
        return site.activated and site.summed == summed

    def _site(self, call: Call) -> Site:
        site = self._sites.get(call)
        if site is None:
            raise UserError(
                f"layer {call.layer!r} ran more often on a later batch than on the first one; "
                "leave out layers whose use depends on the data"
            )
        return site

    def _read_input(self, call: Call, inputs: Tensor, output: Tensor) -> None:
        statistics = self._statistics[call.layer]
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
        """Read the output, as far as no activation tells it."""
        site = self._site(call)
        if not self._reads_outputs or (site.activated and not site.summed):
            return
        maps = self._maps(call, output, "output")
        self._read_before(call, output, maps)
        if not site.summed:
            self._read_after(call, output, maps)

    def _read_before(self, call: Call, before: Tensor, maps: Tensor) -> None:
        if call.use > 0:
            return
        if "outputs" in self._needs:
            self._statistics[call.layer].pre_activation.put(maps, self._picks)
        if "output_gradients" in self._needs:
            self._await_gradient(call, before, maps)

    def _await_gradient(self, call: Call, before: Tensor, maps: Tensor) -> None:
        """Sample the gradient by ``before`` when the backward pass reaches it."""
        store, picks, samples = self._statistics[call.layer].output_grad, self._picks, self._samples
        store.put(maps.new_zeros(1).expand(maps.shape), picks)  # stays if the loss ignores it

        def arrived(gradient: Tensor) -> None:
            # The loss is a mean over the batch; of the summed loss, each sample has its own part.
            store.put(self._maps(call, gradient * samples, "output's gradient"), picks)

        if before.requires_grad:
            before.register_hook(arrived)  # type: ignore[no-untyped-call]

    def _read_after(self, call: Call, after: Tensor, maps: Tensor) -> None:
        statistics = self._statistics[call.layer]
        labels = None if self._labels is None else self._labels.to(maps.device)
        if call.use == 0:
            if "outputs" in self._needs:
                statistics.activation.put(maps, self._picks)
            linear = isinstance(self._layers[call.layer], nn.Linear)
            batch = MapBatch(maps, 1 if linear else after.shape[-1], self._picks, labels)
            for meter in statistics.meters:
                meter.add(batch)
        if labels is not None and "labels" in self._needs:
            statistics.class_moments.add(maps, labels, self._class_count.shape[0])

    def _maps(self, call: Call, values: Tensor, what: str) -> Tensor:
        """Return the values as (n, channels, positions).

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
