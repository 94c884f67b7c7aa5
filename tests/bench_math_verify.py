"""The grader's speed and verdicts beside Math-Verify's, on the same labelled pairs in one run.

    pip install math-verify
    python tests/bench_math_verify.py CASES.jsonl

CASES.jsonl holds {"gold", "candidate", "kind": "answer" or "response", "expected"} a line. Math-Verify may never end on
towers of powers: leave them out.
"""
import json
import logging
import pathlib
import subprocess
import sys
import time

from math_verify import parse, verify

TINY_ZERO = pathlib.Path(__file__).resolve().parent.parent / "build" / "tiny_zero"


def grade(cases, repeats):
    """Verdicts of `tiny_zero grade`, and its seconds with the start of the program."""
    lines = [{"gold": c["gold"], "response" if c["kind"] == "response" else "candidate": c["candidate"]} for c in cases]
    text = "\n".join(json.dumps(line) for line in lines * repeats)
    start = time.perf_counter()
    output = subprocess.run([TINY_ZERO, "grade", "--task", "math"], input=text, capture_output=True, text=True).stdout
    return [json.loads(line)["correct"] for line in output.splitlines()], time.perf_counter() - start


def math_verify(case):
    candidate = case["candidate"] if case["kind"] == "response" else "\\boxed{" + case["candidate"] + "}"
    return verify(parse("$" + case["gold"] + "$"), parse(candidate))


def main():
    logging.disable(logging.CRITICAL)
    cases = [json.loads(line) for line in open(sys.argv[1])]
    cases = [case for case in cases if "candidate" in case and case.get("category") != "robustness"]
    expected = [case["expected"] for case in cases]
    repeats = 100
    _, once = grade(cases, 1)
    verdicts, seconds = grade(cases, repeats + 1)
    speed = repeats * len(cases) / (seconds - once)
    start = time.perf_counter()
    theirs = [math_verify(case) for case in cases]
    peer_speed = len(cases) / (time.perf_counter() - start)
    for name, rate, said in ("tiny_zero grade", speed, verdicts), ("Math-Verify", peer_speed, theirs):
        right = sum(a == b for a, b in zip(said, expected))
        print(f"{name:16} {rate:9.0f} pairs/s   {right} of {len(cases)} right")
    print(f"ratio {speed / peer_speed:.0f}")


if __name__ == "__main__":
    main()
