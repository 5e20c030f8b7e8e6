"""Runs the images and the compose files of deploy/ in a container engine.

    cargo build --release --workspace --bins
    python3 tests/containers/run.py [NAME...]

Needs root, Debian and what `engine.py` installs; uses no registry. In this order:

  image     size, contents, and a start with every restriction that the pages promise
  single    compose.yaml with Compose 1.29 and 2: the time to the first image, and what stays after
            `down`
  split     split.yaml: each container cut off, paused and killed under load, and a rolling restart
  tls       tls.yaml: clients without the key and programs without the certificate are refused
  binaries  the archive and the Debian package on systems that have nothing but their base

Name some of them to run only those. Exits with 1 if anything fails.
"""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import time

import engine
from engine import COMPOSE, DOCKER, run
from load import Client, Load, check, request

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
IMAGE = "llm-dit:cpu"
# Before the engine puts Debian's programs first.
ENVIRONMENT = dict(os.environ)
MIB = 1 << 20
# Beside the demo model.
LARGEST_IMAGE = 60 * MIB
FIRST_IMAGE_SECONDS = 10
NOTICED_SECONDS = 30


def build(room: pathlib.Path) -> None:
    """The image, with the programs that are built already."""
    engine.import_base(room)
    context = room / "context"
    run(REPOSITORY / "deploy/dist", "--built", TARGET / "release", "--layout", context / "dist", cwd=REPOSITORY,
        env=ENVIRONMENT)
    run(DOCKER, "build", "--network", "none", "-f", REPOSITORY / "deploy/docker/Dockerfile", "--build-arg", "BUILD=dist",
        "--build-arg", "REVISION=test", "--target", "cpu", "-t", IMAGE, context)


def image(room: pathlib.Path) -> None:
    size = int(run(DOCKER, "image", "inspect", "-f", "{{.Size}}", IMAGE))
    model = sum(file.stat().st_size for file in (REPOSITORY / "models/demo").rglob("*") if file.is_file())
    print(f"image: {size / MIB:.1f} MiB, {(size - model) / MIB:.1f} beside the demo model")
    assert size - model <= LARGEST_IMAGE, "too large"
    labels = json.loads(run(DOCKER, "image", "inspect", "-f", "{{json .Config.Labels}}", IMAGE))
    for name in ("title", "description", "source", "version", "revision", "licenses"):
        assert labels.get(f"org.opencontainers.image.{name}"), f"no label {name}"
    strict = ["--rm", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--user", "65532:65532",
              "--memory", "512m", "--tmpfs", "/tmp"]
    for program in ("llm-dit", "encoder-service", "diffusion-service", "gateway"):
        said = run(DOCKER, "run", *strict, "--entrypoint", program, IMAGE, "--version")
        assert said.startswith(program), said
    with container(*strict, "-p", "127.0.0.1::7860", IMAGE) as name:
        gateway = Client(f"http://{published(name, 7860)}")
        wait_healthy(name)
        gateway.image(reachable=False)
        files = run(DOCKER, "cp", f"{name}:/opt/llm-dit/share/doc/llm-dit/sbom.cdx.json", "-")
        assert '"CycloneDX"' in files, "no bill of materials"
        used = run(DOCKER, "stats", "--no-stream", "--format", "{{.MemUsage}}", name).strip()
        print(f"image: draws with 512 MiB, read-only, without capabilities; memory {used}")
    # Kubernetes sets this beside a Service named llm-dit.
    said = subprocess.run([DOCKER, "run", "--rm", "-e", "LLM_DIT_PORT=tcp://10.0.0.1:7860", IMAGE, "health"],
                          capture_output=True, text=True)
    assert said.returncode == 1 and "127.0.0.1:7860" in said.stderr, said


@contextlib.contextmanager
def container(*arguments):
    name = run(DOCKER, "run", "-d", *[word for word in arguments if word != "--rm"]).strip()
    try:
        yield name
    finally:
        subprocess.run([DOCKER, "rm", "-fv", name], capture_output=True)


def published(container: str, port: int) -> str:
    return run(DOCKER, "port", container, str(port)).split()[0]


def health(container: str) -> str:
    return run(DOCKER, "inspect", "-f", "{{.State.Health.Status}}", container).strip()


def wait_healthy(container: str) -> None:
    wait(lambda: health(container) == "healthy", f"{container} is not healthy", 60)


def wait(until, otherwise: str, seconds: float) -> float:
    begun = time.monotonic()
    while not until():
        if time.monotonic() - begun > seconds:
            raise AssertionError(f"{otherwise} after {seconds} s")
        time.sleep(0.1)
    return time.monotonic() - begun


class Project:
    """One compose file, up."""

    def __init__(self, file: str, port: int, program=COMPOSE):
        self.program = program
        self.file = REPOSITORY / "deploy/compose" / file
        self.name = file.removesuffix(".yaml")
        self.environment = os.environ | {"LLM_DIT_PUBLISH": f"127.0.0.1:{port}"}
        self.url = f"http://127.0.0.1:{port}"

    def compose(self, *words: str) -> str:
        return run(self.program, "-p", self.name, "-f", self.file, *words, env=self.environment)

    def container(self, service: str) -> str:
        return self.compose("ps", "-q", service).strip()

    def __enter__(self):
        self.compose("up", "-d", "--no-build")
        return self

    def __exit__(self, *raised):
        if raised[0] is not None:
            print(self.compose("logs", "--tail", "20"))
        self.compose("down", "-v")


def single(room: pathlib.Path) -> None:
    for program in (COMPOSE, engine.compose_2(room)):
        version = run(program, "version", "--short").strip()
        print(f"single: Compose {version}: ", end="")
        first_image(program)


def first_image(program) -> None:
    begun = time.monotonic()
    with Project("compose.yaml", 17860, program) as project:
        client = Client(project.url)
        body = request() | {"width": 256, "height": 256, "steps": 8}
        check(client.until("/api/generate", body, reachable=False), body)
        took = time.monotonic() - begun
        print(f"the first image {took:.1f} s after `docker compose up`")
        assert took <= FIRST_IMAGE_SECONDS, "too late"
        # The history outlives the container.
        project.compose("down")
        project.compose("up", "-d", "--no-build")
        page = json.loads(client.until("/api/history", reachable=False))
        assert len(page["history"]) == 1, page


def split(room: pathlib.Path) -> None:
    with Project("split.yaml", 17861) as project:
        wait_healthy(project.container("gateway"))
        mounts = run(DOCKER, "inspect", "-f", "{{range .Mounts}}{{.Destination}} {{end}}", project.container("gateway"))
        assert "/models" not in mounts, mounts
        for service, network in (("encoder", "encoding"), ("diffusion", "diffusion")):
            faults(project, service, network)
        # The gateway itself: its clients see connections that end, and come back with their keys.
        with Load(project.url, reachable=False) as load:
            load.go_on()
            gateway = project.container("gateway")
            run(DOCKER, "kill", "-s", "KILL", gateway)
            run(DOCKER, "start", gateway)
            load.go_on()
        print(f"split: gateway killed: {load.done}")
        with Load(project.url, reachable=False) as load:
            load.go_on()
            for service in ("encoder", "diffusion", "gateway"):
                run(DOCKER, "restart", "-t", "40", project.container(service))
                load.go_on()
        print(f"split: rolling restart: {load.done}")


def faults(project: Project, service: str, network: str) -> None:
    """Everything that was accepted is answered, whatever happens to a service."""
    container, network = project.container(service), f"{project.name}_{network}"
    with Load(project.url, reachable=True) as load:
        load.go_on()
        run(DOCKER, "network", "disconnect", network, container)
        time.sleep(2)
        run(DOCKER, "network", "connect", "--alias", service, network, container)
        load.go_on()
        run(DOCKER, "pause", container)
        client = Client(project.url)
        took = wait(lambda: client.call("/health")[0] == 503, f"a paused {service} is not noticed", NOTICED_SECONDS)
        run(DOCKER, "unpause", container)
        load.go_on()
        run(DOCKER, "kill", "-s", "KILL", container)
        run(DOCKER, "start", container)
        load.go_on()
    print(f"split: {service} cut off, paused (noticed after {took:.1f} s), killed: {load.done}")


def tls(room: pathlib.Path) -> None:
    with Project("tls.yaml", 17862) as project:
        gateway = project.container("gateway")
        wait_healthy(gateway)
        for file in ("ca.pem", "client.key"):
            run(DOCKER, "cp", f"{gateway}:/client/{file}", room / file)
        key = (room / "client.key").read_text().strip()
        curl = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "--cacert", room / "ca.pem"]
        url = "https://localhost:17862/api/model"
        assert run(*curl, "-H", f"Authorization: Bearer {key}", url) == "200"
        assert run(*curl, url) == "401"
        stranger = subprocess.run([*map(str, curl[:-2]), url], capture_output=True)
        assert stranger.returncode == 60, "a client without the authority trusts the gateway"
        # A container on the services' network, with the authority but without a certificate.
        for service, port in (("encoder", 50051), ("diffusion", 50052)):
            network = f"tls_{'encoding' if service == 'encoder' else service}"
            asked = subprocess.run(
                [DOCKER, "run", "--rm", "--network", network, "-v", f"{room}/ca.pem:/ca.pem:ro", "--entrypoint",
                 f"{service}-service", IMAGE, "health", "--url", f"https://{service}:{port}", "--tls-ca", "/ca.pem"],
                capture_output=True, text=True)
            assert asked.returncode == 1, f"{service} answers a stranger: {asked.stdout}"
        # Another `up` keeps the certificates.
        before = run(DOCKER, "cp", f"{gateway}:/tls/cert.pem", "-")
        project.compose("up", "-d", "--no-build")
        assert run(DOCKER, "cp", f"{project.container('gateway')}:/tls/cert.pem", "-") == before
    print("tls: strangers are refused")


# Our oldest system, and one that is newer than the programs' C library.
RELEASES = ("bookworm", "trixie")
# What is run there: the archive, checked, then the package.
BARE = """
set -eu
cd /tmp
(cd /dist && sha256sum -c --quiet SHA256SUMS)
tar -xzf /dist/llm-dit-*.tar.gz
cd llm-dit-*
for program in bin/*; do "$program" --version; done
test -s share/man/man1/llm-dit.1 && test -s share/llm-dit/completions/llm-dit.bash
bin/llm-dit generate "a red apple" --seed 1 --output /tmp/archive.png
dpkg -i /dist/llm-dit_*.deb >/dev/null
cd /
for program in llm-dit encoder-service diffusion-service gateway; do "/usr/bin/$program" --version >/dev/null; done
test -e /usr/share/man/man1/llm-dit.1.gz && test -e /lib/systemd/system/llm-dit-gateway.service
llm-dit generate "a red apple" --seed 1 --output /tmp/package.png
cmp /tmp/archive.png /tmp/package.png
dpkg -r llm-dit >/dev/null
test ! -e /usr/bin/llm-dit
cp /tmp/archive.png /result/
"""


def binaries(room: pathlib.Path) -> None:
    run(REPOSITORY / "deploy/dist", cwd=REPOSITORY, env=ENVIRONMENT)
    sizes = {file.name: f"{file.stat().st_size / MIB:.1f} MiB" for file in (TARGET / "dist").iterdir()}
    print(f"binaries: {sizes}")
    for release in RELEASES:
        system = engine.import_debian(room, release)
        result = room / f"result-{release}"
        result.mkdir()
        run(DOCKER, "run", "--rm", "--network", "none", "-v", f"{TARGET}/dist:/dist:ro", "-v", f"{result}:/result", system,
            "sh", "-c", BARE)
        assert (result / "archive.png").read_bytes().startswith(b"\x89PNG"), "no picture"
        print(f"binaries: the archive and the package draw on a bare {system}")


PARTS = {"image": image, "single": single, "split": split, "tls": tls, "binaries": binaries}

if __name__ == "__main__":
    names = sys.argv[1:] or list(PARTS)
    if unknown := set(names) - set(PARTS):
        sys.exit(f"unknown: {', '.join(sorted(unknown))}; known are {', '.join(PARTS)}")
    engine.install()
    with engine.engine() as room:
        times = {}
        for name, part in {"build": build, **{name: PARTS[name] for name in names}}.items():
            begun = time.monotonic()
            part(room)
            times[name] = time.monotonic() - begun
    print(", ".join(f"{name} {took:.0f} s" for name, took in times.items()))
