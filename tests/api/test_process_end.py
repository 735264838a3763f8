"""Processes that end, or fork, while a model is at work."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

PREAMBLE = """
import os, signal, sys, threading, time
import internvl_rt as ivl

folder, engine = sys.argv[1:3]
LONG = {"system": "", "ignore_stop_tokens": True, "max_new_tokens": 3000}
model = ivl.load(folder, engine=engine, cache_tokens=8192, threads=2)


def until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def ends(status):
    print("ends", time.time(), flush=True)
    sys.exit(status)
"""

UNREAD = """
streams = [model.stream(f"Number {i}", **LONG) for i in range(3)]
next(streams[0])
del streams[1]
ends(3)
"""

STALLED = """
stream = model.stream("Hello", **LONG)
next(stream)
# Its reader is 64 tokens behind by now: both are written together.
model.chat("Hello", **{**LONG, "max_new_tokens": 100})
ends(3)
"""

HELD_BY_A_THREAD = """
reading = threading.Event()

def read():
    for _ in model.stream("Hello", **LONG):
        reading.set()

def wait():
    while True:
        model.chat("Hello", **LONG)

for target in (read, wait, wait):
    threading.Thread(target=target, daemon=True).start()
assert reading.wait(20)
until(lambda: model._engine.free_tokens < 8192 - 1000)
ends(3)
"""

WAITING_FOR_ROOM = """
def wait():
    model.chat("Hello", **LONG)

with model._scheduler.reserve(8192 - 16):
    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    until(lambda: model._scheduler.waiting == 1)
    ends(3)
"""

PROMPT_BEING_COMPUTED = """
def wait():
    while True:
        model.chat("x" * 3500, max_new_tokens=1)

for _ in range(2):
    threading.Thread(target=wait, daemon=True).start()
until(lambda: model._engine.free_tokens < 8192)
ends(3)
"""

PICTURES_BEING_ENCODED = """
import numpy as np
pixels = np.random.default_rng(0).integers(0, 255, (600, 600, 3), dtype=np.uint8)

encoding = threading.Event()

def wait():
    while True:
        model.encode(pixels, max_tiles=40, progress=lambda done, tiles: encoding.set())

threading.Thread(target=wait, daemon=True).start()
assert encoding.wait(20)
ends(3)
"""

CALLS_OF_THE_ENGINE = """
def wait():
    while True:
        model.logits([65] * 3000)

threading.Thread(target=wait, daemon=True).start()
until(lambda: model._engine.free_tokens < 8192)
ends(3)
"""

A_HANDLER = """
import atexit

def ask():
    assert len(model.chat("Hello", **{**LONG, "max_new_tokens": 100}).token_ids) == 100

atexit.register(ask)  # runs before the core ends its threads
stream = model.stream("Hello", **LONG)
next(stream)
ends(3)
"""

AWAITED_BY_A_THREAD = """
import asyncio

async def ask():
    await asyncio.gather(*[model.achat(f"Number {i}", **LONG) for i in range(5)])

threading.Thread(target=lambda: asyncio.run(ask()), daemon=True).start()
until(lambda: model._engine.free_tokens < 8192 - 1000)
ends(3)
"""

JUDGED = """
def wait():
    while True:
        model.judge("How many?", ["One."] * 50)

threading.Thread(target=wait, daemon=True).start()
until(lambda: model._engine.free_tokens < 8192)
ends(3)
"""

AWAITED = """
import asyncio

async def ask():
    tasks = [asyncio.ensure_future(model.achat(f"Number {i}", **LONG)) for i in range(5)]
    stream = model.astream("Hello", **LONG)
    await anext(stream)
    ends(3)

asyncio.run(ask())
"""

SCRIPTS = {
    "unread": UNREAD,
    "stalled": STALLED,
    "held by a thread": HELD_BY_A_THREAD,
    "waiting for room": WAITING_FOR_ROOM,
    "a prompt": PROMPT_BEING_COMPUTED,
    "pictures": PICTURES_BEING_ENCODED,
    "logits": CALLS_OF_THE_ENGINE,
    "asked at exit": A_HANDLER,
    "awaited": AWAITED,
    "awaited by a thread": AWAITED_BY_A_THREAD,
    "judged": JUDGED,
}


def run_script(script: str, bundle: Path, engine: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script, str(bundle), engine],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("engine", ["native", "onnxruntime"])
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_process_ends_while_its_model_is_at_work(roomy_bundle: Path, engine: str, name: str) -> None:
    done = run_script(PREAMBLE + SCRIPTS[name], roomy_bundle, engine)
    ended = time.time()
    assert (done.returncode, done.stderr) == (3, "")
    begun = float(done.stdout.split()[1])
    assert ended - begun < 3.0


FORKED = """
import asyncio, gc, os, sys
import internvl_rt as ivl

model = ivl.load(sys.argv[1], engine=sys.argv[2], cache_tokens=8192, threads=2)
LONG = {"system": "", "ignore_stop_tokens": True, "max_new_tokens": 400}
running, stalled, never_begun = (model.stream("Hello", **LONG) for _ in range(3))
next(stalled)
for _ in range(100):
    next(running)
features = model.encode(PIXELS)
reservation = model._scheduler.reserve(10)


# ONNX Runtime itself hangs where a forked process ends in any other way than multiprocessing's do.
leave = sys.exit if sys.argv[2] == "native" else os._exit


def forked(call):
    try:
        call()
    except ivl.DeviceError as error:
        assert "loaded before the process forked" in str(error), error
    else:
        raise AssertionError(call)


def in_child():
    for call in (
        lambda: model.chat("Hello"),
        lambda: model.chat("Hello", [features]),
        lambda: model.generate([65]),
        lambda: model.logits([65]),
        lambda: model.encode(PIXELS),
        lambda: model.encode_pixels(TILES),
        lambda: model.judge("Hello", ["One."]),
        lambda: model.vote("Hello", n=2),
        lambda: next(model.stream("Hello")),
        lambda: asyncio.run(model.achat("Hello")),
        lambda: next(stalled),
        lambda: next(running),
        lambda: next(never_begun),
    ):
        forked(call)
    again = model.stream("Hello")
    again.cancel()
    again.close()


def close_and_drop():
    global model, running, stalled, never_begun, reservation
    for stream in (running, stalled, never_begun):
        stream.cancel()
        stream.close()
        with stream:
            pass
    del stream, running, never_begun, reservation
    gc.collect()
    model.close()
    model.close()
    del stalled, model
    gc.collect()


"""

IN_CHILD = {
    "closes": "in_child(); close_and_drop(); leave(7)",
    "closes at once": "close_and_drop(); leave(7)",
    "drops": "del model, running, stalled, never_begun, reservation; gc.collect(); leave(7)",
    "leaves": "in_child(); leave(7)",
    "leaves at once": "leave(7)",
}

FORK = """
for _ in range(5):
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # what waits for a thread that stayed behind waits for ever
        IN_CHILD
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status != 7:
        sys.exit(f"the child ended with {status}")
    next(running)
rest = sum(len(piece.token_ids) for piece in stalled)
assert rest == 399, rest
close_and_drop()
sys.exit(3)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("engine", ["native", "onnxruntime"])
@pytest.mark.parametrize("child", IN_CHILD)
def test_a_forked_process_is_told_so_and_ends(roomy_bundle: Path, engine: str, child: str) -> None:
    arrays = (
        "import signal, numpy as np\n"
        "PIXELS = np.zeros((60, 60, 3), np.uint8)\n"
        "TILES = np.zeros((1, 3, 56, 56), np.float32)\n"
    )
    script = arrays + FORKED + FORK.replace("IN_CHILD", IN_CHILD[child])
    done = run_script(script, roomy_bundle, engine)
    assert (done.returncode, done.stderr) == (3, "")
