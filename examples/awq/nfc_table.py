#!/usr/bin/env python3
"""Writes nfc_table.h from the Unicode character database that Python carries (unicodedata2 where it is installed, which
is newer): python3 nfc_table.py > nfc_table.h"""
import sys

try:
    import unicodedata2 as database
except ImportError:
    import unicodedata as database

LAST = 0x110000


def decompositions():
    """(character, first, second or 0) of every canonical decomposition but those of Hangul, which are computed."""
    for code in range(LAST):
        if 0xAC00 <= code < 0xAC00 + 11172:
            continue
        fields = database.decomposition(chr(code)).split()
        if fields and not fields[0].startswith("<"):
            numbers = [int(field, 16) for field in fields]
            yield code, numbers[0], numbers[1] if len(numbers) > 1 else 0


def class_ranges():
    """(first, last, canonical combining class) of every run of characters of one class other than 0."""
    ranges = []
    for code in range(LAST):
        value = database.combining(chr(code))
        if not value:
            continue
        if ranges and ranges[-1][1] == code - 1 and ranges[-1][2] == value:
            ranges[-1][1] = code
        else:
            ranges.append([code, code, value])
    return ranges


def print_rows(rows, per_line):
    for begin in range(0, len(rows), per_line):
        print("    " + " ".join("{%s}," % ", ".join(row) for row in rows[begin:begin + per_line]))
    print("};")


def main():
    table = list(decompositions())
    pairs = [(first, second, index) for index, (code, first, second) in enumerate(table)
             if second and database.normalize("NFC", chr(first) + chr(second)) == chr(code)]
    print("/* Canonical decompositions, compositions and combining classes of Unicode %s." % database.unidata_version)
    print(" * Written by nfc_table.py from the Unicode Character Database, (c) Unicode, Inc., under the Unicode License v3;")
    print(" * do not edit. */\n")
    print("/* Character, and what it decomposes to in one step. */")
    print("static const struct decomposition decompositions[] = {")
    print_rows([["0x%X" % number for number in row] for row in table], 5)
    print("\n/* Indices of those that compose again, in the order of first and second. */")
    print("static const uint16_t compositions[] = {")
    indices = [str(index) for _, _, index in sorted(pairs)]
    for begin in range(0, len(indices), 18):
        print("    " + ", ".join(indices[begin:begin + 18]) + ",")
    print("};\n\n/* First and last character, and their class; all others have 0. */")
    print("static const struct class_range class_ranges[] = {")
    print_rows([["0x%X" % first, "0x%X" % last, str(value)] for first, last, value in class_ranges()], 5)
    return 0


sys.exit(main())
