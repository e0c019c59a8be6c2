"""The index of lines finds what a dictionary finds."""

from __future__ import annotations

import random
from array import array

import pytest

from gp_prune.runs.line_index import DIGEST_BYTES, LineIndex, digest


@pytest.mark.parametrize("count", [0, 1, 2, 1000])
def test_it_finds_what_a_dictionary_finds(count: int) -> None:
    rng = random.Random(count)
    texts = [str(rng.randrange(count)) for _ in range(count)]
    starts = array("Q", (rng.randrange(2**40) for _ in range(count)))
    known = dict(zip(texts, starts, strict=True))  # of equal texts the last one
    index = LineIndex(bytearray(b"".join(map(digest, texts))), starts)
    added = {str(rng.randrange(2 * count)): rng.randrange(2**40) for _ in range(count // 10)}
    for text, start in added.items():
        index.add(digest(text), start)
    known |= added
    for number in range(2 * count + 1):
        text = str(number)
        assert index.get(digest(text)) == known.get(text)
        assert (digest(text) in index) is (text in known)


def test_lines_whose_digests_begin_alike_are_told_apart() -> None:
    half = DIGEST_BYTES // 2
    same = bytes(half)
    digests = [same + bytes([n]) * half for n in range(5)]
    index = LineIndex(bytearray(b"".join(digests)), array("Q", range(5)))
    assert [index.get(one) for one in digests] == [0, 1, 2, 3, 4]
    assert index.get(same + bytes([9]) * half) is None
