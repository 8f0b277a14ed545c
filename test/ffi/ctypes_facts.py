"""The constants and layouts that the Python package declares, in the form of "header.py facts"."""

import ctypes
import runpy

declarations = runpy.run_path("examples/python/awq/_declarations.py")
for name, value in declarations.items():
    if name.startswith("AWQ_"):
        print(f"constant {name} {value}")
    elif name.startswith("awq_") and hasattr(value, "_fields_"):
        print(f"struct {name} {ctypes.sizeof(value)}")
        for field, _ in value._fields_:
            print(f"field {name}.{field} {getattr(value, field).offset} {getattr(value, field).size}")
