"""From a picture to an answer on a tiny bundle, on every engine."""

from __future__ import annotations

import base64
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import internvl_rt as ivl
from waiting import until
from watched_engine import Calls, load_watched

QUESTION = "What is this?"
TOKENS = 12


def repeat(action: Callable[[], object], times: int) -> None:
    for _ in range(times):
        action()


def greedy(model: ivl.Model, input_ids: np.ndarray, features: object, tokens: int) -> list[int]:
    """Greedy decoding by the shortest way: the whole prompt again for every token."""
    ids = list(input_ids)
    for _ in range(tokens):
        ids.append(int(np.argmax(model.logits(np.array(ids), features)[-1])))
    return [int(i) for i in ids[len(input_ids) :]]


def test_a_question_about_a_picture(model: ivl.Model, photo: Image.Image) -> None:
    answer = model.chat(QUESTION, images=[photo], max_tiles=4, max_new_tokens=TOKENS, ignore_stop_tokens=True)
    prompt = model.render(QUESTION, [photo], max_tiles=4)
    features = model.encode(photo, max_tiles=4)
    assert list(answer.token_ids) == greedy(model, prompt.input_ids, features, TOKENS)
    assert answer.finish_reason == "length"
    assert features.tiles == 3
    assert features.grid == (2, 1)


def test_text_alone(model: ivl.Model) -> None:
    answer = model.chat("Hello", max_new_tokens=TOKENS, ignore_stop_tokens=True)
    assert list(answer.token_ids) == greedy(model, model.render("Hello").input_ids, None, TOKENS)
    assert (answer.usage.tiles, answer.usage.image_tokens) == (0, 0)


def test_both_engines_give_the_same_answer(
    native_model: ivl.Model, onnx_model: ivl.Model, photo: Image.Image
) -> None:
    answers = [
        model.chat(QUESTION, [photo], max_new_tokens=40, ignore_stop_tokens=True)
        for model in (native_model, onnx_model)
    ]
    assert answers[0].token_ids == answers[1].token_ids
    assert answers[0].text == answers[1].text


def test_both_engines_give_the_same_numbers(
    native_model: ivl.Model, onnx_model: ivl.Model, photo: Image.Image
) -> None:
    ours, theirs = (model.encode(photo).features for model in (native_model, onnx_model))
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).max())
    prompt = native_model.render(QUESTION, [photo]).input_ids
    first, second = (model.logits(prompt, theirs) for model in (native_model, onnx_model))
    np.testing.assert_allclose(first, second, rtol=1e-4, atol=1e-4 * np.abs(second).max())


def test_a_stream_is_the_chat_in_pieces(model: ivl.Model, photo: Image.Image) -> None:
    asked = {"images": [photo], "max_new_tokens": 30, "ignore_stop_tokens": True}
    answer = model.chat(QUESTION, **asked)
    stream = model.stream(QUESTION, **asked)
    pieces = list(stream)
    assert "".join(piece.text for piece in pieces) == answer.text
    assert sum((piece.token_ids for piece in pieces), ()) == answer.token_ids
    assert pieces[-1].result is stream.result
    assert stream.result is not None
    assert stream.result.token_ids == answer.token_ids
    assert len(pieces) > 5


def test_generate_is_a_loop_over_logits(model: ivl.Model) -> None:
    ids = model.render("abc").input_ids
    answer = model.generate(ids, max_new_tokens=TOKENS, ignore_stop_tokens=True)
    assert list(answer.token_ids) == greedy(model, ids, None, TOKENS)


def test_a_picture_encoded_once_gives_the_same_answer(model: ivl.Model, photo: Image.Image) -> None:
    direct = model.chat(QUESTION, [photo], max_tiles=4, max_new_tokens=TOKENS)
    once = model.encode(photo, max_tiles=4)
    assert model.chat(QUESTION, [once], max_new_tokens=TOKENS).token_ids == direct.token_ids
    assert model.encode(once) is once
    again = model.chat(QUESTION, [once], max_new_tokens=TOKENS)
    assert (again.timings.vit, again.timings.decode_image, again.timings.tile) == (0, 0, 0)
    assert again.usage.tiles == direct.usage.tiles == 3
    assert once.timings.vit > 0
    with pytest.raises(ValueError, match="read-only"):
        once.features[0] = 0


def test_every_form_of_a_picture_is_the_same_picture(
    model: ivl.Model, photo: Image.Image, photo_bytes: bytes, photo_file: Path
) -> None:
    array = np.asarray(photo)
    expected = model.encode(photo).features
    for form in (photo_bytes, photo_file, str(photo_file), array, array[:, ::-1][:, ::-1]):
        np.testing.assert_array_equal(model.encode(form).features, expected)
    # One picture needs no list around it, an array least of all.
    for form in (array, photo_file, photo):
        assert model.chat(QUESTION, form, max_new_tokens=2).usage.tiles == len(expected)


def test_encode_pixels_are_the_features(model: ivl.Model, photo: Image.Image) -> None:
    pixel_values = ivl.tile_image(photo, max_tiles=12, tile_size=56).pixel_values()
    features = model.encode(photo).features
    assert features.shape == (len(pixel_values), model.manifest.tokens_per_tile, 64)
    np.testing.assert_array_equal(model.encode_pixels(pixel_values), features)


def test_several_pictures_and_their_places(model: ivl.Model, photo: Image.Image) -> None:
    other = photo.rotate(180)
    marked = "Image-1: <image>\nImage-2: <image>\nDiffer?"
    answer = model.chat(marked, [photo, other], max_tiles=1, max_new_tokens=TOKENS)
    assert (
        model.chat("Differ?", [photo, other], max_tiles=1, max_new_tokens=TOKENS).token_ids
        == answer.token_ids
    )
    assert answer.usage.tiles == 2
    assert answer.image_sizes == ((150, 90), (150, 90))
    first, second = model.encode(photo, max_tiles=1), model.encode(other, max_tiles=1)
    ids = model.render(marked, [photo, other], max_tiles=1).input_ids
    by_hand = model.generate(ids, [first, second.features], max_new_tokens=TOKENS)
    assert by_hand.token_ids == answer.token_ids
    mixed = model.chat(marked, [first, other], max_tiles=1, max_new_tokens=TOKENS)
    assert mixed.token_ids == answer.token_ids


def test_the_models_tiles_are_shared_by_several_pictures(model: ivl.Model, photo: Image.Image) -> None:
    # 12 tiles among 6 pictures are 2 each (2x1 and a thumbnail); a single picture takes all 12.
    assert model.chat("?", [photo] * 6, max_new_tokens=1).usage.tiles == 18
    assert model.encode(photo).tiles > 3


def test_history(model: ivl.Model, photo: Image.Image) -> None:
    history = [("<image>\nWhat?", "A thing.")]
    answer = model.chat("Where?", [photo], history=history, max_tiles=1, max_new_tokens=TOKENS)
    messages = [
        {"role": "user", "content": "<image>\nWhat?"},
        {"role": "assistant", "content": "A thing."},
        {"role": "user", "content": "Where?"},
    ]
    assert model.chat(messages, [photo], max_tiles=1, max_new_tokens=TOKENS).token_ids == answer.token_ids
    assert "A thing." in model.render(messages, [photo], max_tiles=1).text


def test_messages_that_carry_pictures(model: ivl.Model, photo: Image.Image, photo_bytes: bytes) -> None:
    url = "data:image/png;base64," + base64.b64encode(photo_bytes).decode()
    answers = [
        model.chat(
            [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": [item, {"type": "text", "text": QUESTION}]},
            ],
            max_tiles=1,
            max_new_tokens=TOKENS,
        ).token_ids
        for item in ({"type": "image", "image": photo}, {"type": "image_url", "image_url": {"url": url}})
    ]
    plain = model.chat(
        f"<image>\n{QUESTION}", [photo], system="Be brief.", max_tiles=1, max_new_tokens=TOKENS
    )
    assert answers == [plain.token_ids] * 2


def test_the_system_message_matters(model: ivl.Model) -> None:
    assert "Be brief." in model.render("Hello", system="Be brief.").text
    assert "书生" in model.render("Hello").text


def test_stop_strings(model: ivl.Model) -> None:
    whole = model.chat("Hello", max_new_tokens=40, ignore_stop_tokens=True)
    middle = whole.text[len(whole.text) // 2 :][:3]
    cut = model.chat("Hello", max_new_tokens=40, ignore_stop_tokens=True, stop=[middle])
    assert cut.text == whole.text[: whole.text.index(middle)].strip()
    assert cut.finish_reason == "stop"
    assert len(cut.token_ids) < len(whole.token_ids)


def test_a_stop_id_of_the_bundle_ends_an_answer(model: ivl.Model) -> None:
    stop_id = model.manifest.prompt.stop_ids[0]
    drawn = [
        model.chat("Hello", do_sample=True, temperature=3.0, top_k=0, seed=seed, max_new_tokens=200)
        for seed in range(4)
    ]
    stopped = [answer for answer in drawn if answer.finish_reason == "stop"]
    assert stopped, "331 tokens drawn at random: some answer of 200 meets a stop token"
    assert all(stop_id not in answer.token_ids for answer in drawn)


def test_seeds(model: ivl.Model) -> None:
    def draw(seed: int | None) -> tuple[int, ...]:
        return model.chat("Hello", do_sample=True, seed=seed, max_new_tokens=TOKENS, top_k=0).token_ids

    assert draw(5) == draw(5)
    assert len({draw(seed) for seed in range(8)}) > 1
    assert len({draw(None) for _ in range(8)}) > 1


def test_top_k_of_one_is_greedy(model: ivl.Model) -> None:
    greedy_ids = model.chat("Hello", max_new_tokens=TOKENS).token_ids
    drawn = model.chat("Hello", do_sample=True, top_k=1, seed=1, max_new_tokens=TOKENS).token_ids
    assert drawn == greedy_ids


def test_a_repetition_penalty_keeps_tokens_from_coming_back(model: ivl.Model) -> None:
    answer = model.chat("Hello", repetition_penalty=1e6, max_new_tokens=60, ignore_stop_tokens=True)
    assert len(set(answer.token_ids)) == 60


def test_usage(model: ivl.Model, photo: Image.Image) -> None:
    usage = model.chat(QUESTION, [photo], max_tiles=4, max_new_tokens=TOKENS, ignore_stop_tokens=True).usage
    prompt = model.render(QUESTION, [photo], max_tiles=4).input_ids
    assert usage == ivl.Usage(
        tiles=3, tiles_wanted=3, image_tokens=12, prompt_tokens=len(prompt), new_tokens=TOKENS
    )
    assert np.count_nonzero(prompt == model.manifest.prompt.image_context_id) == 12


def test_timings_add_up(model: ivl.Model, photo_file: Path) -> None:
    begun = time.perf_counter()
    answer = model.chat(QUESTION, [photo_file], max_new_tokens=40, ignore_stop_tokens=True)
    wall = (time.perf_counter() - begun) * 1000
    timings = answer.timings
    stages = (timings.decode_image, timings.tile, timings.vit, timings.projector, timings.prefill)
    assert all(stage > 0 for stage in stages)
    assert sum(stages) <= timings.first_token
    assert timings.first_token + 39 * timings.per_token <= timings.total <= wall
    # What is not in a stage is rendering, detokenising and this package's own steps.
    assert timings.total - timings.first_token - 39 * timings.per_token < 0.8 * timings.total


def test_the_reader_of_a_stream_is_not_in_its_times(model: ivl.Model) -> None:
    begun = time.perf_counter()
    with model.stream("Hello", max_new_tokens=4, ignore_stop_tokens=True) as stream:
        next(stream)
        time.sleep(0.5)
        assert sum(len(piece.token_ids) for piece in stream) == 3
    wall = (time.perf_counter() - begun) * 1000
    assert stream.result is not None
    timings = stream.result.timings
    assert timings.first_token + 3 * timings.per_token <= timings.total < wall - 400


def test_several_threads(model: ivl.Model, photo: Image.Image) -> None:
    questions = [f"Question {i}?" for i in range(8)]

    def ask(question: str) -> tuple[int, ...]:
        return model.chat(question, [photo], max_tiles=1, max_new_tokens=TOKENS).token_ids

    one_by_one = [ask(question) for question in questions]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, questions)) == one_by_one


def test_a_stream_closed_early_frees_the_cache(model: ivl.Model) -> None:
    # Each holds about a quarter of the cache: the fifth would fail if the others had stayed.
    for _ in range(8):
        with model.stream("x" * 200, system="", max_new_tokens=50, ignore_stop_tokens=True) as stream:
            next(stream)


def test_more_streams_than_the_cache_holds_are_all_written(model: ivl.Model) -> None:
    filler = "x" * 200
    asked = {"system": "", "max_new_tokens": 200, "ignore_stop_tokens": True}
    alone = model.chat(filler, **asked)
    streams = [model.stream(filler, **asked) for _ in range(9)]
    assert 9 * alone.usage.prompt_tokens > model.cache_tokens
    pieces = [[next(stream)] for stream in streams]  # those that nobody reads on give way
    for stream, read in zip(streams, pieces, strict=True):
        read.extend(stream)
        assert stream.result is not None
        assert sum((piece.token_ids for piece in read), ()) == stream.result.token_ids == alone.token_ids
        assert "".join(piece.text for piece in read) == alone.text


@pytest.mark.parametrize("engine", ["native", "onnxruntime"])
def test_a_full_cache_fails_one_question_and_no_other(tiny_bundle: Path, engine: str) -> None:
    filler = "x" * 200
    asked = {"system": "", "max_new_tokens": 200, "ignore_stop_tokens": True}
    with ivl.load(
        tiny_bundle, engine=engine, cache_tokens=1024, max_wait_s=0.1, prefix_cache_tokens=0
    ) as model:
        alone = model.chat(filler, **asked)
        with model._scheduler.reserve(512), model.stream(filler, **asked) as stream:
            read = [next(stream)]
            # Not even in the stream's place, which it would give up as long as nobody reads it.
            with pytest.raises(ivl.CacheFullError, match=r"this call waited 0\.1 s"):
                model.logits([65] * 520)
            read.extend(stream)
        assert sum((piece.token_ids for piece in read), ()) == alone.token_ids
        assert model.chat(filler, **asked).token_ids == alone.token_ids
        assert model._engine.free_tokens == 1024


def test_cancelling_from_another_thread(model: ivl.Model) -> None:
    asked = {"max_new_tokens": 300, "ignore_stop_tokens": True}
    whole = model.chat("Hello", **asked)
    stream = model.stream("Hello", **asked)
    read = [next(stream)]
    canceller = threading.Thread(target=stream.cancel)
    canceller.start()
    canceller.join()
    read.extend(stream)  # what was written before it heard of it
    result = stream.result
    assert result is not None
    assert result.finish_reason == "cancelled"
    assert sum((piece.token_ids for piece in read), ()) == result.token_ids
    assert result.token_ids == whole.token_ids[: len(result.token_ids)]
    assert len(result.token_ids) < len(whole.token_ids)


def test_a_stream_is_written_at_most_64_tokens_ahead_of_its_reader(tiny_bundle: Path) -> None:
    calls = Calls()
    model, engine = load_watched(tiny_bundle, cache_tokens=512)
    with model, engine.around(**calls.counting):
        stream = model.stream("Hello", system="", max_new_tokens=300, ignore_stop_tokens=True)
        next(stream)
        until(lambda: len(calls.batches) == 64)
        # Whoever computes for others meanwhile would compute for it too.
        model.chat("Hello", system="", max_new_tokens=9, ignore_stop_tokens=True)
        assert calls.batches == [1] * (64 + 8)
        for _ in range(5):
            next(stream)
        until(lambda: len(calls.batches) == 64 + 8 + 5)
        stream.cancel()
        assert len(list(stream)) <= 65
        assert stream.result is not None
        assert (len(stream.result.token_ids), stream.result.finish_reason) == (70, "cancelled")


def test_ctrl_c_stops_a_generation(model: ivl.Model) -> None:
    def ask_for_ever() -> None:
        while True:
            model.chat("Hello", max_new_tokens=200, ignore_stop_tokens=True)

    before = model.chat("Hello", max_new_tokens=TOKENS).token_ids
    for _ in range(5):
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            ask_for_ever()
    # Five answers that were left in the cache would fill it.
    assert model.chat("Hello", max_new_tokens=TOKENS).token_ids == before


def test_boxes_of_an_answer() -> None:
    answer = ivl.Answer(
        "cup[[0, 0, 500, 500]]",
        (),
        "stop",
        ivl.Timings(),
        ivl.Usage(),
        "<ref>cup</ref><box>[[0, 0, 500, 500]]</box>",
        ((200, 100),),
    )
    assert answer.boxes() == answer.boxes(image=0) == [ivl.Box("cup", 0, 0, 100, 50)]
    with pytest.raises(ivl.PromptError, match="counted from 0"):
        answer.boxes(image=1)


def test_locating_asks_the_question_of_training(model: ivl.Model, photo: Image.Image) -> None:
    found = model.locate("red cube", photo, max_tiles=1, system="", max_new_tokens=TOKENS)
    asked = (
        "Please provide the bounding box coordinate of the region this sentence describes: "
        "<ref>red cube</ref>"
    )
    assert (
        found.answer.token_ids
        == model.chat(asked, [photo], max_tiles=1, system="", max_new_tokens=TOKENS).token_ids
    )
    assert (found.phrase, list(found.boxes)) == ("red cube", found.answer.boxes())
    assert found.problems == found.answer.grounding().problems
    features = model.encode(photo, max_tiles=1)
    again = model.locate("red cube", features, system="", max_new_tokens=TOKENS)
    assert again.answer.token_ids == found.answer.token_ids


@pytest.mark.parametrize("engine", ["native", "onnxruntime"])
def test_closing(tiny_bundle: Path, engine: str) -> None:
    model = ivl.load(tiny_bundle, engine=engine, cache_tokens=512)
    stream = model.stream("Hello", system="", ignore_stop_tokens=True)
    next(stream)
    model.close()
    model.close()
    for call in (
        lambda: model.chat("Hello"),
        lambda: next(model.stream("Hello")),
        lambda: list(stream),  # what was written before is read first
        lambda: model.logits([1]),
        lambda: model.generate([1]),
        lambda: model.encode(Image.new("RGB", (9, 9))),
        lambda: model.judge("Hello", ["One."]),
    ):
        with pytest.raises(ivl.errors.ClosedError, match=r"^This model was closed\. Load it again\.$"):
            call()
    assert stream.result is None
    assert list(stream) == []
    stream.close()


@pytest.mark.parametrize("engine", ["native", "onnxruntime"])
def test_closing_while_other_threads_ask(tiny_bundle: Path, engine: str) -> None:
    model = ivl.load(tiny_bundle, engine=engine, cache_tokens=1024)
    failures: list[BaseException] = []
    answered = [threading.Event() for _ in range(3)]

    def ask(first: threading.Event) -> None:
        try:
            while True:
                model.chat("Hello", max_new_tokens=5)
                first.set()
        except ivl.InternVLError as error:
            failures.append(error)

    threads = [threading.Thread(target=ask, args=(first,)) for first in answered]
    for thread in threads:
        thread.start()
    assert all(first.wait(30) for first in answered)
    model.close()
    for thread in threads:
        thread.join(30)
    assert [str(error)[:21] for error in failures] == ["This model was closed"] * 3


def test_the_size_of_cache_and_context(tiny_bundle: Path) -> None:
    with ivl.load(tiny_bundle) as model:
        assert (model.cache_tokens, model.context_tokens, model.engine) == (512, 512, "native")
    with ivl.load(tiny_bundle, cache_tokens=1024, max_context=300, engine="onnxruntime") as model:
        assert (model.cache_tokens, model.context_tokens) == (1024, 300)
    with ivl.load(tiny_bundle, cache_tokens=100) as model:
        assert model.context_tokens == 100


def test_an_answer_fills_the_context_and_ends(tiny_bundle: Path) -> None:
    for engine in ("native", "onnxruntime"):
        with ivl.load(tiny_bundle, engine=engine, cache_tokens=128) as model:
            prompt = len(model.render("Hello", system="").input_ids)
            answer = model.chat("Hello", system="", ignore_stop_tokens=True)
            assert (prompt + len(answer.token_ids), answer.finish_reason) == (128, "length")


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_do_not_change_the_answer(tiny_bundle: Path, model: ivl.Model, threads: int) -> None:
    with ivl.load(tiny_bundle, engine=model.engine, threads=threads) as other:
        assert (
            other.chat("Hello", max_new_tokens=20).token_ids
            == model.chat("Hello", max_new_tokens=20).token_ids
        )
