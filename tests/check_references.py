"""Checks tags, quoted test names and links; names what is missing and exits with status 1.

Every tag such as [GRPO eq. 3] or [T7] in a comment, help text, test name, recipe or document has
its entry in tiny_zero/REFERENCES.md; every test that the file quotes exists (a quotation may stop
early); every relative link of the documents leads to a file. The coursework names no setting,
function or row of check_step.py's GRID that is not there, except those that a student is to write.
Every bug of mutants_list.py still finds the one place where it is planted.
"""

import pathlib
import re
import sys

from mutants_list import MUTANTS

ROOT = pathlib.Path(__file__).resolve().parent.parent
REFERENCES = ROOT / "tiny_zero" / "REFERENCES.md"
COURSEWORK = ROOT / "notebooks" / "COURSEWORK.md"
DOCUMENTS = [ROOT / "README.md", REFERENCES, COURSEWORK, *ROOT.glob("tasks/*/README.md")]
CODE = (".cpp", ".h", ".cu", ".cuh")
LITERAL = r'"((?:\\.|[^"\\\n])*)"'


def prose(path):
    """Comments and string literals of code, joined where they continue on the next line."""
    source, text, end = path.read_text(), "", 0
    for match in re.finditer(r"//+(.*)|" + LITERAL, source):
        text += "\n" if source[end : match.start()].strip() else ""
        text += match[2] if match[1] is None else match[1].strip() + " "
        end = match.end()
    return text if path.suffix in CODE else source


def tags(path):
    """The names in brackets, such as T7 or GRPO eq. 3, without what follows a colon."""
    first = r"[A-Za-z]" if path.suffix == ".conf" else r'"?[A-Z]'  # elsewhere lower case is code
    for tag in re.findall(rf"\[({first}[^][_\n`]*?)(?::[^]\n]*)?\](?!\()", prose(path)):
        names = re.split(r"[;,] ", tag)
        yield from [name for name in names if name == names[0] or re.match("[A-Z]", name)]


missing, references = [], REFERENCES.read_text()
entries = re.findall(r"\*\*\[([^]]+)\]\*\*", references)
entries += re.findall(r"^\| (T\d+) \|", references, re.MULTILINE)
known = re.compile(f"({'|'.join(map(re.escape, entries))})(?![A-Za-z0-9-])")
sources = [path for top in ("tiny_zero", "tasks", "tests") for path in (ROOT / top).rglob("*.*")]
sources = [path for path in sorted(sources) if path.suffix in (*CODE, ".conf")]
for path in sources + DOCUMENTS:
    for tag in tags(path):
        if not known.match(tag):
            missing.append(f"{path.relative_to(ROOT)}: [{tag}] has no entry in REFERENCES.md")
code = "\n".join(path.read_text() for path in sources if path.parent == ROOT / "tests")
found = re.finditer(rf"TEST_CASE\(\s*((?:{LITERAL}\s*)+)", code)
tests = ["".join(re.findall(LITERAL, match[1])) for match in found]
for quoted in re.findall(r'"([^"\n]+)"', references.partition("\n## Traps")[2]):
    if not any(test.startswith(quoted) for test in tests):
        missing.append(f'tiny_zero/REFERENCES.md: no test is called "{quoted} ..."')
for path in DOCUMENTS:
    for link in re.findall(r"\]\((?!\w+:)([^)#\s]+)", path.read_text()):
        if not (path.parent / link).exists():
            missing.append(f"{path.relative_to(ROOT)}: the link {link} leads nowhere")

text = COURSEWORK.read_text()
settings = re.findall(r'\.add\(\s*"([a-z0-9-]+)"', "\n".join(map(pathlib.Path.read_text, sources)))
settings += re.findall(r'add_argument\("--([a-z]+)"', (ROOT / "tests/check_step.py").read_text())
settings += ["recipe", "help", *re.findall(r"new setting\s+`([a-z-]+)`", text)]
for name in sorted({*re.findall(r"--([a-z][a-z0-9-]*)", text)} - {*settings}):
    missing.append(f"notebooks/COURSEWORK.md: there is no setting {name}")
everything = "\n".join(path.read_text() for path in [*sources, ROOT / "tests/check_step.py"])
for name in sorted({*re.findall(r"`([A-Za-z_0-9]+(?:\.[a-z_]+)*)(?:\(\))?`", text)}):
    if ("_" in name or f"`{name}()`" in text) and name.split(".")[-1] not in everything:
        missing.append(f"notebooks/COURSEWORK.md: nothing is called {name}")
rows = re.findall(r"`((?:grpo|ppo) [^`]+)`|--only ([a-z0-9-]+)", text)
for row in sorted({name or part for name, part in rows}):
    if not re.search(rf'"[^"\n]*{re.escape(row)}[^"\n]*": ("--|""")', everything + text):
        missing.append(f"notebooks/COURSEWORK.md: no row of GRID is called {row}")

for name, file, old, _ in MUTANTS:
    if (places := (ROOT / file).read_text().count(old)) != 1:
        missing.append(f"tests/mutants_list.py: {name} stands in {places} places of {file}, want 1")

print("\n".join(missing) or f"{len(sources) + len(DOCUMENTS)} files and {len(tests)} tests agree")
sys.exit(1 if missing else 0)
