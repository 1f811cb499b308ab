"""Files that hold a classifier's state dict: what ``torch.save`` writes, and plain safetensors."""

from __future__ import annotations

from math import prod
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from detq.adapters.archive import Archive
from detq.adapters.classifiers import build_classifier, find_state, read_facts
from detq.adapters.safetensors_file import HEADER_KEY
from detq.adapters.stored_model import StoredModel
from detq.adapters.tensors import COUNTER
from detq.adapters.unpickle import StoredTensor
from detq.errors import CheckpointError, DetqError, shown


def read_classifier(archive: Archive) -> StoredModel | None:
    """The classifier in what ``torch.save`` wrote; None if it holds something else.

    Nothing of what the file contains is run. Raises CheckpointError if the state dict is damaged,
    or of no network that detq knows.
    """
    state = find_state(archive.root)
    if state is None or not isinstance(archive.root, dict):
        return None
    facts = read_facts(archive.root)
    needed = {key: value for key, value in state.items() if not key.endswith(COUNTER)}
    tensors = {}
    stored_tensors = [each for each in needed.values() if isinstance(each, StoredTensor)]
    if sum(prod(each.shape) for each in stored_tensors) > archive.byte_count:
        raise CheckpointError("the network has more weights than the file holds bytes")
    for key, stored in needed.items():
        if not isinstance(stored, StoredTensor):
            raise CheckpointError(f"{shown(key)} is no tensor")
        tensors[key] = torch.from_numpy(archive.read(key, stored))
    return build_classifier(tensors, facts)


def read_plain_safetensors(path: Path) -> StoredModel | None:
    """The classifier in a ``.safetensors`` of tensors alone; None if it holds something else.

    Raises CheckpointError, naming the file, if the tensors are of no network that detq knows.
    """
    try:
        with safe_open(path, framework="pt") as file:
            if HEADER_KEY in (file.metadata() or {}):
                return None
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError):
        return None  # whoever reads it next says what is wrong with it
    state = find_state(tensors)
    if state is None:
        return None
    try:
        return build_classifier(state, read_facts({}))
    except DetqError as error:
        raise CheckpointError(f"{path}: {error}") from None
