"""Read an architecture from JSON, and check every field of it: nothing is trusted."""

from __future__ import annotations

from typing import Any

from gp_prune.base.json_fields import check_type, read_object
from gp_prune.errors import UserError, brief
from gp_prune.pruning.cost import LAYER_KINDS, LayerCost, Side
from gp_prune.pruning.graph.architecture import (
    SCHEMA,
    SEVERAL,
    SIDES,
    Architecture,
    ChannelGroup,
    Slot,
    WholeModule,
)

_MOST = 2**53
"""The largest number in a file; the largest that a float holds exactly."""


def read_architecture(data: Any) -> Architecture:
    """Read what :meth:`Architecture.to_json` wrote.

    Raises:
        UserError: a field is unknown, missing, of the wrong type or out of range, or parts do not
            fit one another.
    """
    if isinstance(data, dict):  # both are left out where they are empty
        data = {"whole": [], "uncounted": [], **data}
    fields = read_object(data, "architecture", {
        "schema_version": int, "groups": list, "layers": list, "samples": int,
        "constant_macs": int, "constant_params": int, "whole": list, "uncounted": list,
    })  # fmt: skip
    if fields.pop("schema_version") != SCHEMA:
        raise UserError(f"architecture has a schema_version other than {SCHEMA}; trace again")
    # What is outside of layers may be negative: parameters that two layers share count once.
    for name, least in (("samples", 1), ("constant_macs", -_MOST), ("constant_params", -_MOST)):
        _check_count(fields[name], f"{name!r} of the architecture", least)
    fields["groups"] = tuple(_read_group(group) for group in fields["groups"])
    fields["layers"] = tuple(_read_layer(layer) for layer in fields["layers"])
    fields["whole"] = tuple(_read_whole(module) for module in fields["whole"])
    for name in fields["uncounted"]:
        check_type(name, str, "an operator of the architecture")
    fields["uncounted"] = tuple(fields["uncounted"])
    architecture = Architecture(**fields)
    _check_parts(architecture)
    return architecture


def _read_group(data: Any) -> ChannelGroup:
    if isinstance(data, dict):  # files from before there was such a cut
        data = {"crosses_normalisation": False, **data}
    fields = read_object(data, "a channel group of the architecture", {
        "name": str, "size": int, "slots": list, "fixed": str, "crosses_normalisation": bool,
    })  # fmt: skip
    what = f"channel group {brief(fields['name'])} of the architecture"
    _check_count(fields["size"], f"the size of {what}", 1)
    slots = tuple(_read_slot(item, fields["size"], what) for item in fields["slots"])
    return ChannelGroup(**{**fields, "slots": slots})


def _read_slot(data: Any, size: int, group: str) -> Slot:
    if isinstance(data, dict):  # files from before there were several
        data = {"stream": 0, **data}
    fields = read_object(
        data, f"a slot of {group}", {"module": str, "side": str, "channels": list, "stream": int}
    )
    what = f"slot {brief(fields['side'])} of module {brief(fields['module'])} of {group}"
    if fields["side"] not in SIDES:
        raise UserError(f"{what} is of an unknown side; known are {', '.join(SIDES)}")
    if fields["stream"] < SEVERAL:
        raise UserError(f"{what} has stream {fields['stream']}; it must be at least {SEVERAL}")
    for channel in fields["channels"]:
        check_type(channel, int, f"a channel of {what}")
        if not -1 <= channel < size:
            raise UserError(f"a channel of {what} is {channel}; it must be from -1 to {size - 1}")
    return Slot(**{**fields, "channels": tuple(fields["channels"])})


def _read_whole(data: Any) -> WholeModule:
    fields = read_object(
        data,
        "a whole module of the architecture",
        {"name": str, "reason": str, "macs": int, "params": int},
    )
    what = f"whole module {brief(fields['name'])} of the architecture"
    for name in ("macs", "params"):
        _check_count(fields[name], f"{name!r} of {what}", 0)
    return WholeModule(**fields)


def _check_count(value: int, what: str, least: int) -> None:
    """Raise UserError unless a number is within what can be multiplied by others."""
    if not least <= value <= _MOST:
        raise UserError(f"{what} is {value}; it must be from {least:,} to {_MOST:,}")


def _read_layer(data: Any) -> LayerCost:
    if isinstance(data, dict):  # files from before the type was kept
        data = {"type": "", "owner": "", **data}
    fields = read_object(data, "a layer cost of the architecture", {
        "name": str, "kind": str, "positions": int, "taps": int, "groups": int, "bias": bool,
        "inputs": dict, "outputs": dict, "type": str,
        "owner": str,
    })  # fmt: skip
    what = f"layer cost {brief(fields['name'])} of the architecture"
    if fields["kind"] not in LAYER_KINDS:
        kinds = ", ".join(LAYER_KINDS)
        raise UserError(f"{what} has kind {brief(fields['kind'])}; it must be one of {kinds}")
    for name, least in (("positions", 0), ("taps", 0), ("groups", 1)):
        _check_count(fields[name], f"{name!r} of {what}", least)
    for side in ("inputs", "outputs"):
        fields[side] = _read_side(fields[side], f"{side!r} of {what}")
    return LayerCost(**fields)


def _read_side(data: Any, what: str) -> Side:
    fields = read_object(data, what, {"constant": int, "terms": list})
    _check_count(fields["constant"], f"the constant of {what}", 0)
    for term in fields["terms"]:
        check_type(term, list, f"a term of {what}")
        if len(term) != 2:
            raise UserError(f"a term of {what} has {len(term)} entries; it has a group and a count")
        check_type(term[0], str, f"the group of a term of {what}")
        check_type(term[1], int, f"the count of a term of {what}")
        _check_count(term[1], f"the count of a term of {what}", 0)
    return Side(fields["constant"], tuple((group, entries) for group, entries in fields["terms"]))


def _check_parts(architecture: Architecture) -> None:
    """Raise UserError unless groups and layers fit one another."""
    if len(architecture.by_name) < len(architecture.groups):
        names = [group.name for group in architecture.groups]
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"the architecture has two channel groups {brief(twice)}; trace again")
    lengths: dict[tuple[str, str], int] = {}
    for group in architecture.groups:
        for slot in group.slots:
            length = lengths.setdefault((slot.module, slot.side), len(slot.channels))
            if length != len(slot.channels):
                raise UserError(
                    f"side {slot.side!r} of module {brief(slot.module)} has {length} entries in "
                    f"one slot of the architecture and {len(slot.channels)} in another; trace again"
                )
    for layer in architecture.layers:
        for name, _ in (*layer.inputs.terms, *layer.outputs.terms):
            if name not in architecture.by_name:
                raise UserError(
                    f"layer cost {brief(layer.name)} of the architecture names a channel group "
                    f"{brief(name)} that it does not have; trace again"
                )
