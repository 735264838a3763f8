"""Answers several times and lets the answers vote; the picture is encoded once.

python examples/python/vote.py BUNDLE PICTURE "How many objects are on the table?" -n 8
"""

from __future__ import annotations

import argparse

import internvl_rt as ivl


def main() -> None:
    """Asks for reasoning, and counts what the samples end with."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", help="the folder that `internvl-rt export` wrote")
    parser.add_argument("picture")
    parser.add_argument("question")
    parser.add_argument("-n", type=int, default=8, help="how many answers vote")
    parser.add_argument("--direct", action="store_true", help="ask for the bare answer, without reasoning")
    parser.add_argument("--seed", type=int, help="the same seed gives the same answers")
    parser.add_argument("--max-new-tokens", type=int, default=512)
    arguments = parser.parse_args()

    with ivl.load(arguments.bundle) as model:
        vote = model.vote(
            arguments.question,
            images=[arguments.picture],
            n=arguments.n,
            reasoning=None if arguments.direct else "open",
            seed=arguments.seed,
            max_new_tokens=arguments.max_new_tokens,
        )
    print(f"answer: {vote.answer} ({vote.share:.0%} of {arguments.n})")
    for answer, count in vote.counts.items():
        print(f"  {count} x {answer}")
    print(f"{vote.timings.total:.0f} ms, of which the picture took {vote.timings.vit:.0f} ms, once")


if __name__ == "__main__":
    main()
