#!/usr/bin/env python3
"""A contestant of awq bench: ONNX Runtime's MatMulNBits, through a model of one node.

    peer_onnxruntime.py [ACCURACY_LEVEL]      1: FP32 activations; 4: int8 (the default)

Needs onnxruntime, onnx and numpy.  Inputs and outputs are bound, so that Python copies nothing, and the threads stop
spinning when a run returns.  What is computed is checked once.  examples/awq/bench_peer.c describes the protocol.
"""

import sys
import time

import numpy
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

CHECKED = 64
MOST_COPIES = 64


class Shape:
    def __init__(self, n, k, group, threads, level, copies_bytes):
        if group < 16 or group > 256 or group & (group - 1) or k % group:
            raise ValueError("blocks of 16, 32, .. 256 that divide K are needed")
        random = numpy.random.default_rng(1)
        blocks = k // group
        self.k, self.next = k, 0
        codes = random.integers(0, 256, (n, blocks, group // 2), dtype=numpy.uint8)
        scales = random.uniform(0.5, 1.5, (n, blocks)).astype(numpy.float32)
        zeros = random.integers(0, 256, (n, (blocks + 1) // 2), dtype=numpy.uint8)
        self.weight_bytes = codes.nbytes + scales.nbytes + zeros.nbytes
        low_high = numpy.stack([codes[:CHECKED] & 15, codes[:CHECKED] >> 4], -1).reshape(-1, blocks, group)
        z = numpy.stack([zeros[:CHECKED] & 15, zeros[:CHECKED] >> 4], -1).reshape(-1, 2 * zeros.shape[1])[:, :blocks]
        rows = (low_high.astype(numpy.float64) - z[:, :, None]) * scales[:CHECKED, :, None]
        self.checked = rows.reshape(-1, k)
        model = self.model(n, k, group, level, codes, scales, zeros).SerializeToString()
        copies = min(max(copies_bytes // self.weight_bytes + 1, 2), MOST_COPIES)
        self.sessions = [self.session(model, threads) for _ in range(copies)]

    @staticmethod
    def model(n, k, group, level, codes, scales, zeros):
        initializers = [numpy_helper.from_array(codes, "B"), numpy_helper.from_array(scales.reshape(-1), "scales"),
                        numpy_helper.from_array(zeros.reshape(-1), "zeros")]
        node = helper.make_node("MatMulNBits", ["x", "B", "scales", "zeros"], ["y"], domain="com.microsoft", K=k, N=n,
                                bits=4, block_size=group, accuracy_level=level)
        graph = helper.make_graph([node], "product",
                                  [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["m", k])],
                                  [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["m", n])], initializers)
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)

    @staticmethod
    def session(model, threads):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.force_spinning_stop", "1")
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def run(self, rows, runs):
        x = numpy.random.default_rng(rows).uniform(-1, 1, (rows, self.k)).astype(numpy.float32)
        bindings = []
        for session in self.sessions:
            binding = session.io_binding()
            binding.bind_ortvalue_input("x", onnxruntime.OrtValue.ortvalue_from_numpy(x))
            y = numpy.empty((rows, session.get_outputs()[0].shape[1]), numpy.float32)
            binding.bind_ortvalue_output("y", onnxruntime.OrtValue.ortvalue_from_numpy(y))
            bindings.append(binding)
        seconds = []
        for run in range(-1, runs):
            at = self.next % len(self.sessions)
            self.next += 1
            begin = time.perf_counter()
            self.sessions[at].run_with_iobinding(bindings[at])
            seconds.append(time.perf_counter() - begin)
            if run < 0:
                self.check(x, bindings[at].copy_outputs_to_cpu()[0])
        return seconds[1:]

    def check(self, x, y):
        exact = self.checked @ x[0].astype(numpy.float64)
        error = numpy.linalg.norm(y[0, :len(exact)] - exact) / numpy.linalg.norm(exact)
        if error > 0.05:
            raise ValueError(f"a wrong result: relative error {error:.3g}")


def answer(shape, words, level):
    if words[0] == "shape":
        n, k, bits, group, threads, copies_bytes = map(int, words[1:])
        if bits != 4:
            raise ValueError("only 4 bits are compared")
        shape = Shape(n, k, group, threads, level, copies_bytes)
        return shape, f"ok {shape.weight_bytes} {len(shape.sessions)}"
    if words[0] == "run" and shape:
        return shape, " ".join(f"{each:.9g}" for each in shape.run(*map(int, words[1:])))
    return shape, "no such request"


def main():
    level = int(sys.argv[1]) if len(sys.argv) > 1 else 4
    print(f"awq-peer 1 ort-{'fp32' if level == 1 else 'int8'}", flush=True)
    shape = None
    for line in sys.stdin:
        try:
            shape, text = answer(shape, line.split(), level)
        except ValueError as error:
            text = f"no {error}"
        print(text, flush=True)


if __name__ == "__main__":
    main()
