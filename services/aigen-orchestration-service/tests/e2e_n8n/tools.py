"""Node, n8n and GraphicsMagick, from a cache outside the repository or installed into it once."""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

NODE = "24"
N8N = os.environ.get("E2E_N8N_VERSION", "2.40.7")
CACHE = Path(os.environ.get("E2E_CACHE", Path.home() / ".cache" / "aigen-e2e"))

_NO_NPM = (
    "npm is needed to install Node and n8n into the cache "
    "(Debian, Ubuntu: apt-get install npm; macOS: brew install node)."
)
_NO_MAGICK = (
    "GraphicsMagick is needed: n8n's Edit Image node runs `gm`. Install it (Debian, Ubuntu: apt-get"
    " install graphicsmagick; macOS: brew install graphicsmagick)."
)


class MissingToolError(Exception):
    """A tool cannot be installed from here; the message says how to install it."""


@dataclass(frozen=True)
class Tools:
    """The paths of the programs."""

    node_folder: Path
    n8n: Path

    def environment(self) -> dict[str, str]:
        """Return the environment in which n8n uses this Node."""
        return {"PATH": f"{self.node_folder}{os.pathsep}{os.environ['PATH']}"}


def tools() -> Tools:
    """Return all tools, installing missing ones, which takes minutes the first time.

    Raises:
        MissingToolError: a tool cannot be installed from here.
    """
    _graphicsmagick()
    node = _package("node", NODE, CACHE / f"node-{NODE}", "bin/node", {})
    n8n = _package(
        "n8n", N8N, CACHE / f"n8n-{N8N}", "bin/n8n", Tools(node.parent, node).environment()
    )
    return Tools(node.parent, n8n)


def _package(
    name: str, version: str, folder: Path, binary: str, environment: dict[str, str]
) -> Path:
    """Install an npm package into a directory, which counts only once it is complete."""
    found = folder / "node_modules" / name / binary
    whole = folder / ".whole"
    if whole.exists() and found.exists():
        return found
    if shutil.which("npm") is None:
        raise MissingToolError(_NO_NPM)
    print(
        f"Installing {name}@{version} into {folder} (once; n8n takes some minutes and 3 GB) ...",
        flush=True,
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "package.json").write_text(json.dumps({"name": "cache", "private": True}), "utf-8")
    # Without scripts, which would build unused parts; node@24 needs its own.
    scripts = [] if name == "node" else ["--ignore-scripts"]
    command = ["npm", "install", f"{name}@{version}", "--no-audit", "--no-fund", *scripts]
    with (folder / "npm.log").open("wb") as log:
        done = subprocess.run(
            command,
            cwd=folder,
            env=os.environ | environment,
            stdout=log,
            stderr=log,
            check=False,
            timeout=1800,
        )
    if done.returncode or not found.exists():
        raise MissingToolError(f"npm could not install {name}@{version}; see {folder / 'npm.log'}.")
    whole.touch()
    return found


def _graphicsmagick() -> None:
    if shutil.which("gm"):
        return
    if shutil.which("apt-get") and os.geteuid() == 0:
        print("Installing graphicsmagick ...", flush=True)
        subprocess.run(
            ["apt-get", "install", "-y", "-qq", "graphicsmagick"], check=False, capture_output=True
        )
    if shutil.which("gm") is None:
        raise MissingToolError(_NO_MAGICK)
