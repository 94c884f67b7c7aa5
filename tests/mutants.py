"""Plants bugs that other trainers shipped, one by one: the tests must notice each.

    make mutants                             all of mutants_list.py; exit status 1 if one survives
    python tests/mutants.py --only PATTERN   those whose name or file matches
    python tests/mutants.py --workers N      N at a time, each in a copy and a build of its own
    python tests/mutants.py --list           what would be planted

It takes hours, but goes on where it stopped: .cache/mutants/results.jsonl keeps what was caught
until the bug or its file changes. Survivors run again. The result is tests/mutants.md.
"""

import argparse
import collections
import concurrent.futures
import hashlib
import json
import os
import pathlib
import queue
import re
import shutil
import signal
import subprocess
import sys

from mutants_list import ARGUED, MUTANTS

ROOT = pathlib.Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "mutants"
SLOW = "-sf{}=*test_runs*,*test_device*,*test_tokenizer*"
OPEN = SURVIVED, BROKEN, NOT_RUN = "SURVIVED", "does not compile", "not run"
DIFFERS = r"  .*: found |  the grid: "  # a line of check_step.py


def run(command, folder, stop=None):
    """Exit status and lines of output, at most up to one that matches `stop`."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    environment["TINY_ZERO_BINARY"] = str(folder / "build" / "tiny_zero")
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    pipes |= dict(cwd=folder, env=environment, start_new_session=True)
    lines = []
    with subprocess.Popen(["timeout", "-s", "KILL", "3600", *command], **pipes) as process:
        for line in process.stdout:
            lines.append(line.rstrip("\n"))
            if stop and re.match(stop, line):
                os.killpg(process.pid, signal.SIGKILL)  # what it started goes with it
                break
    return process.returncode, lines


def make_copy(number):
    """Brings a copy up to date with the tracked files, touching only what changed."""
    copy = CACHE / f"copy-{number}"
    names = subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).splitlines()
    for name in names:
        source, target = ROOT / name, copy / name
        if not target.exists() or target.read_bytes() != source.read_bytes():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    for path in [*copy.glob("t*/**/*.cpp")]:  # CMake takes all that lie there
        if str(path.relative_to(copy)) not in names:
            path.unlink()
    if not (copy / "build" / "build.ninja").exists():
        options = ["-G", "Ninja", f"-DLIBTORCH={os.environ.get('LIBTORCH', '')}"]
        options.append("-DCMAKE_CXX_FLAGS_RELEASE=-O1 -DNDEBUG")  # compiles faster than -O3
        subprocess.run(["cmake", "-S", copy, "-B", copy / "build", *options], check=True)
    return copy


def judge(copy, file):
    """What notices the bug in the copy, cheapest first: a test case, a check; else SURVIVED."""
    status, lines = run(["ninja", "-j1", "-C", copy / "build", "tests"], copy)
    if status != 0:
        print("\n".join(lines[-20:]))
        return BROKEN
    tests = [copy / "build" / "tests", "--abort-after=1"]
    own = f"-sf=*test_{pathlib.Path(file).stem}.cpp"  # of its module: most are caught there
    step = [sys.executable, copy / "tests" / "check_step.py"]
    for command in [*tests, own], [*tests, SLOW.format("e")], step, [*tests, SLOW.format("")]:
        status, lines = run(command, copy, DIFFERS if command is step else None)
        if status == 0:
            continue
        if command is step:
            return "check_step.py, " + (lines[-1].strip() if lines else "no output")
        cases = [line.split(":", 1)[1].strip() for line in lines if line.startswith("TEST CASE:")]
        return f'"{cases[-1]}"' if cases else "a crash or a hang"
    return SURVIVED


def key_of(mutant):
    _, file, old, new = mutant
    parts = file, old, new, (ROOT / file).read_text()
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def work(mutant, copies, results):
    name, file, old, new = mutant
    text, copy = (ROOT / file).read_text(), copies.get()
    (copy / file).write_text(text.replace(old, new))
    results[key_of(mutant)] = by = judge(copy, file)
    (copy / file).write_text(text)
    copies.put(copy)
    with open(CACHE / "results.jsonl", "a") as out:
        out.write(json.dumps({"key": key_of(mutant), "name": name, "by": by}) + "\n")
    print(f"{file}: {name}: {by}", flush=True)


def report(results):
    """Writes tests/mutants.md.   Returns the number of bugs that nothing is known to catch."""
    rows, missed = "", collections.Counter()
    for name, file, old, new in MUTANTS:
        by = results.get(key_of((name, file, old, new)), NOT_RUN)
        missed[by] += by in OPEN
        rows += f"| {name} | {file} | {by}{': ' + ARGUED[name] if name in ARGUED else ''} |\n"
    verdict = f"{len(MUTANTS) - missed.total()} caught, {missed[SURVIVED]} survived"
    verdict += "".join(f", {missed[by]} {by}" for by in (BROKEN, NOT_RUN) if missed[by])
    print(verdict)
    text = f"# Planted bugs\n\n{verdict}: by the first test case that fails, or check_step.py.\n\n"
    text += "| bug | file | caught by |\n| --- | --- | --- |\n" + rows
    (ROOT / "tests" / "mutants.md").write_text(text)
    return missed.total()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", metavar="PATTERN", default="")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    counts = [(name, (ROOT / file).read_text().count(old)) for name, file, old, _ in MUTANTS]
    if wrong := [f"{name}: its text stands in {n} places, want 1" for name, n in counts if n != 1]:
        sys.exit("\n".join(wrong))
    chosen = [m for m in MUTANTS if re.search(options.only, f"{m[1]}: {m[0]}")]
    if options.list:
        sys.exit(print("\n".join(f"{file}: {name}" for name, file, *_ in chosen)))
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / "results.jsonl", "a+") as file:
        file.seek(0)
        results = {row["key"]: row["by"] for row in map(json.loads, file)}
    waiting = [m for m in chosen if results.get(key_of(m), NOT_RUN) in OPEN]
    copies = queue.Queue()
    if waiting and (by := judge(make_copy(0), "none")) != SURVIVED:
        sys.exit(f"the copy fails without a bug: {by}")
    for number in range(options.workers if waiting else 0):
        copies.put(make_copy(number))
    with concurrent.futures.ThreadPoolExecutor(options.workers) as pool:
        list(pool.map(lambda mutant: work(mutant, copies, results), waiting))
    sys.exit(report(results) > 0)


if __name__ == "__main__":
    main()
