"""Answers of a given form: JSON that keeps a schema, and one of several choices.

python examples/python/structured.py BUNDLE PICTURE
"""

from __future__ import annotations

import argparse
import json

import internvl_rt as ivl

SCHEMA = {
    "type": "object",
    "properties": {
        "objects": {"type": "array", "items": {"type": "string", "maxLength": 20}, "maxItems": 5},
        "indoors": {"type": "boolean"},
    },
    "required": ["objects", "indoors"],
    "additionalProperties": False,
}


def main() -> None:
    """Asks for a document, then for a word."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", help="the folder that `internvl-rt export` wrote")
    parser.add_argument("picture")
    parser.add_argument("--max-new-tokens", type=int, default=256)
    arguments = parser.parse_args()

    with ivl.load(arguments.bundle) as model:
        picture = model.encode(arguments.picture)
        answer = model.chat(
            "What do you see?", [picture], schema=SCHEMA, max_new_tokens=arguments.max_new_tokens
        )
        if answer.finish_reason == "length":
            print(f"the document was cut off: {answer.text}")
        else:
            print(json.dumps(json.loads(answer.text), indent=2, ensure_ascii=False))
        print(model.chat("Is the path free?", [picture], choices=["yes", "no", "unclear"]).text)


if __name__ == "__main__":
    main()
