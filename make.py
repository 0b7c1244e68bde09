"""Run mbv3-search from a checkout with nothing but Python 3.11 or newer.

    python3 make.py search [--target-ms 50 ...]   find a network for this machine's CPU
    python3 make.py test                          run the tests
    python3 make.py check                         what CI runs: lint, types, tests

The first call makes the virtual environment .venv with the versions of constraints.txt. It prints which packages it
installs, where to, and how much disk that takes, before it does so.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
BIN = VENV / "bin"
PARALLEL = ("-n", "2", "--dist", "worksteal")  # of pytest: two cores are what CI has
DISK_GB = 1.7  # of .venv with [dev] and the CPU build of torch, by du; torch alone is half of it


def call(*command: str | Path) -> None:
    """Run a command here; end with its exit code if it fails."""
    code = subprocess.call([str(c) for c in command], cwd=ROOT)
    if code:
        raise SystemExit(code)


def packages(extra: str) -> list[str]:
    """Names of the packages that pyproject.toml asks for, those of `extra` ("[dev]" or "") among them."""
    import tomllib  # since Python 3.11, which `main` checks first

    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"].get(extra.strip("[]"), [])]
    return sorted({re.split(r"[^\w.-]", w, maxsplit=1)[0] for w in wanted}, key=str.lower)


def announce(extra: str) -> None:
    """Print what the installation will do. Ends the program where the disk has no room for it."""
    free = shutil.disk_usage(ROOT).free / 1e9
    verb = "updates" if VENV.exists() else "makes"
    lines = [
        f"make.py {verb} the virtual environment of this checkout:",
        f"  where     {VENV} (delete the folder to undo it)",
        f"  packages  {', '.join(packages(extra))}, and what they need",
        "  versions  those of constraints.txt, from the index that pip is configured for; pip keeps its own cache",
        f"  disk      about {DISK_GB:g} GB with the CPU build of torch, more with a CUDA build; {free:.1f} GB free",
        "  time      about a minute on a fast connection",
    ]
    print("\n".join(lines), flush=True)
    if not VENV.exists() and free < DISK_GB:
        raise SystemExit(f"make.py: {ROOT}: about {DISK_GB:g} GB are needed (got {free:.1f} GB free); free some space")


def environment(extra: str) -> None:
    """.venv with the package and `extra`; installed again when the requirements have changed."""
    wanted = hashlib.sha256((ROOT / "pyproject.toml").read_bytes() + (ROOT / "constraints.txt").read_bytes())
    mark = VENV / f"ready{extra}"
    if mark.exists() and mark.read_text("utf-8") == wanted.hexdigest():
        return
    announce(extra)
    if not (BIN / "pip").exists():
        try:
            subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
        except subprocess.CalledProcessError:
            raise SystemExit(
                "make.py: python could not make a virtual environment; on Debian and Ubuntu: apt install python3-venv"
            ) from None
    # most of pip's time is for bytecode of modules that are never imported; those that are write their own
    later = () if sys.dont_write_bytecode else ("--no-compile",)
    call(
        BIN / "python", "-m", "pip", "install", "--quiet", *later,
        "--constraint", "constraints.txt", "--editable", f".{extra}",
    )  # fmt: skip
    mark.write_text(wanted.hexdigest(), "utf-8")


def main() -> None:
    if sys.version_info < (3, 11):  # noqa: UP036  (this file is run by whatever python is there)
        raise SystemExit(f"make.py: Python 3.11 or newer is needed, this is {sys.version.split()[0]}")
    task, rest = (sys.argv[1] if len(sys.argv) > 1 else ""), sys.argv[2:]
    if task == "search":
        environment("")
        call(BIN / "mbv3-search", *(rest or ["--target-ms", "50"]))
    elif task == "test":
        environment("[dev]")
        call(BIN / "python", "-m", "pytest", *PARALLEL, *rest)
    elif task == "check":
        environment("[dev]")
        call(BIN / "ruff", "check", ".")
        call(BIN / "ruff", "format", "--check", ".")
        call(BIN / "mypy")
        call(BIN / "python", "-m", "pytest", *PARALLEL)
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    main()
