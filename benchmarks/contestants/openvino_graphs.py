"""OpenVINO reading all three graphs of the bundle."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter

import numpy as np
import numpy.typing as npt
import openvino

from contestants.contestant import STEPS, Work, pixel_values, tokens_of
from internvl_rt.bundle.graph_ports import COS, EMBEDDINGS, LOGITS, MASK, ROWS, SIN
from internvl_rt.openvino import BEAMS, keep_cache, tensor_scatter

Floats = npt.NDArray[np.float32]


class OpenVino:
    """Satisfies Contestant.

    Precisions are OpenVINO's defaults. It computes in bf16 where the processor can, else in fp32, and weights
    in bf16 become fp32 then while it loads. Weights in int4 and int8 stay integers in memory, and its matrix
    products take them with their scales; but of the tower's four matrices in a layer the two before a layer
    scale are multiplied by it, and so become floats. Activations stay floats. Keys and values are kept in
    int8.

    With ``nncf``, the tower's graph is first quantised by OpenVINO's own tool, weights and activations to
    int8, and that is what is measured; the language model is the bundle's own, for the picture.

    The language model is the graph of the dialect onnx24 with the cache inside
    (``internvl_rt.openvino.keep_cache``), which is the form of OpenVINO's own exports and its fastest:
    attention is fused with the cache, and no step copies it. A prompt is one call. Embeddings are given, not
    looked up.

    The picture is computed as a whole, tile after tile and then the prompt, but from pixel values: OpenVINO
    has no preprocessing of this model.
    """

    def __init__(self, work: Work, tool: str = "") -> None:
        self.stages: tuple[str, ...] = ("vit", "picture")
        if not tool:
            self.stages = (
                "load",
                "vit",
                "prefill 1024",
                "prefill 4096",
                "prefill 8192",
                "decode 0",
                "decode 1024",
                "decode 4096",
                "picture",
            )
        self.work = work
        self.grid = work.tile_size // work.patch_size
        core = openvino.Core()
        core.add_extension(tensor_scatter())
        settings = {"INFERENCE_NUM_THREADS": work.threads, "PERFORMANCE_HINT": "LATENCY"}

        def read(graph: str) -> openvino.Model:
            return core.read_model(str(Path(work.bundle) / graph))

        def compiled(model: openvino.Model) -> openvino.CompiledModel:
            return core.compile_model(model, "CPU", settings)

        vit = read("vit.onnx")
        self.vit = compiled(quantised(vit, work) if tool == "nncf" else vit)
        self.projector = compiled(read("projector.onnx"))
        decoder = read("llm.onnx")
        keep_cache(decoder)
        self.decoder = Decoder(compiled(decoder), work)

    def sample(self, stage: str) -> float:
        if stage == "vit":
            pixels = pixel_values(self.work)
            begun = perf_counter()
            self._features(pixels)
            return 1e3 * (perf_counter() - begun)
        if stage == "picture":
            return self._picture()
        if stage.startswith("prefill "):
            prompt = self.decoder.some_embeddings(tokens_of(stage))
            self.decoder.empty()
            begun = perf_counter()
            self.decoder.step(prompt)
            return 1e3 * (perf_counter() - begun)
        self.decoder.fill(max(1, tokens_of(stage)))
        token = self.decoder.some_embeddings(1)
        self.decoder.step(token)  # the first step after a restored cache makes room for more
        begun = perf_counter()
        for _ in range(STEPS):
            self.decoder.step(token)
        return 1e3 * (perf_counter() - begun) / STEPS

    def _picture(self) -> float:
        tiles = pixel_values(self.work, self.work.picture_tiles)
        prompt = self.decoder.some_embeddings(self.work.picture_tokens)
        self.decoder.empty()
        begun = perf_counter()
        features = np.concatenate([self._features(tile[None])[0] for tile in tiles])
        prompt[0, : len(features)] = features
        self.decoder.step(prompt).argmax()
        return 1e3 * (perf_counter() - begun)

    def _features(self, pixels: Floats) -> Floats:
        """[tiles, tokens of a tile, hidden]"""
        features: Floats = self.projector([self._shuffled(self.vit([pixels])[0])])[0]
        return features

    def _shuffled(self, features: Floats) -> Floats:
        """Pixel shuffle v2: [tiles, 1 + P, C] to [tiles, P / 4, 4 C]."""
        tiles, _, width = features.shape
        half = self.grid // 2
        blocks = features[:, 1:].reshape(tiles, half, 2, half, 2, width).transpose(0, 1, 3, 2, 4, 5)
        return np.ascontiguousarray(blocks).reshape(tiles, half * half, 4 * width)


def quantised(tower: openvino.Model, work: Work) -> openvino.Model:
    """As NNCF quantises transformers. Ranges of activations, which it measures, change no times: a few tiles
    do."""
    import nncf

    tiles = pixel_values(work, 4)
    return nncf.quantize(
        tower,
        nncf.Dataset([tile[None] for tile in tiles]),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(tiles),
    )


class Decoder:
    """One sequence of the language model, whose cache OpenVINO keeps."""

    def __init__(self, model: openvino.CompiledModel, work: Work) -> None:
        self.request = model.create_infer_request()
        self.hidden_size = work.hidden_size
        self.frequencies = work.rope_theta ** (-np.arange(0, work.head_dim, 2) / work.head_dim)
        self.length = 0
        self.filled: dict[int, dict[str, openvino.Tensor]] = {}

    def some_embeddings(self, count: int) -> Floats:
        """[1, count, hidden]"""
        shape = (1, count, self.hidden_size)
        return np.random.default_rng(1).standard_normal(shape, dtype=np.float32)

    def empty(self) -> None:
        """Begins a new sequence."""
        self.request.reset_state()
        self.length = 0

    def fill(self, count: int) -> None:
        """Begins a new sequence of so many tokens; computed the first time, and put back from then on."""
        if count not in self.filled:
            self.empty()
            self.step(self.some_embeddings(count))
            self.filled[count] = {
                state.name: openvino.Tensor(np.array(state.state.data))
                for state in self.request.query_state()
            }
        for state in self.request.query_state():
            state.state = self.filled[count][state.name]
        self.length = count

    def step(self, embeddings: Floats) -> Floats:
        """Appends embeddings [1, n, hidden]; the logits [1, vocab] of the last."""
        n = embeddings.shape[1]
        positions = np.arange(self.length, self.length + n)
        self.length += n
        angles = np.outer(positions, self.frequencies)[None]
        found = self.request.infer(
            {
                EMBEDDINGS: embeddings,
                COS: np.cos(angles).astype(np.float32),
                SIN: np.sin(angles).astype(np.float32),
                MASK: (np.arange(self.length) <= positions[:, None])[None, None],
                ROWS: np.array([n - 1]),
                BEAMS: np.zeros(1, np.int32),
            },
            share_inputs=True,
            share_outputs=True,
        )
        logits: Floats = found[LOGITS]
        return logits
