"""Finds something in a picture and draws its boxes.

python examples/python/locate.py BUNDLE PICTURE "red cube" --out found.png
"""

from __future__ import annotations

import argparse

import internvl_rt as ivl


def main() -> None:
    """Asks for the boxes of every phrase; the picture is encoded once."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", help="the folder that `internvl-rt export` wrote")
    parser.add_argument("picture")
    parser.add_argument("phrases", nargs="+", help="what to look for")
    parser.add_argument("--out", help="write the picture with all boxes")
    parser.add_argument("--max-new-tokens", type=int, default=128)
    arguments = parser.parse_args()

    boxes: list[ivl.Box] = []
    with ivl.load(arguments.bundle) as model:
        picture = model.encode(arguments.picture)
        for phrase in arguments.phrases:
            found = model.locate(phrase, picture, max_new_tokens=arguments.max_new_tokens)
            print(f"{phrase}: {len(found.boxes)} boxes")
            for box in found.boxes:
                print(f"  {box.label!r} from ({box.x1:.0f}, {box.y1:.0f}) to ({box.x2:.0f}, {box.y2:.0f})")
            for problem in found.problems:
                print(f"  {problem}")
            boxes += found.boxes
    if arguments.out:
        ivl.draw_boxes(arguments.picture, boxes).save(arguments.out)


if __name__ == "__main__":
    main()
