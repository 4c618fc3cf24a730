"""The verbs of a Chatkeep from plain threads: many at once, and nowhere that they would hang."""

from __future__ import annotations

import ast
import asyncio
import inspect
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chatkeep import Chatkeep, Content, NotOpen, Tenant, Turn, Unavailable, Uncertain, UsageError
from chatkeep.blocking import BlockingChatkeep, BlockingTenant, BlockingUser
from chatkeep.loop_thread import LoopThread, Words
from chatkeep.people.user import User

from ..support.waiting import takes


def counting(url: str, **options: Any) -> Chatkeep[Any]:
    """A bot that numbers what it is told."""
    keep = Chatkeep(url, poll="50ms", **options)

    @keep.on_message
    async def bot(turn: Turn) -> str:
        turn.state["n"] = turn.state.get("n", 0) + 1
        return str(turn.state["n"])

    return keep


def threads() -> list[str]:
    """The names of the threads that run the loops."""
    return [thread.name for thread in threading.enumerate() if thread.name == "chatkeep-blocking"]


def in_threads(count: int, job: Callable[[int], Any]) -> list[Any]:
    """What *job* gives, or raises, in each of so many threads at once."""
    found: list[Any] = [None] * count

    def run(number: int) -> None:
        try:
            found[number] = job(number)
        except Exception as fault:
            found[number] = fault

    started = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join(30)
    assert not any(thread.is_alive() for thread in started)
    return found


def test_every_verb_is_there() -> None:
    """With the same parameters and the docstring, that is not written twice; what is asynchronously iterated is iterated."""
    for face, blocking, some in (
        (Chatkeep, BlockingChatkeep, {"receive", "history", "events"}),
        (Tenant, BlockingTenant, {"receive", "history", "events"}),
        (User, BlockingUser, {"conversations", "save"}),
    ):
        verbs = {
            name: verb
            for name, verb in inspect.getmembers(face, inspect.isfunction)
            if not name.startswith("_") and (inspect.iscoroutinefunction(verb) or inspect.isasyncgenfunction(verb))
        }
        assert some <= set(verbs)
        assert {} == {name: verb for name, verb in verbs.items() if not hasattr(blocking, name)}
        for name, verb in verbs.items():
            if name not in ("open", "close"):
                made = getattr(blocking, name)
                assert (inspect.signature(verb), verb.__doc__) == (inspect.signature(made), made.__doc__)


def test_many_threads_use_one(url: str) -> None:
    """Each message is answered once, whatever thread brings it; nothing is left behind."""
    with BlockingChatkeep(counting(url)) as chat:
        found = in_threads(8, lambda n: [chat.receive("ada", "hello", id=f"{n}.{m}").replies[0].text for m in range(5)])
        again = chat.receive("ada", "hello", id="3.3")
        log = list(chat.history("ada"))
        chat.change("ada", lambda state: state.update(vip=True))
        salon = chat.tenant("salon")
        salon.receive("eve", "hello")

        assert "salon" == salon.name
        assert [str(n) for n in range(1, 41)] == sorted((text for texts in found for text in texts), key=int)
        assert (True, 80) == (again.duplicate, len(log))
        assert [log[78], log[79]] == list(chat.history("ada", before=81, limit=2))
        assert {"n": 40, "vip": True} == chat.conversation("ada").state  # type: ignore[union-attr]
        assert None is salon.conversation("ada")
        assert ["ada"] == [one.id for one in chat.conversations()]
        assert ["ada", "eve"] == sorted(one.id for one in chat.all_conversations())
        assert 1 == len(threads())

    assert [] == threads()
    with pytest.raises(NotOpen, match="with BlockingChatkeep"):
        chat.receive("ada", "late")
    with pytest.raises(NotOpen, match="not open"):
        list(chat.history("ada"))
    chat.close()

    with chat:  # again
        assert "41" == chat.receive("ada", "hello").replies[0].text


def test_plain_handlers_may_use_it(url: str) -> None:
    """They run in threads of their own, and what they say to another conversation is answered meanwhile."""
    keep = Chatkeep(url, concurrency=1)
    chat = BlockingChatkeep(keep)

    @keep.on_message
    def bot(turn: Turn) -> str:
        if turn.conversation == "ada":
            return chat.receive("eve", f"{turn.text} from ada", id=turn.id).replies[0].text
        return turn.text

    with chat:
        assert "hello from ada" == chat.receive("ada", "hello").replies[0].text


def test_events_end_when_it_is_closed(url: str) -> None:
    """Or when nobody iterates any more; in between they come as they happen."""
    seen: list[Any] = []
    with BlockingChatkeep(counting(url)) as chat:
        chat.receive("ada", "hello")
        for event in chat.events("ada", after=0):
            seen.append(event)
            if len(seen) == 2:
                break
        waiting = chat.events("ada")
        thread = threading.Thread(target=lambda: seen.append(list(waiting)))
        thread.start()
        time.sleep(0.2)
        chat.receive("ada", "hello")
        time.sleep(0.2)
    thread.join(10)

    assert not thread.is_alive()
    assert ["hello", "1"] == [event.text for event in seen[:2]]
    assert {"hello", "2"} <= {getattr(event, "text", "") for event in seen[2]}


def test_it_is_refused_where_a_loop_runs(url: str) -> None:
    """There it would hold up everything, and in its own loop wait for itself for ever: in a handler, for example."""
    keep = Chatkeep(url)
    chat = BlockingChatkeep(keep)
    told: list[str] = []

    @keep.on_message
    async def bot(turn: Turn) -> str:
        for call in (lambda: chat.receive("eve", "hello"), lambda: list(chat.history("eve")), chat.close):
            try:
                call()
            except UsageError as fault:
                told.append(str(fault))
        return "done"

    async def elsewhere() -> None:
        for call in (chat.open, lambda: chat.receive("ada", "hello")):
            with pytest.raises(UsageError, match=r"asyncio\.to_thread"):
                call()
        assert "done" == (await asyncio.to_thread(chat.receive, "ada", "again")).replies[0].text

    with chat:
        assert "done" == chat.receive("ada", "hello").replies[0].text
        assert ["where an event loop runs", "where an event loop runs", "from its own event loop"] == [
            next(words for words in ("where an event loop runs", "from its own event loop") if words in one)
            for one in told[:3]
        ]
        with pytest.raises(UsageError, match="open already"):
            chat.open()
        asyncio.run(elsewhere())
        assert None is chat.conversation("eve")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
def test_a_forked_child_is_refused_and_its_parent_goes_on(tmp_path: Any) -> None:
    """Its loop does not run there: a call would wait for ever. One that is opened after the fork works."""
    made = counting(f"sqlite:///{tmp_path}/later.db")
    # (A child that is forked while a thread is within SQLite itself can open no file. This is about calls, so it has none.)
    with BlockingChatkeep(counting("memory://")) as chat:
        chat.receive("ada", "1")
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            signal.alarm(20)
            told = []
            try:
                for call in (lambda: chat.receive("ada", "2"), lambda: list(chat.history("ada")), chat.open):
                    try:
                        call()
                        told.append("")
                    except NotOpen as fault:
                        told.append(str(fault))
                chat.close()
                with BlockingChatkeep(made) as own:
                    told.append(own.receive("ada", "1").replies[0].text)
                os.write(writing, pickle.dumps(told))
            finally:
                os._exit(0)
        os.close(writing)
        with os.fdopen(reading, "rb") as answers:
            told = pickle.loads(answers.read())
        os.waitpid(child, 0)

        assert 4 == len(told)
        assert all("Open it after the fork" in one for one in told[:3])
        assert "1" == told[3]
        assert ("2", 4) == (chat.receive("ada", "2").replies[0].text, len(list(chat.history("ada"))))


def test_an_opening_that_fails_leaves_nothing(tmp_path: Any) -> None:
    """It raises what the Chatkeep raises; later it may be opened."""
    chat = BlockingChatkeep(counting(f"sqlite:///{tmp_path}/later/chat.db"))
    with pytest.raises(Unavailable, match="no folder"):
        chat.open()
    with pytest.raises(NotOpen):
        chat.receive("ada", "hello")

    assert [] == threads()

    (tmp_path / "later").mkdir()
    with chat:
        assert "1" == chat.receive("ada", "hello").replies[0].text


def test_closing_waits_for_what_runs(url: str) -> None:
    """A turn that runs is finished; its caller is told where it stands, and gets the answer when it asks again."""
    keep, began = Chatkeep(url), threading.Event()
    runs: list[str] = []

    @keep.on_message
    async def bot(turn: Turn) -> str:
        began.set()
        await takes(0.3)
        runs.append(turn.text)
        return "done"

    told: list[str] = []

    def send() -> None:
        try:
            chat.receive("ada", "hello", id="1")
        except Uncertain as fault:
            told.append(str(fault))

    with BlockingChatkeep(keep) as chat:
        thread = threading.Thread(target=send)
        thread.start()
        assert began.wait(10)
    thread.join(10)

    assert not thread.is_alive()
    assert ["hello"] == runs
    assert all("same id" in one or "with an id" in one for one in told)
    with chat:
        assert (["hello"], "done") == (runs, chat.receive("ada", "hello", id="1").replies[0].text)


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="there is no way to send a thread a signal here")
def test_ctrl_c_while_it_opens_leaves_nothing() -> None:
    """It is closed as soon as it is open."""
    thread, go_on, closed = (
        LoopThread("chatkeep-blocking", Words("It", "`with it`", "Look.")),
        asyncio.Event(),
        threading.Event(),
    )
    main = threading.get_ident()

    async def opening() -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(0.5, go_on.set)
        signal.pthread_kill(main, signal.SIGINT)
        await go_on.wait()

    async def closing() -> None:
        closed.set()

    with pytest.raises(KeyboardInterrupt):
        thread.start(opening, closing)

    assert closed.wait(10)
    with pytest.raises(NotOpen):
        thread.run(closing())


def test_a_call_that_is_still_waiting_at_the_end_is_told() -> None:
    """It may have been done; the words say how to find out. What ends with the closing ends, other iterations do not look complete."""
    words = Words("It", "`with it`", "Look.")
    thread, found, waits = LoopThread("waiting", words), [], threading.Event()

    async def nothing() -> None:
        pass

    async def wait() -> None:
        waits.set()
        await takes(60)

    async def items() -> Any:
        yield 1
        await wait()

    for job in (
        lambda: thread.run(wait()),
        lambda: list(thread.iterate(items(), until_closed=False)),
        lambda: list(thread.iterate(items(), until_closed=True)),
    ):
        waits.clear()
        thread.start(nothing, nothing)

        def caller(job: Callable[[], Any] = job) -> None:
            try:
                found.append(job())
            except Uncertain as fault:
                found.append(str(fault))

        waiting = threading.Thread(target=caller)
        waiting.start()
        assert waits.wait(10)
        thread.stop()
        waiting.join(10)

    assert ["It was closed before an answer came. Look."] * 2 + [[1]] == found


SERVING = """
import os, sys, threading
from socketserver import ThreadingMixIn
from urllib.request import urlopen
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import bot  # as a server that preloads: before the fork

class Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

class Quiet(WSGIRequestHandler):
    def log_message(self, *about): pass

close = bot.keep.close

async def closing():
    await close()
    print("closed", flush=True)

bot.keep.close = closing

def serve(customer):
    import wsgi
    server = Server(("127.0.0.1", 0), Quiet)
    server.set_app(wsgi.application)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/?customer={customer}&text=hello&id="
    said = []
    asked = [threading.Thread(target=lambda n=n: said.append(urlopen(f"{address}{n}").read().decode())) for n in (1, 2, 3, 3)]
    for one in asked: one.start()
    for one in asked: one.join()
    print(customer, *sorted(said), [len(list(bot.chat.history(customer)))], flush=True)

if hasattr(os, "fork"):
    if not os.fork():
        serve("ada")
        sys.exit()  # here it is closed
    os.wait()
serve("eve")
"""


@pytest.mark.slow
def test_the_pages_wsgi_application_serves_from_forked_workers_and_threads(tmp_path: Path) -> None:
    """As it stands in docs/how-to/application.md: imported before the fork, opened after it, closed at exit."""
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "application.md").read_text()
    files = dict(re.findall(r"^```python\n# (bot|wsgi)\.py\n(.*?)^```$", page, re.M | re.S))
    for name, code in {**files, "serving": SERVING}.items():
        (tmp_path / f"{name}.py").write_text(code)
    done = subprocess.run([sys.executable, "serving.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    three = " ".join(f'["That was message {n}."]' for n in (1, 2, 3))
    customers = ["ada", "eve"] if hasattr(os, "fork") else ["eve"]

    assert {"bot", "wsgi"} == set(files)
    assert ("", 0) == (done.stderr, done.returncode)
    assert [word for one in customers for word in (one, "closed")] == re.findall(r"^\w+", done.stdout, re.M)
    for line in done.stdout.splitlines()[::2]:
        assert {*re.findall(r"\[.*?\]", line)} == {*re.findall(r"\[.*?\]", three), "[6]"}
        assert 5 == len(re.findall(r"\[.*?\]", line))


def test_the_pages_celery_task_says_what_a_bot_can_be_told(tmp_path: Path) -> None:
    """The function as it stands in docs/how-to/application.md; Celery itself is not installed here."""
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "application.md").read_text()
    (code,) = re.findall(r"^```python\n# tasks\.py\n(.*?)^```$", page, re.M | re.S)
    (task,) = [found for found in ast.parse(code).body if isinstance(found, ast.FunctionDef)]
    task.decorator_list.clear()
    told: list[Content] = []
    keep = Chatkeep(f"sqlite:///{tmp_path}/chat.db")
    keep.on_message(lambda turn: told.append(turn.message.content))
    with BlockingChatkeep(keep) as chat:
        names: dict[str, Any] = {"chat": chat}
        exec(compile(ast.Module([task], []), "tasks.py", "exec"), names)
        for _ in range(2):  # a task that Celery runs again
            names[task.name]("ada", "o-17")
        chat.receive("ada", "what was it?")

    assert [[{"type": "reminder", "order": "o-17"}], "what was it?"] == told


@pytest.mark.slow
def test_the_end_of_the_process_closes_what_was_opened_first_and_later(tmp_path: Path) -> None:
    """Also where the first one needed no executor, so that executors were imported after it was opened."""
    code = """
from chatkeep import Chatkeep
from chatkeep.blocking import BlockingChatkeep
class Telling(Chatkeep):
    async def close(self):
        await super().close()
        print("closed", flush=True)
first, later = BlockingChatkeep(Telling("memory://")), BlockingChatkeep(Telling("sqlite:///chat.db"))
first.open()
later.open()
later.create("ada")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)

    assert ("closed\nclosed\n", "", 0) == (done.stdout, done.stderr, done.returncode)
