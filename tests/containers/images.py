"""The images: ours on a base image, and the one that stands in for ScyllaDB."""

import re
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pip

from local.engine import binary
from local.settings import ROOT
from tests.containers.kit import Docker

DOCKERFILE = (ROOT / "worker" / "Dockerfile").read_text()
BASE_PACKAGES = (
    "base-files,base-passwd,ca-certificates,coreutils,dash,findutils,grep,libc-bin,python3,sed"
)
LEFT_OUT = re.compile(r"\./(usr/share/(doc|man|locale|info)|usr/lib/[^/]*/gconv|var/cache)/")


@dataclass(frozen=True)
class Built:
    """Names of the images. base: what they were built on."""

    base: str
    worker: str
    local: str


def default_base() -> str:
    found = re.search("^ARG BASE=(.*)$", DOCKERFILE, re.MULTILINE)
    assert found
    return found[1]


def build(docker: Docker) -> Built:
    """By `local/images.sh`; on Debian's Python where its packages can be had, for no registry
    of images may be within reach."""
    base = "scheduler-test-base:dev" if shutil.which("mmdebstrap") else default_base()
    built = Built(base, worker="scheduler-test-worker:dev", local="scheduler-test-local:dev")
    if base != default_base():
        with tempfile.TemporaryDirectory() as folder:
            docker("import", str(_debian_python(Path(folder))), base)
    names = {"BASE": base, "WORKER_IMAGE": built.worker, "LOCAL_IMAGE": built.local}
    done = subprocess.run(
        ["sh", "local/images.sh"],
        cwd=ROOT,
        env={**docker.env, **names},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return built


def build_standin(docker: Docker, base: str) -> str:
    """Three of one kind: it works, it needs a minute to start, and it fails."""
    image = "scheduler-test-scylla"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copy(Path(__file__).with_name("standin.py"), folder)
        shutil.copy(binary(), folder / "dynoxide")
        for tag, env in (
            ("dev", ""),
            ("slow", "STANDIN_BOOTS_S=60"),
            ("broken", "STANDIN_FAILS=1"),
        ):
            lines = [f"FROM {base}", "COPY dynoxide standin.py /", "VOLUME /var/lib/scylla"]
            lines += [f"ENV {env}"] if env else []
            lines += ['ENTRYPOINT ["python3", "/standin.py"]']
            (folder / "Dockerfile").write_text("\n".join(lines))
            docker("build", "--quiet", "--network=none", "--tag", f"{image}:{tag}", name)
    return f"{image}:dev"


def _debian_python(folder: Path) -> Path:
    """A tar of Debian's Python with what it needs, and with pip as the real base image has it."""
    whole, lean = folder / "whole.tar", folder / "lean.tar"
    command = ["mmdebstrap", "--quiet", "--variant=extract", f"--include={BASE_PACKAGES}"]
    subprocess.run([*command, "bookworm", str(whole)], check=True, cwd=folder, timeout=240)
    pip_folder = Path(pip.__file__).parent
    with tarfile.open(whole) as source, tarfile.open(lean, "w") as target:
        for member in source:
            if not LEFT_OUT.match(member.name):
                target.addfile(member, source.extractfile(member) if member.isreg() else None)
        for part in (pip_folder, *pip_folder.parent.glob("pip-*.dist-info")):
            target.add(part, f"./usr/lib/python3/dist-packages/{part.name}")
    return lean
