#!/usr/bin/env python3
"""Lines and branches of libawq/ that tests reached: test/coverage.py BUILD

Reads what a build with --coverage counted, prints a line for each file and the sums, and writes the lines that no test
reached to BUILD/uncovered.txt.  Branches are gcov's, without those of exceptions, which C does not have.
"""
import collections
import gzip
import json
import pathlib
import subprocess
import sys
import tempfile

build = pathlib.Path(sys.argv[1]).resolve()
root = pathlib.Path.cwd()
lines = collections.defaultdict(lambda: collections.defaultdict(int))
branches = collections.defaultdict(lambda: collections.defaultdict(list))

for notes in sorted((build / "libawq").rglob("*.gcno")):
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run(["gcov", "--json-format", "--branch-probabilities", "--object-directory", str(notes.parent),
                        str(notes)], cwd=scratch, check=True, capture_output=True)
        # Sources are named as the compiler was given them, from the project's root.
        for report in pathlib.Path(scratch).glob("*.json.gz"):
            for file in json.loads(gzip.open(report).read())["files"]:
                name = file["file"]
                if name.startswith("/"):
                    name = str(pathlib.Path(name).relative_to(root)) if name.startswith(str(root)) else name
                if not name.startswith("libawq/"):
                    continue
                for line in file["lines"]:
                    number = line["line_number"]
                    lines[name][number] += line["count"]
                    counts = [branch["count"] for branch in line["branches"] if not branch["throw"]]
                    known = branches[name][number]
                    if len(known) == len(counts):
                        counts = [a + b for a, b in zip(known, counts)]
                    elif len(known) > len(counts):
                        continue
                    branches[name][number] = counts


def share(part, whole):
    return f"{part:6d} of {whole:6d}  {100 * part / max(whole, 1):5.1f} %"


total = [0, 0, 0, 0]
with open(build / "uncovered.txt", "w") as uncovered:
    print(f"{'':36}{'lines':>26}{'branches':>28}")
    for name in sorted(lines):
        source = (root / name).read_text().splitlines()
        taken = [count for counts in branches[name].values() for count in counts]
        here = [sum(count > 0 for count in lines[name].values()), len(lines[name]), sum(count > 0 for count in taken),
                len(taken)]
        total = [a + b for a, b in zip(total, here)]
        print(f"{name:36}{share(*here[:2]):>26}  {share(*here[2:]):>26}")
        for number in sorted(lines[name]):
            if lines[name][number] == 0:
                uncovered.write(f"{name}:{number}: {source[number - 1].strip()}\n")
print(f"{'all':36}{share(*total[:2]):>26}  {share(*total[2:]):>26}")
print(f"lines that no test reached: {build}/uncovered.txt")
