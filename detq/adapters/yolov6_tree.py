"""A pickled YOLOv6 network of any release as flat tables, under the names of release 0.4."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from detq.adapters.other_programs import explain_state
from detq.adapters.unpickle import Instance, StoredTensor
from detq.errors import CheckpointError

MAX_DEPTH = 32  # a module tree is about 10 deep and has some thousand modules
MAX_MODULES = 50_000
MAX_ENTRIES = 1_000  # children or tensors of one module
MAX_NAME_LENGTH = 100

_NETWORKS = (
    "yolov6.models.yolo.Model",
    "yolov6.models.yolo_lite.Model",
    "ultralytics.nn.tasks.DetectionModel",
    "ultralytics.nn.tasks.RTDETRDetectionModel",
)
_WRAPPERS = (
    "torch.nn.parallel.distributed.DistributedDataParallel",
    "torch.nn.parallel.data_parallel.DataParallel",
)
"""Training on several devices puts the network inside one of these."""
Children = Callable[[str, Instance], Iterable[tuple[str, Instance]]]
"""(path, module) -> the children to walk, by their names."""

# Up to release 0.3 these held `conv` and `bn` themselves, where 0.4 has them one level down.
_FLAT_CONVOLUTIONS = ("SimConv", "Conv", "Conv_C3")
_POOLING_NAMES = {
    "SimSPPF": "sppf",
    "SPPF": "sppf",
    "SimCSPSPPF": "cspsppf",
    "CSPSPPF": "cspsppf",
}


@dataclass(frozen=True)
class StoredNetwork:
    """Modules by path and tensors by key, as release 0.4 names them."""

    root: Instance
    modules: dict[str, Instance] = field(default_factory=dict)
    tensors: dict[str, StoredTensor] = field(default_factory=dict)

    def kind(self, path: str) -> str:
        """Class name of a module, without its package; CheckpointError if there is none."""
        if path not in self.modules:
            raise CheckpointError(f"module {path} is missing")
        return short_kind(self.modules[path])

    def count(self, path: str) -> int:
        """How many children a container has; 0 if it is absent."""
        return len(children_of(self.modules[path])) if path in self.modules else 0


def select_network(root: object) -> Instance:
    """The network inside a checkpoint of YOLOv6 or Ultralytics: ``ema``, or ``model`` for None.

    Raises CheckpointError (without the file's name) if there is none.
    """
    candidate = root
    if isinstance(root, dict):
        if explanation := explain_state(root):
            raise CheckpointError(explanation)
        candidate = root.get("ema") or root.get("model")
    if isinstance(candidate, Instance) and candidate.kind in _WRAPPERS:
        candidate = children_of(candidate).get("module")
    if not isinstance(candidate, Instance) or candidate.kind not in _NETWORKS:
        raise CheckpointError(
            "holds no network under `ema` or `model`; pass a file that the training of YOLOv6 or "
            "Ultralytics wrote, or export the network to ONNX where it was trained"
        )
    return candidate


def read_tree(root: Instance, *, children: Children | None = None) -> StoredNetwork:
    """Walk the module tree; ``children`` are by default those of YOLOv6 under their names of 0.4.

    Raises CheckpointError (without the file's name) if it is malformed.
    """
    network = StoredNetwork(root)
    _walk("", root, network, children or _renamed_children, depth=0)
    return network


def short_kind(module: Instance) -> str:
    """``RepVGGBlock`` for ``yolov6.layers.common.RepVGGBlock``."""
    return module.kind.rpartition(".")[2]


def children_of(module: Instance) -> dict[str, Instance]:
    """The children that are not None, under the names they are stored with."""
    return dict(_entries(module, "_modules", Instance))


def _walk(
    path: str, module: Instance, network: StoredNetwork, children: Children, depth: int
) -> None:
    if depth > MAX_DEPTH or len(network.modules) > MAX_MODULES:
        raise CheckpointError(
            f"module {path[:80]}: the network nests deeper than {MAX_DEPTH} levels or has more "
            f"than {MAX_MODULES} modules; no detector does"
        )
    network.modules[path] = module
    for group in ("_parameters", "_buffers"):
        for name, tensor in _entries(module, group, StoredTensor):
            network.tensors[_join(path, name)] = tensor
    for name, child in children(path, module):
        _walk(_join(path, name), child, network, children, depth + 1)


def _renamed_children(path: str, module: Instance) -> Iterator[tuple[str, Instance]]:
    children, kind = children_of(module), short_kind(module)
    prefix = ""
    if kind in _FLAT_CONVOLUTIONS and path.rpartition(".")[2] != "block":
        prefix = "block."  # inside a ConvWrapper the 0.3 classes already lie under `block`
    elif kind in _POOLING_NAMES and _POOLING_NAMES[kind] not in children:
        prefix = f"{_POOLING_NAMES[kind]}."
    elif kind == "Detect":
        children = _evaluated_branches(children)
    for name, child in children.items():
        yield prefix + name, child


def _evaluated_branches(children: dict[str, Instance]) -> dict[str, Instance]:
    """The head without its training-only branches, the others under their 0.4 names.

    Decided by the names: a 0.3 distillation head evaluates ``reg_preds_lrtb`` and trains
    ``reg_preds``, a 0.4 one evaluates ``reg_preds`` and trains ``reg_preds_dist``.
    """
    kept = dict(children)
    for name in ("cls_preds_ab", "reg_preds_ab", "reg_preds_dist"):
        kept.pop(name, None)
    for old, new in (
        ("cls_preds_af", "cls_preds"),
        ("reg_preds_af", "reg_preds"),
        ("reg_preds_lrtb", "reg_preds"),
    ):
        if old in kept:
            kept[new] = kept.pop(old)
    return kept


def _entries(module: Instance, group: str, kind: type[Any]) -> Iterator[tuple[str, Any]]:
    entries = module.attributes.get(group, {})
    if not isinstance(entries, dict) or len(entries) > MAX_ENTRIES:
        raise CheckpointError(f"{short_kind(module)}.{group} is no dict of a plausible size")
    for name, value in entries.items():
        if value is None:
            continue
        if not isinstance(name, str) or "." in name or len(name) > MAX_NAME_LENGTH:
            raise CheckpointError(f"{short_kind(module)}.{group} holds an impossible name")
        if not isinstance(value, kind):
            raise CheckpointError(f"{short_kind(module)}.{group}: {name} is of an unexpected kind")
        yield name, value


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
