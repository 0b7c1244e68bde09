"""Run mbv3-search from a checkout with nothing but Python 3.11 or newer.

    python3 make.py search [--target-ms 50 ...]   find a network for this machine's CPU
    python3 make.py test                          run the tests
    python3 make.py check                         what CI runs: lint, types, tests

Makes the virtual environment .venv on the first call, with the versions of constraints.txt.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
BIN = VENV / "bin"


def call(*command: str | Path) -> None:
    """Run a command here; end with its exit code if it fails."""
    code = subprocess.call([str(c) for c in command], cwd=ROOT)
    if code:
        raise SystemExit(code)


def environment(extra: str) -> None:
    """.venv with the package and `extra`, made anew when its requirements changed."""
    wanted = hashlib.sha256((ROOT / "pyproject.toml").read_bytes() + (ROOT / "constraints.txt").read_bytes())
    mark = VENV / f"ready{extra}"
    if mark.exists() and mark.read_text("utf-8") == wanted.hexdigest():
        return
    if not (BIN / "pip").exists():
        try:
            subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
        except subprocess.CalledProcessError:
            raise SystemExit(
                "make.py: python could not make a virtual environment; on Debian and Ubuntu: apt install python3-venv"
            ) from None
    print("installing into .venv (about a minute) ...", flush=True)
    call(
        BIN / "python", "-m", "pip", "install", "--quiet", "--constraint", "constraints.txt", "--editable", f".{extra}"
    )
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
        call(BIN / "python", "-m", "pytest", *rest)
    elif task == "check":
        environment("[dev]")
        call(BIN / "ruff", "check", ".")
        call(BIN / "ruff", "format", "--check", ".")
        call(BIN / "mypy")
        call(BIN / "python", "-m", "pytest")
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    main()
