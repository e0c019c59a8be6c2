"""Measure what each layer sees and returns while the model runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gp_prune.errors import UserError
from gp_prune.language.record import MAP_NEEDS
from gp_prune.statistics.activation_tracer import Call, Listener, Site
from gp_prune.statistics.formulas import Stream
from gp_prune.statistics.layers import as_maps, tap_energy
from gp_prune.statistics.matrices import (
    SecondMoments,
    map_nuclear_losses,
    map_nuclear_norms,
    map_ranks,
)
from gp_prune.statistics.moments import Centroids, Moments, mean_kernels
from gp_prune.statistics.sampling import KeptValues, Sampling

LABEL_NEEDS = frozenset({"labels", "centroids", "kernels"})
"""Needs for which every batch must have class labels."""

_BY_CLASS = frozenset(
    f"{side}_{what}" for side in ("class", "rest") for what in ("mean", "var", "count", "map")
) | {"kernel_class", "kernel_rest", "kernel_between"}
"""Fields of a record with a number, or a map, for every class."""

RECORDED_NEEDS = LABEL_NEEDS | MAP_NEEDS | {"second_moments"}
"""Needs that a :class:`Recorder` measures while the model runs."""


class Wanted(NamedTuple):
    """What is measured in one pass over the data.

    Attributes:
        needs: needs of what is accumulated; of maps that are kept or streamed, only what else they
            ask for (``mu``, ``input_norm``) is measured.
        kept: fields with a value for each sample that are kept for all samples.
        streams: for each layer, the formulas that read such fields as they come.
        streamed: the fields that these formulas read.
        placed: those of which the samples meet position by position.
    """

    needs: AbstractSet[str]
    kept: AbstractSet[str] = frozenset()
    streams: Mapping[str, Stream] = {}
    streamed: AbstractSet[str] = frozenset()
    placed: AbstractSet[str] = frozenset()

    @property
    def held(self) -> AbstractSet[str]:
        """Return the fields that are held until the end of the pass, returned or not."""
        return {*self.kept, "activation"} if "kernels" in self.needs else self.kept

    @property
    def maps(self) -> AbstractSet[str]:
        """Return the fields with a value for each sample that are looked at."""
        return {*self.held, *self.streamed}


class _LayerStatistics:
    """What has been accumulated for one layer."""

    def __init__(
        self, name: str, module: nn.Module, wanted: Wanted, sampling: Sampling, samples: int
    ) -> None:
        self.kept = {name: KeptValues(samples) for name in wanted.held}
        self.returned = wanted.kept
        # What is read from the outputs has the same positions throughout.
        self.inputs = sampling.positions(name, "inputs")
        self.outputs = sampling.positions(name, "outputs")
        self.sizes: dict[str, int] = {}  # positions of the first maps, by field
        self.energy: Tensor | None = None  # (i, k)
        self.products = SecondMoments(name, module) if "second_moments" in wanted.needs else None
        self.output_moments = Moments()  # one group, before any batch norm
        self.class_moments = Moments()
        self.centroids = Centroids() if "centroids" in wanted.needs else None
        self.kernels: dict[str, Tensor] | None = None
        seen = sampling.coverage(name, "activation", samples, samples)
        self.growth = seen.of_positions / seen.positions  # from the positions seen to all

    def fields(self, class_count: Tensor, labels: Tensor | None) -> dict[str, Tensor | None]:
        """Return everything by field of the record; ``class_count`` (c,) counts the samples."""
        classes = class_count.shape[0]
        fields: dict[str, Tensor | None] = {n: self.kept[n].result() for n in self.returned}
        fields["input_norm"] = None if self.energy is None else self.energy.sqrt()
        fields["inverse_factor"] = None if self.products is None else self.products.result()
        if self.output_moments.count.numel():
            fields["mu"] = self.output_moments.mean[:, 0]
            fields["var"] = self.output_moments.variance[:, 0]
        if self.centroids is not None:
            fields |= self.centroids.result(classes)
        if labels is not None and "activation" in self.kept:
            maps = self.kept["activation"].result()
            if self.kernels is None and maps is not None:
                self.kernels = mean_kernels(maps, labels.to(maps.device), classes, self.growth)
            fields |= self.kernels or {}
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


def _classes_of(value: Tensor | None, present: Tensor) -> Tensor | None:
    """Return what belongs to the classes that are there: (c,) or (o, c, ...)."""
    if value is None:
        return None
    there = present.nonzero().flatten().to(value.device)
    return value.index_select(min(1, value.dim() - 1), there)


def is_finite(values: Tensor) -> bool:
    """Return whether all numbers are finite; their sum tells sooner, unless it overflows."""
    return bool(torch.isfinite(values.sum())) or bool(torch.isfinite(values).all())


class Recorder(Listener):
    """Measures what an :class:`~gp_prune.statistics.activation_tracer.ActivationTracer` tells.

    Every tensor is read at the moment it appears and then let go, before anything can overwrite
    it. What formulas need together (an output and its gradient) is held until all of it has come.
    """

    def __init__(
        self,
        layers: Mapping[str, nn.Module],
        sites: Mapping[Call, Site],
        without_running: AbstractSet[str],
        wanted: Wanted,
        sampling: Sampling,
        samples: int = 0,
    ) -> None:
        """Prepare to measure.

        Args:
            layers: the layers to measure.
            sites: what follows each use of each layer.
            without_running: layers whose outputs' mean and variance no batch norm knows.
            wanted: what is measured.
            sampling: how much is kept of the maps.
            samples: how many samples will come, as far as that is known.
        """
        self._layers = layers
        self._sites = sites
        self._without_running = without_running
        self._needs = wanted.needs
        self._wanted = wanted
        self._maps_wanted = wanted.maps
        self._reads_outputs = bool(wanted.maps - {"inputs"} or wanted.needs & LABEL_NEEDS)
        self._labels: Tensor | None = None
        self._all_labels: list[Tensor] = []  # where kernels are wanted
        self._samples = 0  # of the present batch
        self._open: set[Call] = set()  # uses whose activation has not come yet
        self._awaited: dict[Call, Tensor] = {}  # uses whose gradient has not come yet, with zeros
        self._class_count = torch.zeros(0, dtype=torch.float64)  # (c,)
        self._statistics = {
            name: _LayerStatistics(name, module, wanted, sampling, samples)
            for name, module in layers.items()
        }

    def fields(self, name: str) -> dict[str, Tensor | None]:
        """Return everything that was measured on a layer, by field of the record.

        Maps are in the precision of the network. Axis c has the classes with samples.
        """
        statistics = self._statistics[name]
        labels = torch.cat(self._all_labels) if self._all_labels else None
        fields = statistics.fields(self._class_count, labels)
        if "labels" in self._needs:
            fields |= statistics.class_fields(self._class_count)
        present = self._class_count > 0
        if not bool(present.all()):
            for field in _BY_CLASS & fields.keys():
                fields[field] = _classes_of(fields[field], present)
        return fields

    def forget(self, name: str) -> None:
        """Let go what was measured on a layer."""
        self._statistics.pop(name, None)

    @contextmanager
    def batch(self, samples: int, labels: Tensor | None) -> Iterator[None]:
        """Measure on a batch, which the model runs on inside, forward and then backward."""
        self._samples, self._labels = samples, None
        self._open.clear()
        self._awaited.clear()
        if self._needs & LABEL_NEEDS:
            if labels is None:
                raise UserError("the data has no class labels; yield Batch(inputs, target, labels)")
            self._labels = labels
            counts = torch.bincount(labels, minlength=self._class_count.shape[0])
            counts[: self._class_count.shape[0]] += self._class_count.to(counts)
            self._class_count = counts.to(torch.float64)
            if "kernels" in self._needs:
                self._all_labels.append(labels)
        yield
        for call in self._open:
            raise UserError(
                f"no activation followed layer {call.layer!r} on a later batch as on the first "
                "one; leave out layers whose surroundings depend on the data"
            )
        for call, zeros in self._awaited.items():  # the loss ignores them
            self._take(call, "output_grad", zeros)

    def ran(self, call: Call, inputs: Tensor, output: Tensor) -> None:
        """Read the layer's input, and its output before batch norm."""
        site = self._site(call)
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
        if not summed:
            self._read_before(call, before)

    def activated(self, call: Call, after: Tensor, *, summed: bool) -> None:
        """Read what comes out of the activation."""
        if self._awaits(call, summed):
            self._read_after(call, after)

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
        wanted = call.use == 0 and "inputs" in self._maps_wanted
        if not wanted and not self._needs & {"inputs", "second_moments"}:
            return
        maps = self._maps(call, inputs, "input")
        if statistics.products is not None:
            statistics.products.add(inputs, output)
        if "inputs" in self._needs:
            energy = tap_energy(self._layers[call.layer], inputs, output)
            statistics.energy = energy if statistics.energy is None else statistics.energy + energy
        if wanted:
            self._take(call, "inputs", maps)

    def _read_output(self, call: Call, output: Tensor) -> None:
        """Read the output, as far as no activation tells it."""
        site = self._site(call)
        if site.activated and not site.summed:
            return
        self._read_before(call, output)
        if not site.summed:
            self._read_after(call, output)

    def _read_before(self, call: Call, before: Tensor) -> None:
        if not self._reads_outputs:
            return
        maps = self._maps(call, before, "output")
        if call.use == 0 and "pre_activation" in self._maps_wanted:
            self._take(call, "pre_activation", maps)
        if call.use == 0 and "output_grad" in self._maps_wanted:
            self._await_gradient(call, before, maps)

    def _await_gradient(self, call: Call, before: Tensor, maps: Tensor) -> None:
        """Read the gradient by ``before`` when the backward pass reaches it."""
        samples = self._samples
        self._awaited[call] = maps.new_zeros(1).expand(maps.shape)

        def arrived(gradient: Tensor) -> None:
            self._awaited.pop(call, None)
            # The loss is a mean over the batch; of the summed loss, each sample has its own part.
            self._take(
                call, "output_grad", self._maps(call, gradient * samples, "output's gradient")
            )

        if before.requires_grad:
            before.register_hook(arrived)  # type: ignore[no-untyped-call]

    def _read_after(self, call: Call, after: Tensor) -> None:
        labelled = self._labels is not None
        first = call.use == 0 and bool(
            self._maps_wanted & {"activation", "map_rank", "map_nuclear", "nuclear_loss"}
        )
        if not (labelled or first):
            return
        statistics, maps = self._statistics[call.layer], self._maps(call, after, "activation")
        labels = None if self._labels is None else self._labels.to(maps.device)
        if first:
            self._read_maps(call, after, maps)
        if labels is not None and call.use == 0 and statistics.centroids is not None:
            self._check_size(call, "activation", maps)
            statistics.centroids.add(statistics.outputs.among(maps), labels)
        if labels is not None and "labels" in self._needs:
            statistics.class_moments.add(maps, labels, self._class_count.shape[0])

    def _read_maps(self, call: Call, after: Tensor, maps: Tensor) -> None:
        """Take the activation itself, and what is measured on whole maps."""
        if "activation" in self._maps_wanted:
            self._take(call, "activation", maps)
        width = 1 if isinstance(self._layers[call.layer], nn.Linear) else after.shape[-1]
        if "map_rank" in self._maps_wanted:
            self._take(call, "map_rank", map_ranks(maps, width))
        if "map_nuclear" in self._maps_wanted:
            self._take(call, "map_nuclear", map_nuclear_norms(maps, width))
        if "nuclear_loss" in self._maps_wanted:
            self._take(call, "nuclear_loss", map_nuclear_losses(maps))

    def _take(self, call: Call, name: str, values: Tensor) -> None:
        """Keep values (n, channels[, positions]), and hand them to the formulas that read them."""
        statistics = self._statistics[call.layer]
        if values.dim() == 3:
            if name in statistics.kept or name in self._wanted.placed:
                self._check_size(call, name, values)
            side = statistics.inputs if name == "inputs" else statistics.outputs
            values = side.among(values)
        if name in statistics.kept:
            statistics.kept[name].put(values)
        if name in self._wanted.streamed:
            self._wanted.streams[call.layer].put(name, values)

    def _check_size(self, call: Call, name: str, maps: Tensor) -> None:
        """Raise UserError where maps (n, channels, positions) are not as large as the first."""
        size = maps.shape[2]
        first = self._statistics[call.layer].sizes.setdefault(name, size)
        if size != first:
            raise UserError(
                f"the {name} of layer {call.layer!r} has {first} positions on one batch and {size} "
                "on a later one, but this metric compares the samples position by position; give "
                "it batches whose maps are of one size"
            )

    def _maps(self, call: Call, values: Tensor, what: str) -> Tensor:
        """Return the values as (n, channels, positions).

        Where the model has folded something into the sample axis (the frames of a clip, windows
        of an image), a sample has as many rows one after the other; they count as positions.
        """
        maps = as_maps(values.detach(), self._layers[call.layer])
        if not is_finite(maps):
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
