"""Floor 9: seeds that depend on what they are for, and digests of networks."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def derived_seed(*parts: object) -> int:
    """A seed that depends on all parts and on nothing else (31 bits)."""
    text = "\0".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def network_digest(model: nn.Module) -> str:
    """SHA-256 of all weights and buffers of a network, with their names."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return f"sha256:{digest.hexdigest()}"
