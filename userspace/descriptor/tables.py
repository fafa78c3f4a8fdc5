#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only OR MIT
"""Writes src/tables/v*.rs from NVIDIA's public class headers.

Usage: tables.py HEADERS, where HEADERS is the folder `classes/compute` of NVIDIA's public
repository `open-gpu-doc` (the tables here were made at its commit c8607fe). Run rustfmt afterwards.

Each version is taken once, whole, from the newest header that defines it. A header gives the
position of element i of a repeated field but not how many elements there are; COUNTS says that,
and the crate's tests assert that no element runs into another field.
"""

import pathlib
import re
import sys

# Oldest first: Kepler to Blackwell.
HEADERS = [
    f"cl{name}qmd.h"
    for name in "a0c0 a1c0 b0c0 b1c0 c0c0 c1c0 c3c0 c4c0 c5c0 c6c0 c7c0 c9c0 cbc0 cdc0 cec0".split()
]

# The first pattern that matches a repeated field's name says how often it is repeated: the number
# that fits exactly before the next field begins.
COUNTS = [
    (r"^SUB_TASK_CONSTANT_BANK_", (8, 2)),
    (r"^SUB_TASK_", (8,)),
    (r"^RELEASE_", (3,)),
    (r"^DEPENDENT_QMD_", (2,)),
    (r"^CONSTANT_BUFFER_", (8,)),
    (r"^TPC_DISABLE_MASK", (4,)),
]

DEFINE = re.compile(r"#define NV\w{4}_QMDV(\d\d_\d\d)_(\w+)(?:\(([ij,]+)\))?\s+MW\((.*)\)\s*$")


def bits(expression):
    """'(2463+(i)*32):(2432+(i)*32)' -> (2463, 2432, [32])"""
    hi, lo = expression.split(":")
    first = [int(re.match(r"\(?(\d+)", side)[1]) for side in (hi, lo)]
    strides = [[int(s) for s in re.findall(r"\([ij]\)\*(\d+)", side)] for side in (hi, lo)]
    assert strides[0] == strides[1], expression
    return first[0], first[1], strides[0]


def row(name, expression):
    hi, lo, strides = bits(expression)
    assert 0 <= hi - lo < 32 and hi // 32 == lo // 32, name
    if not strides:
        return f'    Field::new("{name}", {hi}, {lo}),'
    counts = next(counts for pattern, counts in COUNTS if re.match(pattern, name))
    assert len(counts) == len(strides), name
    repeats = "".join(f".repeated({count}, {stride})" for count, stride in zip(counts, strides))
    return f'    Field::new("{name}", {hi}, {lo}){repeats},'


def main():
    headers = pathlib.Path(sys.argv[1])
    tables = {}
    for header in HEADERS:
        found = {}
        for line in (headers / header).read_text().splitlines():
            if match := DEFINE.match(line):
                version, name, _, expression = match.groups()
                found.setdefault(version, []).append(row(name, expression))
        tables |= {version: (header, rows) for version, rows in found.items()}
    folder = pathlib.Path(__file__).parent / "src" / "tables"
    for version, (header, rows) in sorted(tables.items()):
        (folder / f"v{version}.rs").write_text(
            "// SPDX-License-Identifier: MIT\n"
            f"//! The fields of QMDV{version}, from NVIDIA's `{header}` (notice in `tables.rs`).\n"
            "//! Written by `tables.py`; do not edit.\n\n"
            "use crate::field::Field;\n\n"
            f"/// Every field that `{header}` names for this version, in its order.\n"
            f"pub(crate) const FIELDS: [Field; {len(rows)}] = [\n" + "\n".join(rows) + "\n];\n"
        )
        print(f"V{version} {header} {len(rows)} fields")


main()
