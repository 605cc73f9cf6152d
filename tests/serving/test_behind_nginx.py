"""The server behind nginx, configured as in docs/deploy/nginx.conf."""

from __future__ import annotations

import getpass
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urljoin

import httpx
import pytest

from tests.serving.conftest import HERE, Running, pair, photo

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
pytestmark = [
    pytest.mark.skipif(NGINX is None, reason="needs nginx: apt-get install nginx-light"),
    pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl: apt-get install openssl"),
]
EXAMPLE = HERE.parents[1] / "docs/deploy/nginx.conf"
FOLDERS = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


@pytest.fixture
def proxied(start: Callable[..., Running], tmp_path: Path) -> Iterator[Callable[..., str]]:
    running: list[subprocess.Popen[bytes]] = []

    def run(host: bool = True, **settings: object) -> str:
        """URL of nginx; without `host` it does not pass on Host, as is its default."""
        server = start(root_path="/faces", trusted_proxies="127.0.0.1", **settings)
        certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
        listener = socket.create_server(("127.0.0.1", 0))  # nginx takes over what the variable NGINX lists
        port, number = listener.getsockname()[1], listener.fileno()
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
        subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
        example = EXAMPLE.read_text()
        for old, new in (
            ("127.0.0.1:8000", f"127.0.0.1:{server.port}"),
            ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
            ("server_name faces.example", "server_name localhost"),
            ("/etc/ssl/faces.example.pem", str(certificate)),
            ("/etc/ssl/private/faces.example.key", str(key)),
        ):
            assert example.count(old) == 1, old
            example = example.replace(old, new)
        if not host:
            example = re.sub(r".*\$http_host;", "", example).replace("//siamese_verify", f"//127.0.0.1:{server.port}")
        paths = "\n".join(f"{name}_temp_path {tmp_path / name};" for name in FOLDERS)
        (tmp_path / "nginx.conf").write_text(
            f"daemon off; user {getpass.getuser()}; pid {tmp_path}/pid; error_log {tmp_path}/errors;\n"
            f"events {{}}\nhttp {{ access_log off;\n{paths}\n{example}\n}}\n"
        )
        assert NGINX is not None
        with listener:
            environment = {**os.environ, "NGINX": f"{number};"}
            nginx = [NGINX, "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")]
            running.append(subprocess.Popen(nginx, env=environment, pass_fds=[number]))
        url = f"https://localhost:{port}/faces/"
        deadline = time.monotonic() + 20
        while True:
            try:
                httpx.get(url, verify=False)
                return url
            except httpx.TransportError:
                assert time.monotonic() < deadline, (tmp_path / "errors").read_text()
                time.sleep(0.05)

    yield run
    for process in running:
        process.terminate()
        process.wait(20)


def test_page_and_api_work_under_a_path(proxied: Callable[..., str], tmp_path: Path) -> None:
    url = proxied()
    origin = {"Origin": url.removesuffix("/faces/")}
    with httpx.Client(verify=False, timeout=20) as client:
        page = client.get(url)
        files = re.findall(r'<(?:link|script)[^>]*(?:href|src)="([^"]+)"', page.text)
        assert {"page.css", "page.js"} <= {file.rpartition("/")[2] for file in files}
        for file in files:
            assert client.get(urljoin(url, file)).status_code == 200
        assert client.get(url + "readyz").status_code == 200
        assert client.get(url + "openapi.json").json()["servers"] == [{"url": "/faces"}]
        large = photo(1, 1500, 1500, "BMP")  # 6.75 MB
        assert client.post(url + "v1/verify", headers=origin, **pair(large)).status_code == 200
        for headers in ({"Origin": "https://evil.example"}, {**origin, "Sec-Fetch-Site": "cross-site"}):
            assert client.post(url + "v1/verify", headers=headers, **pair()).json()["reason"] == "wrong_origin"
        assert client.get(url + "v1/model", headers={"Host": "evil.example"}).json()["reason"] == "wrong_host"
    assert not [path for name in FOLDERS for path in (tmp_path / name).rglob("*") if path.is_file()]


def test_page_works_where_the_proxy_does_not_pass_on_host(proxied: Callable[..., str]) -> None:
    url = proxied(host=False)
    headers = {"Origin": url.removesuffix("/faces/"), "Sec-Fetch-Site": "same-origin"}
    assert httpx.post(url + "v1/verify", headers=headers, verify=False, timeout=20, **pair()).status_code == 200
    answer = httpx.post(url + "v1/verify", headers={"Origin": headers["Origin"]}, verify=False, timeout=20, **pair())
    assert (answer.status_code, "pass on Host" in answer.json()["detail"]) == (403, True)


def test_rate_counts_clients_and_not_the_proxy(proxied: Callable[..., str]) -> None:
    url = proxied(rate=0.01, burst=2)

    def statuses(address: str) -> list[int]:
        transport = httpx.HTTPTransport(local_address=address, verify=False)
        with httpx.Client(transport=transport, timeout=20) as client:
            lies = ({"X-Forwarded-For": f"10.0.0.{number}", "Forwarded": "for=10.1.1.1"} for number in range(3))
            return [client.get(url + "v1/model", headers=headers).status_code for headers in lies]

    assert statuses("127.0.0.2") == [200, 200, 429]
    assert statuses("127.0.0.3") == [200, 200, 429]


def test_browser_gets_a_decision_through_nginx(proxied: Callable[..., str], tmp_path: Path) -> None:
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("needs chromium: apt-get install chromium")
    url = proxied()
    for name in ("first", "second"):
        (tmp_path / f"{name}.png").write_bytes(photo(1, 96, 96))
    with api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--headless", "--no-sandbox", "--disable-gpu"])
        page = browser.new_page(ignore_https_errors=True)
        page.set_default_timeout(15_000)
        page.goto(url)
        for name in ("first", "second"):
            page.set_input_files(f"#{name}", tmp_path / f"{name}.png")
        page.click("#go")
        page.wait_for_selector("#result:not([hidden])")
        assert page.inner_text("#verdict") == "The same person"
        browser.close()
