"""Asks about several pictures: each for itself, and in one place as if they were one.

python examples/python/several_pictures.py BUNDLE "What is different?" a.jpg b.jpg --detail high
"""

from __future__ import annotations

import argparse

import internvl_rt as ivl


def main() -> None:
    """Asks twice, and tells how many tiles the pictures took."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", help="the folder that `internvl-rt export` wrote")
    parser.add_argument("question")
    parser.add_argument("pictures", nargs="+")
    parser.add_argument("--detail", default="auto", choices=["low", "high", "auto"])
    parser.add_argument("--max-new-tokens", type=int, default=128)
    arguments = parser.parse_args()

    with ivl.load(arguments.bundle) as model:
        for as_one in (False, True):
            answer = model.chat(
                arguments.question,
                images=arguments.pictures,
                detail=arguments.detail,
                as_one=as_one,
                max_new_tokens=arguments.max_new_tokens,
            )
            form = "in one place" if as_one else "each for itself"
            print(f"{form}: {answer.usage.tiles} tiles, {answer.usage.prompt_tokens} prompt tokens")
            print(answer.text)


if __name__ == "__main__":
    main()
