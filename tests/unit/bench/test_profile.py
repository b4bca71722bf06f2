"""bench/run.py profile: from py-spy stacks to stages, shares and a flame graph."""

import json
import xml.etree.ElementTree
from pathlib import Path

import pytest
import run
from cases import CASES
from flame_graph import COLOURS, draw
from profile_stages import ABOUT, GIL_WAIT, IDLE, Share, read_stacks, shares, stage_of

pytestmark = pytest.mark.full

HANDLER = (
    "0x7fde80f278ec (libc.so.6);thread_run (libpython3.11.so.1.0);"
    "Thread.run (threading.py:982);ThreadedTaskDispatcher.handler_thread (waitress/task.py:{})"
)
WORKER = "Thread.run (threading.py:982);Workers._work (gpux/http/workers.py:137)"
WORKING = HANDLER.format(83) + (
    ";Channel.service (gpux/http/channel.py:77);WSGITask.execute (waitress/task.py:435)"
)
PREDICT = WORKING + (
    ";App.__call__ (falcon/app.py:487);Predict.on_post (gpux/http/app.py:92)"
    ";Engine.predict (gpux/serving/engine.py:165)"
)
RUN = PREDICT + (
    ";Scheduler.run (gpux/serving/scheduler.py:93);CpuExecution.execute (gpux/execution/cpu.py:117)"
    ";Session.run_with_iobinding (onnxruntime/capi/onnxruntime_inference_collection.py:589)"
    ";0x7fa5154729d3 (onnxruntime/capi/onnxruntime_pybind11_state.cpython-311-x86_64-linux-gnu.so)"
)
MAIN = (
    "main (gpux/cli/main.py:55);Server._poll (gpux/http/server.py:444)"
    ";poll2 (waitress/wasyncore.py:{})"
)
GIL = ";pthread_cond_timedwait (libc.so.6);0x7fde80ea3f16 (libc.so.6)"
LOCK = ";PyThread_acquire_lock_timed (libpython3.11.so.1.0);0x7fde80ea3f16 (libc.so.6)"

STACKS = {
    "decode": PREDICT
    + ";InputReader.decode (gpux/inputs/reader.py:81);gpux::Reader::read (_fastpath.so)",
    "encode": PREDICT + ";encode (_engine.so)",
    "run": RUN,
    "queue": PREDICT
    + ";Scheduler.run (gpux/serving/scheduler.py:90);_Entry.wait (gpux/serving/scheduler.py:312)",
    "engine": PREDICT,
    "app": WORKING + ";App.__call__ (falcon/app.py:487)",
    "buffers": MAIN.format(223) + ";HTTPChannel.received (waitress/channel.py:211)"
    ";OverflowableBuffer.append (waitress/buffers.py:300);realloc (libc.so.6)",
    "write": WORKING + ";Task.write (waitress/task.py:310)",
    "WSGI": WORKING,
    "sockets": MAIN.format(223) + ";dispatcher.recv (waitress/wasyncore.py:406);recv (libc.so.6)",
    "HTTP parsing": MAIN.format(223)
    + ";HTTPChannel.received (waitress/channel.py:211)"
    + ";Parser.parse_header (gpux/http/parser.py:117)",
    "hand over": WORKING + ";_triggerbase.pull_trigger (waitress/trigger.py:96)",
    "turns": WORKER + ";Workers._next_task (gpux/http/workers.py:146)",
    "GIL wait": RUN + GIL,
    "idle": HANDLER.format(71) + ";Condition.wait (threading.py:327)" + LOCK,
    "other": "Something.new (elsewhere/module.py:1)",
}


@pytest.mark.parametrize(("stage", "stack"), STACKS.items(), ids=list(STACKS))
def test_the_stage_of_a_stack(stage: str, stack: str) -> None:
    (read,) = read_stacks(f"thread (7): waitress-0;{stack} 3")
    assert stage_of(read) == stage


def test_the_servers_modules_are_in_the_stages_of_what_they_do() -> None:
    reading = "Loop.handle (gpux/http/server.py:128);Channel.handle_read (gpux/http/channel.py:142)"
    for frames, stage in {
        reading: "sockets",
        f"{reading};LongBody.receive (gpux/http/parser.py:66);recv (libc.so.6)": "sockets",
        f"{reading};Channel.received (gpux/http/channel.py:110)": "HTTP parsing",
        f"{reading};LongBody.received (gpux/http/parser.py:51)": "HTTP parsing",
        f"{reading};Dispatcher.add_task (gpux/http/dispatcher.py:40)": "hand over",
        f"{WORKING};CountedTask.get_environment (gpux/http/tasks.py:81)": "WSGI",
        f"{WORKING};CountedTask.write (gpux/http/tasks.py:88)": "write",
    }.items():
        (read,) = read_stacks(f"thread (7): worker-0;{frames} 1")
        assert stage_of(read) == stage, frames


def test_who_waits_for_the_gil_before_the_next_request_waits_for_the_gil() -> None:
    stack = HANDLER.format(71) + ";Condition.wait (threading.py:327)"
    (waits,) = read_stacks(f"thread (7): waitress-0;{stack}{GIL} 1")
    assert stage_of(waits) == GIL_WAIT
    (worker,) = read_stacks(f"thread (7): worker-0;{STACKS['turns']}{LOCK} 1")
    assert stage_of(worker) == IDLE
    turn = f"{STACKS['queue']};Workers._wait (gpux/http/workers.py:170){LOCK}"
    (waits_for_a_run,) = read_stacks(f"thread (7): worker-0;{turn} 1")
    assert stage_of(waits_for_a_run) == "queue"
    (polls,) = read_stacks(f"thread (7): MainThread;{MAIN.format(213)};poll (libc.so.6) 1")
    assert stage_of(polls) == IDLE


def test_shares_leave_out_who_is_idle_and_work_leaves_out_who_waits() -> None:
    seen = {"run": 30, "GIL wait": 40, "decode": 10, "idle": 1000}
    lines = [f"thread (1): waitress-0;{STACKS[stage]} {number}" for stage, number in seen.items()]
    text = "\n".join([*lines, f"thread (2): waitress-1;{STACKS['queue']}{LOCK} 20"])
    assert shares(read_stacks(text)) == {
        "GIL wait": Share(0.4, 0),
        "run": Share(0.3, 0.75),
        "queue": Share(0.2, 0),
        "decode": Share(0.1, 0.25),
    }
    assert shares({}) == {}


def test_stacks_of_all_threads_are_one_without_addresses_and_lines() -> None:
    text = (
        "thread (1): a;f (m.py:1);0x1f (libc.so.6);0x2f (libc.so.6) 2\n"
        "thread (2): b;f (m.py:9);0x3f (libc.so.6) 3\n"
    )
    assert read_stacks(text) == {("f (m.py)", "(libc.so.6)"): 5}
    with pytest.raises(ValueError, match="invalid literal"):
        read_stacks("not what py-spy writes")


def test_the_flame_graphs_frames_are_as_wide_as_their_share() -> None:
    stacks = [f"{STACKS['run']} 75", f"{STACKS['decode']} 25", f"{STACKS['idle']} 900"]
    samples = read_stacks("\n".join(stacks))
    root = xml.etree.ElementTree.fromstring(draw("a <title>", samples, shares(samples)))
    space = "{http://www.w3.org/2000/svg}"
    found = {}
    for group in root.iter(f"{space}g"):
        title, box = group.find(f"{space}title"), group.find(f"{space}rect")
        assert title is not None
        assert title.text is not None
        assert box is not None
        found[title.text] = (float(box.attrib["width"]), box.attrib["fill"])
    assert found["Engine.predict (gpux/serving/engine.py): 100.00%"][0] == 1360
    assert found["Scheduler.run (gpux/serving/scheduler.py): 75.00%"] == (1020, COLOURS["run"])
    assert found["InputReader.decode (gpux/inputs/reader.py): 25.00%"] == (340, COLOURS["decode"])
    assert not any("Condition.wait" in name for name in found)
    assert "a <title>" in [text.text for text in root.iter(f"{space}text")]


def test_a_live_server_is_looked_at(tmp_path: Path) -> None:
    model, body = CASES["mlp"].write(tmp_path)
    graph, output = tmp_path / "graph.svg", tmp_path / "profile.json"
    few = ["--connections", "2", "--seconds", "1", "--rate", "20"]
    outputs = ["--flame-graph", str(graph), "--json", str(output)]
    assert run.main(["profile", str(model), "--body", str(body), *few, *outputs]) == 0
    figures = json.loads(output.read_bytes())["figures"]
    assert sum(figure["of_all"] for figure in figures) == pytest.approx(1)
    assert sum(figure["of_work"] for figure in figures) == pytest.approx(1)
    drawn = "".join(xml.etree.ElementTree.parse(graph).getroot().itertext())
    assert "Server.run (gpux/http/server.py)" in drawn


def test_every_stage_has_a_colour_of_its_own() -> None:
    assert set(COLOURS) == set(ABOUT)
    assert len(set(COLOURS.values())) == len(COLOURS)
