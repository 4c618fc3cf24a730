"""What is looked at before anything is served: the bot, the settings and the secrets; and what `--check` says of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from chatkeep.server.settings import KNOWN

from ..support.service import BOT, run, service

SECRET_URL = "redis://bot:hunter2@127.0.0.1:1/0"
GUESSED = """
from chatkeep.channels import Telegram, WhatsApp
from chatkeep.channels.outlet import ChannelOutlet
whatsapp = WhatsApp(accounts={{"1": "t"}}, secrets="changemechangeme", verify_tokens="v")
keep.deliver(ChannelOutlet(Telegram(token="42:token", secrets="tg"), whatsapp))
"""


@pytest.mark.parametrize("how", [{"host": "0.0.0.0"}, {"admin_bind": "0.0.0.0:0"}, {"proxies": "10.0.0.1"}])
def test_secrets_that_can_be_guessed_are_refused_where_others_reach_the_server(
    tmp_path: Path, how: dict[str, str]
) -> None:
    """Each is named, with the command that makes a good one, and none is shown; a token that a handshake echoes opens nothing."""
    tmp_path.joinpath("bot.py").write_text((BOT + GUESSED).format(url=f"sqlite:///{tmp_path}/chat.db"))
    weak = {"metrics_token": "hunter2", "seal_keys": "secretsecretsecret", **how}
    ended = [run(tmp_path, "serve", "bot:keep", *more, **weak) for more in (("--port", "0"), ("--check",))]

    for one in ended:
        assert 2 == one.returncode
        assert (
            "metrics_token is a secret of 7 bytes; Telegram(secrets=...) has a secret of 2 bytes; WhatsApp(secrets=...)"
            in one.stderr
        )
        assert "the first of seal_keys is a secret that repeats" in one.stderr
        assert "python -c 'import secrets; print(secrets.token_urlsafe(32))'" in one.stderr
        assert [] == [secret for secret in ("hunter2", "changeme", "secretsecret") if secret in one.stderr]


async def test_on_this_machine_secrets_that_can_be_guessed_are_warned_of(tmp_path: Path) -> None:
    """A bot may be tried with them."""
    with service(tmp_path, bot=BOT + GUESSED, metrics_token="hunter2") as server:
        server.wait_for("metrics_token is a secret of 7 bytes, which can be guessed. Make one: python -c")
        ready = await server.client().ask("GET", "/readyz")

    assert 200 == ready.status
    assert "WhatsApp(secrets=...) has a secret that repeats" in server.log


@pytest.mark.parametrize(
    ("app", "said"),
    [
        ("", "No application was named; name it as module:attribute, such as app:keep"),
        ("bot", 'bot is not "module:attribute"'),
        ("nobot:keep", "There is no module nobot"),
        ("bot:kep", "bot has no kep; it has the Chatkeep keep"),
        ("bot:BOT", "bot:BOT is str, not a Chatkeep"),
        ("bot:Chatkeep", "bot:Chatkeep is a class, not a Chatkeep"),
        ("bot:bare", "bot:bare has no handler"),
        ("bot:asleep", "A server works in the background"),
        ("needy:keep", "needy needs nothing_of_that_name"),
    ],
)
def test_what_cannot_be_served_is_told_in_one_line(tmp_path: Path, app: str, said: str) -> None:
    """Each mistake has a sentence, and exit code 2."""
    asleep = "asleep = Chatkeep('memory://z', background=False)\nasleep.on_message(lambda turn: turn.text)\n"
    more = f"\nBOT = ''\nbare = Chatkeep('memory://y')\n{asleep}"
    tmp_path.joinpath("bot.py").write_text(BOT.format(url="memory://x") + more)
    tmp_path.joinpath("needy.py").write_text("import nothing_of_that_name\n")
    ended = run(tmp_path, "serve", *([app] if app else []), "--check")

    assert (2, True, 1) == (ended.returncode, said in ended.stderr, len(ended.stderr.splitlines())), ended.stderr


def test_check_says_whether_all_is_well_and_starts_nothing(tmp_path: Path) -> None:
    """0 for a store that is fit; 7 for one that cannot be reached, whose password is not shown."""
    tmp_path.joinpath("bot.py").write_text(BOT.format(url=f"sqlite:///{tmp_path}/chat.db"))
    fit = run(tmp_path, "serve", "bot:keep", "--check")
    tmp_path.joinpath("bot.py").write_text(BOT.format(url=SECRET_URL))
    away = run(tmp_path, "serve", "bot:keep", "--check")

    assert (0, False) == (fit.returncode, tmp_path.joinpath("chat.db").exists())
    assert (7, False) == (away.returncode, "hunter2" in away.stdout + away.stderr), away.stdout


def test_check_says_every_setting_in_words_with_where_it_came_from(tmp_path: Path) -> None:
    """Of the server and of the Chatkeep: by argument, variable, file, the program itself, or nobody."""
    bot = BOT.replace("Chatkeep({url!r})", "Chatkeep({url!r}, attempts=5)")
    tmp_path.joinpath("bot.py").write_text(bot.format(url=f"sqlite:///{tmp_path}/chat.db"))
    tmp_path.joinpath("chatkeep.toml").write_text('retention = "90d"\nhosts = ["a.example"]\n')
    tmp_path.joinpath("ttl").write_text("1h\n")
    given = {"session_ttl": "30m", "turn_timeout": "8h", "poll_file": "ttl"}
    ended, short = (
        run(tmp_path, "serve", "bot:keep", "--check", *more, "--port", "9", **given) for more in (["--all"], [])
    )
    wanted = [
        "ok    setting         port 9 (argument)",
        "ok    setting         session_ttl 30 minutes (environment)",
        f"ok    setting         retention 90 days ({tmp_path}/chatkeep.toml)",
        f"ok    setting         hosts a.example ({tmp_path}/chatkeep.toml)",
        "ok    setting         attempts 5 (program)",
        "ok    setting         quick 50 milliseconds (default)",
        "warn  setting         turn_timeout 8 hours (environment): unusual",
        "warn  setting         poll 1 hour (file of CHATKEEP_POLL_FILE): unusual",
        "fit, with 2 to look at: bot:keep",
    ]

    assert (0, []) == (ended.returncode, [line for line in wanted if line not in ended.stdout]), ended.stdout
    assert set(KNOWN) - {"store", "flags"} == set(re.findall(r"setting         (\w+) ", ended.stdout))
    lines = short.stdout.splitlines()
    assert ["warn", "warn", "ok  "] == [line[:4] for line in lines[:3]], short.stdout
    assert "fit, with 2 to look at: bot:keep" == lines[-1]
    assert (True, False) == ("hosts a.example" in short.stdout, "(default)" in short.stdout)
    assert 25 > len(lines), short.stdout
    assert re.search(r"settings +\d+ more are as by default; --all shows them", short.stdout), short.stdout


def test_check_looks_at_the_shared_cache_too(tmp_path: Path) -> None:
    """One that does not answer makes every turn slower, in silence."""
    tmp_path.joinpath("bot.py").write_text(BOT.format(url=f"sqlite:///{tmp_path}/chat.db"))
    ended = run(tmp_path, "serve", "bot:keep", "--check", cache="redis://:hunter2@127.0.0.1:1/0")

    assert (7, True) == (ended.returncode, "FAIL  shared cache    it does not answer" in ended.stdout), ended.stdout
    assert "hunter2" not in ended.stdout


@pytest.mark.parametrize("form", ["text", "json"])
async def test_an_error_of_the_bot_is_told_with_its_line(tmp_path: Path, form: str) -> None:
    """Each attempt is one line that names it; the whole way is written once, and never what the user wrote."""
    with service(tmp_path, anonymous="true", log_format=form, attempts="3", retry_after="1ms") as server:
        client = server.client()
        begun = (await client.ask("POST", "/v1/conversations", b"{}")).json
        client.key = begun["token"]
        await client.post(begun["id"], {"content": "break CANARY"})
        server.stop()
    at = next(n for n, text in enumerate(BOT.splitlines(), 1) if "raise RuntimeError" in text)
    attempts = server.log.count(f"the handler failed: RuntimeError at bot.py:{at} in bot")

    assert (3, 1) == (attempts, server.log.count(f"at {tmp_path}/bot.py:{at} in bot")), server.log
    assert "CANARY" not in server.log


def test_all_that_is_wrong_is_told_at_once_with_where_it_came_from(tmp_path: Path) -> None:
    """Arguments, variables and the file are looked at together, the library's settings and the server's."""
    tmp_path.joinpath("bot.py").write_text(BOT.format(url="memory://x"))
    tmp_path.joinpath("chatkeep.toml").write_text('rate_token = "fast"\nhost_names = ["x"]\n')
    ended = run(tmp_path, "serve", "bot:keep", "--check", prot="1", history="-1", port="x")
    wanted = [
        "port is a whole number, not 'x' (CHATKEEP_PORT)",
        "history must be a whole number of at least 0, not -1 (CHATKEEP_HISTORY)",
        "CHATKEEP_PROT is not a setting (did you mean CHATKEEP_PORT?)",
        f'rate_token is like "60/minute", or "off", not \'fast\' ({tmp_path}/chatkeep.toml)',
        "host_names is not a setting",
    ]

    assert (2, []) == (ended.returncode, [said for said in wanted if said not in ended.stderr]), ended.stderr


@pytest.mark.parametrize("how", [("--check",), ("--port", "0"), ("--workers", "2", "--port", "0")], ids="_".join)
def test_what_cannot_be_put_together_is_told_before_anything_listens(tmp_path: Path, how: tuple[str, ...]) -> None:
    """A provider that cannot be, by each way to start: one line and exit code 2, also where processes would begin one after another."""
    tmp_path.joinpath("bot.py").write_text(BOT.format(url=f"sqlite:///{tmp_path}/chat.db"))
    ended = run(tmp_path, "serve", "bot:keep", *how, oidc_issuer="http://login.example", oidc_client_id="desk")

    assert (2, 1) == (ended.returncode, len(ended.stderr.splitlines())), ended.stderr
    assert "oidc_issuer is the https address of a provider, not 'http://login.example'" in ended.stderr
