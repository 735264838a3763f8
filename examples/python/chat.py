"""Asks about a picture, then asks again: the picture is encoded once.

python examples/python/chat.py BUNDLE PICTURE "What is on the table?" "What colour is it?"
"""

from __future__ import annotations

import argparse

import internvl_rt as ivl


def main() -> None:
    """Answers every question in turn, with the earlier ones as history."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", help="the folder that `internvl-rt export` wrote")
    parser.add_argument("picture")
    parser.add_argument("questions", nargs="+")
    parser.add_argument("--max-new-tokens", type=int, default=128)
    arguments = parser.parse_args()

    with ivl.load(arguments.bundle) as model:
        picture = model.encode(arguments.picture)
        print(f"{picture.tiles} tiles, encoded in {picture.timings.total:.0f} ms")

        history: list[tuple[str, str]] = []
        for question in arguments.questions:
            # The first question of a conversation says where the picture stands.
            asked = question if history else f"<image>\n{question}"
            stream = model.stream(
                asked, images=[picture], history=history, max_new_tokens=arguments.max_new_tokens
            )
            print(f"> {question}")
            for piece in stream:
                print(piece.text, end="", flush=True)
            print()
            if stream.result is not None:
                history.append((asked, stream.result.text))


if __name__ == "__main__":
    main()
