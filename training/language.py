"""The loss of packed question sequences, and how many of their answers would come out right."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

from internvl_rt.tabletop.held_out import is_right
from internvl_rt.tabletop.questions import named
from internvl_rt.tabletop.scenes import COLOURS, SHAPES
from model import TabletopModel
from preprocess import GRID
from prompts import Sequence

# Of a token of an answer. A box takes 25 tokens of which the last digits stay uncertain, the number of a
# picture takes one: unweighted, the boxes' noise is nearly all that the others get to see.
WEIGHTS = {
    "objects": 1.0,
    "count": 1.5,
    "label": 1.5,
    "two_pictures": 5.0,
    "direction": 2.0,
    "text_only": 1.5,
}


def _box_weights(tokenizer: Tokenizer, ids: list[int]) -> list[float]:
    """The named thing has to be the one that was asked for, or its place means nothing: until it is
    copied from the question, neither places nor counts are learnt. The first digit of a coordinate
    says most of where a thing is, the last one is always 0."""
    weights, digits, named = [], 0, False
    for token in ids:
        text = tokenizer.id_to_token(token)
        digits = digits + 1 if text.isdigit() else 0
        named = text == "<ref>" or (named and text != "</ref>")
        weights.append(3.0 if named else (0.2, 2.0, 0.8, 0.1)[min(digits, 3)])
    return weights


def language_loss(
    model: TabletopModel,
    tokenizer: Tokenizer,
    sequences: list[Sequence],
    visual: Tensor,
    context_id: int,
    right: dict[str, list[float]] | None = None,
) -> tuple[Tensor, int]:
    """Summed cross-entropy over answer tokens, and their count; `visual` is [T, P / 4, H].

    `right` collects per kind whether every token was predicted from the right ones before it,
    which is the same as a right greedy answer. (For boxes the predicted digits are read and their
    overlap counts, which is slightly kinder than a greedy answer.)
    """
    length = max(len(sequence.ids) for sequence in sequences)
    count = len(sequences)
    ids = np.zeros((count, length), np.int64)
    positions = np.zeros((count, length), np.int64)
    segments = np.full((count, length), -1, np.int64)
    tiles: list[int] = []
    for row, sequence in enumerate(sequences):
        n = len(sequence.ids)
        ids[row, :n] = sequence.ids
        positions[row, :n] = sequence.positions
        segments[row, :n] = sequence.segments
        tiles += sequence.tiles
    own = segments[:, :, None] == segments[:, None, :]
    visible = (own | (segments[:, None, :] == 0)) & np.tri(length, dtype=bool)
    # A sequence without a shared prefix starts at segment 1, and padding looks at itself.
    mask = torch.as_tensor(visible | np.eye(length, dtype=bool))[:, None]
    places = torch.as_tensor(np.flatnonzero(ids == context_id))
    hidden = model.hidden(
        torch.as_tensor(ids),
        visual[torch.as_tensor(tiles, dtype=torch.int64)].flatten(0, 1),
        places,
        torch.as_tensor(positions),
        mask,
    )
    at, spans, weights = [], [], []
    for row, sequence in enumerate(sequences):
        for start, end, question in sequence.answers:
            spans.append((len(at), len(at) + end - start, question))
            at += range(row * length + start - 1, row * length + end - 1)
            if question.box is None:
                weights += [WEIGHTS[question.kind]] * (end - start)
            else:
                weights += _box_weights(tokenizer, sequence.ids[start:end].tolist())
    where = torch.as_tensor(at)
    logits = model.language_model.lm_head(hidden.flatten(0, 1)[where])
    wanted = torch.as_tensor(ids.reshape(-1)[np.array(at) + 1])
    loss = (functional.cross_entropy(logits, wanted, reduction="none") * torch.tensor(weights)).sum()
    if right is not None:
        predicted = logits.detach().argmax(-1)
        for start, end, question in spans:
            same = bool((predicted[start:end] == wanted[start:end]).all())
            if question.box is not None:
                text = tokenizer.decode(predicted[start : end - 1].tolist(), skip_special_tokens=False)
                same = is_right(question, text)
            right[question.kind].append(float(same))
    return loss, len(at)


# One head of each group is told where to look: in the second layer at the words that name a thing, so that
# its look is known where a coordinate, a counted thing or the number of a picture is due, and in the third
# layer at the visual tokens that show what comes next: the thing, the next of a list, a label's character.
NAMING_LAYER, SHOWING_LAYER = 1, 2
GUIDED_HEADS = (0, 3)


@dataclass
class Guide:
    """Queries of one sequence in one layer, and the keys at which they should look, bool [n] each."""

    places: list[int] = field(default_factory=list)
    wanted: list[NDArray[np.bool_]] = field(default_factory=list)
    among: list[NDArray[np.bool_]] = field(default_factory=list)

    def add(self, at: int, wanted: NDArray[np.bool_], among: NDArray[np.bool_]) -> None:
        if wanted.any():
            self.places.append(at)
            self.wanted.append(wanted)
            self.among.append(among)

    def surprise(self, model: TabletopModel, layer: int, row: int) -> Tensor:
        """-log of the share of attention that the wanted keys get, flat, in row `row` of the last call."""
        q, k = model.language_model.model.layers[layer].self_attn.rotated
        group = model.sizes.heads // model.sizes.kv_heads
        keys = k[row][[head // group for head in GUIDED_HEADS]][:, : len(self.wanted[0])]  # [2, n, d]
        queries = q[row, list(GUIDED_HEADS)][:, self.places]  # [2, m, d]
        scores = queries @ keys.mT * model.sizes.head_dim**-0.5

        def over(chosen: list[NDArray[np.bool_]]) -> Tensor:
            return scores.masked_fill(torch.as_tensor(~np.stack(chosen)), float("-inf")).logsumexp(-1)

        return (over(self.among) - over(self.wanted)).flatten()


class AttentionLoss:
    """The surprise of the guided heads, of the sequences of the last call of the model."""

    def __init__(self, tokenizer: Tokenizer, context_id: int) -> None:
        self.context_id = context_id
        words = [*COLOURS, *SHAPES, "label"]
        forms = [form for w in words for form in (w, f" {w}", f" {w}s", named(w, "zh"))]
        self.names = np.array([ids[0] for form in forms if len(ids := tokenizer.encode(form).ids) == 1])

    def __call__(self, model: TabletopModel, sequences: list[Sequence]) -> Tensor | None:
        """None where no question names anything."""
        losses = []
        for row, sequence in enumerate(sequences):
            is_name, is_visual = np.isin(sequence.ids, self.names), sequence.ids == self.context_id
            guides = {NAMING_LAYER: Guide(), SHOWING_LAYER: Guide()}
            at = np.arange(len(sequence.ids))
            for (start, _, question), looks in zip(sequence.answers, sequence.looks, strict=True):
                segment = sequence.segments[start]
                own = (sequence.segments == segment) | (sequence.segments == 0)
                # A box repeats the name right before its coordinates; others have it in the question only.
                named_at = (
                    is_name & (sequence.segments == segment) & ((at < start) != (question.kind == "box"))
                )
                for due, shows in looks:
                    shown = np.zeros(len(at), bool)
                    shown[is_visual] = shows
                    seen = own & (at < due)
                    guides[NAMING_LAYER].add(due - 1, named_at & seen, seen)
                    guides[SHOWING_LAYER].add(due - 1, shown, is_visual)
            losses += [guide.surprise(model, layer, row) for layer, guide in guides.items() if guide.places]
        return torch.cat(losses).mean() if losses else None


class WordLoss:
    """Visual tokens are told to resemble the embeddings of the words for what they show.

    Listing what is there only maps looks to words. Places, counts and pictures of a named thing need the
    way back, from a word of the question to the tokens that look like it, and next to nothing in their
    answers rewards the first steps of it: after 45,000 pictures, single objects were placed
    right and one of two objects was not told from the other. Where a look resembles its word, looking for
    a thing is looking for a repeated token, which is learnt from repeating words.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        def ids(words: list[str]) -> Tensor:
            found = [tokenizer.encode(word).ids for word in words]
            if any(len(tokens) != 1 for tokens in found):
                raise ValueError(f"a word of {words} takes several tokens")
            return torch.tensor([tokens[0] for tokens in found])

        things = [*SHAPES, "label"]
        self.colours = [ids(list(COLOURS)), ids([f" {c}" for c in COLOURS]), ids(_chinese(COLOURS))]
        self.shapes = [ids([f" {thing}" for thing in things]), ids(_chinese(things))]

    def __call__(self, model: TabletopModel, visual: Tensor, classes: Tensor) -> Tensor:
        """Args: visual tokens [T, P / 4, H]; classes int64 [T, 5, P], the first two shape and colour."""
        table = model.language_model.model.embed_tokens.weight
        looks = functional.rms_norm(visual, (visual.shape[-1],)).flatten(0, 1)
        total = visual.new_zeros(())
        for row, groups, first in ((0, self.shapes, 1), (1, self.colours, 0)):
            shown = by_token(classes[:, row]) - first  # [T * P / 4, 4]
            count = len(groups[0])
            votes = functional.one_hot(shown.clamp(min=-1) + 1, count + 1)[..., 1:].sum(1).float()
            seen = votes.sum(1) > 0
            share = votes[seen] / votes[seen].sum(1, keepdim=True)
            for group in groups:
                scores = looks[seen] @ table[group].T * (2 * visual.shape[-1] ** -0.5)
                total = total + functional.cross_entropy(scores, share)
        return total


def _chinese(words: Iterable[str]) -> list[str]:
    return [named(word, "zh") for word in words]


def by_token(patches: Tensor) -> Tensor:
    """[T, P] to [T * P / 4, 4]: the patches that make up each visual token."""
    tiles, half = patches.shape[0], GRID // 2
    blocks = patches.view(tiles, half, 2, half, 2).permute(0, 1, 3, 2, 4)
    return blocks.reshape(tiles * half * half, 4)


def new_score() -> dict[str, list[float]]:
    return defaultdict(list)
