"""Downloads the state of a run from the Hub, so that training goes on from it on this machine."""

from __future__ import annotations

import io
import json
import pickle
import re
import shutil
from enum import Enum
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import load
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.utils import logging as hub_logging
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

from ..atomic import atomic_write
from ..main_process import claimed_by_job, job_state, on_main_process
from ..sharing.hub import FAILURES, request_problem, with_retries
from ..training_config import FREE_ON_RESUME, TrainingConfig, changed_settings, check_same_config, write_config
from .checkpoint_files import (
    FSDP_FOLDERS,
    RUN_FILES,
    checkpoint_path,
    checkpoints,
    find_damage,
    last_intact,
    update_of,
)
from .run_pusher import STATE

# Settings with paths on this machine; `checkpoints.digest` compares the content of these files.
PATHS = {"output_dir", "train", "dev", "unlabelled", "tokens", "model"}
STATE_FILES = re.compile(
    rf"model\.safetensors|{STATE}/((update|data|manifest|run|trackers|unreported|passes|probes)\.json"
    r"|slimipl(-selection|-labels-\d+)?\.json|config\.yaml"
    r"|metrics\.jsonl|model\.safetensors|optimizer\.bin|random_states_\d+\.pkl|(best-)?teacher\.safetensors"
    rf"|({'|'.join(FSDP_FOLDERS)})/(\.metadata|__\d+_\d+\.distcp))"
)


def resume_from_hub(config: TrainingConfig, repo_id: str) -> str | None:
    """Downloads the last pushed state into `output_dir`, unless a checkpoint there is as new; all processes call it.

    Returns:
        None if `train` can go on; for a repository with a finished run, a message on how to use it.

    Raises:
        ValueError: if the repository has no state, or one of other settings, or one that runs code when it is loaded.
        OSError: if the Hub cannot be read.
    """
    process = job_state()
    with claimed_by_job(process, config.output_dir):
        return on_main_process(process, lambda: _fetch(config, repo_id))


def _fetch(config: TrainingConfig, repo_id: str) -> str | None:
    check_same_config(config, checkpoints(Path(config.output_dir)))
    if (Path(config.output_dir) / "model").exists():
        return None
    hub_logging.set_verbosity_error()
    try:
        head = with_retries(lambda: HfApi().model_info(repo_id))
        names = [sibling.rfilename for sibling in head.siblings]
        if f"{STATE}/update.json" in names:
            _download(config, repo_id, head.sha, names)
            return None
    except ValueError as error:
        raise ValueError(f"{repo_id}: {request_problem(error)}") from error
    except FAILURES as error:
        problem = f"cannot read it ({request_problem(error)}); if it is private, HF_TOKEN needs the right to read it"
        raise OSError(f"{repo_id}: {problem}") from error
    if "config.yaml" not in names or {"model.safetensors", "adapter_model.safetensors"}.isdisjoint(names):
        raise ValueError(f"{repo_id}: has no state of a run; a run with push_to_hub in its settings pushes one")
    return (
        f'{repo_id} is complete: use it with pipeline("automatic-speech-recognition", model="{repo_id}"), or start '
        f"another run from it with model={repo_id}"
    )


def _download(config: TrainingConfig, repo_id: str, revision: str, names: list[str]) -> None:
    """Downloads the state at a revision that has files of these `names`, unless a checkpoint here is as new."""
    output_dir = Path(config.output_dir)
    folder = output_dir / "hub" / "download" / revision  # an interrupted download goes on there

    def download(patterns: list[str]) -> None:
        options = {"revision": revision, "local_dir": folder, "allow_patterns": patterns}
        with_retries(lambda: snapshot_download(repo_id, **options))

    download([f"{STATE}/update.json"])
    update = _read_update(folder / STATE / "update.json")
    newest = last_intact(output_dir, fallback=repo_id)
    if newest and update_of(newest) >= update:
        PartialState().print(f"{repo_id} has update {update}, which is not newer than {newest}")
    else:
        own_weights = {f"{STATE}/{FSDP_FOLDERS[0]}/.metadata", f"{STATE}/model.safetensors"}  # not those at the root
        state = [name for name in names if STATE_FILES.fullmatch(name)]
        state = [name for name in state if name != "model.safetensors" or own_weights.isdisjoint(names)]
        download([*state, *(name for name in RUN_FILES if name in names)])
        _check_settings(folder / "config.yaml", config)
        _check_state(folder / STATE)
        _move_in(folder, state, config, update)
    shutil.rmtree(output_dir / "hub" / "download")


def _read_update(path: Path) -> int:
    content = json.loads(path.read_text(encoding="utf-8"))
    update = content.get("update") if isinstance(content, dict) else None
    if type(update) is not int or not 0 < update < 1e8:
        raise ValueError(f"{STATE}/{path.name} says update {update!r}, which must be a whole number above 0")
    return update


def _check_settings(path: Path, config: TrainingConfig) -> None:
    if changes := changed_settings(path, config, FREE_ON_RESUME | PATHS):
        raise ValueError(f"its settings are others: {changes}; give the settings of the run that was pushed")


def _move_in(folder: Path, state: list[str], config: TrainingConfig, update: int) -> None:
    """Moves the run's files into `output_dir`, and the state last, because without it they belong to no run."""
    output_dir = Path(config.output_dir)
    for name in RUN_FILES:
        if (folder / name).exists():
            (folder / name).replace(output_dir / name)
    write_config(config)  # with the paths of this machine
    with atomic_write(checkpoint_path(output_dir, update)) as partial:
        for name in state:
            target = partial / name.removeprefix(f"{STATE}/")
            target.parent.mkdir(parents=True, exist_ok=True)
            (folder / name).replace(target)
        if problem := find_damage(partial):
            raise ValueError(f"{problem.replace(str(partial), STATE)}; the same command downloads it again")


def _check_state(folder: Path) -> None:
    """Raises a ValueError for files that would run code when accelerate and torch load them."""
    for path in sorted(folder.rglob("*")):
        try:
            if path.suffix in (".bin", ".pkl"):
                load(path, map_location="cpu", mmap=True)  # accelerate's own: loads tensors and numbers, but no code
            elif path.name == ".metadata":
                _check_shards(path)
        except Exception as error:
            name = path.relative_to(folder).as_posix()
            raise ValueError(
                f"{STATE}/{name} is no state of training that can be loaded safely; do not use this repository"
            ) from error


class _MetadataUnpickler(pickle.Unpickler):
    """Reads `.metadata` of torch.distributed.checkpoint with these types alone; torch would unpickle any code."""

    ALLOWED = {
        "torch.distributed.checkpoint.metadata": "Metadata TensorStorageMetadata BytesStorageMetadata TensorProperties"
        " ChunkStorageMetadata MetadataIndex StorageMeta _MEM_FORMAT_ENCODING",
        "torch.distributed.checkpoint.filesystem": "_StorageInfo",
        "torch.serialization": "_get_layout",
        "torch": "Size",
        "pathlib": "PosixPath",
    }

    def find_class(self, module: str, name: str):
        if (module, name) == ("builtins", "getattr"):  # Python 3.11.0 to 3.11.3 pickle members of enumerations so
            return _enum_member
        is_type = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if not is_type and name not in self.ALLOWED.get(module, "").split():
            raise pickle.UnpicklingError(f"{module}.{name}")
        return super().find_class(module, name)


def _enum_member(enumeration: type[Enum], name: str) -> Enum:
    if not issubclass(enumeration, Enum):
        raise pickle.UnpicklingError(f"getattr({enumeration.__name__}, {name!r})")
    return enumeration[name]


def _check_shards(path: Path) -> None:
    """Raises an error for code in FSDP's shards: in their metadata, and in values other than tensors."""
    with open(path, "rb") as file:
        metadata: Metadata = _MetadataUnpickler(file).load()
    for index, place in metadata.storage_data.items():
        is_part = re.fullmatch(r"__\d+_\d+\.distcp", place.relative_path)
        if not is_part or getattr(place, "transform_descriptors", None):
            raise ValueError(place)
        if not isinstance(metadata.state_dict_metadata[index.fqn], TensorStorageMetadata):
            with open(path.with_name(place.relative_path), "rb") as file:
                file.seek(place.offset)
                torch.load(io.BytesIO(file.read(place.length)), weights_only=True)
