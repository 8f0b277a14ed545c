"""The Python package: values against NumPy, the library's errors, and memory that outlives what it came from."""

import gc
import os
import pickle
import sys
import tempfile
import threading
import unittest
from ctypes import ArgumentError
from pathlib import Path

import awq
import numpy as np

try:
    import torch
except ImportError:
    torch = None

NUMPY_EXPORTS_READONLY = np.lib.NumpyVersion(np.__version__) >= "2.1.0"
SEED = int(os.environ.get("AWQ_TEST_SEED", "1"))


class TestCase(unittest.TestCase):
    def setUp(self):
        self.ctx = awq.Context(threads=2)
        self.random = np.random.default_rng(SEED)

    def normal(self, *shape):
        return self.random.standard_normal(shape, dtype=np.float32)

    def directory(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        return Path(directory.name)


class Errors(TestCase):
    def test_text_and_status(self):
        with self.assertRaises(awq.InvalidError) as caught:
            self.ctx.calibration(channels=8).observe(self.normal(4, 7))
        self.assertEqual(caught.exception.status, awq.Status.INVALID)
        self.assertIn("7", str(caught.exception))
        self.assertIsInstance(caught.exception, ValueError)

    def test_survive_pickling(self):
        error = pickle.loads(pickle.dumps(awq.NotFoundError(awq.Status.NOT_FOUND, "no tensor 'x'")))
        self.assertEqual((type(error), error.status, str(error)), (awq.NotFoundError, -8, "no tensor 'x'"))

    def test_numbers_of_a_newer_library(self):
        self.assertEqual(awq.Error(-99, "").status, -99)

    def test_devices(self):
        for device in ("tpu", "cuda:x", "", "cpu:-1"):
            with self.assertRaises(ValueError):
                awq.Context(device)

    def test_choices_by_name(self):
        with self.assertRaisesRegex(ValueError, "gemmy.*gemv_fast"):
            self.ctx.pack(self.ctx.quantize(self.normal(8, 128)), "gemmy")

    def test_closed_and_wrong_handles_do_not_reach_the_library(self):
        weight = self.ctx.quantize(self.normal(8, 128))
        weight.close()
        weight.close()
        with self.assertRaisesRegex(ArgumentError, "Weight is closed"):
            weight.dequantize()
        with self.assertRaises(ArgumentError):
            self.ctx.pack(self.ctx, "gemm")

    def test_memory_limit(self):
        with self.assertRaises(MemoryError) as caught:
            awq.Context(memory_limit_bytes=10000).calibration(channels=100000)
        self.assertEqual(caught.exception.status, awq.Status.MEMORY_LIMIT)


class Tensors(TestCase):
    def test_numpy_is_not_copied(self):
        array = self.normal(3, 4)
        tensor = awq.view(array)
        self.assertEqual((tensor.dtype, tensor.shape, tensor.readonly), (awq.Dtype.F32, (3, 4), False))
        tensor.numpy()[1, 2] = 7
        self.assertEqual(array[1, 2], 7)

    def test_any_strides(self):
        array = self.normal(6, 8)
        for part in (array.T, array[::-1, ::2], np.broadcast_to(array[0], (3, 8)), array[:0], array[2, 3]):
            np.testing.assert_array_equal(awq.view(part).numpy(), part)

    def test_misaligned_input_is_copied(self):
        records = np.zeros(5, np.dtype([("flag", "u1"), ("value", "f4")]))
        records["value"] = np.arange(5)
        np.testing.assert_array_equal(awq.view(records["value"]).numpy(), np.arange(5))
        with self.assertRaises(ValueError):
            awq.view(records["value"], writable=True)

    def test_what_has_no_equivalent(self):
        for array in (np.zeros(2, "c8"), np.zeros(2, ">f4"), np.zeros(2, "U4")):
            with self.assertRaises(TypeError):
                awq.view(array)
        with self.assertRaises(ValueError):
            awq.view(np.zeros((1,) * 9))

    def test_read_only_output_is_refused(self):
        out = np.zeros((8, 128), np.float32)
        out.flags.writeable = False
        with self.assertRaises(ValueError):
            self.ctx.quantize(self.normal(8, 128)).dequantize(out)

    def test_bfloat16(self):
        values = self.normal(4, 64)
        rounded = self.ctx.convert(values, "bf16")
        back = self.ctx.convert(awq.view(rounded, "bf16"))
        np.testing.assert_allclose(back, values, rtol=2**-8)
        np.testing.assert_array_equal(back.view(np.uint32) & 0xFFFF, 0)

    def test_dlpack_in(self):
        class Producer:  # an array library of which nothing but the protocol is known
            def __init__(self, array, versions):
                self.array, self.versions, self.alive = array, versions, True

            def __dlpack__(self, **request):
                if not self.versions and request:
                    raise TypeError("unexpected keyword argument")
                return self.array.__dlpack__(**request)

        for versions in (False, True) if NUMPY_EXPORTS_READONLY else (False,):
            tensor = awq.view(Producer(np.arange(12, dtype=np.float16).reshape(3, 4)[:, 1:], versions))
            gc.collect()
            np.testing.assert_array_equal(tensor.numpy(), [[1, 2, 3], [5, 6, 7], [9, 10, 11]])

    @unittest.skipUnless(NUMPY_EXPORTS_READONLY, "needs NumPy 2.1")
    def test_dlpack_out(self):
        array = np.from_dlpack(awq.view(self.normal(3, 4)))
        self.assertEqual(array.shape, (3, 4))
        packed = self.ctx.pack(self.ctx.quantize(self.normal(8, 128)))
        expected = packed["qweight"].numpy().copy()
        consumed, ignored = np.from_dlpack(packed["qweight"]), packed["qweight"].__dlpack__(max_version=(1, 0))
        packed.close()
        del packed, ignored
        gc.collect()
        np.testing.assert_array_equal(consumed, expected)
        self.assertFalse(consumed.flags.writeable)


class Calibrations(TestCase):
    def test_statistics(self):
        x = self.normal(50, 16)
        calibration = self.ctx.calibration(16)
        for part in (x[:20], x[20:].reshape(5, 6, 16)):
            calibration.observe(part)
        self.assertEqual((calibration.channels, calibration.rows), (16, 50))
        np.testing.assert_allclose(calibration.statistic(), np.abs(x).mean(0), rtol=1e-6)
        np.testing.assert_allclose(calibration.statistic("mean_square"), np.square(x, dtype=float).mean(0), rtol=1e-6)
        np.testing.assert_array_equal(calibration.statistic(awq.Statistic.MAX_ABS), np.abs(x).max(0))
        kept = {row.tobytes() for row in calibration.samples()}
        self.assertEqual(kept, {row.tobytes() for row in x})

    def test_weighted_rows(self):
        x, weights = self.normal(6, 4), np.array([1, 0, 2, 0, 0, 1], np.float32)
        calibration = self.ctx.calibration(4)
        calibration.observe(x, weights)
        self.assertEqual((calibration.rows, calibration.info.weight), (3, 4))
        np.testing.assert_allclose(calibration.statistic(), np.average(np.abs(x), axis=0, weights=weights), rtol=1e-6)

    def test_merge(self):
        x = self.normal(20, 4)
        whole, first, second = (self.ctx.calibration(4) for _ in range(3))
        whole.observe(x)
        first.observe(x[:7])
        second.observe(x[7:])
        first.merge(second)
        np.testing.assert_allclose(first.statistic(), whole.statistic(), rtol=1e-12)

    def test_archive(self):
        path = self.directory() / "statistics"
        calibration = self.ctx.calibration(4)
        calibration.observe(self.normal(5, 4))
        with self.ctx.archive_writer(path, "made by a test") as writer:
            writer.add("b", calibration)
            writer.add("a", calibration)
        with self.ctx.archive(path) as archive:
            self.assertEqual((list(archive), len(archive), archive.provenance), (["a", "b"], 2, "made by a test"))
            self.assertNotIn("c", archive)
            loaded = archive["b"]
        np.testing.assert_array_equal(loaded.statistic(), calibration.statistic())

    def test_archive_appears_only_whole(self):
        path = self.directory() / "statistics"
        with self.assertRaises(ZeroDivisionError), self.ctx.archive_writer(path) as writer:
            calibration = self.ctx.calibration(4)
            calibration.observe(self.normal(5, 4))
            writer.add("a", calibration)
            raise ZeroDivisionError
        self.assertEqual(list(path.parent.iterdir()), [])


class Searches(TestCase):
    def setUp(self):
        super().setUp()
        self.x, self.w = self.normal(200, 128), self.normal(32, 128)
        self.x[:, 7] *= 40
        self.calibration = self.ctx.calibration(128)
        self.calibration.observe(self.x)

    def test_result(self):
        quantizer = awq.Quantizer(group_size=64)
        search = self.ctx.search(self.calibration, [self.w], grid_points=10, quantizer=quantizer, sketch_rows=160)
        self.assertEqual(min(candidate.loss for candidate in search.history), search.loss)
        self.assertLess(search.loss, search.loss_identity)
        self.assertEqual(search.scales.shape, (128,))
        self.assertEqual(search.scales.argmax(), 7)
        weight = self.ctx.quantize(self.w, search)
        self.assertEqual(weight.group_size, 64)
        np.testing.assert_array_equal(weight.input_scale, search.scales)

    def test_loss_and_progress(self):
        calls, shapes = [], []

        def loss(candidates):
            shapes.append([candidate.shape for candidate in candidates])
            return float(len(shapes))

        weights = [self.w, self.w[:16]]
        search = self.ctx.search(self.calibration, weights, grid_points=4, loss=loss,
                                 progress=lambda done, total: calls.append((done, total)))
        self.assertEqual(search.loss, 1)
        self.assertTrue(all(shape == [(32, 128), (16, 128)] for shape in shapes))
        self.assertEqual(calls[-1][0], calls[-1][1])

    def test_exceptions_pass_through(self):
        for callback in ("loss", "progress"):
            with self.assertRaises(ZeroDivisionError):
                self.ctx.search(self.calibration, [self.w], **{callback: lambda *_: 1 / 0})

    def test_cancel(self):
        with self.assertRaises(awq.Error) as caught:
            self.ctx.search(self.calibration, [self.w], progress=lambda done, total: done == 2)
        self.assertEqual(caught.exception.status, awq.Status.CANCELLED)

    def test_clip_and_fold(self):
        quantizer = awq.Quantizer(bits=3, group_size=32, folded=True)
        search = self.ctx.search(self.calibration, [self.w], quantizer=quantizer)
        clipping = self.ctx.clip_search(self.w, self.calibration, search)
        self.assertEqual(clipping.limits.shape, (32, 4))
        self.assertLessEqual(clipping.loss, clipping.loss_unclipped)
        weight = self.ctx.quantize(self.w, search, quantizer, clip=clipping.limits)
        self.assertIsNone(weight.input_scale)
        norm = np.ones(128, np.float32)
        self.ctx.fold_norm(search.scales, norm)
        np.testing.assert_allclose(norm, 1 / search.scales, rtol=1e-7)
        exact = self.x @ self.w.T
        error = np.linalg.norm(self.ctx.linear(weight)(self.x * norm) - exact) / np.linalg.norm(exact)
        self.assertLess(error, 0.3)


    def test_rounding(self):
        self.calibration = self.ctx.calibration(128, gram=True)
        x = self.x[:, :64] @ self.normal(64, 128)
        self.calibration.observe(x)
        losses = []
        for rounding in awq.Rounding:
            quantizer = awq.Quantizer(bits=3, group_size=64, range="search", rounding=rounding)
            weight = self.ctx.quantize(self.w, quantizer=quantizer, calibration=self.calibration)
            losses.append(np.linalg.norm(x @ (weight.dequantize() - self.w).T))
        self.assertLess(losses[1], 0.8 * losses[0])
        self.assertLess(losses[2], losses[1])
        with self.assertRaises(awq.Error) as caught:
            self.ctx.quantize(self.w, quantizer=quantizer)
        self.assertEqual(caught.exception.status, awq.Status.STATE)


class Weights(TestCase):
    def test_parts(self):
        w = self.normal(24, 160)
        weight = self.ctx.quantize(w, quantizer=awq.Quantizer(group_size=64, scale_dtype="f32"))
        self.assertEqual((weight.shape, weight.bits, weight.group_size, weight.symmetric), ((24, 160), 4, 64, False))
        scales, zeros = (np.repeat(part, 64, axis=1)[:, :160] for part in (weight.scales, weight.zeros))
        expected = (weight.codes.astype(np.float32) - zeros) * scales
        np.testing.assert_array_equal(weight.dequantize(), expected)
        self.assertLess(np.abs(expected - w).max(), scales.max() * 0.51)
        remade = self.ctx.weight(weight.codes, weight.scales, weight.zeros, group_size=64)
        np.testing.assert_array_equal(remade.dequantize(), expected)
        half = remade.dequantize(np.empty((24, 160), np.float16))
        np.testing.assert_array_equal(half, expected.astype(np.float16))

    def test_slice_and_concatenate(self):
        weight = self.ctx.quantize(self.normal(16, 256))
        parts = [weight.slice_rows(0, 5), weight.slice_rows(5, 16)]
        np.testing.assert_array_equal(self.ctx.concatenate(parts).codes, weight.codes)
        np.testing.assert_array_equal(weight.slice_columns(128, 256).codes, weight.codes[:, 128:])
        with self.assertRaisesRegex(awq.InvalidError, "128"):
            weight.slice_columns(100, 256)

    def test_pack_and_unpack(self):
        for layout, symmetric in (("gemm", False), ("compressed-tensors", False), ("compressed-tensors", True)):
            weight = self.ctx.quantize(self.normal(16, 256), quantizer=awq.Quantizer(symmetric=symmetric))
            packed = self.ctx.pack(weight, layout)
            again = self.ctx.unpack(layout, dict(packed), group_size=128, symmetric=symmetric)
            np.testing.assert_array_equal(again.codes, weight.codes)
            np.testing.assert_array_equal(again.scales, weight.scales)

    def test_bias(self):
        bias = self.normal(128)
        packed = self.ctx.pack_bias("marlin", bias)
        self.assertFalse(np.array_equal(packed, bias))
        np.testing.assert_array_equal(self.ctx.unpack_bias("marlin", packed), bias)

    def test_planes_are_mappings_whose_arrays_outlive_them(self):
        packed = self.ctx.pack(self.ctx.quantize(self.normal(16, 256)))
        self.assertEqual(sorted(packed), ["qweight", "qzeros", "scales"])
        with self.assertRaises(KeyError):
            packed["g_idx"]
        array = packed["qweight"].numpy()
        before = array.copy()
        packed.close()
        self.ctx.close()
        del packed
        gc.collect()
        np.testing.assert_array_equal(array, before)


class Linears(TestCase):
    def setUp(self):
        super().setUp()
        self.weight = self.ctx.quantize(self.normal(40, 192))
        self.bias, self.x = self.normal(40), self.normal(2, 3, 192)
        self.linear = self.ctx.linear(self.weight, bias=self.bias)
        self.expected = self.x @ self.weight.dequantize().T + self.bias

    def test_types(self):
        for dtype, tolerance in ((np.float32, 1e-4), (np.float16, 3e-2)):
            y = self.linear(self.x.astype(dtype))
            self.assertEqual((y.dtype, y.shape), (np.dtype(dtype), (2, 3, 40)))
            np.testing.assert_allclose(y, self.expected, atol=tolerance * 40)

    def test_bfloat16(self):
        y = self.linear(awq.view(self.ctx.convert(self.x, "bf16"), "bf16"))
        np.testing.assert_allclose(self.ctx.convert(awq.view(y, "bf16")), self.expected, atol=1)

    def test_epilogue_and_output(self):
        out = residual = self.normal(2, 3, 40)
        expected = self.expected + residual
        self.assertIs(self.linear(self.x, out=out, residual=residual), out)
        np.testing.assert_allclose(out, expected, atol=1e-3)

    def test_norm(self):
        norm = self.normal(192)
        x = self.x / np.sqrt(np.square(self.x).mean(-1, keepdims=True) + 1e-5) * norm
        y = self.linear(self.x, norm_weight=norm, norm_epsilon=1e-5)
        np.testing.assert_allclose(y, self.linear(x), atol=1e-2)

    def test_dense(self):
        w = self.normal(40, 192)
        np.testing.assert_allclose(self.ctx.linear(w)(self.x), self.x @ w.T, atol=1e-3)

    def test_threads_share_a_linear(self):
        expected, failures = self.linear(self.x), []

        def work():
            for _ in range(20):
                if not np.array_equal(self.linear(self.x), expected):
                    failures.append(1)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(failures, [])

    def test_describe(self):
        self.assertIn("reference", self.linear.describe(rows=1))

    def test_shapes_are_checked(self):
        with self.assertRaises(awq.InvalidError):
            self.linear(self.normal(3, 191))
        with self.assertRaises(awq.InvalidError):
            self.linear(self.x, out=self.normal(2, 3, 39))


class Checkpoints(TestCase):
    def test_round_trip(self):
        path = self.directory() / "model"
        tensors = {
            "a": self.normal(3, 4),
            "b": np.arange(5, dtype=np.int64),
            "c": self.normal(4, 6).astype(np.float16)[:, ::2],
        }
        with self.ctx.checkpoint_writer(path) as writer:
            for name, tensor in tensors.items():
                writer.add(name, tensor)
            writer.add("d", np.array([0x3F80], np.uint16), dtype="bf16")
            writer.add_file("config.json", "{}")
        self.assertEqual((path / "config.json").read_text(), "{}")
        with self.ctx.checkpoint(path) as checkpoint:
            self.assertEqual(list(checkpoint), ["a", "b", "c", "d"])
            for name, tensor in tensors.items():
                np.testing.assert_array_equal(checkpoint[name].numpy(), tensor)
            self.assertEqual(self.ctx.convert(checkpoint["d"]).tolist(), [1])
            self.assertTrue(checkpoint["a"].readonly)
            checkpoint.release("a")
            np.testing.assert_array_equal(checkpoint["a"].numpy(), tensors["a"])
            self.assertNotIn("e", checkpoint)
            with self.assertRaisesRegex(KeyError, "e"):
                checkpoint["e"]
            view = checkpoint["a"].numpy()
        gc.collect()
        np.testing.assert_array_equal(view, tensors["a"])  # still mapped

    def test_failures_leave_nothing(self):
        path = self.directory() / "model"
        with self.assertRaises(ZeroDivisionError), self.ctx.checkpoint_writer(path) as writer:
            writer.add("a", self.normal(3, 4))
            raise ZeroDivisionError
        self.assertEqual(list(path.parent.iterdir()), [])

    def test_missing(self):
        with self.assertRaises(awq.Error) as caught:
            self.ctx.checkpoint(self.directory() / "nothing")
        self.assertIn("nothing", str(caught.exception))


class Contexts(TestCase):
    def test_facts(self):
        self.assertGreater(len(self.ctx.device.name), 0)
        self.assertEqual(self.ctx.device.compute_units, 2)
        current, peak = self.ctx.memory
        self.assertLessEqual(current, peak)
        self.assertRegex(awq.version(), r"^\d+\.\d+\.\d+$")

    def test_log(self):
        lines = []
        ctx = awq.Context(log=lambda level, text: lines.append((level, text)), log_level="debug")
        ctx._keep(None, 2, b"a line", 6)  # the library has little to say, so this calls what it would call
        self.assertEqual(lines, [(awq.LogLevel.WARNING, "a line")])

    def test_every_constant_has_a_name(self):
        # Those that the package uses as numbers, and the enums of the others; dtypes have no prefix of their own.
        plain = "DEVICE CPU MAX TENSOR LOG CALIBRATION GROUP QUANTIZE SALIENT DEQUANTIZE SLICE SEARCH FOLD LINEAR"
        plain = plain.split() + ["WRITER", "MODEL"]
        enums = {"OK": awq.Status, "ERROR": awq.Status, "NORMALIZE": awq.Normalization, "ROUND": awq.Rounding}
        for kind in (awq.Layout, awq.Profile, awq.Range, awq.Scales, awq.Objective, awq.Statistic, awq.Activation, awq.Kernel):
            enums[kind.__name__.upper()] = kind
        numbers = {kind: {int(member) for member in kind} for kind in (*enums.values(), awq.Dtype)}
        for name, value in vars(awq._library.declarations).items():
            kind = name.split("_")[1] if name.startswith("AWQ_") else None
            if kind and kind not in plain:
                self.assertIn(value, numbers[enums.get(kind, awq.Dtype)], name)

    def test_closing_gives_memory_back(self):
        before = self.ctx.memory[0]
        with self.ctx.quantize(self.normal(64, 256)):
            self.assertGreater(self.ctx.memory[0], before)
        self.assertEqual(self.ctx.memory[0], before)

    def test_memory_estimate(self):
        shape = dict(layers=2, hidden=64, intermediate=128, heads=4, kv_heads=2, head_dim=16, vocabulary=100)
        estimate = awq.estimate_memory(**shape, context_tokens=10)
        self.assertGreater(estimate.inference_bytes, estimate.codes_bytes)
        with self.assertRaises(TypeError):
            awq.estimate_memory(**shape, layer=3)

    def test_tuning(self):
        path = self.directory() / "tuning"
        weight = self.ctx.quantize(self.normal(16, 128))
        self.ctx.measure_tuning([weight], max_rows=1).save(path)
        linear = self.ctx.linear(weight, tuning=self.ctx.load_tuning(path))
        self.assertEqual(linear(self.normal(1, 128)).shape, (1, 16))


@unittest.skipIf(torch is None, "PyTorch is not installed")
class Torch(TestCase):
    def test_views(self):
        tensor = torch.arange(6, dtype=torch.bfloat16).reshape(2, 3)
        self.assertEqual(awq.view(tensor).dtype, awq.Dtype.BF16)
        np.testing.assert_array_equal(self.ctx.convert(tensor.T), np.arange(6).reshape(2, 3).T)

    def test_linear_is_a_drop_in(self):
        from awq.torch import AwqLinear

        linear = torch.nn.Linear(256, 64)
        module = AwqLinear.from_linear(self.ctx, linear)
        x = torch.randn(2, 5, 256, generator=torch.Generator().manual_seed(SEED))
        weight = torch.from_numpy(self.ctx.quantize(linear.weight).dequantize())
        expected = torch.nn.functional.linear(x, weight, linear.bias).detach()
        for dtype, tolerance in ((torch.float32, 1e-4), (torch.bfloat16, 2e-1)):
            y = module(x.to(dtype))
            self.assertEqual((y.dtype, y.shape), (dtype, (2, 5, 64)))
            self.assertLess((y.float() - expected).abs().max().item(), tolerance)

    def test_state_goes_through_a_checkpoint(self):
        from awq.torch import AwqLinear, replace_linears

        model = torch.nn.Sequential(torch.nn.Linear(256, 64), torch.nn.ReLU(), torch.nn.Linear(64, 8))
        path, x = self.directory() / "model", torch.ones(1, 256)
        with self.ctx.checkpoint_writer(path) as writer:
            for plane, view in self.ctx.pack(self.ctx.quantize(model[0].weight)).items():
                writer.add(f"0.{plane}", view)
        expected = model[2](torch.relu(AwqLinear.from_linear(self.ctx, model[0])(x)))
        self.assertEqual(replace_linears(model, self.ctx, self.ctx.checkpoint(path)), ["0"])
        self.assertTrue(torch.equal(model(x), expected))
        other = AwqLinear.from_linear(self.ctx, torch.nn.Linear(256, 64))
        other(x)
        other.load_state_dict(model[0].state_dict())
        self.assertTrue(torch.equal(other(x), model[0](x)))


if __name__ == "__main__":
    result = unittest.main(exit=False).result
    failed, skipped = len(result.failures) + len(result.errors), len(result.skipped)
    print(f"{result.testsRun - failed - skipped} passed, {failed} failed, {skipped} skipped")
    sys.exit(failed > 0)
