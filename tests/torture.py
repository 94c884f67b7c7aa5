"""Kills runs, fills their disk, damages their files: nothing may be lost, and nothing swallowed.

    make torture                              everything; ten minutes on two cores
    python tests/torture.py --only PATTERN    cases whose "configuration: kind" matches
    python tests/torture.py --kills N         about N kills, signals and full disks

Every disturbed run is resumed until it is complete, and must then hold the bytes of one that was
left alone, timings aside. What is disturbed follows from --seed; moments are counted in CPU time of
the process, so where a signal strikes still varies a little. The result is tests/torture.md; the
directories of failures are kept.
"""

import argparse
import collections
import concurrent.futures
import json
import os
import pathlib
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
RUN = pathlib.Path("my runs/run")  # in a directory of each case; the blank is for quoting
AT_RUN = ["--runs-dir", RUN.parent, "--name", RUN.name]
COMMON = [*AT_RUN, "--recipe", ROOT / "tasks/countdown/recipes/demo.conf", "--threads", "1"]
TINY = "--layers 1 --hidden 32 --heads 2 --kv-heads 2 --ffn 32 --pretrain-tokens "
TRAIN = ("--num-steps 40 --save-every 5 --prompts-per-step 4 --group-size 2 --samples-per-step 3 "
         "--max-response-tokens 16 --learning-rate 1e-3 ")
CONFIGURATIONS = {  # together they change all that a checkpoint can hold
    "grpo, kl": TRAIN + "--entropy-coef 0.01 --kl loss-k3 --reference-every 4 --epochs 2 "
                        "--mini-batches 2 --schedule constant",
    "grpo, plain": TRAIN + "--entropy-coef 0.01 --mini-batches 1 --group-std none "
                           "--schedule cosine --keep-checkpoints 3",
    "grpo, process": TRAIN + "--supervision process --policy-loss gspo --tis-cap 2 --epochs 2 "
                             "--mini-batches 2 --schedule constant --kl reward "
                             "--truncated soft --overlong-buffer 12",
    "ppo, separate": TRAIN + "--algorithm ppo --critic separate --critic-head orz --lambda 0.9 "
                             "--mini-batches 2 --critic-mini-batches 2 --dynamic-sampling "
                             "--critic-learning-rate 1e-3 --schedule linear",
    "ppo, shared": TRAIN + "--algorithm ppo --critic shared --critic-head normal --kl reward "
                           "--epochs 2 --mini-batches 2 --schedule linear",
    "prime": TRAIN + "--algorithm prime --prime-learning-rate 1e-3 --epochs 2 --mini-batches 2 "
                     "--schedule linear",
    "grpo, lora": TRAIN + "--lora-rank 2 --lora-alpha 8 --entropy-coef 0.01 --kl loss-k3 "
                          "--reference-every 12 --mini-batches 2 --schedule linear",
    "pretrain": TINY + "200000 --pretrain-batch-tokens 32",
    "pretrain, ramp": TINY + "200000 --pretrain-batch-tokens 32 --shape roformer-v2 "
                             "--pretrain-warmup-updates 20000",
    "sft": "--sft-epochs 8 --sft-batch 8 --save-every 10 --schedule cosine",
}
STOPS = RANDOM, CALL, SIGNAL, FULL = ("SIGKILL at a random moment", "SIGKILL at a system call",
                                      "SIGTERM, SIGINT or SIGHUP", "full disk")
CHECKPOINT, LOG, TWO = "damaged checkpoint", "damaged log", "two processes"
METRICS, SAMPLES = LOGS = "metrics.jsonl", "samples.jsonl"
CLOCKED = {"rollout_tokens_per_s", "update_tokens_per_s", "tokens_per_s", "step_s", "wall_s",
           "peak_memory_bytes", "log_bytes", "checksum"}  # measured, or made of what is
CALLS = "open", "write", "fsync", "mkdir", "rename", "unlink"  # "truncate" only when resuming
DAMAGES = {  # what becomes of a file's bytes; the last four only for state.json
    "one bit flipped": lambda data, rng: flip(data, rng.randrange(8 * len(data))),
    "cut in the middle": lambda data, rng: data[:len(data) // 2],
    "emptied": lambda data, rng: b"",
    "removed": lambda data, rng: None,
    "garbage": lambda data, rng: rng.randbytes(len(data)),
    "an absurd size": lambda data, rng: with_log_bytes(data, rng, 10**11),
    "a negative size": lambda data, rng: with_log_bytes(data, rng, -1),
    "a size in words": lambda data, rng: with_log_bytes(data, rng, "many"),
}


def flip(data, bit):
    return data[:bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1:]


def with_log_bytes(data, rng, size):
    state = json.loads(data)
    state["log_bytes"][rng.choice(LOGS)] = size
    return json.dumps(state).encode()


def last_line(text):
    return (text.strip().splitlines() or ["no output"])[-1][:300]


def tree(directory):
    """What lies below a directory: path -> bytes, None for a directory."""
    return {str(path.relative_to(directory)): path.read_bytes() if path.is_file() else None
            for path in directory.rglob("*") if path.name != "lock"}


def differences(found, wanted):
    names = sorted(name for name in found.keys() | wanted.keys()
                   if found.get(name, "") != wanted.get(name, ""))
    return ", ".join(names[:5] + ["..."] * (len(names) > 5))


def checkpoints(run):
    """The complete ones, the oldest first."""
    found = [path for path in run.glob("checkpoints/step_*") if path.name[5:].isdigit()]
    return sorted(found, key=lambda path: int(path.name[5:]))


def results(run):
    """What must not depend on what happened on the way: name -> bytes or fields."""
    def fields(text):
        return {key: value for key, value in json.loads(text).items() if key not in CLOCKED}

    lines = (run / METRICS).read_text().splitlines()
    found = {f"{METRICS}:{number}": fields(line) for number, line in enumerate(lines, 1)}
    found[SAMPLES] = (run / SAMPLES).read_bytes()
    if (run / "model").exists():  # pre-trained: the model and its optimiser lie there
        return found | {name: data for name, data in tree(run).items() if name[:5] == "model"}
    found |= tree(checkpoints(run)[-1])
    return found | {"state.json": fields(found["state.json"])}


class Case:
    """A run in a directory of its own, and what is done to it."""

    def __init__(self, options, configuration, kind, number=0, reference=None):
        self.options, self.configuration, self.kind = options, configuration, kind
        self.number, self.reference = number, reference
        self.name = f"{configuration}: {kind} {number}"
        self.random = random.Random(f"{options.seed} {self.name}")
        self.directory = options.base / re.sub(r"\W+", "_", self.name)
        self.run = self.directory / RUN
        self.run.parent.mkdir(parents=True)
        verb = ["train", "--model", options.base / "model"]
        if configuration.startswith("pretrain"):
            verb = ["pretrain"]
        elif configuration == "sft":
            verb = ["sft", *verb[1:], "--data", options.base / "sft.jsonl"]
        self.fresh = [*verb, *COMMON, *CONFIGURATIONS[configuration].split()]
        self.resume = [verb[0], "--resume", *AT_RUN]
        self.processes = 0
        self.hits = 0      # disturbances that took place
        self.refused = 0   # by the program, as wanted
        self.failure = ""

    def launch(self, arguments, **preload):
        """Starts the program, its output in a file.   preload: settings of torture_preload.c"""
        self.processes += 1
        output = self.directory / f"output_{self.processes}.txt"
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        if preload:
            preload |= {"BELOW": RUN, "LOG": output.with_suffix(".log")}
            environment |= {f"TORTURE_{key}": str(value) for key, value in preload.items()}
            environment["LD_PRELOAD"] = str(self.options.library)
        output.write_text(f"{shlex.join(map(str, arguments))}  {preload or ''}\n")
        with open(output, "ab") as file:
            process = subprocess.Popen([self.options.binary, *arguments], cwd=self.directory,
                                       stdin=subprocess.DEVNULL, stdout=file,
                                       stderr=subprocess.STDOUT, env=environment)
        process.output = output
        return process

    def end(self, process):
        """Waits for the end.   Returns exit status and output."""
        try:
            process.wait(timeout=300)  # a run takes seconds
        except subprocess.TimeoutExpired:
            process.kill()
            raise AssertionError(f"hangs: {process.output}") from None
        return process.returncode, process.output.read_text(errors="replace").split("\n", 1)[1]

    def call(self, arguments, **preload):
        return self.end(self.launch(arguments, **preload))

    def must_end(self, process):
        """Nothing has disturbed it: the end has to be the reference's."""
        code, output = self.end(process)
        assert code == 0, f"does not go on, exit status {code}: {last_line(output)}"
        self.compare()

    def compare(self):
        wrong = differences(results(self.run), self.reference.results)
        assert not wrong, f"ends otherwise: {wrong}"

    # ---- Stopped: kills, signals, full disks ----

    def stop_often(self, hits):
        """Stops the run so many times, or until one process reaches the end."""
        stop = self.send_signal if self.kind in (RANDOM, SIGNAL) else self.disturb_call
        command = self.fresh
        for _ in range(hits):
            process, command = stop(command)
            if not command:
                return self.must_end(process)
            self.hits += 1
        self.must_end(self.launch(command))

    def next_command(self):
        return self.resume if checkpoints(self.run) else self.fresh

    def share_left(self):
        """Of the whole run, what comes after the newest checkpoint."""
        saved = checkpoints(self.run)
        return 1 - int(saved[-1].name[5:]) / self.reference.last_step if saved else 1

    def wait_for_moment(self, process, number):
        """Waits for a random moment, but at least for the signal's handler.

        Returns false if the process ends before."""
        start_s, whole_s = self.reference.start_s, self.reference.cpu_s
        share = 0.9 * self.random.random() * self.share_left()  # 0.9: not all take equally long
        moment = start_s + share * (whole_s - start_s)
        status, ready = pathlib.Path(f"/proc/{process.pid}/status"), number == signal.SIGKILL
        while process.poll() is None:
            caught = int(re.search(r"SigCgt:\s*(\w+)|$", status.read_text())[1] or "0", 16)
            ready = ready or caught >> number - 1 & 1
            try:
                if ready and time.clock_gettime(~process.pid << 3 | 2) >= moment:  # its CPU clock
                    return True
            except OSError:  # it has just ended
                pass
            time.sleep(0.002)
        assert ready or process.returncode, f"{signal.Signals(number).name} is never caught"
        return False

    def send_signal(self, command):
        """Returns the process, and how to go on, None if it ended before."""
        number = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)[(self.number + self.hits) % 3]
        if self.kind == RANDOM:
            number = signal.SIGKILL
        process = self.launch(command)
        if not self.wait_for_moment(process, number):
            return process, None
        process.send_signal(number)
        if twice := self.random.random() < 0.2:  # someone cannot wait until all is saved
            time.sleep(self.random.uniform(0, 0.02))
            process.send_signal(number)
        code, output = self.end(process)
        saved = re.search(r"stopped and saved.*tiny_zero'? (\w+ --resume .*)", output)
        if code == 0 and not saved:
            return process, None  # it had reached its end already
        wanted = [-number] if number == signal.SIGKILL else [128 + number, -number][:1 + twice]
        assert code in wanted, f"{number.name} gives exit status {code}, want {wanted[0]}"
        hasty = number == signal.SIGKILL or twice or "model in" in output  # the last step was done
        assert saved or hasty, f'{number.name} gives no "stopped and saved", and how to continue'
        return process, shlex.split(saved[1]) if saved else self.next_command()

    def disturb_call(self, command):
        """Kills the process at a system call, or fills the disk there.   Returns as above."""
        kinds = ["any", *CALLS] if self.kind == CALL else [*["write"] * 3, "open", "mkdir", "fsync"]
        kind = self.random.choice(kinds)
        counts = self.reference.calls | {"any": sum(self.reference.calls.values())}
        at = self.random.randint(1, max(1, int(counts[kind] * self.share_left())))
        if self.kind == CALL and command is self.resume and self.random.random() < 0.2:
            kind, at = "truncate", self.random.randint(1, 2)  # between the two logs, say
        action = self.random.choice(["before", "after"]) if self.kind == CALL else "full"
        process = self.launch(command, ACTION=action, KIND=kind, AT=at)
        code, output = self.end(process)
        log = process.output.with_suffix(".log")
        if not log.exists():  # there were fewer calls
            return process, None
        kind, path = log.read_text().strip().split(" ", 1)
        wanted, name = 1 if self.kind == FULL else -signal.SIGKILL, pathlib.Path(path).name
        assert code == wanted, f"exit status {code} at {kind} of {name}, want {wanted}"
        if self.kind == FULL:
            assert name in output, f"no room at {kind} of {name}, not named: {last_line(output)}"
            self.refused += 1
        return process, self.next_command()

    # ---- Refused: damaged files, a second process ----

    def must_refuse(self, before, code, output, name):
        """Exit status 1, the name of what is wrong, and nothing touched since `before`."""
        assert code == 1, f"exit status {code}, want 1: {last_line(output)}"
        assert re.search(rf"\b{name}\b", output), f"{name} is not named: {last_line(output)}"
        touched = differences(tree(self.run), before)
        assert not touched, f"is refused, but {touched} changed"
        self.refused += 1

    def start_unfinished(self):
        shutil.copytree(self.reference.unfinished, self.run)
        self.hits = 1
        return checkpoints(self.run)[-2:]

    def set_aside(self, checkpoint):
        """The way out of a damaged checkpoint: the older one."""
        checkpoint.rename(self.directory / checkpoint.name)
        self.must_end(self.launch(self.resume))

    def damage_checkpoint(self, file, damage):
        _, newest = self.start_unfinished()
        path = newest / file
        data = DAMAGES[damage](path.read_bytes(), self.random)
        path.unlink()
        if data is not None:
            path.write_bytes(data)
        before = tree(self.run)
        code, output = self.call(self.resume)
        if code == 0 and f"{newest.name}/{file}" in output:  # said, and gone on without it
            kept = [other.read_bytes() for other in self.run.glob(f"checkpoints/*/{file}")]
            assert data is None or data in kept, f"{newest.name} was not left alone"
            return self.compare()
        self.must_refuse(before, code, output, newest.name)
        self.set_aside(newest)

    def shorten_log(self, name):
        older, newest = self.start_unfinished()
        sizes = [json.loads((path / "state.json").read_text())["log_bytes"][name]
                 for path in (older, newest)]
        os.truncate(self.run / name, sum(sizes) // 2)  # too short for the newest one only
        self.must_refuse(tree(self.run), *self.call(self.resume), name)
        self.set_aside(newest)

    def remove_log(self, name):
        """It starts anew, with a warning; what it then holds must be the reference's end."""
        self.start_unfinished()
        (self.run / name).unlink()
        code, output = self.call(self.resume)
        assert code == 0, f"does not go on, exit status {code}: {last_line(output)}"
        assert name in output, f"no warning that {name} is missing"
        whole = (self.reference.run / name).read_text().splitlines(keepends=True)
        rest = (self.run / name).read_text().splitlines(keepends=True)
        assert 0 < len(rest) < len(whole), f"{name} has {len(rest)} lines of {len(whole)}"
        (self.run / name).write_text("".join(whole[:-len(rest)] + rest))
        self.compare()

    def meet_second(self, second):
        """A second process comes while the first stands still after its first checkpoint."""
        first = self.launch(self.fresh)
        try:
            while not checkpoints(self.run) and first.poll() is None:
                time.sleep(0.002)
            first.send_signal(signal.SIGSTOP)
            assert first.poll() is None, "the first process has ended already"
            self.hits = 1
            self.must_refuse(tree(self.run), *self.call(getattr(self, second)), first.pid)
            first.send_signal(signal.SIGCONT)
            self.must_end(first)
        finally:
            first.kill()

    def start_together(self):
        pair = [self.launch(self.fresh) for _ in range(2)]
        self.hits = 1
        codes = [self.end(process)[0] for process in pair]
        assert sorted(codes) == [0, 1], f"exit statuses {codes}, want 0 and 1"
        winner, loser = sorted(pair, key=lambda process: process.returncode)
        assert str(winner.pid) in self.end(loser)[1], "the other process is not named"
        self.refused = 1
        self.must_end(winner)


def cpu_seconds():
    times = os.times()
    return times.children_user + times.children_system


def make_reference(options, configuration):
    """A run left alone, then one killed when three quarters of its checkpoints are there."""
    case = Case(options, configuration, "reference")
    times = [cpu_seconds()]
    for command in ["--help"], case.fresh:
        code, output = case.call(command, ACTION="count")
        if code != 0:
            sys.exit(output)
        times.append(cpu_seconds())
    case.start_s, case.cpu_s = times[1] - times[0], times[2] - times[1]
    counts = map(str.split, (case.directory / "output_2.log").read_text().splitlines())
    case.calls = {kind: int(count) for kind, count in counts if kind in CALLS}
    if not all(case.calls.values()):
        sys.exit(f"torture_preload.c does not see all calls: {case.calls}")
    case.results = results(case.run)
    case.last_step = json.loads((case.run / METRICS).read_text().splitlines()[-1])["step"] + 1
    killed = Case(options, configuration, "unfinished")
    killed.call(killed.fresh, ACTION="before", KIND="rename", AT=case.calls["rename"] * 3 // 4 + 1)
    case.unfinished = killed.run
    print(f"{configuration}: {case.cpu_s:.1f} s, {case.start_s:.1f} s of it to start; "
          f"{case.calls}", flush=True)
    return case


def plan(reference, kills):
    """All that is done to a configuration: kind, what to call, with which arguments."""
    share, at_once = -(-kills // (len(CONFIGURATIONS) * len(STOPS))), 4
    for kind in STOPS:
        for first in range(0, share, at_once):
            yield kind, Case.stop_often, (min(at_once, share - first),)
    newest = tree(checkpoints(reference.unfinished)[-1])
    for file in sorted(name for name, data in newest.items() if data is not None):
        for damage in list(DAMAGES)[:8 if file == "state.json" else 4]:
            yield CHECKPOINT, Case.damage_checkpoint, (file, damage)
    for log in (name for name in LOGS if (reference.run / name).stat().st_size):
        for action in Case.shorten_log, Case.remove_log:
            yield LOG, action, (log,)
    for second in "fresh", "resume":
        yield TWO, Case.meet_second, (second,)
    yield TWO, Case.start_together, ()


def do(case, action, arguments):
    try:
        action(case, *arguments)
    except Exception as error:  # of an assertion, or such as a file that is not there
        case.failure = str(error) if isinstance(error, AssertionError) else repr(error)
    return case


def report(cases, minutes, options):
    failures = [case for case in cases if case.failure]
    times = collections.Counter()
    rows = collections.defaultdict(list)
    for case in cases:
        times[case.kind] += case.hits
        rows[case.configuration, case.kind].append(case)
    text = ", ".join(f"{kind}: {count}" for kind, count in times.items())
    text += (f". {len(cases)} runs, {len(failures)} failures; seed {options.seed}, {minutes:.0f} "
             f"minutes, {options.workers} at a time.\n\n| configuration | what was done | times | "
             "runs | refused as wanted | ended in the reference's bytes | failures |\n"
             "| --- | --- | --- | --- | --- | --- | --- |\n")
    for (configuration, kind), group in rows.items():
        failed = sum(bool(case.failure) for case in group)
        figures = (sum(case.hits for case in group), len(group),
                   sum(case.refused for case in group), len(group) - failed, failed)
        text += f"| {configuration} | {kind} | {' | '.join(map(str, figures))} |\n"
    return text + "".join(f"\n- {case.name}: {case.failure}" for case in failures)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", metavar="PATTERN", default="")
    parser.add_argument("--kills", type=int, default=240)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--binary", type=pathlib.Path, default=ROOT / "build/tiny_zero")
    parser.add_argument("--keep", action="store_true", help="keep all directories")
    options = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_IGN:  # by & or nohup: runs would inherit that
            signal.signal(number, lambda *_: None)
    began = time.monotonic()
    options.binary = options.binary.resolve()
    options.base = pathlib.Path(tempfile.mkdtemp(prefix="tiny_zero_torture_"))
    options.library = options.base / "preload.so"
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", options.library,
                    ROOT / "tests/torture_preload.c", "-ldl"], check=True)
    base = Case(options, "pretrain", "base model")
    base.call(["pretrain", *COMMON, *TINY.split(), "40000", "--pretrain-batch-tokens", "512"])
    (base.run / "model").rename(options.base / "model")
    with open(options.base / "sft.jsonl", "w") as file:
        for n in range(100):
            print(json.dumps({"prompt": f"use {n},3 once each to make {n + 3}\n<think>",
                              "response": f" try {n}+3={n + 3}"}), file=file)
    waiting = []
    for configuration in CONFIGURATIONS:
        reference, numbers = make_reference(options, configuration), collections.Counter()
        for kind, action, arguments in plan(reference, options.kills):
            if re.search(options.only, f"{configuration}: {kind}"):
                case = Case(options, configuration, kind, numbers[kind], reference)
                waiting.append((case, action, arguments))
            numbers[kind] += 1
    cases = []
    with concurrent.futures.ThreadPoolExecutor(options.workers) as pool:
        for case in pool.map(lambda work: do(*work), waiting):
            cases.append(case)
            end = f"{case.failure}, {case.directory}" if case.failure else "as wanted"
            print(f"{len(cases)}/{len(waiting)} {case.name}: {end}", flush=True)
            if not case.failure and not options.keep:
                shutil.rmtree(case.directory)
    text = report(cases, (time.monotonic() - began) / 60, options)
    print(text)
    if not options.only:
        (ROOT / "tests/torture.md").write_text(f"# Disturbed runs\n\n{text.rstrip()}\n")
    failed = any(case.failure for case in cases)
    if failed or options.keep:
        print(f"directories are kept in {options.base}")
    else:
        shutil.rmtree(options.base)
    sys.exit(failed)


if __name__ == "__main__":
    main()
