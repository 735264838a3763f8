"""Writes several candidates and takes the best one.

python examples/python/best_of.py BUNDLE PICTURE "Which way does the arrow point?" --critic VISUALPRM_BUNDLE

Without --critic the candidates are scored by a function: here, how short they are.
"""

from __future__ import annotations

import argparse

import internvl_rt as ivl


def brevity(answer: ivl.Answer) -> float:
    """Any function of an answer will do; higher is better. An answer that was cut off is worth nothing."""
    return -len(answer.text) if answer.finish_reason == "stop" else float("-inf")


def main() -> None:
    """Writes the candidates together and scores them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", help="the folder that `internvl-rt export` wrote")
    parser.add_argument("picture")
    parser.add_argument("question")
    parser.add_argument("--critic", help="the bundle of a critic such as VisualPRM-8B")
    parser.add_argument("-n", type=int, default=8, help="how many candidates")
    parser.add_argument("--max-new-tokens", type=int, default=512)
    arguments = parser.parse_args()

    critic = ivl.load(arguments.critic) if arguments.critic else None
    with ivl.load(arguments.bundle) as model:
        best = model.best_of(
            arguments.question,
            images=[arguments.picture],
            n=arguments.n,
            score=critic if critic is not None else brevity,
            max_new_tokens=arguments.max_new_tokens,
        )
    if critic is not None:
        critic.close()
    print(best.answer.text)
    print("scores: " + ", ".join(f"{score:.3f}" for score in best.scores))


if __name__ == "__main__":
    main()
