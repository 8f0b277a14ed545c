"""Declarations of awq.h for ctypes: its constants, structs, callbacks and functions under their own names.

Generated from the header by "make bindings".  Do not edit.
"""

from ctypes import (CFUNCTYPE, POINTER, Structure, c_char, c_char_p, c_double, c_float, c_int32, c_int64,
                    c_size_t, c_uint32, c_uint64, c_void_p)

AWQ_OK = 0
AWQ_ERROR_INVALID = -1
AWQ_ERROR_UNSUPPORTED = -2
AWQ_ERROR_OUT_OF_MEMORY = -3
AWQ_ERROR_MEMORY_LIMIT = -4
AWQ_ERROR_IO = -5
AWQ_ERROR_FORMAT = -6
AWQ_ERROR_NON_FINITE = -7
AWQ_ERROR_NOT_FOUND = -8
AWQ_ERROR_CANCELLED = -9
AWQ_ERROR_STATE = -10
AWQ_ERROR_NO_DEVICE = -11
AWQ_ERROR_DEVICE = -12
AWQ_ERROR_VERSION = -13
AWQ_F32 = 1
AWQ_F16 = 2
AWQ_BF16 = 3
AWQ_U8 = 4
AWQ_I8 = 5
AWQ_U16 = 6
AWQ_I16 = 7
AWQ_U32 = 8
AWQ_I32 = 9
AWQ_U64 = 10
AWQ_I64 = 11
AWQ_F64 = 12
AWQ_BOOL = 13
AWQ_F8_E4M3 = 14
AWQ_F8_E5M2 = 15
AWQ_DEVICE_CPU = 0
AWQ_DEVICE_CUDA = 1
AWQ_MAX_DIMS = 8
AWQ_TENSOR_READONLY = 1
AWQ_LOG_ERROR = 1
AWQ_LOG_WARNING = 2
AWQ_LOG_INFO = 3
AWQ_LOG_DEBUG = 4
AWQ_CPU_AVX2 = 1
AWQ_CPU_AVX512 = 2
AWQ_CPU_AVX512_VNNI = 4
AWQ_CPU_AVX512_BF16 = 8
AWQ_CPU_NEON = 16
AWQ_CPU_NEON_DOTPROD = 32
AWQ_CPU_NEON_I8MM = 64
AWQ_CPU_NEON_BF16 = 128
AWQ_CALIBRATION_GRAM = 1
AWQ_STATISTIC_MEAN_ABS = 0
AWQ_STATISTIC_MEAN_SQUARE = 1
AWQ_STATISTIC_MAX_ABS = 2
AWQ_GROUP_PER_ROW = -1
AWQ_PROFILE_EXACT = 0
AWQ_PROFILE_AUTOAWQ = 1
AWQ_PROFILE_LLM_AWQ = 2
AWQ_QUANTIZE_SYMMETRIC = 1
AWQ_QUANTIZE_INPUT_SCALE_FOLDED = 2
AWQ_SALIENT_BY_ACTIVATION = 0
AWQ_SALIENT_BY_WEIGHT = 1
AWQ_SALIENT_AT_RANDOM = 2
AWQ_RANGE_MINMAX = 0
AWQ_RANGE_SEARCH = 1
AWQ_ROUND_NEAREST = 0
AWQ_ROUND_FEEDBACK = 1
AWQ_ROUND_DESCENT = 2
AWQ_DEQUANTIZE_UNSCALED = 1
AWQ_SLICE_ROWS = 0
AWQ_SLICE_COLUMNS = 1
AWQ_SCALES_PLAIN = 0
AWQ_SCALES_DUO = 1
AWQ_SCALES_BOTH = 2
AWQ_NORMALIZE_GEOMETRIC = 0
AWQ_NORMALIZE_MEAN = 1
AWQ_OBJECTIVE_SAMPLES = 0
AWQ_OBJECTIVE_GRAM = 1
AWQ_SEARCH_CLOSED_GRID = 1
AWQ_FOLD_ONE_PLUS_WEIGHT = 1
AWQ_LAYOUT_GEMM = 1
AWQ_LAYOUT_COMPRESSED_TENSORS = 2
AWQ_LAYOUT_COMPRESSED_TENSORS_2025 = 3
AWQ_LAYOUT_GEMV = 4
AWQ_LAYOUT_GEMV_FAST = 5
AWQ_LAYOUT_MARLIN = 6
AWQ_LAYOUT_GPTQ_V1 = 7
AWQ_LAYOUT_GPTQ_V2 = 8
AWQ_LAYOUT_CUDA_BLOCK = 9
AWQ_LAYOUT_CPU_STREAM = 10
AWQ_LAYOUT_LLM_AWQ = 11
AWQ_ACTIVATION_DEFAULT = 0
AWQ_ACTIVATION_EXACT = 1
AWQ_ACTIVATION_SPLIT = 2
AWQ_ACTIVATION_BF16 = 3
AWQ_ACTIVATION_INT8 = 4
AWQ_KERNEL_AUTO = 0
AWQ_KERNEL_REFERENCE = 1
AWQ_KERNEL_GEMV = 2
AWQ_KERNEL_GEMM = 3
AWQ_KERNEL_MARLIN = 4
AWQ_KERNEL_HOPPER = 5
AWQ_KERNEL_DEQUANT = 6
AWQ_LINEAR_SILU_MUL = 1
AWQ_WRITER_REPLACE = 1
AWQ_MODEL_TIED_HEAD = 1
AWQ_MODEL_GATED_MLP = 2


class awq_context(Structure):
    pass


class awq_calibration(Structure):
    pass


class awq_archive(Structure):
    pass


class awq_archive_writer(Structure):
    pass


class awq_search(Structure):
    pass


class awq_weight(Structure):
    pass


class awq_packed(Structure):
    pass


class awq_linear(Structure):
    pass


class awq_tuning(Structure):
    pass


class awq_checkpoint(Structure):
    pass


class awq_checkpoint_writer(Structure):
    pass


class awq_tensor(Structure):
    pass


class awq_context_options(Structure):
    pass


class awq_device_info(Structure):
    pass


class awq_calibration_options(Structure):
    pass


class awq_calibration_info(Structure):
    pass


class awq_quantize_options(Structure):
    pass


class awq_weight_info(Structure):
    pass


class awq_search_options(Structure):
    pass


class awq_search_result(Structure):
    pass


class awq_clip_options(Structure):
    pass


class awq_clip_result(Structure):
    pass


class awq_fold_options(Structure):
    pass


class awq_unpack_options(Structure):
    pass


class awq_linear_options(Structure):
    pass


class awq_linear_info(Structure):
    pass


class awq_run_options(Structure):
    pass


class awq_kernel_request(Structure):
    pass


class awq_checkpoint_writer_options(Structure):
    pass


class awq_memory_request(Structure):
    pass


class awq_memory_estimate_result(Structure):
    pass


awq_log_callback = CFUNCTYPE(None, c_void_p, c_int32, c_char_p, c_size_t)
awq_allocate_callback = CFUNCTYPE(c_void_p, c_void_p, c_size_t, c_size_t)
awq_release_callback = CFUNCTYPE(None, c_void_p, c_void_p, c_size_t)
awq_progress_callback = CFUNCTYPE(c_int32, c_void_p, c_uint64, c_uint64)
awq_work_callback = CFUNCTYPE(c_int32, c_void_p, c_void_p)
awq_task_callback = CFUNCTYPE(None, c_void_p, c_int64)
awq_loss_callback = CFUNCTYPE(c_int32, c_void_p, c_size_t, POINTER(POINTER(awq_tensor)), POINTER(c_double))

awq_tensor._fields_ = [
    ("data", c_void_p),
    ("byte_offset", c_uint64),
    ("shape", c_int64 * AWQ_MAX_DIMS),
    ("strides", c_int64 * AWQ_MAX_DIMS),
    ("dtype", c_int32),
    ("ndim", c_int32),
    ("device_type", c_int32),
    ("device_id", c_int32),
    ("flags", c_uint32),
    ("reserved", c_uint32),
    ("reserved_bytes", c_uint64 * 2),
]

awq_context_options._fields_ = [
    ("struct_size", c_uint32),
    ("device_type", c_int32),
    ("device_id", c_int32),
    ("threads", c_int32),
    ("memory_limit_bytes", c_uint64),
    ("log", awq_log_callback),
    ("log_data", c_void_p),
    ("allocate", awq_allocate_callback),
    ("release", awq_release_callback),
    ("allocator_data", c_void_p),
    ("log_level", c_int32),
    ("flags", c_uint32),
]

awq_device_info._fields_ = [
    ("struct_size", c_uint32),
    ("device_type", c_int32),
    ("device_id", c_int32),
    ("compute_capability", c_int32),
    ("compute_units", c_int32),
    ("cpu_features", c_uint32),
    ("memory_bytes", c_uint64),
    ("memory_bytes_per_second", c_uint64),
    ("last_level_cache_bytes", c_uint64),
    ("name", c_char * 128),
]

awq_calibration_options._fields_ = [
    ("struct_size", c_uint32),
    ("flags", c_uint32),
    ("sample_rows", c_int64),
    ("seed", c_uint64),
]

awq_calibration_info._fields_ = [
    ("struct_size", c_uint32),
    ("flags", c_uint32),
    ("channels", c_int64),
    ("rows", c_int64),
    ("weight", c_double),
    ("sample_rows", c_int64),
    ("sample_limit", c_int64),
    ("seed", c_uint64),
]

awq_quantize_options._fields_ = [
    ("struct_size", c_uint32),
    ("bits", c_int32),
    ("group_size", c_int64),
    ("flags", c_uint32),
    ("profile", c_int32),
    ("scale_dtype", c_int32),
    ("salient_rule", c_int32),
    ("salient_fraction", c_double),
    ("seed", c_uint64),
    ("input_scale", POINTER(awq_tensor)),
    ("clip", POINTER(awq_tensor)),
    ("importance", POINTER(awq_tensor)),
    ("salient_columns", POINTER(awq_tensor)),
    ("salient_values", POINTER(awq_tensor)),
    ("calibration", POINTER(awq_calibration)),
    ("range", c_int32),
    ("rounding", c_int32),
    ("damping", c_double),
]

awq_weight_info._fields_ = [
    ("struct_size", c_uint32),
    ("bits", c_int32),
    ("n", c_int64),
    ("k", c_int64),
    ("group_size", c_int64),
    ("groups", c_int64),
    ("flags", c_uint32),
    ("scale_dtype", c_int32),
    ("has_input_scale", c_int32),
    ("reserved", c_int32),
    ("salient_columns", c_int64),
    ("parts", c_int64),
    ("clamped_scales", c_uint64),
    ("zero_groups", c_uint64),
    ("size_bytes", c_uint64),
]

awq_search_options._fields_ = [
    ("struct_size", c_uint32),
    ("flags", c_uint32),
    ("grid_points", c_int32),
    ("scales", c_int32),
    ("normalization", c_int32),
    ("objective", c_int32),
    ("smooth_factor", c_double),
    ("quantize", POINTER(awq_quantize_options)),
    ("loss", awq_loss_callback),
    ("loss_data", c_void_p),
    ("progress", awq_progress_callback),
    ("progress_data", c_void_p),
    ("max_rows", c_int64),
    ("tie_copies", c_int64),
    ("tie_width", c_int64),
    ("sketch_rows", c_int64),
]

awq_search_result._fields_ = [
    ("struct_size", c_uint32),
    ("scales", c_int32),
    ("alpha", c_double),
    ("loss", c_double),
    ("loss_identity", c_double),
    ("candidates", c_int64),
    ("best", c_int64),
    ("rows", c_int64),
]

awq_clip_options._fields_ = [
    ("struct_size", c_uint32),
    ("grid_points", c_int32),
    ("max_shrink", c_double),
    ("max_rows", c_int64),
    ("quantize", POINTER(awq_quantize_options)),
    ("progress", awq_progress_callback),
    ("progress_data", c_void_p),
]

awq_clip_result._fields_ = [
    ("struct_size", c_uint32),
    ("reserved", c_int32),
    ("loss", c_double),
    ("loss_unclipped", c_double),
    ("groups", c_int64),
    ("clipped_groups", c_int64),
]

awq_fold_options._fields_ = [
    ("struct_size", c_uint32),
    ("flags", c_uint32),
    ("profile", c_int32),
    ("reserved", c_int32),
    ("tie_copies", c_int64),
    ("tie_width", c_int64),
]

awq_unpack_options._fields_ = [
    ("struct_size", c_uint32),
    ("bits", c_int32),
    ("group_size", c_int64),
    ("flags", c_uint32),
    ("reserved", c_int32),
]

awq_linear_options._fields_ = [
    ("struct_size", c_uint32),
    ("flags", c_uint32),
    ("activation", c_int32),
    ("kernel", c_int32),
    ("bias", POINTER(awq_tensor)),
    ("tuning", POINTER(awq_tuning)),
]

awq_linear_info._fields_ = [
    ("struct_size", c_uint32),
    ("bits", c_int32),
    ("inputs", c_int64),
    ("outputs", c_int64),
    ("size_bytes", c_uint64),
]

awq_run_options._fields_ = [
    ("struct_size", c_uint32),
    ("flags", c_uint32),
    ("stream", c_void_p),
    ("workspace", c_void_p),
    ("workspace_bytes", c_uint64),
    ("norm_weight", POINTER(awq_tensor)),
    ("norm_epsilon", c_double),
    ("residual", POINTER(awq_tensor)),
]

awq_kernel_request._fields_ = [
    ("struct_size", c_uint32),
    ("bits", c_int32),
    ("n", c_int64),
    ("k", c_int64),
    ("group_size", c_int64),
    ("rows", c_int64),
    ("flags", c_uint32),
    ("dtype", c_int32),
    ("activation", c_int32),
    ("reserved", c_int32),
]

awq_checkpoint_writer_options._fields_ = [
    ("struct_size", c_uint32),
    ("flags", c_uint32),
    ("shard_bytes", c_uint64),
    ("expected_tensors", c_int64),
]

awq_memory_request._fields_ = [
    ("struct_size", c_uint32),
    ("flags", c_uint32),
    ("layers", c_int64),
    ("hidden", c_int64),
    ("intermediate", c_int64),
    ("heads", c_int64),
    ("kv_heads", c_int64),
    ("head_dim", c_int64),
    ("vocabulary", c_int64),
    ("experts", c_int64),
    ("bits", c_int32),
    ("quantize_flags", c_uint32),
    ("group_size", c_int64),
    ("batch", c_int64),
    ("context_tokens", c_int64),
    ("kv_element_bytes", c_int64),
    ("calibration_tokens", c_int64),
]

awq_memory_estimate_result._fields_ = [
    ("struct_size", c_uint32),
    ("reserved", c_uint32),
    ("codes_bytes", c_uint64),
    ("scales_bytes", c_uint64),
    ("zeros_bytes", c_uint64),
    ("dense_bytes", c_uint64),
    ("kv_cache_bytes", c_uint64),
    ("activation_bytes", c_uint64),
    ("inference_bytes", c_uint64),
    ("quantize_bytes", c_uint64),
]

# name: (result, arguments)
FUNCTIONS = {
    "awq_version_number": (c_uint32, []),
    "awq_version_string": (c_char_p, []),
    "awq_status_name": (c_char_p, [c_int32]),
    "awq_last_error": (c_char_p, []),
    "awq_struct_init": (None, [c_void_p, c_size_t]),
    "awq_dtype_size": (c_size_t, [c_int32]),
    "awq_dtype_name": (c_char_p, [c_int32]),
    "awq_tensor_init_1d": (None, [POINTER(awq_tensor), c_void_p, c_int32, c_int64]),
    "awq_tensor_init_2d": (None, [POINTER(awq_tensor), c_void_p, c_int32, c_int64, c_int64]),
    "awq_tensor_init_const_1d": (None, [POINTER(awq_tensor), c_void_p, c_int32, c_int64]),
    "awq_tensor_init_const_2d": (None, [POINTER(awq_tensor), c_void_p, c_int32, c_int64, c_int64]),
    "awq_tensor_init": (c_int32, [POINTER(awq_tensor), c_void_p, c_int32, c_int32, POINTER(c_int64)]),
    "awq_tensor_init_const": (c_int32, [POINTER(awq_tensor), c_void_p, c_int32, c_int32, POINTER(c_int64)]),
    "awq_tensor_from_dlpack": (c_int32, [c_void_p, POINTER(awq_tensor)]),
    "awq_tensor_from_dlpack_versioned": (c_int32, [c_void_p, POINTER(awq_tensor)]),
    "awq_context_create": (c_int32, [POINTER(awq_context_options), POINTER(POINTER(awq_context))]),
    "awq_context_destroy": (None, [POINTER(awq_context)]),
    "awq_context_get_device": (c_int32, [POINTER(awq_context), POINTER(awq_device_info)]),
    "awq_context_get_memory": (c_int32, [POINTER(awq_context), POINTER(c_uint64), POINTER(c_uint64)]),
    "awq_context_allocate": (c_int32, [POINTER(awq_context), c_uint64, POINTER(c_void_p)]),
    "awq_context_free": (None, [POINTER(awq_context), c_void_p]),
    "awq_context_synchronize": (c_int32, [POINTER(awq_context), c_void_p]),
    "awq_context_time": (c_int32, [POINTER(awq_context), awq_work_callback, c_void_p, c_int64, POINTER(c_double)]),
    "awq_context_parallel_for": (c_int32, [POINTER(awq_context), c_int64, awq_task_callback, c_void_p]),
    "awq_tensor_copy": (c_int32, [POINTER(awq_context), POINTER(awq_tensor), POINTER(awq_tensor), c_void_p]),
    "awq_calibration_create": (c_int32, [POINTER(awq_context), c_int64, POINTER(awq_calibration_options),
        POINTER(POINTER(awq_calibration))]),
    "awq_calibration_destroy": (None, [POINTER(awq_calibration)]),
    "awq_calibration_observe": (c_int32, [POINTER(awq_calibration), POINTER(awq_tensor)]),
    "awq_calibration_observe_weighted": (c_int32, [POINTER(awq_calibration), POINTER(awq_tensor), POINTER(awq_tensor)]),
    "awq_calibration_merge": (c_int32, [POINTER(awq_calibration), POINTER(awq_calibration)]),
    "awq_calibration_trim": (c_int32, [POINTER(awq_calibration)]),
    "awq_calibration_get_info": (c_int32, [POINTER(awq_calibration), POINTER(awq_calibration_info)]),
    "awq_calibration_get_statistic": (c_int32, [POINTER(awq_calibration), c_int32, POINTER(c_double), c_int64]),
    "awq_calibration_get_samples": (c_int32, [POINTER(awq_calibration), POINTER(awq_tensor)]),
    "awq_archive_open": (c_int32, [POINTER(awq_context), c_char_p, POINTER(POINTER(awq_archive))]),
    "awq_archive_destroy": (None, [POINTER(awq_archive)]),
    "awq_archive_count": (c_int64, [POINTER(awq_archive)]),
    "awq_archive_name": (c_char_p, [POINTER(awq_archive), c_int64]),
    "awq_archive_provenance": (c_char_p, [POINTER(awq_archive)]),
    "awq_archive_load": (c_int32, [POINTER(awq_archive), c_char_p, POINTER(POINTER(awq_calibration))]),
    "awq_archive_writer_create": (c_int32, [POINTER(awq_context), c_char_p, c_char_p,
        POINTER(POINTER(awq_archive_writer))]),
    "awq_archive_writer_add": (c_int32, [POINTER(awq_archive_writer), c_char_p, POINTER(awq_calibration)]),
    "awq_archive_writer_commit": (c_int32, [POINTER(awq_archive_writer)]),
    "awq_archive_writer_destroy": (None, [POINTER(awq_archive_writer)]),
    "awq_calibration_save": (c_int32, [POINTER(awq_calibration), c_char_p]),
    "awq_calibration_load": (c_int32, [POINTER(awq_context), c_char_p, POINTER(POINTER(awq_calibration))]),
    "awq_quantize": (c_int32, [POINTER(awq_context), POINTER(awq_tensor), POINTER(awq_search),
        POINTER(awq_quantize_options), POINTER(POINTER(awq_weight))]),
    "awq_weight_destroy": (None, [POINTER(awq_weight)]),
    "awq_weight_create": (c_int32, [POINTER(awq_context), POINTER(awq_tensor), POINTER(awq_tensor), POINTER(awq_tensor),
        POINTER(awq_quantize_options), POINTER(POINTER(awq_weight))]),
    "awq_weight_get_info": (c_int32, [POINTER(awq_weight), POINTER(awq_weight_info)]),
    "awq_weight_dequantize": (c_int32, [POINTER(awq_weight), c_uint32, POINTER(awq_tensor)]),
    "awq_weight_export": (c_int32, [POINTER(awq_weight), POINTER(awq_tensor), POINTER(awq_tensor), POINTER(awq_tensor),
        POINTER(awq_tensor)]),
    "awq_weight_export_salient": (c_int32, [POINTER(awq_weight), POINTER(awq_tensor), POINTER(awq_tensor)]),
    "awq_weight_slice": (c_int32, [POINTER(awq_weight), c_int32, c_int64, c_int64, POINTER(POINTER(awq_weight))]),
    "awq_weight_concatenate": (c_int32, [c_size_t, POINTER(POINTER(awq_weight)), POINTER(POINTER(awq_weight))]),
    "awq_search_create": (c_int32, [POINTER(awq_context), POINTER(awq_calibration), POINTER(awq_search_options),
        POINTER(POINTER(awq_search))]),
    "awq_search_destroy": (None, [POINTER(awq_search)]),
    "awq_search_add_weight": (c_int32, [POINTER(awq_search), POINTER(awq_tensor)]),
    "awq_search_run": (c_int32, [POINTER(awq_search)]),
    "awq_search_get_result": (c_int32, [POINTER(awq_search), POINTER(awq_search_result)]),
    "awq_search_get_scales": (c_int32, [POINTER(awq_search), POINTER(c_float), c_int64]),
    "awq_search_get_history": (c_int32, [POINTER(awq_search), POINTER(c_double), POINTER(c_double), c_int64]),
    "awq_clip_search": (c_int32, [POINTER(awq_context), POINTER(awq_tensor), POINTER(awq_calibration),
        POINTER(awq_search), POINTER(awq_clip_options), POINTER(awq_tensor), POINTER(awq_clip_result)]),
    "awq_fold_norm": (c_int32, [POINTER(awq_context), POINTER(awq_tensor), POINTER(awq_tensor), POINTER(awq_tensor),
        POINTER(awq_fold_options)]),
    "awq_fold_linear": (c_int32, [POINTER(awq_context), POINTER(awq_tensor), POINTER(awq_tensor), POINTER(awq_tensor),
        POINTER(awq_fold_options)]),
    "awq_fold_activation": (c_int32, [POINTER(awq_context), POINTER(awq_tensor), POINTER(awq_tensor),
        POINTER(awq_fold_options)]),
    "awq_layout_name": (c_char_p, [c_int32]),
    "awq_layout_from_name": (c_int32, [c_char_p]),
    "awq_pack": (c_int32, [POINTER(awq_context), POINTER(awq_weight), c_int32, POINTER(POINTER(awq_packed))]),
    "awq_packed_destroy": (None, [POINTER(awq_packed)]),
    "awq_packed_plane_count": (c_size_t, [POINTER(awq_packed)]),
    "awq_packed_get_plane": (c_int32, [POINTER(awq_packed), c_size_t, POINTER(c_char_p), POINTER(awq_tensor)]),
    "awq_packed_export_dlpack": (c_int32, [POINTER(awq_packed), c_size_t, POINTER(c_void_p)]),
    "awq_unpack": (c_int32, [POINTER(awq_context), c_int32, c_size_t, POINTER(c_char_p), POINTER(POINTER(awq_tensor)),
        POINTER(awq_unpack_options), POINTER(POINTER(awq_weight))]),
    "awq_pack_bias": (c_int32, [c_int32, POINTER(awq_tensor), POINTER(awq_tensor)]),
    "awq_unpack_bias": (c_int32, [c_int32, POINTER(awq_tensor), POINTER(awq_tensor)]),
    "awq_kernel_name": (c_char_p, [c_int32]),
    "awq_linear_create": (c_int32, [POINTER(awq_context), POINTER(awq_weight), POINTER(awq_linear_options),
        POINTER(POINTER(awq_linear))]),
    "awq_linear_create_dense": (c_int32, [POINTER(awq_context), POINTER(awq_tensor), POINTER(awq_linear_options),
        POINTER(POINTER(awq_linear))]),
    "awq_linear_destroy": (None, [POINTER(awq_linear)]),
    "awq_linear_get_info": (c_int32, [POINTER(awq_linear), POINTER(awq_linear_info)]),
    "awq_linear_describe": (c_int32, [POINTER(awq_linear), c_int64, c_char_p, c_size_t, POINTER(c_size_t)]),
    "awq_linear_workspace_size": (c_uint64, [POINTER(awq_linear), c_int64]),
    "awq_linear_run": (c_int32, [POINTER(awq_linear), POINTER(awq_tensor), POINTER(awq_tensor),
        POINTER(awq_run_options)]),
    "awq_kernel_select": (c_int32, [POINTER(awq_device_info), POINTER(awq_kernel_request), POINTER(c_int32), c_char_p,
        c_size_t, POINTER(c_size_t)]),
    "awq_tuning_measure": (c_int32, [POINTER(awq_context), c_size_t, POINTER(POINTER(awq_weight)), c_int64,
        POINTER(POINTER(awq_tuning))]),
    "awq_tuning_save": (c_int32, [POINTER(awq_tuning), c_char_p]),
    "awq_tuning_load": (c_int32, [POINTER(awq_context), c_char_p, POINTER(POINTER(awq_tuning))]),
    "awq_tuning_destroy": (None, [POINTER(awq_tuning)]),
    "awq_checkpoint_open": (c_int32, [POINTER(awq_context), c_char_p, POINTER(POINTER(awq_checkpoint))]),
    "awq_checkpoint_destroy": (None, [POINTER(awq_checkpoint)]),
    "awq_checkpoint_count": (c_int64, [POINTER(awq_checkpoint)]),
    "awq_checkpoint_name": (c_char_p, [POINTER(awq_checkpoint), c_int64]),
    "awq_checkpoint_get": (c_int32, [POINTER(awq_checkpoint), c_char_p, POINTER(awq_tensor)]),
    "awq_checkpoint_release": (c_int32, [POINTER(awq_checkpoint), c_char_p]),
    "awq_checkpoint_metadata": (c_char_p, [POINTER(awq_checkpoint), c_char_p]),
    "awq_checkpoint_writer_create": (c_int32, [POINTER(awq_context), c_char_p, POINTER(awq_checkpoint_writer_options),
        POINTER(POINTER(awq_checkpoint_writer))]),
    "awq_checkpoint_writer_add": (c_int32, [POINTER(awq_checkpoint_writer), c_char_p, POINTER(awq_tensor)]),
    "awq_checkpoint_writer_add_file": (c_int32, [POINTER(awq_checkpoint_writer), c_char_p, c_void_p, c_uint64]),
    "awq_checkpoint_writer_commit": (c_int32, [POINTER(awq_checkpoint_writer)]),
    "awq_checkpoint_writer_destroy": (None, [POINTER(awq_checkpoint_writer)]),
    "awq_memory_estimate": (c_int32, [POINTER(awq_memory_request), POINTER(awq_memory_estimate_result)]),
}
