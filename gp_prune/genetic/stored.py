"""Read the result of a run that has ended: the same run again would only measure other times."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gp_prune.base.files import MOST_JSON, read_file
from gp_prune.base.json_fields import parse_json, read_object
from gp_prune.genetic.convolution_times import ConvolutionTimes
from gp_prune.genetic.front import JSON
from gp_prune.genetic.settings import GeneticSettings
from gp_prune.runs.folder import CONFIG
from gp_prune.runs.result_file import reading_result

_FIELDS = {
    "folder": str, "settings": dict, "error": str, "split": str, "counted_macs": str,
    "evaluations": int, "dense": dict, "front": list, "baselines": dict, "recommended": object,
    "failures": list, "history": list,
}  # fmt: skip
_ENTRY = {
    "name": str, "validation_error": float, "report_error": float, "conv_macs": int, "macs": int,
    "macs_compact": int, "params_not_zero": int, "params": int, "bytes": int, "bytes_csr": int,
    "conv_time_share": object, "conv_time_quartiles": object, "conv_time_share_default": object,
    "conv_time_onednn": object, "epochs": int, "channels": dict,
}  # fmt: skip


def read_report(folder: Path) -> dict[str, Any] | None:
    """Read the JSON object of the result of a run; return None where it has not ended.

    Nothing is loaded, trained or evaluated, and no file of the user's is run.

    Args:
        folder: the run folder.

    Raises:
        UserError: the settings or the result are damaged.
    """
    path = folder / JSON
    if not path.exists() or not (folder / CONFIG).exists():
        return None
    settings = GeneticSettings.from_toml(folder / CONFIG)
    with reading_result(path):
        data = read_object(parse_json(read_file(path, MOST_JSON)), "the result", _FIELDS)
        if data["settings"] != settings.to_json():
            return None
        entries = [data["dense"], *data["front"]]
        for others in data["baselines"].values():
            entries += [entry for entry in others if entry is not None]
        for entry in entries:
            # Results of earlier versions do not say in which way the convolutions were timed.
            read_object({"conv_time_onednn": None, **entry}, "a network of it", _ENTRY)
            if entry["conv_time_share"] is not None and not float(entry["conv_time_share"]) > 0:
                raise ValueError("a time is not positive")
        if not {data["recommended"], None} & {None, *(p["name"] for p in data["front"])}:
            raise ValueError("what it recommends is not on its front")
        data["failures"] = list(map(str, data["failures"]))
    return {**data, "folder": str(folder)}


def read_times(report: Mapping[str, Any]) -> dict[str, ConvolutionTimes | None]:
    """Return the times that a result says, by the names of its networks."""
    entries = [report["dense"], *report["front"]]
    for others in report["baselines"].values():
        entries += [entry for entry in others if entry is not None]
    return {entry["name"]: _times(entry) for entry in entries}


def _times(entry: Mapping[str, Any]) -> ConvolutionTimes | None:
    if entry["conv_time_share"] is None:
        return None
    lower, upper = entry["conv_time_quartiles"]
    before, after = entry.get("conv_time_onednn") or (True, True)
    default = entry["conv_time_share_default"]
    return ConvolutionTimes(entry["conv_time_share"], lower, upper, default, (before, after))
