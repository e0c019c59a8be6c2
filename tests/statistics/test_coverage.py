"""How much of the data was measured is said in words, and a limit that was met in one sentence."""

from __future__ import annotations

import json

from gp_prune.language.record import Coverage
from gp_prune.statistics.coverage import (
    coverage_json,
    describe_coverage,
    describe_limit,
)
from gp_prune.statistics.sampling import MAX_MEMORY

WHOLE = {"a": {"grad": Coverage(512, 512), "maps": Coverage(512, 512, 64, 64)}}
PART = {**WHOLE, "b": {"maps": Coverage(512, 512, 64, 1024), "input": Coverage(100, 512, 1, 1)}}


def test_all_was_measured() -> None:
    assert describe_coverage({}) == describe_limit({}, None) == describe_limit(WHOLE, 1) == ""
    assert describe_coverage(WHOLE) == "512 samples, all positions"
    assert describe_coverage({"a": {"x": Coverage(1, 1)}}) == "1 sample, all positions"


def test_the_least_measured_is_named_with_the_remedy() -> None:
    assert describe_coverage(PART) == (
        "512 samples; maps in b: 512 of 512 samples and 64 of 1,024 positions"
    )
    assert describe_limit(PART, 10**8, " of net") == (
        "maps of layer 'b' of net was measured on 512 of 512 samples and 64 of 1,024 positions "
        "(and 1 more measurement in part), because the whole does not fit 100MB of memory; allow "
        "more with --max-memory (max_memory)."
    )
    only = {"b": {"input": Coverage(100, 512)}}
    assert "input of layer 'b' was measured on 100 of 512 samples, because" in describe_limit(
        only, None
    )
    assert MAX_MEMORY == 2 * 10**9 and "fit 2GB of memory" in describe_limit(only, None)


def test_coverage_as_json() -> None:
    assert json.loads(json.dumps(coverage_json(WHOLE)))["a"]["maps"] == {
        "samples": 512, "of_samples": 512, "positions": 64, "of_positions": 64,
    }  # fmt: skip
