"""A browser, and something that serves the page: the fake, or a real `llm-dit serve`."""

import json
import os
import re
import socket
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import expect, sync_playwright

import fake

SERVER = os.environ.get("LLM_DIT_SERVER")
# A real server has no switches.
collect_ignore = ["test_fake.py", "test_fake_away.py"] if SERVER else []
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]
# Nothing here is a measurement: the limit only keeps a broken page from hanging.
PATIENCE = 60
expect.set_options(timeout=PATIENCE * 1000)


class Site:
    """Where the page is, and its API for the test's own use."""

    world = None
    process = None
    folder = None

    def __init__(self, base):
        self.base = base

    def call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.base + path, data, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request) as answer:
            data = answer.read()
            return json.loads(data) if "json" in answer.headers["Content-Type"] else data

    def hold(self):
        """From now on steps wait. A real server cannot wait; its many steps have to do."""
        if self.world:
            self.world.pace = None

    def release(self):
        if self.world:
            with self.world.lock:
                self.world.pace = 0
                self.world.go(10_000)

    def stop(self):
        """As SIGTERM does it: unfinished jobs are kept for the next start."""
        if self.world:
            self.world.stop()
        else:
            self.process.terminate()
            self.process.wait(PATIENCE)

    def start(self):
        if self.world:
            self.world.start()
        else:
            self.process = start_server(self.folder, urlsplit(self.base).port)

    def finish(self):
        """Waits until no job is under way, however long it takes while there is progress."""
        before, patience = None, PATIENCE
        while patience > 0:
            jobs = [(job["status"], job["progress"]) for job in self.call("GET", "api/jobs")["jobs"]]
            if all(status not in ("queued", "running") for status, _ in jobs):
                return
            patience = PATIENCE if jobs != before else patience - 0.2
            before = jobs
            time.sleep(0.2)
        raise AssertionError(f"no progress in {PATIENCE} s: {before}")

    def reset(self):
        if self.world:
            self.world.switches = dict(fake.SWITCHES)
        # The first time cancels what runs, the second removes it.
        for _ in range(2):
            for job in self.call("GET", "api/jobs")["jobs"]:
                self.call("DELETE", f"api/jobs/{job['id']}")
        self.call("DELETE", "api/history")
        if self.world:
            self.world.pace, self.world.permits, self.world.requests = 0, 0, []
            self.world.keys = {}


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def start_server(folder, port):
    """`llm-dit serve` with the demo model; it picks free ports for its services itself."""
    log = open(Path(folder) / "log", "w+")
    # Without a grace period: a fast machine would finish the image in it, and the page would fetch it.
    command = [SERVER, "serve", "--port", str(port), "--history", f"{folder}/history", "--grace", "0"]
    process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    for _ in range(600):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health").close()
            return process
        except OSError:
            if process.poll() is not None:
                break
            time.sleep(0.1)
    process.kill()
    log.seek(0)
    raise RuntimeError(f"{' '.join(command)} did not get ready:\n{log.read()}")


@pytest.fixture(scope="session")
def the_site():
    if SERVER:
        with tempfile.TemporaryDirectory() as folder:
            port = free_port()
            site = Site(f"http://127.0.0.1:{port}/")
            site.folder, site.process = folder, start_server(folder, port)
            yield site
            site.stop()
    else:
        server = fake.serve(pace=0)
        site = Site(f"http://127.0.0.1:{server.server_address[1]}/")
        site.world = server.RequestHandlerClass.world
        yield site
        server.shutdown()


@pytest.fixture
def site(the_site):
    the_site.reset()
    return the_site


@pytest.fixture(scope="session")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


def watch(page, base, wrong):
    """Writes down what a page must not do."""
    host = urlsplit(base).netloc

    def console(message):
        # The browser reports answers of 4xx and 5xx by itself; what the page makes of them is tested.
        is_answer = message.text.startswith("Failed to load resource")
        if message.type in ("error", "warning") and not (is_answer and re.search("/api/|/health$", message.location["url"])):
            wrong.append(f"console: {message.text}")

    def request(one):
        if urlsplit(one.url).scheme not in ("data", "blob") and urlsplit(one.url).netloc != host:
            wrong.append(f"a request to {one.url}")

    page.on("console", console)
    page.on("pageerror", lambda error: wrong.append(f"uncaught: {error}"))
    page.on("request", request)


@pytest.fixture
def open_page(site, browser):
    """Opens the page in a browser that knows nothing yet, and in the end asks whether all was well."""
    contexts, wrong = [], []

    def open_one(width=1280, height=900, context=None, before=None, **options):
        """In a new browser, or in another tab of `context`, in which the script `before` is run first."""
        if context is None:
            context = browser.new_context(viewport={"width": width, "height": height}, locale="en-GB", **options)
            contexts.append(context)
        page = context.new_page()
        watch(page, site.base, wrong)
        if before:
            page.add_init_script(before)
        page.goto(site.base)
        expect(page.locator("#sizes input").first).to_be_attached()
        expect(page.locator("#tokens")).to_have_text(re.compile(r"\d+ of \d+ tokens"))
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert wrong == []


@pytest.fixture
def page(open_page):
    return open_page()
