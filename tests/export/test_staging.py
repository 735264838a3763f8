"""How a bundle takes its name: whole or not at all, nobody else's files touched, nothing left by a kill."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from bundle.tiny import tiny_manifest, write_tiny
from export.checkpoints import TINY_QWEN2, write_checkpoint
from internvl_rt.bundle.bundle import open_bundle
from internvl_rt.cli import main
from internvl_rt.errors import BundleError
from internvl_rt.export import staging
from internvl_rt.export.exporter import export
from internvl_rt.export.synthetic import export_synthetic, write_synthetic
from unprivileged import unprivileged


def names(folder: Path) -> list[str]:
    return sorted(f.name for f in folder.iterdir())


def overwrite_tiny(out: Path, seed: int = 9) -> Path:
    return write_synthetic(
        tiny_manifest(), out, tokenizer=None, graphs=False, seed=seed, overwrite=True, progress=False
    )


def weights_of(bundle: Path) -> str:
    return open_bundle(bundle, verify=True).manifest.files["weights.safetensors"].sha256


# ------------------------------------------------------------------ what may be replaced


def test_a_folder_that_is_not_a_bundle_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    write_tiny(out)  # an empty folder is fine
    with pytest.raises(BundleError, match=r"holds a bundle already.*overwrite"):
        write_tiny(out)
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(BundleError, match=r"no bundle.*left alone"):
            export_synthetic("InternVL2_5-1B", other, layers=1, overwrite=overwrite)
    assert names(other) == ["thesis.tex"]
    with pytest.raises(BundleError, match="not a folder"):
        write_tiny(other / "thesis.tex")
    assert names(tmp_path) == ["other", "out"]


MANIFESTS = {
    "of another program": '{"name": "my web app", "manifest_version": 3}',
    "a list": "[]",
    "not JSON": "internvl_rt bundle",
    "empty": "",
    "nested too deep": "[" * 100_000,
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_alone_makes_no_bundle(tmp_path: Path, name: str) -> None:
    """A web app has a manifest.json too."""
    out = tmp_path / "app"
    out.mkdir()
    (out / "manifest.json").write_text(MANIFESTS[name])
    (out / "index.html").write_text("<html>")
    with pytest.raises(BundleError, match="holds no bundle"):
        overwrite_tiny(out)
    assert names(out) == ["index.html", "manifest.json"]


def put_file(out: Path) -> str:
    (out / "notes.txt").write_text("mine")
    return "notes.txt"


def put_hidden_file(out: Path) -> str:
    (out / ".env").write_text("mine")
    return ".env"


def put_folder(out: Path) -> str:
    (out / "pictures").mkdir()
    (out / "pictures" / "a.jpg").write_text("mine")
    return "pictures"


def put_link(out: Path) -> str:
    (out / "data").symlink_to("/")
    return "data"


def put_file_of_a_bundles_name(out: Path) -> str:
    """This bundle has no graphs, so it is not the bundle's."""
    (out / "llm.onnx").write_text("mine")
    return "llm.onnx"


def put_weights_elsewhere(out: Path) -> str:
    (out / "weights.safetensors").rename(out.parent / "elsewhere")
    (out / "weights.safetensors").symlink_to("../elsewhere")
    return "weights.safetensors"


def put_many(out: Path) -> str:
    for i in range(8):
        (out / f"frame-{i}.jpg").write_text("mine")
    return "frame-0.jpg, frame-1.jpg, frame-2.jpg, frame-3.jpg, frame-4.jpg and 3 more"


@pytest.mark.parametrize(
    "put",
    [
        put_file,
        put_hidden_file,
        put_folder,
        put_link,
        put_file_of_a_bundles_name,
        put_weights_elsewhere,
        put_many,
    ],
)
def test_files_of_the_user_beside_a_bundle(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], put: Callable[[Path], str]
) -> None:
    write_checkpoint(tmp_path / "in", TINY_QWEN2)
    out = write_tiny(tmp_path / "out")
    named = put(out)
    before = {path: path.lstat() for path in out.rglob("*")}
    with pytest.raises(SystemExit) as ended:
        main(["export", str(tmp_path / "in"), str(out), "--overwrite"])
    assert ended.value.code == 1
    assert f"holds more than a bundle: {named}" in capsys.readouterr().err
    after = {path: path.lstat() for path in out.rglob("*")}
    assert {p: (s.st_ino, s.st_size) for p, s in after.items()} == {
        p: (s.st_ino, s.st_size) for p, s in before.items()
    }


def test_a_bundle_of_another_version_is_replaced(tmp_path: Path) -> None:
    out = write_tiny(tmp_path / "out")
    path = out / "manifest.json"
    path.write_text(path.read_text().replace('"format_version": 1', '"format_version": 0'))
    overwrite_tiny(out)
    assert open_bundle(out, verify=True)


def test_overwriting_replaces_the_whole_bundle(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "in", TINY_QWEN2)
    out = export(tmp_path / "in", tmp_path / "out", weights="fp32", dialect=["onnx24", "ort"])
    assert "llm.ort.onnx" in names(out)
    export(tmp_path / "in", out, weights="int8", overwrite=True)
    assert open_bundle(out, verify=True).manifest.precision.llm == "int8"
    assert "llm.ort.onnx" not in names(out)
    assert names(tmp_path) == ["in", "out"]


@pytest.mark.parametrize("exchanges", [True, False])
def test_a_file_that_comes_while_the_bundle_is_replaced_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchanges: bool
) -> None:
    out = write_tiny(tmp_path / "out", seed=1)
    publish = staging._publish

    def late(new: Path, target: Path) -> None:
        (target / "notes.txt").write_text("mine")
        publish(new, target)

    monkeypatch.setattr(staging, "_publish", late)
    if not exchanges:
        monkeypatch.setattr(staging, "_exchange", lambda one, other: False)
    overwrite_tiny(out)
    assert (out / "notes.txt").read_text() == "mine"
    assert names(tmp_path) == ["out"]


def test_a_link_to_a_bundle_is_followed(tmp_path: Path) -> None:
    write_tiny(tmp_path / "target", seed=1)
    before = weights_of(tmp_path / "target")
    (tmp_path / "link").symlink_to("target")
    overwrite_tiny(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert weights_of(tmp_path / "target") != before
    assert names(tmp_path) == ["link", "target"]


# ------------------------------------------------------------------ places that cannot be written


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BundleError, match="cannot be written here"):
        write_tiny(tmp_path / "file" / "out")


@pytest.mark.parametrize("name", ["x" * 300, "a/" * 3000, "y" * 256 + "/out"])
def test_paths_that_are_too_long(tmp_path: Path, name: str) -> None:
    with pytest.raises(BundleError, match=r"File name too long.*choose a shorter one") as caught:
        write_tiny(tmp_path / name)
    assert len(str(caught.value)) < 600
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["z" * 255, "é" * 127, "a b'c\n[d]*"])
def test_names_that_file_systems_just_take(tmp_path: Path, name: str) -> None:
    write_tiny(tmp_path / name, seed=1)
    before = weights_of(tmp_path / name)
    overwrite_tiny(tmp_path / name)
    assert weights_of(tmp_path / name) != before
    assert names(tmp_path) == [name]


def test_without_permission(tmp_path: Path) -> None:
    """Neither of these users may write to the folder; what is there stays as it is."""
    parent = tmp_path / "parent"
    out = write_tiny(parent / "out", seed=1)
    before = weights_of(out)
    parent.chmod(0o555)
    out.chmod(0o555)
    try:
        for target in (parent / "new", out):
            with (
                unprivileged(tmp_path),
                pytest.raises(BundleError, match=r"Permission denied.*has no permission"),
            ):
                overwrite_tiny(target)
    finally:
        parent.chmod(0o755)
        out.chmod(0o755)
    assert names(parent) == ["out"]
    assert weights_of(out) == before


def test_a_mount_point(tmp_path: Path) -> None:
    """Found before anything is read or written; a folder cannot take its place."""
    write_checkpoint(tmp_path / "in", TINY_QWEN2)
    with pytest.raises(BundleError, match=r"/proc: is a mount point.*inside it"):
        export(tmp_path / "in", "/proc", overwrite=True)


def test_folders_above_a_bundle_that_failed_are_gone(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(BundleError, match="too long"):
        write_tiny(tmp_path / "there" / "a" / "b" / ("x" * 256))
    assert names(tmp_path / "there") == []


@pytest.mark.parametrize("below", ["out", "a/out"])
def test_a_file_above_a_bundle(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(BundleError, match="lies where a folder is needed"):
        write_tiny(tmp_path / "file" / below)
    assert (tmp_path / "file").read_text() == "mine"
    assert names(tmp_path) == ["file"]


# ------------------------------------------------------------------ one export at a time


LIVE = """
import os, sys
from pathlib import Path
from bundle.tiny import tiny_manifest
from internvl_rt.export.synthetic import RandomSource
from internvl_rt.export.writer import write_bundle

def wait(*_):
    print(os.getpid(), flush=True)
    sys.stdin.readline()

write_bundle(Path(sys.argv[1]), tiny_manifest(), RandomSource(4), wait, overwrite=True)
"""
TESTS = Path(__file__).resolve().parents[1]


def start_live(out: Path, *before: str) -> tuple[subprocess.Popen[str], int]:
    """An export in another process that waits before its end; and the number by which it knows itself."""
    path = os.pathsep.join([str(TESTS), *sys.path])
    process = subprocess.Popen(
        [*before, sys.executable, "-c", LIVE, str(out)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert process.stdout is not None
    return process, int(process.stdout.readline())


@pytest.fixture(params=["processes", "containers"])
def namespace(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """What makes a process number 1, as in a container, where that is allowed."""
    if request.param == "processes":
        return ()
    command = ("unshare", "--pid", "--fork", "--kill-child")
    try:
        if subprocess.run([*command, "true"], capture_output=True).returncode == 0:
            return command
    except OSError:
        pass
    pytest.skip("needs the right to make a namespace of process numbers")


def test_an_export_that_runs_is_left_alone(tmp_path: Path, namespace: tuple[str, ...]) -> None:
    out = write_tiny(tmp_path / "out", seed=1)
    before = weights_of(out)
    live, number = start_live(out, *namespace)
    try:
        assert not namespace or number == 1
        with pytest.raises(BundleError, match="another export writes this bundle at the moment"):
            overwrite_tiny(out)
        assert weights_of(out) == before
        write_tiny(tmp_path / "beside")  # another place is nobody's business
        live.communicate("go on\n", timeout=60)
    finally:
        live.kill()
        live.wait()
    assert live.returncode == 0
    assert weights_of(out) != before
    assert names(tmp_path) == ["beside", "out"]


def test_an_export_that_was_killed_blocks_nothing(tmp_path: Path, namespace: tuple[str, ...]) -> None:
    out = tmp_path / "out"
    dead, number = start_live(out, *namespace)
    assert not namespace or number == 1
    dead.kill()
    dead.wait()
    # The namespace's first process dies with the one above it, a moment later.
    if namespace:
        assert dead.stdout is not None
        dead.stdout.read()
    assert names(tmp_path) == [".out.exporting"]
    with pytest.raises(BundleError, match="no such folder"):
        open_bundle(out)
    live, _ = start_live(out, *namespace)
    live.communicate("go on\n", timeout=60)
    assert live.returncode == 0
    assert names(tmp_path) == ["out"]


def test_two_threads(tmp_path: Path) -> None:
    """Of two exports to one place, one is done and one is told of the other, or both are done."""
    outcomes: list[object] = []

    def run(seed: int) -> None:
        try:
            outcomes.append(overwrite_tiny(tmp_path / "out", seed))
        except BundleError as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    failed = [outcome for outcome in outcomes if isinstance(outcome, str)]
    assert len(outcomes) == 4
    assert len(failed) < 4
    assert all("another export" in told for told in failed)
    assert names(tmp_path) == ["out"]
    weights_of(tmp_path / "out")


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Nothing is known of others then, so nothing of theirs is touched."""
    others = tmp_path / ".out.exporting-0123"
    others.mkdir()

    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    overwrite_tiny(tmp_path / "out", 1)
    before = weights_of(tmp_path / "out")
    overwrite_tiny(tmp_path / "out", 2)
    assert weights_of(tmp_path / "out") != before
    assert names(tmp_path) == [others.name, "out"]


def test_a_link_in_the_place_of_the_work_folder(tmp_path: Path) -> None:
    (tmp_path / "mine" / "new").mkdir(parents=True)
    (tmp_path / "mine" / "new" / "manifest.json").write_text("mine")
    (tmp_path / ".out.exporting").symlink_to("mine")
    with pytest.raises(BundleError, match="cannot be written here"):
        write_tiny(tmp_path / "out")
    assert (tmp_path / "mine" / "new" / "manifest.json").read_text() == "mine"


# ------------------------------------------------------------------ killed at every step


KILLED = """
import os, signal, sys
from pathlib import Path
from bundle.tiny import tiny_manifest, tiny_tokenizer
from internvl_rt.bundle.bundle import open_bundle
from internvl_rt.errors import BundleError
from internvl_rt.export import staging
from internvl_rt.export.synthetic import write_synthetic

root, start, exchanges = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "exchanges"
out = root / "out"
if not exchanges:
    staging._exchange = lambda one, other: False

def export(seed):
    write_synthetic(tiny_manifest("int4"), out, tokenizer=tiny_tokenizer(), graphs=False, seed=seed,
                    overwrite=True, progress=False)

def killed_at(step):
    '''Exports in a process that dies before its operation of that number on a file. False if it has fewer.'''
    child = os.fork()
    if child == 0:
        seen = 0
        def count(event, arguments):
            nonlocal seen
            touches = any(isinstance(a, (str, bytes)) and str(root) in os.fsdecode(a) for a in arguments)
            if touches or event in ("fcntl.flock", "ctypes.dlsym"):
                seen += 1
                if seen == step:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(count)
        export(2)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0, status
    return False

def whole():
    '''The hash of the bundle that is there; None if there is none.'''
    if not out.exists() or not any(out.iterdir()):
        return None
    return open_bundle(out, verify=True).manifest.files["weights.safetensors"].sha256

def reset():
    if start == "bundle":
        export(1)
    elif start == "empty folder":
        if out.exists():
            for file in out.iterdir():
                file.unlink()
        out.mkdir(exist_ok=True)
    elif out.exists():
        for file in out.iterdir():
            file.unlink()
        out.rmdir()

export(2)
done = whole()
reset()
before = whole()
step = 1
absent = 0
while killed_at(step):
    found = whole()
    if start == "bundle" and not exchanges and found is None:
        absent += 1
    else:
        assert found in (before, done), (step, found)
    assert {p.name for p in root.iterdir()} <= {"out", ".out.exporting"}, step
    export(3)
    assert [p.name for p in root.iterdir()] == ["out"], (step, list(root.rglob("*")))
    assert whole() not in (None, before, done)
    reset()
    step += 1
assert whole() == done
assert [p.name for p in root.iterdir()] == ["out"]
print(step, absent)
"""


@pytest.mark.parametrize(
    ("start", "exchanges"),
    [("nothing", True), ("empty folder", True), ("bundle", True), ("bundle", False)],
)
def test_a_kill_at_every_step(tmp_path: Path, start: str, exchanges: bool) -> None:
    """A bundle is there, whole, before and after every operation; the next export removes what is left."""
    path = os.pathsep.join([str(TESTS), *sys.path])
    result = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), start, "exchanges" if exchanges else "renames"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert result.returncode == 0, result.stderr
    steps, absent = map(int, result.stdout.split())
    assert steps > 20
    # Where folders cannot be exchanged there is a moment without a bundle, and the next export ends it.
    assert absent == 0 if exchanges else 0 < absent < 6


def test_the_old_bundle_comes_back_after_a_kill_between_two_renames(tmp_path: Path) -> None:
    """Whoever exports next without overwriting is told of it, and has it."""
    out = write_tiny(tmp_path / "out", seed=1)
    before = weights_of(out)
    (tmp_path / ".out.exporting").mkdir()
    out.rename(tmp_path / ".out.exporting" / "old")
    with pytest.raises(BundleError, match="holds a bundle already"):
        write_tiny(out, seed=2)
    assert weights_of(out) == before
    assert names(tmp_path) == ["out"]
