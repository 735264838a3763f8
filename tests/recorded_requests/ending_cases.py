"""Where requests end: at the context, by being cancelled, by an error, or for want of room."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import Any

import numpy as np

import internvl_rt as ivl
from plain_engine import PATIENCE_S, until
from recorded_requests.bundles import says
from recorded_requests.pictures import pattern
from recorded_requests.stage import Request, Stage, call, described, described_pieces, error_of

ASKED: dict[str, Any] = {"question": "Say it.", "system": ""}
TEXT = says("one  two\n🙂 three")
PHOTO = pattern(150, 90)
BROKEN = "The engine broke."


def context() -> Iterator[Request]:
    for model, most in (("bytes", 1024), ("short", 128), ("short context", 100), ("stretched", 1500)):
        for tokens in (most - 3, most - 2, most - 1, most, most + 1):
            run = call("generate", [65] * tokens, ignore_stop_tokens=True)
            yield Request(f"{model}: {tokens} ids", model, run)
        run = call("chat", "x" * 3000)
        yield Request(f"{model}: a long question", model, run)
        run = call("stream", "x" * 3000, [PHOTO], max_tiles=4)
        yield Request(f"{model}: a long question and a picture", model, run)
        run = call("chat", "?", [PHOTO] * 40, max_tiles=12)
        yield Request(f"{model}: many pictures", model, run)
        run = call("chat", "?", video=[pattern(56, 56, i) for i in range(400)], system="")
        yield Request(f"{model}: many frames", model, run)
        run = call("chat", "?", video=[pattern(56, 56)] * 3, system="x" * 3000)
        yield Request(f"{model}: no room for a frame", model, run)
        run = call("judge", "?", ["x" * 3000], [PHOTO], max_tiles=1)
        yield Request(f"{model}: a long solution", model, run)
        run = call("chat", "word " * 400_000)
        yield Request(f"{model}: more characters than tokens", model, run)
        run = call("render", "Hi", history=[("a", "word " * 400_000)])
        yield Request(f"{model}: more characters in history", model, run)
    for count in (1, 2, 5, 40, 1 << 20):
        for ignored in (False, True):
            run = call("chat", **ASKED, max_new_tokens=count, ignore_stop_tokens=ignored)
            name = f"short: {count} new tokens" + (", stop tokens ignored" if ignored else "")
            yield Request(name, "short", run, (TEXT,))
    sizes = ((560, 224), (200, 200), (150, 90), (56, 56))
    for (width, height), number, detail in (
        (size, n, d) for size in sizes for n in (1, 2, 3) for d in ("auto", "high")
    ):
        pictures = [pattern(width, height, seed) for seed in range(number)]
        run = call("chat", "?", pictures, detail=detail, system="", ignore_stop_tokens=True)
        yield Request(f"short: {number} of {width}x{height}, {detail}", "short", run)
    frames = [pattern(56, 56, seed) for seed in range(9)]
    for length in range(17):  # a frame takes 16 tokens
        run = call("chat", "?" * length, video=frames, system="", max_new_tokens=2)
        yield Request(f"short: 9 frames and {length} characters", "short", run)
    run = call("chat", "?", [pattern(200, 200)], detail="high", system="", max_new_tokens=2)
    yield Request("short: a short answer leaves more tiles", "short", run)
    run = call("render", "?", [pattern(200, 200)], detail="high", system="", max_new_tokens=2)
    yield Request("short: render with fewer tiles", "short", run)
    run = call("chat", "?", [pattern(200, 200)], max_tiles=40, system="")
    yield Request("short: a number of tiles is not made less", "short", run)
    run = call("chat", "?", [pattern(200, 200)] * 40, detail="high", system="")
    yield Request("short: too many pictures for any detail", "short", run)


def generate() -> Iterator[Request]:
    wrong: dict[str, Any] = {
        "none": None,
        "no ids": [],
        "two dimensions": [[1, 2]],
        "rows": [[1], [2, 3]],
        "fractions": [1.5],
        "texts": ["a"],
        "booleans": [True],
        "negative": [5, -1],
        "beyond": [5, 350],
        "far beyond": [2**40],
        "beyond all": [2**70],
        "a text": "text",
    }
    for name, ids in wrong.items():
        for method in ("generate", "logits"):
            yield Request(f"bytes: {method}, {name}", "bytes", call(method, ids))
    rows = np.zeros((4, 64), np.float32)
    for name, features in (
        ("doubles", rows.astype(np.float64)),
        ("another width", np.zeros((4, 63), np.float32)),
        ("one dimension", np.zeros(64, np.float32)),
        ("not numbers", np.full((4, 64), np.nan, np.float32)),
        ("a text", "features"),
        ("none in a list", [None]),
    ):
        for method in ("generate", "logits"):
            run = call(method, [5, 6], features)
            yield Request(f"bytes: {method}, features, {name}", "bytes", run)
    for name, ids in (
        ("a list", [5, 6, 7]),
        ("a tuple", (5, 6, 7)),
        ("int32", np.array([5, 6, 7], np.int32)),
        ("uint8", np.array([5, 6, 7], np.uint8)),
        ("every other one", np.array([5, 0, 6, 0, 7], np.int64)[::2]),
    ):
        yield Request(f"bytes: {name}", "bytes", call("generate", ids, max_new_tokens=5))
        yield Request(f"bytes: logits of {name}", "bytes", call("logits", ids))
    for tokens in (512, 513):
        yield Request(f"small cache: logits of {tokens}", "small cache", call("logits", [65] * tokens))


class Held:
    """Holds the engine in a step of the answer until the stream was left.

    An answer is written ahead of its reader. So what comes back does not hang on who is quicker.
    """

    def __init__(self, stage: Stage, step: int) -> None:
        self.steps = 0
        """That were begun."""
        self._step = step
        self._reached, self._left = threading.Event(), threading.Event()
        stage.engine.watch = self._watch

    def _watch(self, called: str, before: int) -> None:
        if called == "decode":
            self.steps += 1
            if before == self._step:
                self._reached.set()
                assert self._left.wait(PATIENCE_S)

    def wait(self) -> None:
        """Waits until the step was begun."""
        assert self._reached.wait(PATIENCE_S)

    def go_on(self) -> None:
        self._left.set()


def cancelled(stage: Stage, after: int, how: str, **arguments: Any) -> Any:
    """A stream that is left behind so many pieces, while the token behind them is computed."""
    stream = stage.call("stream", **arguments)
    held = Held(stage, after - 1)
    before = list(islice(stream, after))
    if before and before[-1].result is None:
        held.wait()
    rest: list[ivl.Piece] = []
    if how == "cancel":
        stream.cancel()
        held.go_on()
        rest = list(stream)
    elif how == "close":
        closing = threading.Thread(target=stream.close)  # which waits for the step
        closing.start()
        held.go_on()
        closing.join(PATIENCE_S)
        rest = list(stream)
    else:
        del stream
        held.go_on()
        until(lambda: stage.engine.sequences == 0)
    reply = {
        "before": described_pieces(before),
        "rest": described_pieces(rest),
        "result": rest[-1].result if rest else None,
        "held": stage.engine.sequences,
    }
    if how != "close":  # where it may have gone on for a moment
        reply["steps"] = held.steps
    return {**reply, **stage.afterwards()}


def cancelled_within(stage: Stage, kind: str, at: int, **arguments: Any) -> Any:
    """A stream that is cancelled while the engine computes."""
    stream = stage.call("stream", **arguments)

    def watch(called: str, before: int) -> None:
        if (called, before) == (kind, at):
            # The engine may be quicker than the thread that asked it.
            until(lambda: stream._running is not None)
            stream.cancel()

    stage.engine.watch = watch
    pieces = list(stream)
    encoded = stage.engine.encoded
    return {
        "pieces": described_pieces(pieces),
        "result": pieces[-1].result,
        "encoded": encoded,
        **stage.afterwards(),
    }


def cancel() -> Iterator[Request]:
    asked = {**ASKED, "max_new_tokens": 40}
    pieces = {"bytes": 20, "byte-level": 16, "phi3 legacy": 16}
    for model, number in pieces.items():
        for after in range(number + 3):
            run = partial(cancelled, after=after, how="cancel", **asked)
            yield Request(f"{model}: cancelled behind {after} pieces", model, run, (TEXT,))
    for how in ("close", "forget"):
        for after in (0, 1, 5, 12, 30):
            run = partial(cancelled, after=after, how=how, **asked)
            yield Request(f"bytes: {how} behind {after} pieces", "bytes", run, (TEXT,))
    for after in (0, 1, 2, 4):
        run = partial(cancelled, after=after, how="cancel", **asked, stop="two")
        yield Request(f"bytes: a stop string, cancelled behind {after}", "bytes", run, (says("twtwo"),))
    held = says(b"aEN", ends=False)
    run = partial(cancelled, after=2, how="cancel", **asked, stop="END")
    yield Request("bytes: cancelled in the middle of a stop string", "bytes", run, (held,))
    for at in (0, 1, 2, 7, 13, 18, 30):
        run = partial(cancelled_within, kind="decode", at=at, **asked)
        yield Request(f"bytes: cancelled in step {at}", "bytes", run, (TEXT,))
    for at in (0, 1, 3):
        run = partial(cancelled_within, kind="prefill", at=at, **{**asked, "system": "x" * 250})
        yield Request(f"bytes: cancelled in chunk {at} of the prompt", "bytes", run, (TEXT,))
    for at in (0, 1, 4, 7):
        about = {**asked, "images": [PHOTO, pattern(150, 90, 1)], "max_tiles": 4}
        run = partial(cancelled_within, kind="encode", at=at, **about)
        yield Request(f"bytes: cancelled in tile {at}", "bytes", run, (TEXT,))
    for after in (1, 2, 3):
        run = partial(cancelled, after=after, how="cancel", **asked, pattern="[ab]xxxxxx[cd]yy[ef]z")
        name = f"bytes: a form, cancelled behind {after} pieces"
        yield Request(name, "bytes", run, needs="llguidance")
    run = partial(cancelled, after=40, how="cancel", **asked)
    yield Request("bytes: cancelled when it was over", "bytes", run, (TEXT,))

    def twice(stage: Stage) -> Any:
        stream = stage.call("stream", **asked)
        held = Held(stage, 0)
        next(stream)
        held.wait()
        stream.cancel()
        stream.cancel()
        held.go_on()
        rest = list(stream)
        stream.close()
        stream.close()
        return {"rest": described_pieces(rest), "result": stream.result, "more": list(stream)}

    yield Request("bytes: cancelled and closed twice", "bytes", twice, (TEXT,))

    def used_as_context(stage: Stage) -> Any:
        with stage.call("stream", **asked) as stream:
            before = list(islice(stream, 3))
        return {"before": described_pieces(before), "result": stream.result, **stage.afterwards()}

    yield Request("bytes: in a with statement", "bytes", used_as_context, (TEXT,))


class Interrupted(KeyboardInterrupt):
    """What Ctrl-C raises, and nobody else."""


def failing(stage: Stage, error: BaseException, kind: str, at: int, method: str, **arguments: Any) -> Any:
    """A call in which the engine raises."""

    def watch(called: str, before: int) -> None:
        if (called, before) == (kind, at):
            raise error

    stage.engine.watch = watch
    pieces: list[ivl.Piece] = []
    try:
        if method == "stream":
            for piece in stage.call(method, **arguments):
                pieces.append(piece)  # noqa: PERF402 - those before the error are wanted
        else:
            stage.call(method, **arguments)
    except BaseException as found:
        # The caller gets the very one that was raised.
        reply = {**error_of(found), "same": found is error, "pieces": described_pieces(pieces)}
    else:
        reply = {"error": None}
    return {**reply, "held": stage.engine.sequences, **stage.afterwards()}


def failures() -> Iterator[Request]:
    errors: dict[str, Callable[[], BaseException]] = {
        "DeviceError": lambda: ivl.DeviceError(BROKEN),
        "ZeroDivisionError": lambda: ZeroDivisionError(BROKEN),
        "Ctrl-C": Interrupted,
    }
    about: dict[str, Any] = {**ASKED, "images": [PHOTO], "max_tiles": 4, "max_new_tokens": 40}
    drawn = {**about, "num_return_sequences": 3, "do_sample": True, "seed": 1}
    for name, make in errors.items():
        for kind, at in (
            ("encode", 0),
            ("encode", 2),
            ("prefill", 0),
            ("prefill", 1),
            ("decode", 0),
            ("decode", 5),
        ):
            for method, arguments in (("chat", about), ("stream", about), ("chat", drawn)):
                answers = "answers" if "seed" in arguments else method

                def run(
                    stage: Stage,
                    make: Callable[[], BaseException] = make,
                    kind: str = kind,
                    at: int = at,
                    method: str = method,
                    arguments: dict[str, Any] = arguments,
                ) -> Any:
                    return failing(stage, make(), kind, at, method, **arguments)

                yield Request(f"bytes: {answers}, {name} in {kind} {at}", "bytes", run, (TEXT,))

    def spoiled(value: float, every: bool) -> Callable[[Any], Any]:
        def change(logits: Any) -> Any:
            logits[slice(None) if every else slice(7, 8)] = value
            return logits

        return change

    for name, change in (
        ("not a number", spoiled(np.nan, False)),
        ("all not numbers", spoiled(np.nan, True)),
        ("infinity", spoiled(np.inf, False)),
        ("all minus infinity", spoiled(-np.inf, True)),
        ("all equal", spoiled(0.0, True)),
    ):
        for drawn_ in (False, True):

            def spoil(stage: Stage, change: Any = change, drawn_: bool = drawn_) -> Any:
                stage.engine.change = change
                try:
                    reply = stage.call("chat", **ASKED, do_sample=drawn_, seed=1, max_new_tokens=4)
                except ivl.InternVLError as error:
                    reply = error_of(error)
                return {"reply": reply, **stage.afterwards()}

            yield Request(f"bytes: logits, {name}" + (", drawn" if drawn_ else ""), "bytes", spoil)

    def progress_that_raises(stage: Stage, at: int) -> Any:
        def progress(done: int, tiles: int) -> None:
            if done >= at:
                raise ZeroDivisionError(BROKEN)

        try:
            stage.call("chat", **{**about, "progress": progress})
        except ZeroDivisionError as error:
            return {**error_of(error), **stage.afterwards()}
        raise AssertionError

    for at in (0, 1, 3):
        run = partial(progress_that_raises, at=at)
        yield Request(f"bytes: progress raises at {at} tiles", "bytes", run, (TEXT,))

    def closed(stage: Stage, method: str, **arguments: Any) -> Any:
        stage.load_anew()
        stage.model.close()
        stage.model.close()
        return stage.call(method, **arguments)

    for method, arguments in (
        ("chat", ASKED),
        ("stream", ASKED),
        ("generate", {"input_ids": [65]}),
        ("encode", {"image": PHOTO}),
        ("encode_pixels", {"pixel_values": np.zeros((1, 3, 56, 56), np.float32)}),
        ("logits", {"input_ids": [65]}),
        ("vote", {"question": "Hi", "n": 2}),
        ("judge", {"question": "Hi", "solutions": ["a"]}),
        ("render", ASKED),
    ):
        yield Request(
            f"bytes: {method} of a closed model", "bytes", partial(closed, method=method, **arguments)
        )

    def closed_on_the_way(stage: Stage) -> Any:
        stage.load_anew()
        model = stage.model

        def is_closed() -> bool:
            try:
                model._scheduler.check_open()
            except ivl.InternVLError:
                return True
            return False

        held = Held(stage, 2)
        stream = stage.call("stream", **ASKED)
        pieces = list(islice(stream, 3))
        held.wait()
        closing = threading.Thread(target=model.close)  # which waits for the step
        closing.start()
        until(is_closed)
        held.go_on()
        closing.join(PATIENCE_S)
        try:
            for piece in stream:
                pieces.append(piece)  # noqa: PERF402 - what was written by then can be read
        except ivl.InternVLError as error:
            return {"pieces": described_pieces(pieces), "more": list(stream), **error_of(error)}
        raise AssertionError

    def closed_when_it_was_written(stage: Stage) -> Any:
        stage.load_anew()
        stream = stage.call("stream", **ASKED)
        before = list(islice(stream, 3))
        until(lambda: stage.engine.sequences == 0)
        stage.model.close()
        rest = described_pieces(list(stream))
        return {"before": described_pieces(before), "rest": rest, "result": described(stream.result)}

    yield Request("bytes: closed on the way", "bytes", closed_on_the_way, (TEXT,))
    name = "bytes: closed when all was written"
    yield Request(name, "bytes", closed_when_it_was_written, (TEXT,))


def cache() -> Iterator[Request]:
    """Room that others hold, for which nobody waits here; and answers that grow until they have no more."""

    def beside(stage: Stage, held: int, method: str, **arguments: Any) -> Any:
        """A call while others hold so many tokens: a prompt whose logits take their time."""
        reached, over = threading.Event(), threading.Event()

        def watch(called: str, before: int) -> None:
            if (called, before) == ("prefill", 0):
                reached.set()
                assert over.wait(PATIENCE_S)

        stage.engine.watch = watch
        with ThreadPoolExecutor(1) as pool:
            holding = pool.submit(stage.model.logits, [65] * held)
            assert reached.wait(PATIENCE_S)
            try:
                reply = described(stage.call(method, **arguments))
            except ivl.InternVLError as error:
                reply = error_of(error)
            finally:
                over.set()
            holding.result(PATIENCE_S)
        encoded = stage.engine.encoded
        return {"reply": reply, "encoded": encoded, **stage.afterwards()}

    prompt = 36
    for name, held, method, arguments in (
        ("an answer whose beginning fits", 512 - prompt - 44, "chat", ASKED),
        ("an answer whose beginning does not", 512 - prompt - 16, "chat", ASKED),
        ("a short answer that fits", 512 - prompt - 16, "chat", {**ASKED, "max_new_tokens": 9}),
        ("a stream whose beginning does not fit", 512 - prompt - 16, "stream", ASKED),
        ("a picture that does not", 400, "chat", {**ASKED, "images": [PHOTO], "max_tiles": 40}),
        ("a picture alone, which takes none", 512, "encode", {"image": PHOTO}),
        ("a prompt that does not", 336, "generate", {"input_ids": [65] * 300}),
        ("logits", 336, "logits", {"input_ids": [65] * 300}),
        ("votes that fit", 336, "vote", {**ASKED, "reasoning": None, "n": 2, "max_new_tokens": 20}),
        ("votes that do not", 416, "vote", {**ASKED, "reasoning": None, "n": 2, "max_new_tokens": 20}),
    ):
        run = partial(beside, held=held, method=method, **arguments)
        yield Request(f"small cache: {name}", "small cache", run, (TEXT,))
    yield Request("small cache: more than it holds", "small cache", call("logits", [65] * 600))
    judged = {"question": "?", "solutions": ["a\n\nb", "c"]}
    for tokens in (6000, 7500):
        run = partial(beside, held=tokens, method="judge", **judged)
        yield Request(f"critic: a judgement beside {tokens} tokens", "critic", run)

    def grown(stage: Stage, asked: list[dict[str, Any]]) -> Any:
        """Calls at one time: each answer is the one that it would be alone."""

        def watch(called: str, before: int) -> None:
            if (called, before) == ("decode", 0):
                until(lambda: stage.engine.sequences >= len(asked))

        stage.engine.watch = watch
        with ThreadPoolExecutor(len(asked)) as pool:
            calls = [pool.submit(stage.call, "chat", **arguments) for arguments in asked]
            answers = [described(one.result(PATIENCE_S)) for one in calls]
        alone = [described(stage.call("chat", **arguments)) for arguments in asked]
        return {"answers": answers, "as alone": answers == alone, **stage.afterwards()}

    long: dict[str, Any] = {"system": "", "ignore_stop_tokens": True, "max_new_tokens": 300}
    asked = [{**long, "question": question} for question in ("One?", "Two?", "Three?")]
    drawn = {"do_sample": True, "seed": 4, "num_return_sequences": 2, "max_new_tokens": 150}
    several = [{**one, **drawn} for one in asked[:2]]
    for name, about in (
        ("long answers that grow into each other", asked),
        ("several answers that grow into each other", several),
    ):
        yield Request(f"patient: {name}", "patient", partial(grown, asked=about))

    def unread(stage: Stage) -> Any:
        """A stream that nobody reads on has no room while others need it, and goes on afterwards."""
        stream = stage.call("stream", **asked[0])
        before = [next(stream)]
        reply = described(stage.call("logits", [65] * 512))
        rest = described_pieces(list(stream))
        answer = described(stream.result)
        return {"before": described_pieces(before), "reply": reply, "rest": rest, "result": answer}

    yield Request("patient: a stream that is not read on", "patient", unread)


def interleaved(stage: Stage, order: str, asked: dict[str, dict[str, Any]]) -> Any:
    """Streams that are read in turn, each by the name of a letter, and then to their ends."""
    streams = {name: stage.call("stream", **arguments) for name, arguments in asked.items()}
    pieces: dict[str, list[ivl.Piece]] = {name: [] for name in asked}
    for name in order:
        pieces[name] += islice(streams[name], 1)
    for name, stream in streams.items():
        pieces[name] += stream
    return {
        "pieces": {name: described_pieces(found) for name, found in pieces.items()},
        "results": {name: stream.result for name, stream in streams.items()},
        **stage.afterwards(),
    }


def together() -> Iterator[Request]:
    """Calls that are under way at one time: each answer is the one that it would be alone."""
    drawn = {"question": "Draw.", "system": "", "do_sample": True, "max_new_tokens": 8}
    asked: dict[str, dict[str, Any]] = {
        "a": {"question": "What?", "system": "", "max_new_tokens": 7},
        "b": {**drawn, "seed": 1},
        "c": {**drawn, "seed": 1, "images": [PHOTO], "max_tiles": 2},
        "d": {**drawn, "seed": 2, "stop": "a", "history": [("Hi", "Hello.")]},
    }
    for order in (
        "",
        "a",
        "ab",
        "abab",
        "aabbccdd",
        "dcbadcbadcba",
        "aaaabbbbaaaabbbb",
        "cdcdcdcdcdcdcdcdcdcd",
    ):
        run = partial(interleaved, order=order, asked=asked)
        yield Request(f"bytes: in the order {order!r}", "bytes", run)
    for name, arguments in asked.items():
        run = partial(interleaved, order="", asked={name: arguments})
        yield Request(f"bytes: {name} alone", "bytes", run)

    def between(stage: Stage, method: str, **arguments: Any) -> Any:
        stream = stage.call("stream", **asked["b"])
        before = list(islice(stream, 3))
        reply = described(stage.call(method, **arguments))
        return {"before": described_pieces(before), "reply": reply, "rest": described_pieces(list(stream))}

    for method, arguments in (
        ("chat", asked["b"]),
        ("chat", {**asked["c"], "num_return_sequences": 2}),
        ("generate", {"input_ids": [65, 66], "max_new_tokens": 3}),
        ("logits", {"input_ids": [65, 66]}),
        ("encode", {"image": PHOTO, "max_tiles": 2}),
        ("vote", {**asked["d"], "n": 2, "reasoning": None}),
    ):
        run = partial(between, method=method, **arguments)
        several = " twice" if "num_return_sequences" in arguments else ""
        yield Request(f"bytes: {method}{several} in the middle of a stream", "bytes", run)
