"""Runs the Python client of docs/api/grpc.md as it is written, against real services with the demo model.

    cargo build --release -p encoder-service -p diffusion-service
    python3 tests/docs/grpc_page.py

Takes the `sh` and `python` blocks of the section "From Python", runs them in an empty folder beside a link to
the .proto files, and looks at what came out. Needs Python 3.9 or newer with venv, and PyPI (the page installs
grpcio-tools). Services take free ports and are stopped at the end.
"""
import json
import os
import re
import struct
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
PROGRAMS = Path(os.environ.get("CARGO_TARGET_DIR", REPO / "target")) / "release"
STEPS_OF_THE_CANCELLED = 50


class Service:
    """A program on a free port, with its log."""

    def __init__(self, name: str):
        program = PROGRAMS / name
        if not program.is_file():
            sys.exit(f"no {program}; build it with: cargo build --release -p {name}")
        command = [program, "--model-path", REPO / "models/demo", "--port", "0", "--log-format", "json"]
        self.process = subprocess.Popen([*command, "--log-filter", "debug"], stderr=subprocess.PIPE, text=True)
        self.log: list[dict] = []
        self.address = None
        for line in self.process.stderr:
            self.log.append(json.loads(line))
            self.address = self.log[-1].get("address")
            if self.address:
                break
        if not self.address:
            sys.exit(f"{name} ended before it served: {self.log}")
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self) -> None:
        for line in self.process.stderr:
            self.log.append(json.loads(line))

    def stop(self) -> None:
        self.process.terminate()
        status = self.process.wait()
        self.reader.join()
        assert status == 0, f"ended with {status}"


def blocks() -> list[tuple[str, str]]:
    """Language and text of each fenced block of the section, in order."""
    page = (REPO / "docs/api/grpc.md").read_text()
    section = re.search(r"^## From Python\n(.*?)(?=^## |\Z)", page, re.M | re.S)
    assert section, "docs/api/grpc.md has no section 'From Python'"
    found = re.findall(r"^```(\w+)\n(.*?)^```$", section[1], re.M | re.S)
    kinds = [kind for kind, _ in found]
    assert kinds == ["sh"] + ["python"] * 4, kinds
    return found


def png_size(path: Path) -> tuple[int, int]:
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n" and data[-8:-4] == b"IEND", f"{path.name} is no whole PNG"
    return struct.unpack(">II", data[16:24])


def main() -> None:
    services = []
    with tempfile.TemporaryDirectory() as folder:
        room = Path(folder)
        (room / "proto").symlink_to(REPO / "proto")
        try:
            for name in ("encoder-service", "diffusion-service"):
                services.append(Service(name))
            encoder, diffusion = services
            addresses = {"ENCODER": encoder.address, "DIFFUSION": diffusion.address}
            found = blocks()
            subprocess.run(["sh", "-e"], input=found[0][1], text=True, cwd=room, check=True)
            (room / "client.py").write_text("\n\n".join(text for kind, text in found if kind == "python"))
            ran = subprocess.run([".grpc/bin/python", "client.py"], cwd=room, env=os.environ | addresses, text=True,
                                 stdout=subprocess.PIPE)
            print(ran.stdout, end="")
            assert ran.returncode == 0, f"client.py ended with {ran.returncode}"
            lines = ran.stdout.splitlines()
            for expected in [r"embeddings \[\d+, 192\] \d+ bytes", r"accepted, seed 1 behind 0", r"step 8/8, .* s",
                             r"finished after .* s", r"ended with CANCELLED"]:
                assert any(re.fullmatch(expected, line) for line in lines), f"no line '{expected}'"
            assert sum(line.startswith("step ") for line in lines) == 16, "two pictures of eight steps"
            assert png_size(room / "apple.png") == png_size(room / "mixed.png") == (256, 256)
            assert (room / "apple.png").read_bytes() != (room / "mixed.png").read_bytes()
            assert (room / "preview.jpg").read_bytes()[:3] == b"\xff\xd8\xff", "no JPEG"
        finally:
            for service in services:
                service.stop()
    # The service has ended, and so has its log.
    totals = [entry for entry in diffusion.log if entry.get("step.total") == STEPS_OF_THE_CANCELLED]
    assert 2 <= len(totals) < STEPS_OF_THE_CANCELLED, f"{len(totals)} steps of the cancelled picture were made"
    print(f"the cancelled picture was left after {len(totals)} of {STEPS_OF_THE_CANCELLED} steps")


if __name__ == "__main__":
    main()
