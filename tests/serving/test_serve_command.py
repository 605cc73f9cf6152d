from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

from siamese_verify.cli import serve
from siamese_verify.errors import InputError
from siamese_verify.serving.api_keys import KeyFile
from siamese_verify.serving.server import listen
from siamese_verify.serving.settings import Settings, bracketed, is_loopback, load_hook

ROOT = Path(__file__).resolve().parents[2]


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    serve.add_arguments(parser)
    return parser.parse_args(arguments)


def test_default_options_are_the_default_settings() -> None:
    assert serve.settings_from(parsed()) == Settings()


def test_options_reach_the_settings() -> None:
    options = ["--port", "0", "--upload-mb", "1.5", "--megapixels", "2", "--allow-host", "a", "--workers", "3"]
    options += ["--root-path", "/faces/", "--trusted-proxy", "10.0.0.0/8,::1", "--trusted-proxy", "192.0.2.1"]
    settings = serve.settings_from(parsed(*options, "--allow-scores", "--shutdown-seconds", "3"))
    assert settings == Settings(
        port=0,
        photo_bytes=3 * 2**19,
        photo_pixels=2_000_000,
        hosts=("a",),
        workers=3,
        root_path="/faces",
        trusted_proxies=("10.0.0.0/8", "::1", "192.0.2.1"),
        allow_scores=True,
        shutdown_seconds=3,
    )


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.org"])
def test_other_machines_are_not_served_without_a_key(host: str) -> None:
    with pytest.raises(InputError, match=r"can be reached from other machines.*--new-key"):
        serve.run(parsed("--host", host))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "70000"], "port must be 0 to 65535, got 70000"),
        (["--upload-mb", "0"], "photo_bytes must be above 0"),
        (["--rate", "-1"], "rate must be 0 or more"),
        (["--in-flight", "0"], "in_flight must be above 0"),
        (["--processes", "0"], "--processes must be 1 or more, got 0"),
        (["--root-path", "faces"], "root_path must be like /faces"),
        (["--trusted-proxy", "nginx"], "must be an address or a network such as 10.0.0.0/8, got 'nginx'"),
        (["--keys", "/nowhere"], "cannot be read"),
        (["--certificate", "x.pem"], "give both, or neither"),
        (["--certificate", "x.pem", "--certificate-key", "y.pem"], r"There is no file x\.pem"),
        (["--liveness", "nothing"], "must be named as module:function"),
        (["--liveness", "nowhere:hook"], "cannot be imported"),
        (["--liveness", "math:pi"], "is not a function"),
    ],
)
def test_invalid_options_are_refused_before_a_model_is_loaded(arguments: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        serve.run(parsed("--port", "0", *arguments))


def test_port_in_use_is_a_user_error() -> None:
    with listen(Settings(port=0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(InputError, match=f"Port {port} of 127.0.0.1 cannot be used"):
            listen(Settings(port=port))


def test_missing_package_is_a_user_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(serve.REQUIRED_PACKAGES, "no_such_module", "no-such-package")
    with pytest.raises(InputError, match=r"Serving needs no-such-package: pip install 'siamese-verify\[serve\]'"):
        serve.run(parsed())


def test_new_key_is_printed_once_and_accepted(tmp_path: Path) -> None:
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


def test_reasons_are_available_without_a_server() -> None:
    program = "import sys; from siamese_verify.serving.problems import REASONS; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert not {"fastapi", "pydantic", "starlette", "uvicorn", "numpy"} & set(run.stdout.split())


def test_hook_is_imported_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_liveness_hook.py").write_text("def look(photo, face):\n    return 'it is paper'\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert load_hook("my_liveness_hook:look")(None, None) == "it is paper"


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        *[(host, True) for host in ("127.0.0.1", "127.8.9.1", "::1", "[::1]", "LocalHost")],
        *[(host, False) for host in ("0.0.0.0", "::", "10.0.0.1", "localhost.example", "")],
    ],
)
def test_loopback_addresses_are_recognized(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_ipv6_address_has_brackets_in_urls() -> None:
    assert [bracketed(host) for host in ("::1", "[::1]", "a", "1.2.3.4")] == ["[::1]", "[::1]", "a", "1.2.3.4"]
