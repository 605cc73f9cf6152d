from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

from siamese_verify.cli import serve as command
from siamese_verify.errors import InputError
from siamese_verify.serving.settings import Settings, bracketed, is_loopback, load_hook

ROOT = Path(__file__).resolve().parents[2]


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args(arguments)


def test_options_without_arguments_are_the_settings_that_are_documented() -> None:
    assert command.settings_from(parsed()) == Settings()


def test_options_reach_the_settings() -> None:
    options = parsed("--port", "0", "--upload-mb", "1.5", "--megapixels", "2", "--allow-host", "a", "--workers", "3")
    settings = command.settings_from(options)
    assert (settings.port, settings.photo_bytes, settings.photo_pixels) == (0, 3 * 2**19, 2_000_000)
    assert (settings.hosts, settings.workers) == (("a",), 3)


def test_what_a_proxy_needs_reaches_the_settings() -> None:
    options = ["--root-path", "/faces/", "--trusted-proxy", "10.0.0.0/8,::1", "--trusted-proxy", "192.0.2.1"]
    settings = command.settings_from(parsed(*options, "--proxy-header", "forwarded", "--shutdown-seconds", "3"))
    assert (settings.root_path, settings.proxy_header, settings.shutdown_seconds) == ("/faces", "forwarded", 3)
    assert settings.trusted_proxies == ("10.0.0.0/8", "::1", "192.0.2.1")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.org"])
def test_nobody_is_served_beyond_this_machine_without_a_key(host: str) -> None:
    with pytest.raises(InputError, match=r"can be reached from other machines.*--new-key"):
        command.run(parsed("--host", host))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "70000"], "A port is a number"),
        (["--upload-mb", "0"], "photo_bytes is a limit above 0"),
        (["--rate", "-1"], "0 or more"),
        (["--in-flight", "0"], "in_flight is a limit above 0"),
        (["--processes", "0"], "--processes is 1 or more, got 0"),
        (["--root-path", "faces"], "A root path looks like /faces"),
        (["--trusted-proxy", "nginx"], "A proxy is an address or a network such as 10.0.0.0/8, got 'nginx'"),
        (["--keys", "/nowhere"], "cannot be read"),
        (["--certificate", "x.pem"], "give both, or neither"),
        (["--certificate", "x.pem", "--certificate-key", "y.pem"], r"There is no file x\.pem"),
        (["--liveness", "nothing"], "named as module:function"),
        (["--liveness", "nowhere:hook"], "cannot be imported"),
        (["--liveness", "math:pi"], "is no function"),
    ],
)
def test_what_cannot_be_served_is_said_before_a_model_is_loaded(arguments: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        command.run(parsed("--port", "0", *arguments))


def test_a_port_that_is_taken_is_said() -> None:
    from siamese_verify.serving.server import listen

    with listen(Settings(port=0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(InputError, match=f"Port {port} of 127.0.0.1 cannot be had"):
            listen(Settings(port=port))


def test_a_package_that_is_missing_is_said_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(command.NEEDS, "no_such_module", "no-such-package")
    with pytest.raises(InputError, match=r"Serving needs no-such-package: pip install 'siamese-verify\[serve\]'"):
        command.run(parsed())


def test_a_new_key_is_printed_once_and_opens(tmp_path: Path) -> None:
    from siamese_verify.serving.api_keys import KeyFile

    options = ["--key-name", "kiosk", "--key-scopes", "verify,identify", "--key-expires", "2999-01-01"]
    run = subprocess.run(
        [sys.executable, "-m", "siamese_verify.cli.main", "serve", "--new-key", str(tmp_path / "keys"), *options],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
        check=True,
    )
    known = KeyFile.read(tmp_path / "keys").find(run.stdout.strip())
    assert known is not None
    assert known.line().split()[1:] == ["kiosk", "verify,identify", "2999-01-01"]
    assert "shown once" in run.stderr


def test_scores_of_people_who_were_not_found_are_off_unless_they_are_allowed() -> None:
    assert not command.settings_from(parsed()).allow_scores
    assert command.settings_from(parsed("--allow-scores")).allow_scores


def test_the_codes_of_failures_can_be_had_without_a_server() -> None:
    program = "import sys; from siamese_verify.serving.problems import REASONS; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert not {"fastapi", "pydantic", "starlette", "uvicorn", "numpy"} & set(run.stdout.split())


def test_a_hook_is_found_by_its_name_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_liveness_hook.py").write_text("def look(photo, face):\n    return 'it is paper'\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert load_hook("my_liveness_hook:look")(None, None) == "it is paper"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "[::1]", "LocalHost"])
def test_loopback_is_known(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "localhost.example", ""])
def test_what_others_can_reach_is_no_loopback(host: str) -> None:
    assert not is_loopback(host)


def test_an_ipv6_address_is_bracketed_in_urls() -> None:
    assert [bracketed(host) for host in ("::1", "[::1]", "a", "1.2.3.4")] == ["[::1]", "[::1]", "a", "1.2.3.4"]
