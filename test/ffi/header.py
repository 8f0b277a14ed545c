"""What awq.h declares, for those who must agree with it: the bindings and the ABI check.

    header.py facts HEADER      every constant, struct, field, function and callback, a line each; sizes are from $CC
    header.py compare OLD NEW   two files of such lines: what broke between them, one a line; status 1 if anything did
    header.py ctypes HEADER     the declarations of the Python package
    header.py rust HEADER       a Rust program that fails to compile, or to run, unless 'bindings' agrees with $CC
    header.py stubs HEADER      a C file that defines every function and does nothing

The header is regular enough to be read by a few regular expressions; what they could misread the compiler then checks.
"""

import os
import re
import subprocess
import sys
import tempfile
import textwrap
from typing import NamedTuple


class Variable(NamedTuple):
    """A field or a parameter: its type without the name, and the extent of an array or ''."""

    type: str
    name: str
    extent: str


class Function(NamedTuple):
    result: str
    name: str
    parameters: list


class Header(NamedTuple):
    constants: list
    opaque: list
    structs: dict
    callbacks: list
    functions: list


def variable(text):
    match = re.fullmatch(r"(.*?)(\w+)(?:\[(\w+)\])?", text.strip())
    return Variable(re.sub(r"\s*\*", " *", match[1]).strip().replace("* *", "**"), match[2], match[3] or "")


def variables(text):
    return [] if text.strip() == "void" else [variable(part) for part in text.split(",")]


def parse(path):
    """Everything between the guards of the header at 'path', in its order."""
    with open(path, encoding="utf-8") as file:
        text = file.read()
    text = re.sub(r"/\*.*?\*/", " ", text, flags=re.S)
    text = re.sub(r"^#.*?$|extern \"C\" \{", "", text, flags=re.M)
    text = re.sub(r"\s+", " ", text)
    constants = [
        re.match(r"\w+", item.strip())[0]
        for body in re.findall(r"enum \{(.*?)\};", text)
        for item in body.split(",")
        if item.strip()
    ]
    structs = {
        name: [variable(field) for field in body.split(";") if field.strip()]
        for name, body in re.findall(r"typedef struct (\w+) \{(.*?)\} \w+;", text)
    }
    callbacks = [
        Function(variable(result + " x").type, name, variables(parameters))
        for result, name, parameters in re.findall(r"typedef ([\w *]+?) ?\(\*(\w+)\)\((.*?)\);", text)
    ]
    functions = [
        Function(variable(result + " x").type, name, variables(parameters))
        for result, name, parameters in re.findall(r"AWQ_API ([\w *]+?)(\w+)\((.*?)\);", text)
    ]
    return Header(constants, re.findall(r"typedef struct (\w+) \w+;", text), structs, callbacks, functions)


def run_c(path, body):
    """The output of a C program with 'body' in its main, which knows the header."""
    with tempfile.TemporaryDirectory() as directory:
        source, program = os.path.join(directory, "facts.c"), os.path.join(directory, "facts")
        with open(source, "w", encoding="utf-8") as file:
            file.write(
                f'#include "{os.path.abspath(path)}"\n#include <stdio.h>\nint main(void)\n{{\n{body}    return 0;\n}}\n'
            )
        subprocess.run(os.environ.get("CC", "cc").split() + ["-std=c11", source, "-o", program], check=True)
        return subprocess.run([program], check=True, stdout=subprocess.PIPE, text=True).stdout


def signature(function):
    return f"{function.name} {function.result} ({', '.join(p.type for p in function.parameters)})"


def facts(header, path):
    body = "".join(f'    printf("constant {name} %lld\\n", (long long){name});\n' for name in header.constants)
    for name, fields in header.structs.items():
        body += f'    printf("struct {name} %zu\\n", sizeof({name}));\n'
        for field in fields:
            body += (
                f'    printf("field {name}.{field.name} %zu %zu {field.type}\\n", offsetof({name}, {field.name}), '
                f"sizeof((({name} *)0)->{field.name}));\n"
            )
    lines = run_c(path, body)
    lines += "".join(f"callback {signature(callback)}\n" for callback in header.callbacks)
    return lines + "".join(f"function {signature(function)}\n" for function in header.functions)


def compare(old, new):
    """What a program compiled against 'old' would miss in 'new'.  Growth is allowed where the header promises to handle
    it: new functions, constants and structs, and fields appended to structs that begin with struct_size."""

    def read(path):
        with open(path, encoding="utf-8") as file:
            lines = [line.split(" ", 2) for line in file.read().splitlines()]
        return {(kind, name): rest for kind, name, rest in lines}

    before, after = read(old), read(new)
    problems = []
    for (kind, name), rest in before.items():
        now = after.get((kind, name))
        sized = kind == "struct" and before.get(("field", f"{name}.struct_size")) == "0 4 uint32_t"
        if now is None:
            problems.append(f"{kind} {name} is gone")
        elif now != rest and not (sized and int(now) > int(rest)):
            problems.append(f"{kind} {name} was '{rest}' and is '{now}'")
    for kind, name in after:
        struct, _, _ = name.partition(".")
        if kind == "field" and (kind, name) not in before and ("struct", struct) in before:
            offset, size = int(after[kind, name].split()[0]), int(before["struct", struct])
            if offset < size:
                problems.append(f"field {name} lies at byte {offset} of a struct that had {size}")
    return problems


# ---- Python

CTYPES = {
    "void": "None",
    "char": "c_char",
    "float": "c_float",
    "double": "c_double",
    "awq_status": "c_int32",
    "size_t": "c_size_t",
    **{f"{sign}int{bits}_t": f"c_{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}


def ctypes_type(text, extent=""):
    words = text.replace("*", " * ").replace("const", " ").split()
    python, stars = CTYPES.get(words[0], words[0]), words.count("*")
    if stars and words[0] in ("void", "char"):
        python, stars = {"void": "c_void_p", "char": "c_char_p"}[words[0]], stars - 1
    for _ in range(stars):
        python = f"POINTER({python})"
    return f"{python} * {extent}" if extent else python


def ctypes_module(header, path):
    def wrap(line):
        return textwrap.fill(line, 120, subsequent_indent=" " * 8, break_long_words=False)

    values = dict(line.split()[1:] for line in facts(header, path).splitlines() if line.startswith("constant"))
    out = [
        '"""Declarations of awq.h for ctypes: its constants, structs, callbacks and functions under their own names.',
        "",
        'Generated from the header by "make bindings".  Do not edit.',
        '"""',
        "",
        "from ctypes import (CFUNCTYPE, POINTER, Structure, c_char, c_char_p, c_double, c_float, c_int32, c_int64,",
        "                    c_size_t, c_uint32, c_uint64, c_void_p)",
        "",
    ]
    out += [f"{name} = {values[name]}" for name in header.constants]
    for name in [*header.opaque, *header.structs]:
        out += ["", "", f"class {name}(Structure):", "    pass"]
    out += ["", ""]
    for callback in header.callbacks:
        arguments = ", ".join([ctypes_type(callback.result), *map(ctypes_type, (p.type for p in callback.parameters))])
        out.append(wrap(f"{callback.name} = CFUNCTYPE({arguments})"))
    for name, fields in header.structs.items():
        out += (
            ["", f"{name}._fields_ = ["]
            + [f'    ("{f.name}", {ctypes_type(f.type, f.extent)}),' for f in fields]
            + ["]"]
        )
    out += ["", "# name: (result, arguments)", "FUNCTIONS = {"]
    for function in header.functions:
        arguments = ", ".join(ctypes_type(p.type) for p in function.parameters)
        out.append(wrap(f'    "{function.name}": ({ctypes_type(function.result)}, [{arguments}]),'))
    return "\n".join(out + ["}", ""])


# ---- Rust and C


def rust_program(header, path):
    out = ["#![allow(non_camel_case_types, dead_code)]", "mod bindings;", "use bindings::*;", "fn main() {"]
    for line in facts(header, path).splitlines():
        kind, name, *rest = line.split()
        if kind == "constant":
            out.append(f'    assert_eq!({name} as i64, {rest[0]}, "{name}");')
        elif kind == "struct":
            out.append(f'    assert_eq!(std::mem::size_of::<{name}>(), {rest[0]}, "{name}");')
        elif kind == "field":
            struct, field = name.split(".")
            out.append(f'    assert_eq!(std::mem::offset_of!({struct}, {field}), {rest[0]}, "{name}");')
    return "\n".join(out + ["}", ""])


def c_stubs(header, path):
    out = [f'#include "{os.path.abspath(path)}"']
    for function in header.functions:
        parameters = ", ".join(f"{p.type} {p.name}" for p in function.parameters) or "void"
        body = "".join(f" (void){p.name};" for p in function.parameters)
        body += "" if function.result == "void" else f" return ({function.result})0;"
        out.append(f"{function.result} {function.name}({parameters}) {{{body} }}")
    return "\n".join(out + [""])


def main():
    command, path = sys.argv[1:3]
    if command == "compare":
        problems = compare(path, sys.argv[3])
        print("".join(problem + "\n" for problem in problems), end="")
        return 1 if problems else 0
    render = {"facts": facts, "ctypes": ctypes_module, "rust": rust_program, "stubs": c_stubs}[command]
    print(render(parse(path), path), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
