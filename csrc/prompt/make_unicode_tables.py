"""Writes unicode_tables.cpp: what the ``tokenizers`` library takes for letters, digits and spaces.

    python csrc/prompt/make_unicode_tables.py

The library is asked about every code point, so that the tables are of the Unicode versions that it was built
with: its regular expressions, its added tokens and its normaliser each bring one of their own.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordLevel

CODE_POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
HANGUL = range(0xAC00, 0xAC00 + 11172)


def matching(pattern: str) -> set[int]:
    """The code points that a regular expression matches."""
    split = pre_tokenizers.Split(Regex(pattern), behavior="removed", invert=True)
    return {ord(c) for c, _ in split.pre_tokenize_str("".join(map(chr, CODE_POINTS)))}


def numeric() -> set[int]:
    """What the pre-tokenizer of digits cuts off."""
    digits = pre_tokenizers.Digits(individual_digits=True)
    found = set()
    for c in CODE_POINTS:
        if len(digits.pre_tokenize_str(f"a{chr(c)}a")) == 3:
            found.add(c)
    return found


def beside_a_token(**flags: bool) -> set[tuple[int, int]]:
    """Where an added token stands that follows each code point: (code point, offset from it)."""
    tokenizer = Tokenizer(WordLevel({"": 0}, unk_token=""))
    tokenizer.add_tokens([AddedToken("\u0001", normalized=False, **flags)])
    found = set()
    for first in range(0, len(CODE_POINTS), 4096):
        asked = [c for c in CODE_POINTS[first : first + 4096] if c not in (1, 2)]
        encoded = tokenizer.encode("".join(f"\u0002{chr(c)}\u0001" for c in asked))
        for token, (begin, _) in zip(encoded.ids, encoded.offsets, strict=True):
            if token == 1:
                found.add((asked[begin // 3], begin % 3 - 1))
    return found


def classes() -> dict[int, int]:
    """The classes of each code point as bits, in the order of unicode.h."""
    space = matching(r"\s")
    stripped = {c for c, offset in beside_a_token(lstrip=True) if offset == 0}
    assert space == stripped, "added tokens and patterns have different spaces: give each a class"
    apart = {c for c, _ in beside_a_token(single_word=True)}
    word = {c for c in CODE_POINTS if c not in apart and c not in (1, 2)}
    of = dict.fromkeys(CODE_POINTS, 0)
    for bit, members in enumerate((matching(r"\p{L}"), matching(r"\p{N}"), space, word, numeric())):
        for c in members:
            of[c] |= 1 << bit
    return of


def combining_classes() -> dict[int, int]:
    """The canonical combining classes, from the order in which the library puts marks."""
    samples: dict[int, str] = {}
    for c in map(chr, CODE_POINTS):
        if order := unicodedata.combining(c):
            samples.setdefault(order, c)
    decompose = normalizers.NFD().normalize_str

    def before(a: str, b: str) -> bool:
        """Whether the class of ``a`` is less than that of ``b``, and neither is 0."""
        return bool(decompose(b + a) != decompose(b) + decompose(a))

    last, high = samples[240], samples[230]
    found = {}
    for c in map(chr, CODE_POINTS):
        if len(decompose(c)) > 1 or not (before(c, last) or before(high, c)):
            continue
        found[ord(c)] = next(k for k, s in samples.items() if not before(c, s) and not before(s, c))
    return found


def hexadecimal(values: Iterable[int]) -> Iterator[str]:
    """Numbers as C++ writes them."""
    return (f"0x{value:X}" for value in values)


def rows(items: Iterable[str]) -> str:
    """The items of a list in lines of 110 characters."""
    lines, line = [], "   "
    for item in items:
        if len(line) + len(item) + 2 > 110:
            lines.append(line)
            line = "   "
        line += f" {item},"
    return "\n".join([*lines, line])


def main() -> None:
    """Asks the library, and writes the tables."""
    of = classes()
    changes = []
    previous = 0
    for c in range(0x110000):
        if of.get(c, 0) != previous:
            previous = of.get(c, 0)
            changes.append((c, previous))
    decompose, compose = normalizers.NFD().normalize_str, normalizers.NFC().normalize_str
    pool: list[int] = []
    decompositions, pairs = [], []
    for c in CODE_POINTS:
        parts = decompose(chr(c))
        if parts == chr(c) or c in HANGUL:
            continue
        decompositions.append((c, len(pool), len(parts)))
        pool += map(ord, parts)
        if compose(parts) == chr(c):
            first = compose(parts[:-1])
            assert len(first) == 1, f"U+{c:04X} is composed of more than two"
            pairs.append((ord(first), ord(parts[-1]), c))
    orders = sorted(combining_classes().items())
    path = Path(__file__).with_name("unicode_tables.cpp")
    path.write_text(
        f"""// Written by make_unicode_tables.py from tokenizers {tokenizers.__version__}. Do not edit.
#include "prompt/unicode_tables.h"

namespace internvl::unicode {{
namespace {{

// clang-format off
constexpr ClassChange kClassChanges[] = {{
{rows(f"{{0x{c:X}, {flags}}}" for c, flags in changes)}
}};

constexpr CombiningClass kCombiningClasses[] = {{
{rows(f"{{0x{c:X}, {order}}}" for c, order in orders)}
}};

constexpr char32_t kDecomposed[] = {{
{rows(hexadecimal(pool))}
}};

constexpr Decomposition kDecompositions[] = {{
{rows(f"{{0x{c:X}, {offset}, {length}}}" for c, offset, length in decompositions)}
}};

constexpr Composition kCompositions[] = {{
{rows("{" + ", ".join(hexadecimal(pair)) + "}" for pair in sorted(pairs))}
}};
// clang-format on

}}  // namespace

std::span<const ClassChange> class_changes() {{ return kClassChanges; }}
std::span<const CombiningClass> combining_classes() {{ return kCombiningClasses; }}
std::span<const char32_t> decomposed() {{ return kDecomposed; }}
std::span<const Decomposition> decompositions() {{ return kDecompositions; }}
std::span<const Composition> compositions() {{ return kCompositions; }}

}}  // namespace internvl::unicode
"""
    )
    print(
        f"{path}: {len(changes)} changes of class, {len(orders)} marks, {len(decompositions)} decompositions"
    )


if __name__ == "__main__":
    main()
