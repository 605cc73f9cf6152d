"""A process is killed at any moment: a person is enrolled completely or not at all."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

# Runs without torch and forks, so that a process to be killed starts in a millisecond.
PROGRAM = """
import json, os, random, signal, sys, time
from pathlib import Path
import numpy as np
from siamese_verify.gallery import Gallery, GalleryKey, GalleryModel
from siamese_verify.gallery.store import Store

assert not {"torch", "onnxruntime"} & set(sys.modules)
path, kills, forgets = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "forget"
key, model, photos = GalleryKey(bytes(range(32))), GalleryModel("ab" * 32, 64, "mine"), 3
rng, clock = np.random.default_rng(0), random.Random(0)

def work(turn, turns=10_000):
    with Gallery.open(path, model, key=key) as gallery:
        for count in range(turns):
            gallery.enroll_embeddings(f"P{turn}-{count}", rng.normal(size=(photos, 64)), compare=False)
            if forgets and count % 2:
                gallery.forget(f"P{turn}-{count - 1}")

def wrong(connection, person):
    count = connection.execute("SELECT count(*) FROM template WHERE person = ?", (person,)).fetchone()[0]
    return count != photos

found = {"kills": 0, "torn": 0, "orphans": 0, "journals": 0, "people": []}
start = time.perf_counter()
work("undisturbed", 4)
span = time.perf_counter() - start  # on this disk, with whatever else it does
path.unlink()
for turn in range(kills):
    if turn % 20 == 0:
        path.unlink(missing_ok=True)  # so that making the tables is interrupted, too
    child = os.fork()
    if child == 0:
        try:
            work(turn)
        finally:
            os._exit(1)
    time.sleep(clock.uniform(0, span))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    found["kills"] += os.WIFSIGNALED(status)
    found["journals"] += path.with_name(path.name + "-journal").exists()
    with Gallery.open(path, model, key=key) as gallery:
        gallery.check()
        found["people"].append(len(gallery))
    store = Store(path, key, None)
    connection = store._connection
    people = [number for (number,) in connection.execute("SELECT id FROM person")]
    found["torn"] += sum(wrong(connection, person) for person in people)
    owners = {number for (number,) in connection.execute("SELECT person FROM template")}
    found["orphans"] += len(owners - set(people))
    store.close()
print(json.dumps(found))
"""


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="forks")
@pytest.mark.parametrize(("kills", "work"), [(200, "enrol"), (60, "forget")])
def test_a_killed_process_never_leaves_a_half_enrolled_person(kills: int, work: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "gallery.db"), str(kills), work]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert found["kills"] == kills
    assert (found["torn"], found["orphans"]) == (0, 0)
    assert max(found["people"]) > 5, "people were enrolled"
    assert found["journals"] > 0, "some were killed in the middle of a transaction"
