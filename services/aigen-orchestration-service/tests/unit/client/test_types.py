"""A program that uses the installed client is type-checked."""

import re
import subprocess
import sys
from pathlib import Path

CONSUMERS = Path(__file__).parent / "consumers"


def test_strict_type_check_accepts_correct_use_and_reports_every_mistake(tmp_path: Path) -> None:
    for name in ("correct.py", "wrong.py"):
        (tmp_path / name).write_text((CONSUMERS / name).read_text("utf-8"), "utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "correct.py", "wrong.py"]
    checked = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert checked.returncode == 1, checked.stdout + checked.stderr
    reported = set(re.findall(r"^(\w+\.py):(\d+): error", checked.stdout, re.MULTILINE))
    wrong = (CONSUMERS / "wrong.py").read_text("utf-8").splitlines()
    expected = {
        ("wrong.py", str(number)) for number, line in enumerate(wrong, start=1) if "# wrong" in line
    }
    assert len(expected) > 10
    assert reported == expected, checked.stdout
