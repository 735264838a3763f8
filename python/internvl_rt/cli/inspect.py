"""``internvl-rt inspect``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from internvl_rt.cli.options import BundleArgument, CacheTypeOption, JsonOption

if TYPE_CHECKING:
    from internvl_rt.model.inspection import Inspection


def command(
    bundle: BundleArgument,
    context: Annotated[
        int | None,
        typer.Option("--context", help="Tokens of the KV cache to reckon with.", show_default=False),
    ] = None,
    cache_type: CacheTypeOption = None,
    verify: Annotated[bool, typer.Option("--verify", help="Compute the SHA-256 of the weights too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Tell what is in a bundle, and how much memory it needs."""
    import dataclasses

    from internvl_rt.bundle.bundle import open_bundle
    from internvl_rt.cli.output import print_json
    from internvl_rt.model.inspection import inspect_bundle

    found = inspect_bundle(
        open_bundle(bundle, verify=verify),
        context,
        cache_type,  # type: ignore[arg-type]  # inspect_bundle says what is wrong with it
    )
    if as_json:
        document = dataclasses.asdict(found)
        print_json({**document, "memory_bytes": found.memory_bytes, "weights_verified": verify})
    else:
        _print(found, verify)


def _print(found: Inspection, verified: bool) -> None:
    from internvl_rt.cli.output import console, facts, table
    from internvl_rt.files.sizes import readable_size as size

    manifest = found.manifest
    vision, llm, tiling, rope = manifest.vision, manifest.llm, manifest.tiling, manifest.llm.rope
    scaling = "" if rope.scaling == "none" else f", {rope.scaling} scaling by {rope.factor:g}"
    experts = "" if llm.experts is None else f", {llm.experts.chosen} of {llm.experts.count} experts"
    out = console()
    out.print(
        facts(
            manifest.name,
            [
                ("made by", f"{manifest.generator} from the {manifest.source_format} format"),
                (
                    "vision",
                    f"{vision.layers} layers of {vision.hidden_size}, {vision.heads} heads, {vision.norm}",
                ),
                (
                    "language",
                    f"{llm.architecture}: {llm.layers} layers of {llm.hidden_size}, {llm.heads} heads, "
                    f"{llm.kv_heads} key-value heads of {llm.head_dim}, {llm.vocab_size} tokens{experts}",
                ),
                ("positions", f"up to {rope.max_position_embeddings}, base {rope.theta:g}{scaling}"),
                (
                    "pictures",
                    f"{tiling.min_tiles} to {tiling.max_tiles} tiles of {tiling.tile_size} pixels"
                    f"{', and a thumbnail' if tiling.thumbnail else ''}, "
                    f"{manifest.tokens_per_tile} tokens each",
                ),
                (
                    "prompts",
                    f"template {manifest.prompt.template}, stop ids {_ids(manifest.prompt.stop_ids)}",
                ),
            ],
        )
    )
    rows = [(part.name, part.precision, f"{part.parameters:,}", size(part.bytes)) for part in found.parts]
    total = sum(part.parameters for part in found.parts)
    rows.append(("all", "", f"{total:,}", size(sum(part.bytes for part in found.parts))))
    out.print(table("Weights", ("part", "precision", "parameters", "size"), rows))
    checked = (
        "their SHA-256 is right" if verified else "sizes and header checked; --verify computes their SHA-256"
    )
    out.print(
        facts(
            "Memory",
            [
                ("weights", f"{size(found.weights_bytes)}, mapped; {checked}"),
                (
                    "KV cache",
                    f"{size(found.kv_bytes_per_token)} a token, {size(found.cache_bytes)} for "
                    f"{found.context_tokens} tokens",
                ),
                (
                    "pictures",
                    f"{size(found.activation_bytes)} of activations while one is encoded, "
                    f"{_tiles(found.batch_tiles)} at a time (native engine)",
                ),
                (
                    "together",
                    f"{size(found.memory_bytes)} of weights and cache, and what a picture or a prompt needs "
                    "while it is computed",
                ),
                ("on disk", size(found.files_bytes)),
                ("ONNX graphs", ", ".join(graphs.name for graphs in manifest.graph_sets) or "none"),
            ],
        )
    )


def _tiles(count: int) -> str:
    return "one tile" if count == 1 else f"{count} tiles"


def _ids(ids: tuple[int, ...]) -> str:
    return " ".join(map(str, ids))
