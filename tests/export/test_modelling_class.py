"""Checkpoints that another class computes are refused by name, copies of the plain class are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from export.checkpoints import TINY_INTERNLM2, TINY_QWEN2, Layout, write_checkpoint
from export.test_export import edit
from internvl_rt.bundle.bundle import open_bundle
from internvl_rt.errors import CheckpointError
from internvl_rt.export.exporter import export

FILE = "modeling_internvl_chat.InternVLChatModel"
PLAIN: dict[str, dict[str, Any]] = {
    "as published": {
        "auto_map": {
            "AutoConfig": "configuration_internvl_chat.InternVLChatConfig",
            "AutoModel": FILE,
            "AutoModelForCausalLM": FILE,
        }
    },
    "saved by peft or swift": {
        "auto_map": {
            "AutoConfig": "OpenGVLab/InternVL2-1B--configuration_internvl_chat.InternVLChatConfig",
            "AutoModel": f"OpenGVLab/InternVL2-1B--{FILE}",
        }
    },
    "a repository with a dot in its name": {"auto_map": {"AutoModel": f"o/SI-1.1-InternVL3-2B--{FILE}"}},
    "code in a folder": {"auto_map": {"AutoModel": f"code.{FILE}"}},
    "a list of one": {"auto_map": {"AutoModel": [FILE, None]}},
    "other classes that compute nothing": {
        "auto_map": {
            "AutoProcessor": "processing.Mine",
            "AutoTokenizer": ["a.B", None],
            "AutoModel": FILE,
        }
    },
    "nothing said": {"auto_map": None, "architectures": None},
    "empty": {"auto_map": {}, "architectures": []},
    "a null inside": {"auto_map": {"AutoModel": None}, "architectures": [None]},
    "one name without a list": {"architectures": "InternVLChatModel"},
    "saved while it was sharded": {"architectures": ["FSDPInternVLChatModel"]},
}
OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "an audio model": ({"architectures": ["InternVLChatAudioModel"]}, "'InternVLChatAudioModel'"),
    "a class beside the plain one": ({"architectures": ["InternVLChatModel", "MyModel"]}, "'MyModel'"),
    "another file": (
        {"auto_map": {"AutoModel": "modeling_internvl_chat_hico2.InternVLChatModel"}},
        r"AutoModel names 'modeling_internvl_chat_hico2\.InternVLChatModel'",
    ),
    "another file of a repository": (
        {"auto_map": {"AutoModel": "o/r--modeling_video.InternVLChatModel"}},
        r"'modeling_video\.InternVLChatModel'",
    ),
    "another class of the file": (
        {"auto_map": {"AutoModel": "modeling_internvl_chat.CustomizedInternVLChatModel"}},
        "CustomizedInternVLChatModel",
    ),
    "for one of the tasks": (
        {"auto_map": {"AutoModel": FILE, "AutoModelForCausalLM": "modeling_sa2va.Sa2VA"}},
        r"AutoModelForCausalLM names 'modeling_sa2va\.Sa2VA'",
    ),
    "no text": ({"architectures": [[1]]}, r"architectures is \[\[1\]\].*names"),
    "a number": ({"architectures": 7}, "architectures is 7"),
    "no text in the map": ({"auto_map": {"AutoModel": {"a": 1}}}, "auto_map: AutoModel is"),
    "no map": ({"auto_map": ["AutoModel"]}, "auto_map is"),
}


@pytest.mark.parametrize("name", PLAIN)
def test_the_plain_class(tmp_path: Path, name: str) -> None:
    write_checkpoint(tmp_path / "in", TINY_INTERNLM2, config_changes=PLAIN[name])
    assert open_bundle(export(tmp_path / "in", tmp_path / "out")).manifest.source_format == "internvl_chat"


@pytest.mark.parametrize("name", OTHERS)
def test_another_class(tmp_path: Path, name: str) -> None:
    changes, message = OTHERS[name]
    write_checkpoint(tmp_path / "in", TINY_INTERNLM2, config_changes=changes)
    with pytest.raises(CheckpointError, match=message):
        export(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("layout", ["native_first", "native_second"])
def test_the_native_class(tmp_path: Path, layout: Layout) -> None:
    write_checkpoint(tmp_path / "in", TINY_QWEN2, layout=layout)
    export(tmp_path / "in", tmp_path / "out")
    for number, changes in enumerate(
        (
            {"architectures": ["InternVLForVideo"]},
            {"architectures": ["InternVLChatModel"]},
            {"auto_map": {"AutoModelForImageTextToText": "modeling_mine.InternVLForConditionalGeneration"}},
        )
    ):
        folder = tmp_path / str(number)
        write_checkpoint(folder, TINY_QWEN2, layout=layout, config_changes=changes)
        with pytest.raises(CheckpointError, match=r"names .*InternVLForConditionalGeneration"):
            export(folder, tmp_path / "other")


def test_language_models_inside_name_their_own_code(tmp_path: Path) -> None:
    """The authors' code goes by the class's name and never by the map in ``llm_config``."""
    write_checkpoint(tmp_path / "in", TINY_INTERNLM2)
    inner = {"AutoModel": "modeling_internlm2.InternLM2ForCausalLM", "AutoConfig": "x--y.InternLM2Config"}
    edit(tmp_path / "in", "llm_config", "auto_map", value=inner)
    edit(tmp_path / "in", "vision_config", "auto_map", value={"AutoModel": "modeling_intern_vit.X"})
    export(tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize("value", [[[1]], [{}], 3, {"a": 1}, [True]])
def test_language_models_whose_class_is_no_name(tmp_path: Path, value: object) -> None:
    write_checkpoint(tmp_path / "in", TINY_QWEN2)
    edit(tmp_path / "in", "llm_config", "architectures", value=value)
    with pytest.raises(CheckpointError, match="llm_config: architectures is"):
        export(tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize("value", [None, [], ...])
def test_language_models_without_a_class_go_by_their_type(tmp_path: Path, value: object) -> None:
    write_checkpoint(tmp_path / "in", TINY_QWEN2)
    edit(tmp_path / "in", "llm_config", "architectures", value=value)
    assert open_bundle(export(tmp_path / "in", tmp_path / "out")).manifest.llm.architecture == "qwen2"


COPY = '''
"""A chat class of our own; it computes what InternVL's does."""
import warnings
import torch
from transformers import PreTrainedModel

raise RuntimeError("this file is read, and never run")

def shout(text):
    return text.upper() * 2

class {name}({bases}):
    def __init__(self, config):
        super().__init__(config)
        self.greeting = "Hello" + ", " + "you"

    def pixel_shuffle(self, x, ratio):
        tiles, rows, columns, channels = x.size()
        x = x.view(tiles, rows, int(columns * ratio), int(channels / ratio)).permute(0, 2, 1, 3).contiguous()
        x = x.view(tiles, int(columns * ratio), int(rows * ratio), int(channels / ratio ** 2))
        if self.version == "v1":
            warnings.warn("transposed")
            return x
        return x.permute(0, 2, 1, 3).contiguous()

    def extract_feature(self, pixels):
        hidden = self.vision_model(pixel_values=pixels, return_dict=True).last_hidden_state[:, 1:, :]
        side = int(hidden.shape[1] ** 0.5)
        hidden = self.pixel_shuffle(hidden.reshape(hidden.shape[0], side, side, -1), 0.5)
        return self.mlp1(hidden.reshape(hidden.shape[0], -1, hidden.shape[-1]))

    @torch.no_grad()
    def generate(self, pixel_values, input_ids, **options):
        features = self.extract_feature(pixel_values)
        embeddings = self.language_model.get_input_embeddings()(input_ids)
        b, n, c = embeddings.shape
        embeddings = embeddings.reshape(b * n, c)
        places = input_ids.reshape(b * n) == self.image_id
        assert places.sum() != 0
        embeddings[places] = features.reshape(-1, c).to(embeddings.device)
        return self.language_model.generate(inputs_embeds=embeddings.reshape(b, n, c), **options)

    def chat(self, question):
        return shout([question for _ in range(3)][0])
'''


def copy_of(name: str = "MyChatModel", bases: str = "PreTrainedModel") -> str:
    return COPY.format(name=name, bases=bases)


def with_code(folder: Path, code: str, name: str = "MyChatModel", reference: str | None = None) -> Path:
    """A checkpoint of a class of another name, whose code lies beside it."""
    changes = {
        "architectures": [name],
        "auto_map": {"AutoModel": reference or f"modeling_mine.{name}", "AutoConfig": "configuration.Mine"},
    }
    write_checkpoint(folder, TINY_INTERNLM2, config_changes=changes)
    (folder / "modeling_mine.py").write_text(code)
    return folder


@pytest.mark.parametrize("reference", [None, "me/mine--modeling_mine.MyChatModel"])
@pytest.mark.parametrize("bases", ["PreTrainedModel", "transformers.PreTrainedModel, GenerationMixin"])
def test_a_copy_under_another_name(tmp_path: Path, bases: str, reference: str | None) -> None:
    folder = with_code(tmp_path / "in", copy_of(bases=bases), reference=reference)
    write_checkpoint(tmp_path / "plain", TINY_INTERNLM2)
    copied, plain = (
        open_bundle(export(path, tmp_path / f"{path.name}-out", weights="fp32"))
        for path in (folder, tmp_path / "plain")
    )
    assert copied.manifest.files["weights.safetensors"] == plain.manifest.files["weights.safetensors"]


CHANGES = {
    "tokens are averaged": ("return self.mlp1(", "return self.mlp1(hidden.mean(1)) or self.mlp1("),
    "tokens are merged by a module": ("return self.mlp1(", "return self.merge(self.mlp1)("),
    "tokens are left out": ("[:, 1:, :]", "[:, 1::2, :]"),
    "more tokens are left out": ("[:, 1:, :]", "[:, 257:, :]"),
    "features are weighed": ("        places =", "        features = features * 0.5\n        places ="),
    "features are added to": ("        places =", "        features += 1\n        places ="),
    "frames one by one": ("        places =", "        for frame in features: pass\n        places ="),
    "no pixel shuffle": ("self.pixel_shuffle(", "self.other_shuffle("),
    "a method is missing": ("def extract_feature(", "def extract_features("),
    "another class is below it": ("(PreTrainedModel)", "(InternVLChatModel)"),
    "a class beside the base": ("(PreTrainedModel)", "(PreTrainedModel, VideoMixin)"),
    "no class": ("class MyChatModel", "class Other"),
    "not Python": ("class MyChatModel", "klass MyChatModel"),
    "nested too deep": ('"Hello"', "(" * 5000 + ")" * 5000),
    "a null byte": ('"Hello"', '"\0"'),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_copy_that_computes_something_else(tmp_path: Path, name: str) -> None:
    old, new = CHANGES[name]
    code = copy_of()
    assert old in code
    folder = with_code(tmp_path / "in", code.replace(old, new))
    with pytest.raises(CheckpointError, match=r"AutoModel names 'modeling_mine\.MyChatModel'"):
        export(folder, tmp_path / "out")


def test_code_that_is_somewhere_else(tmp_path: Path) -> None:
    """Only the code in the folder is read, whatever the reference says."""
    (tmp_path / "modeling_mine.py").write_text(copy_of())
    for number, path in enumerate(("../modeling_mine", f"{tmp_path}/modeling_mine", "modeling_mine/")):
        folder = with_code(tmp_path / str(number), copy_of(), reference=f"{path}.MyChatModel")
        (folder / "modeling_mine.py").unlink()
        with pytest.raises(CheckpointError, match="AutoModel names"):
            export(folder, tmp_path / "out")


def test_another_class_beside_a_copy(tmp_path: Path) -> None:
    folder = with_code(tmp_path / "in", copy_of())
    edit(folder, "architectures", value=["OtherChatModel"])
    with pytest.raises(CheckpointError, match="architectures names 'OtherChatModel'"):
        export(folder, tmp_path / "out")
