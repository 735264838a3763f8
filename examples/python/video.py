"""Asks about a video: eight frames of it, spread over the whole or a part.

python examples/python/video.py BUNDLE clip.mp4 "What happens?" --num-frames 8 --start 2 --end 6
"""

from __future__ import annotations

import argparse

import internvl_rt as ivl


def main() -> None:
    """Chooses the frames once and asks every question about them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", help="the folder that `internvl-rt export` wrote")
    parser.add_argument("video")
    parser.add_argument("questions", nargs="+")
    parser.add_argument("--num-frames", type=int, default=8)
    parser.add_argument("--start", type=float, help="seconds")
    parser.add_argument("--end", type=float, help="seconds")
    parser.add_argument("--max-new-tokens", type=int, default=128)
    arguments = parser.parse_args()

    frames = ivl.sample_video(
        arguments.video, num_frames=arguments.num_frames, start=arguments.start, end=arguments.end
    )
    assert frames.times is not None
    print("frames at " + ", ".join(f"{time:.2f} s" for time in frames.times))
    with ivl.load(arguments.bundle) as model:
        for question in arguments.questions:
            answer = model.chat(question, video=frames, max_new_tokens=arguments.max_new_tokens)
            print(f"> {question}")
            print(answer.text)


if __name__ == "__main__":
    main()
