"""Draws several answers to one question; the picture is encoded and the prompt computed once.

python examples/python/several_answers.py BUNDLE PICTURE "Describe it." -n 4 --temperature 0.8
"""

from __future__ import annotations

import argparse

import internvl_rt as ivl


def main() -> None:
    """Prints every answer."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", help="the folder that `internvl-rt export` wrote")
    parser.add_argument("picture")
    parser.add_argument("question")
    parser.add_argument("-n", type=int, default=4, help="how many answers")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--seed", type=int, help="the same seed gives the same answers")
    parser.add_argument("--max-new-tokens", type=int, default=128)
    arguments = parser.parse_args()

    with ivl.load(arguments.bundle) as model:
        answers = model.chat(
            arguments.question,
            images=[arguments.picture],
            num_return_sequences=arguments.n,
            do_sample=True,
            temperature=arguments.temperature,
            seed=arguments.seed,
            max_new_tokens=arguments.max_new_tokens,
        )
    for index, answer in enumerate(answers):
        print(f"{index + 1}. {answer.text}")
    timings = answers[0].timings
    print(f"vision {timings.vit:.0f} ms and prefill {timings.prefill:.0f} ms, once for all")


if __name__ == "__main__":
    main()
