"""Which class computes a checkpoint: those that compute something other than InternVL are refused by name.

``architectures`` says the class that saved the weights, ``auto_map`` the file of Python code beside them
that defines it, as ``FILE.CLASS`` or ``REPOSITORY--FILE.CLASS``. Other models keep the tensors and the
``model_type`` of InternVL and compute with them in another way (they merge the tokens of video frames, or
answer with masks), so neither tells them apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from internvl_rt.errors import CheckpointError
from internvl_rt.export.fields import Fields
from internvl_rt.export.modelling_source import computes_plainly


@dataclass(frozen=True)
class _ModellingClass:
    name: str
    file: str
    """The Python file that defines it, without its suffix."""


_PLAIN = {
    "internvl_chat": _ModellingClass("InternVLChatModel", "modeling_internvl_chat"),
    "internvl": _ModellingClass("InternVLForConditionalGeneration", "modeling_internvl"),
}
"""A format to the class that computes it."""

_WRAPPERS = ("FSDP",)
"""What training libraries put before the name of a class whose layers they distribute."""


def check_modelling_class(config: Fields, model_type: str, folder: Path) -> None:
    """Refuses a checkpoint that names another class than its format's.

    A name that is missing, null or empty says nothing: the tensors tell then. A class of another name whose
    code lies in the folder may be a copy of the authors' (:mod:`~internvl_rt.export.modelling_source`).

    Args:
        config: the document.
        model_type: the format.
        folder: the checkpoint's.

    Raises:
        CheckpointError: naming the class or the file.
    """
    plain = _PLAIN[model_type]
    copies = set()
    if config.values.get("auto_map") is not None:
        classes = config.inner("auto_map")
        # AutoConfig, AutoTokenizer and AutoProcessor compute nothing of the model.
        for key in (key for key in classes.values if key.startswith("AutoModel")):
            for reference in classes.texts(key):
                _, _, inside = reference.rpartition("--")
                path, _, name = inside.rpartition(".")
                file = path.rpartition(".")[2]
                if _is_plain(name, plain) and file in ("", plain.file):
                    continue
                in_folder = model_type == "internvl_chat" and file.isidentifier()
                if not in_folder or not computes_plainly(folder / f"{file}.py", name):
                    raise _other(classes, key, inside, plain)
                copies.add(name)
    for name in config.texts("architectures"):
        if not _is_plain(name, plain) and name not in copies:
            raise _other(config, "architectures", name, plain)


def _is_plain(name: str, plain: _ModellingClass) -> bool:
    for wrapper in _WRAPPERS:
        name = name.removeprefix(wrapper)
    return name in ("", plain.name)


def _other(fields: Fields, key: str, found: str, plain: _ModellingClass) -> CheckpointError:
    return CheckpointError(
        f"{fields.where}: {key} names {found[:200]!r}. This release exports models of the class {plain.name} "
        f"of {plain.file}.py; of others the tensors may fit, and the answers would be wrong. If it is that "
        f"class under another name, write {plain.name} there in a copy of config.json, and remove auto_map."
    )
