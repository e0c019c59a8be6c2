"""Choose the tasks, none of them in a search, that choose its winner where the user names none."""

from __future__ import annotations

from collections.abc import Sequence

from gp_prune.base.names import HF
from gp_prune.tasks import is_language_task, is_task_name

_UNSEEN = ("mobilenet", "cnn", "resnet", "caffe_lenet", "lenet", "autoencoder", "mlp")
"""Families of networks that validate, the first ones that are not in the search."""

_UNSEEN_LANGUAGE = ("gpt", "llama", "llama_wide")
"""As :data:`_UNSEEN`, where all built-in tasks of the search are language models; one validates."""


def are_language_models(tasks: Sequence[str]) -> bool:
    """Return whether all built-in tasks are language models.

    Networks of a folder of transformers count as such.
    """
    known = [name for name in tasks if is_task_name(name) or name.startswith(HF)]
    return bool(known) and all(is_language_task(n) or n.startswith(HF) for n in known)


def choose_validation_tasks(tasks: Sequence[str], report_on: Sequence[str]) -> tuple[str, ...]:
    """Return two networks on the digits of families that are not in the search.

    It is one language model where the search is on language models, and none where no task of the
    search is built-in, since a network of the user's has no family.
    """
    if not any(map(is_task_name, tasks)):
        return ()
    families = {name.partition("-")[0] for name in (*tasks, *report_on)}
    if are_language_models(tasks):
        unseen = (family for family in _UNSEEN_LANGUAGE if family not in families)
        return tuple(f"{family}-pydoc" for family in unseen)[:1]
    return tuple(f"{family}-digits" for family in _UNSEEN if family not in families)[:2]
