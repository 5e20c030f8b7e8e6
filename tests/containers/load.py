"""Clients that ask a gateway for images and jobs while containers fail, and what they may see."""

import json
import struct
import threading
import time
import urllib.error
import urllib.request
import uuid
import zlib

# What a client may be answered while a service is away.
DECLARED = {429, 502, 503, 504}
PATIENCE = 120
ATTEMPTS = 400


class Foreign(Exception):
    """An image that belongs to another request."""


def texts(png: bytes) -> dict[str, str]:
    """The text chunks of a PNG."""
    found, at = {}, 8
    while at < len(png):
        length, kind = struct.unpack(">I4s", png[at:at + 8])
        data = png[at + 8:at + 8 + length]
        if kind in (b"tEXt", b"iTXt"):
            key, _, rest = data.partition(b"\0")
            if kind == b"iTXt":
                compressed, rest = rest[0], rest[2:].split(b"\0", 2)[2]
                rest = zlib.decompress(rest) if compressed else rest
            found[key.decode()] = rest.decode(errors="replace")
        at += 12 + length
    return found


class Client:
    """Sends each request until it is answered, a job always with the same key."""

    def __init__(self, url: str):
        self.url = url

    def call(self, path: str, body: dict | None = None, headers: dict | None = None) -> tuple[int, bytes]:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"} | (headers or {})
        request = urllib.request.Request(self.url + path, data, headers)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def until(self, path, body=None, headers=None, reachable=True) -> bytes:
        """The answer, however often it takes. A gateway that is down is waited for too."""
        for _ in range(ATTEMPTS):
            try:
                status, answer = self.call(path, body, headers)
            except OSError:
                # The connection was refused, reset or cut off, so the request has no answer yet.
                if reachable:
                    raise
                time.sleep(0.25)
                continue
            if status in (200, 201, 202):
                return answer
            if status not in DECLARED:
                raise AssertionError(f"{path} answered {status}: {answer[:500]!r}")
            time.sleep(0.25)
        raise AssertionError(f"{path} was not answered")

    def image(self, reachable=True) -> None:
        body = request()
        check(self.until("/api/generate", body, reachable=reachable), body)

    def job(self, reachable=True) -> None:
        body = request()
        accepted = self.until("/api/jobs", body, {"Idempotency-Key": body["prompt"]}, reachable)
        job = json.loads(accepted)["id"]
        for _ in range(ATTEMPTS):
            state = json.loads(self.until(f"/api/jobs/{job}", reachable=reachable))
            if state["status"] in ("failed", "cancelled"):
                raise AssertionError(f"a job ended as {state}")
            if state["status"] == "done":
                check(self.until(f"/api/jobs/{job}/image", reachable=reachable), body)
                return
            time.sleep(0.25)
        raise AssertionError(f"job {job} does not end")


def request() -> dict:
    return {"prompt": f"a red apple {uuid.uuid4()}", "seed": uuid.uuid4().int % 2**32, "width": 64, "height": 64, "steps": 2}


def check(image: bytes, body: dict) -> None:
    written = " ".join(texts(image).values())
    if body["prompt"] not in written or str(body["seed"]) not in written:
        raise Foreign(f"asked for {body}, got {written[:300]}")


class Load:
    """Some clients at once, until the block ends. Raises what went wrong in any of them."""

    def __init__(self, url: str, reachable: bool, clients: int = 4):
        self.client, self.reachable = Client(url), reachable
        self.over = threading.Event()
        self.done = {"image": 0, "job": 0}
        self.wrong: list[BaseException] = []
        self.threads = [threading.Thread(target=self.work, args=(kind,)) for kind in ("image", "job") * (clients // 2)]

    def work(self, kind: str) -> None:
        while not self.over.is_set() and not self.wrong:
            try:
                getattr(self.client, kind)(self.reachable)
                self.done[kind] += 1
            except (AssertionError, Foreign, OSError) as error:
                self.wrong.append(error)

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *raised):
        self.over.set()
        for thread in self.threads:
            thread.join()
        if self.wrong and raised[0] is None:
            raise self.wrong[0]

    def go_on(self, count: int = 2) -> None:
        """Waits for so many more of each kind."""
        aim = {kind: done + count for kind, done in self.done.items()}
        begun = time.monotonic()
        while any(self.done[kind] < aim[kind] for kind in aim):
            if self.wrong:
                raise self.wrong[0]
            if time.monotonic() - begun > PATIENCE:
                raise AssertionError(f"nothing goes on: {self.done}, wanted {aim}")
            time.sleep(0.1)
