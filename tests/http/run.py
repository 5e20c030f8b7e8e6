"""Drives a running gateway as other people's programs do.

    cargo build --release -p llm-dit
    python3 -m venv .http && .http/bin/pip install -r tests/http/requirements.txt
    .http/bin/python tests/http/run.py

Starts `llm-dit serve` with the demo model on a free port and runs, in this order,

  openai        the `openai` package from PyPI, unmodified, against /v1
  curl          every `sh` block of docs/api/curl.md as it is written there, but for the port
  schemathesis  requests made from /openapi.json: no answer may be a server's failure

Name some of them to run only those. Exits with 1 if anything fails.
"""

import contextlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
PROGRAM = TARGET / "release/llm-dit"


@contextlib.contextmanager
def serving(room):
    command = [
        PROGRAM, "serve", "--port", "0", "--log-filter", "warn",
        "--history", room / "history", "--embeddings-dir", room / "embeddings",
    ]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
    try:
        line = server.stdout.readline()
        found = re.search(r"http://[\d.]+:\d+", line)
        if not found:
            sys.exit(f"llm-dit serve did not become ready: {line!r}")
        yield found.group()
    finally:
        server.terminate()
        server.wait(60)


def openai(url, room):
    script = REPOSITORY / "tests/http/openai_client.py"
    subprocess.run([sys.executable, script, url], check=True, cwd=room)


def curl(url, room):
    if not shutil.which("curl"):
        sys.exit("curl is not installed")
    page = (REPOSITORY / "docs/api/curl.md").read_text()
    blocks = re.findall(r"^```sh\n(.*?)^```", page, re.S | re.M)
    if len(blocks) < 8:
        sys.exit(f"docs/api/curl.md has only {len(blocks)} blocks")
    folder = room / "curl"
    folder.mkdir()
    for block in blocks:
        block = block.replace("http://127.0.0.1:7860", url)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block], cwd=folder, capture_output=True, text=True
        )
        if done.returncode != 0:
            sys.exit(f"this fails:\n{block}\n{done.stdout}\n{done.stderr}")
    for name in ["apple.png", "fox.png", "again.png", "job.png", "apple.webp"]:
        if not (folder / name).stat().st_size:
            sys.exit(f"{name} is empty")
    if (folder / "fox.png").read_bytes()[:8] != b"\x89PNG\r\n\x1a\n":
        sys.exit("fox.png is no PNG")
    print(f"{len(blocks)} blocks of docs/api/curl.md ran as written")


def schemathesis(url, room):
    program = pathlib.Path(sys.executable).with_name("schemathesis")
    command = [
        program, "run", f"{url}/openapi.json",
        "--checks", "not_a_server_error,content_type_conformance,response_schema_conformance",
        "--max-examples", "10", "--seed", "1", "--suppress-health-check", "all",
        # Events of a job that runs come as slowly as the job does.
        "--request-timeout", "60", "--workers", "1",
    ]
    # It looks for this file in the folder that it runs in.
    shutil.copy(REPOSITORY / "tests/http/schemathesis.toml", room / "schemathesis.toml")
    subprocess.run(command, check=True, cwd=room)


def main():
    checks = {"openai": openai, "curl": curl, "schemathesis": schemathesis}
    names = sys.argv[1:] or list(checks)
    for name in names:
        with tempfile.TemporaryDirectory() as room, serving(pathlib.Path(room)) as url:
            print(f"== {name}", flush=True)
            try:
                checks[name](url, pathlib.Path(room))
            except subprocess.CalledProcessError as error:
                sys.exit(f"{name} failed with status {error.returncode}")


if __name__ == "__main__":
    main()
