"""Options that several commands share, and the model that they ask for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import typer

if TYPE_CHECKING:
    from internvl_rt.model import Model

BundleArgument: TypeAlias = Annotated[
    Path, typer.Argument(metavar="BUNDLE", help="The folder that `export` wrote.", show_default=False)
]
EngineOption: TypeAlias = Annotated[str, typer.Option("--engine", help="native or onnxruntime.")]
ProviderOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--provider",
        help="Of --engine onnxruntime: cpu, cuda, tensorrt, tensorrt-rtx, openvino; repeatable, best first.",
        show_default=False,
    ),
]
DeviceOption: TypeAlias = Annotated[str, typer.Option("--device", help="auto or cpu.")]
ThreadsOption: TypeAlias = Annotated[
    int | None, typer.Option("--threads", help="Threads; every usable core if not given.", show_default=False)
]
CacheOption: TypeAlias = Annotated[
    int | None,
    typer.Option("--cache-tokens", help="Size of the KV cache in tokens.", show_default=False),
]
ImageOption: TypeAlias = Annotated[
    list[Path] | None,
    typer.Option("--image", "-i", metavar="FILE", help="A picture; repeat for several.", show_default=False),
]
MaxTilesOption: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--max-tiles",
        help="The most tiles of every picture, 1 to 40; --detail decides if not given.",
        show_default=False,
    ),
]
DetailOption: TypeAlias = Annotated[
    Literal["low", "high", "auto"],
    typer.Option(
        "--detail",
        help="low: one tile a picture; high: up to 40 tiles for all pictures; auto: the model's own figure.",
    ),
]
MaxNewTokensOption: TypeAlias = Annotated[
    int, typer.Option("--max-new-tokens", help="The answer ends here at the latest.")
]
SampleOption: TypeAlias = Annotated[
    bool, typer.Option("--sample", help="Draw tokens at random instead of taking the likeliest.")
]
TemperatureOption: TypeAlias = Annotated[float, typer.Option("--temperature", help="With --sample.")]
TopPOption: TypeAlias = Annotated[float, typer.Option("--top-p", help="With --sample.")]
TopKOption: TypeAlias = Annotated[int, typer.Option("--top-k", help="With --sample; 0 draws from all.")]
PenaltyOption: TypeAlias = Annotated[float, typer.Option("--repetition-penalty", help="1 is none.")]
SeedOption: TypeAlias = Annotated[
    int | None, typer.Option("--seed", help="Makes --sample repeatable.", show_default=False)
]
StopOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--stop", help="A text that ends the answer; repeatable.", show_default=False),
]
JsonOption: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


def load_model(
    bundle: Path,
    *,
    device: str,
    engine: str,
    threads: int | None,
    cache_tokens: int | None,
    providers: list[str] | None = None,
) -> Model:
    """Loads a bundle as the options say."""
    from internvl_rt.loading import load

    return load(bundle, device, engine, threads, cache_tokens=cache_tokens, providers=providers or None)


def answer_document(answer: Any) -> dict[str, Any]:
    """An ``Answer`` as JSON."""
    import dataclasses

    document = dataclasses.asdict(answer)
    return {**document, "token_ids": list(answer.token_ids)}
