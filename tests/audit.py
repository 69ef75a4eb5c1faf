"""Known weaknesses of the code and of the installed packages: python -m tests.audit."""

import json
import subprocess
import sys

CODE = ["bandit", "--quiet", "--recursive", "--configfile", "pyproject.toml",
        "sse", "kernels", "experiments"]  # fmt: skip
PACKAGES = ["pip_audit", "--format", "json", "--progress-spinner", "off", "--skip-editable",
            "--timeout", "10"]  # fmt: skip


def packages(report: str) -> tuple[int, str]:
    """The exit code and one line about pip-audit's report; without a report nothing was asked."""
    try:
        found = json.loads(report)["dependencies"]
    except ValueError:
        return 0, "packages: not audited, as the service of pip-audit cannot be reached"
    asked = [package for package in found if "skip_reason" not in package]
    if not asked:
        return 0, "packages: not audited, as the service of pip-audit knows none of them"
    weak = [f"{p['name']} {v['id']}" for p in asked for v in p["vulns"]]
    left = f", {len(found) - len(asked)} unknown to the service" if len(found) > len(asked) else ""
    line = f"packages: {len(weak)} known weaknesses in {len(asked)}{left}"
    return bool(weak), "; ".join([line, *weak])


def main() -> int:
    code = subprocess.run([sys.executable, "-m", *CODE]).returncode
    print(f"code: {'weaknesses above' if code else 'no known weakness'}", flush=True)
    done = subprocess.run([sys.executable, "-m", *PACKAGES], capture_output=True, text=True)
    bad, line = packages(done.stdout)
    print(line)
    return int(bool(code) or bad)


if __name__ == "__main__":
    sys.exit(main())
