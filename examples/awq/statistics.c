/* Statistics of activations in a file: names, provenance, windows. */
#include "statistics.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

/* ---- names */

void statistics_name(int64_t layer, int point, char name[TENSOR_NAME_SIZE])
{
    static const char *const inputs[] = {[POINT_QKV] = "qkv", [POINT_O] = "o", [POINT_GATE_UP] = "gate_up"};
    if (point >= POINT_DOWN)
        snprintf(name, TENSOR_NAME_SIZE, "layers.%" PRId64 ".down.%d", layer, point - POINT_DOWN);
    else
        snprintf(name, TENSOR_NAME_SIZE, "layers.%" PRId64 ".%s", layer, inputs[point]);
}

const char *statistics_name_at(const json_t *provenance, int64_t index, char name[TENSOR_NAME_SIZE])
{
    const int64_t layers = json_integer_value(json_object_get(provenance, "layers"));
    const int64_t points = POINT_DOWN + json_integer_value(json_object_get(provenance, "mlps"));
    if (index > layers * points) return NULL;
    if (index == layers * points) return STATISTICS_WINDOWS;
    statistics_name(index / points, (int)(index % points), name);
    return name;
}

/* ---- fingerprints */

uint64_t fingerprint_bytes(uint64_t fingerprint, const void *bytes, size_t size)
{
    const unsigned char *byte = bytes;
    for (size_t i = 0; i < size; i++) fingerprint = (fingerprint ^ byte[i]) * 0x100000001b3u;
    return fingerprint;
}

json_t *fingerprint_json(uint64_t fingerprint)
{
    return json_sprintf("%016" PRIx64, fingerprint);
}

bool model_fingerprint(const awq_checkpoint *checkpoint, uint64_t *fingerprint)
{
    enum { FIRST_BYTES = 4096 };
    uint64_t hash = FINGERPRINT_START;
    for (int64_t i = 0; i < awq_checkpoint_count(checkpoint); i++) {
        const char *name = awq_checkpoint_name(checkpoint, i);
        awq_tensor view;
        awq_status status = awq_checkpoint_get(checkpoint, name, &view);
        if (status != AWQ_OK) return cli_library_error(status, "%s", name);
        uint64_t size = tensor_bytes(&view);
        hash = fingerprint_bytes(hash, name, strlen(name) + 1);
        hash = fingerprint_bytes(hash, &view.dtype, sizeof view.dtype);
        hash = fingerprint_bytes(hash, view.shape, (size_t)view.ndim * sizeof *view.shape);
        hash = fingerprint_bytes(hash, (const char *)view.data + view.byte_offset,
                                 size < FIRST_BYTES ? size : FIRST_BYTES);
        awq_checkpoint_release(checkpoint, name);
    }
    *fingerprint = hash;
    return true;
}

/* ---- provenance */

static const char *file_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

json_t *provenance_create(const struct model_config *config, uint64_t fingerprint, const char *path,
                          const struct token_rows *windows, int64_t first, int64_t last)
{
    size_t bytes = (size_t)(windows->rows * windows->columns) * sizeof *windows->ids;
    json_t *json = json_pack("{s:o, s:s, s:I, s:i, s:I, s:[{s:s, s:o, s:I, s:[[I, I]]}]}",
        "model", fingerprint_json(fingerprint),
        "model_type", config->architecture->model_type,
        "layers", (json_int_t)config->layers,
        "mlps", block_mlps(config),
        "window_tokens", (json_int_t)windows->columns,
        "sources",
            "name", file_name(path),
            "data", fingerprint_json(fingerprint_bytes(FINGERPRINT_START, windows->ids, bytes)),
            "of", (json_int_t)windows->rows,
            "windows", (json_int_t)first, (json_int_t)last);
    if (!json) cli_error("%s: its name cannot be written as JSON", path);
    return json;
}

/* Ranges as they are written: [first, last) after each other, of 'of' windows. */
static bool check_ranges(const json_t *ranges, json_int_t of)
{
    json_int_t reached = 0;
    size_t index;
    const json_t *range;
    if (!json_is_array(ranges) || json_array_size(ranges) == 0) return false;
    json_array_foreach(ranges, index, range) {
        json_int_t first = json_integer_value(json_array_get(range, 0));
        json_int_t last = json_integer_value(json_array_get(range, 1));
        if (json_array_size(range) != 2 || first < reached || last <= first || last > of) return false;
        reached = last;
    }
    return true;
}

static bool is_count(const json_t *json)
{
    return json_integer_value(json) >= 1 && json_integer_value(json) <= 1 << 20;
}

static bool check_provenance(const json_t *json)
{
    const json_t *sources = json_object_get(json, "sources"), *source;
    size_t index;
    if (!json_is_string(json_object_get(json, "model")) || !json_is_string(json_object_get(json, "model_type")) ||
        !is_count(json_object_get(json, "layers")) || !is_count(json_object_get(json, "mlps")) ||
        json_integer_value(json_object_get(json, "window_tokens")) < 1 || json_array_size(sources) == 0)
        return false;
    json_array_foreach(sources, index, source)
        if (!json_is_string(json_object_get(source, "name")) || !json_is_string(json_object_get(source, "data")) ||
            !check_ranges(json_object_get(source, "windows"), json_integer_value(json_object_get(source, "of"))))
            return false;
    return true;
}

json_t *provenance_read(const awq_archive *archive, const char *path)
{
    json_t *json = json_loads(awq_archive_provenance(archive), 0, NULL);
    if (check_provenance(json)) return json;
    json_decref(json);
    cli_error("%s: is an archive, but none that 'awq calibrate' has written", path);
    return NULL;
}

static int compare_ranges(const void *a, const void *b)
{
    const json_int_t *left = a, *right = b;
    return *left < *right ? -1 : *left > *right;
}

/* Ranges of both; NULL where they overlap. */
static json_t *join_ranges(const json_t *a, const json_t *b)
{
    size_t count = json_array_size(a) + json_array_size(b);
    json_int_t(*ranges)[2] = calloc(count, sizeof *ranges);
    json_t *joined = json_array();
    json_int_t overlap = 0;
    for (size_t i = 0; ranges && i < count; i++) {
        const json_t *range = i < json_array_size(a) ? json_array_get(a, i) : json_array_get(b, i - json_array_size(a));
        for (size_t end = 0; end < 2; end++) ranges[i][end] = json_integer_value(json_array_get(range, end));
    }
    if (ranges) qsort(ranges, count, sizeof *ranges, compare_ranges);
    for (size_t i = 0; ranges && i < count; i++) {
        json_int_t first = ranges[i][0];
        while (i + 1 < count && ranges[i + 1][0] == ranges[i][1]) i++;
        overlap |= i + 1 < count && ranges[i + 1][0] < ranges[i][1];
        json_array_append_new(joined, json_pack("[I, I]", first, ranges[i][1]));
    }
    free(ranges);
    if (ranges && !overlap) return joined;
    json_decref(joined);
    return NULL;
}

/* Of equal name and data, cut into as many windows. */
static bool is_same_source(const json_t *a, const json_t *b)
{
    static const char *const keys[] = {"name", "data", "of"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (!json_equal(json_object_get(a, keys[i]), json_object_get(b, keys[i]))) return false;
    return true;
}

/* Where 'source' belongs: before the first that is not less. */
static size_t place_of_source(const json_t *sources, const json_t *source)
{
    static const char *const keys[] = {"name", "data"};
    size_t index;
    const json_t *other;
    json_array_foreach(sources, index, other) {
        int order = 0;
        for (size_t i = 0; order == 0 && i < sizeof keys / sizeof *keys; i++)
            order = strcmp(json_string_value(json_object_get(source, keys[i])),
                           json_string_value(json_object_get(other, keys[i])));
        if (order == 0)
            order = json_integer_value(json_object_get(source, "of")) > json_integer_value(json_object_get(other, "of"))
                        ? 1 : 0;
        if (order <= 0) return index;
    }
    return json_array_size(sources);
}

static bool merge_source(json_t *sources, const json_t *source, const char *path)
{
    size_t place = place_of_source(sources, source);
    json_t *present = json_array_get(sources, place);
    if (!present || !is_same_source(present, source))
        return json_array_insert_new(sources, place, json_deep_copy(source)) == 0 || cli_error("out of memory");
    json_t *joined = join_ranges(json_object_get(present, "windows"), json_object_get(source, "windows"));
    if (!joined)
        return cli_error("%s: some of its windows of %s are in another of the files too", path,
                         json_string_value(json_object_get(source, "name")));
    return json_object_set_new(present, "windows", joined) == 0 || cli_error("out of memory");
}

bool provenance_merge(json_t *provenance, const json_t *other, const char *path)
{
    const json_t *source;
    size_t index;
    if (!json_equal(json_object_get(provenance, "model"), json_object_get(other, "model")))
        return cli_error("%s: has the statistics of another model than the first file", path);
    if (!json_equal(json_object_get(provenance, "window_tokens"), json_object_get(other, "window_tokens")))
        return cli_error("%s: has windows of %" JSON_INTEGER_FORMAT " tokens, and the first file of %"
                         JSON_INTEGER_FORMAT, path, json_integer_value(json_object_get(other, "window_tokens")),
                         json_integer_value(json_object_get(provenance, "window_tokens")));
    json_array_foreach(json_object_get(other, "sources"), index, source)
        if (!merge_source(json_object_get(provenance, "sources"), source, path)) return false;
    return true;
}

char *provenance_text(const json_t *provenance)
{
    char *text = json_dumps(provenance, JSON_SORT_KEYS | JSON_COMPACT);
    if (!text) cli_error("out of memory");
    return text;
}

int64_t provenance_windows(const json_t *provenance)
{
    int64_t windows = 0;
    size_t i, j;
    const json_t *source, *range;
    json_array_foreach(json_object_get(provenance, "sources"), i, source)
        json_array_foreach(json_object_get(source, "windows"), j, range)
            windows += json_integer_value(json_array_get(range, 1)) - json_integer_value(json_array_get(range, 0));
    return windows;
}

bool provenance_check_model(const json_t *provenance, const char *path, const struct model_config *config,
                            uint64_t fingerprint)
{
    json_t *expected = fingerprint_json(fingerprint);
    bool same = json_equal(expected, json_object_get(provenance, "model")) &&
                json_integer_value(json_object_get(provenance, "layers")) == config->layers;
    json_decref(expected);
    return same || cli_error("%s: has the statistics of another model, of type %s with %" JSON_INTEGER_FORMAT " layers",
                             path, json_string_value(json_object_get(provenance, "model_type")),
                             json_integer_value(json_object_get(provenance, "layers")));
}

/* ---- windows */

/* Ids are whole numbers below 2^24, so single precision holds them. */
static bool read_ids(const awq_tensor *samples, int64_t vocabulary, struct token_rows *windows)
{
    int64_t count = samples->shape[0] * samples->shape[1];
    const float *values = (const float *)samples->data;
    int32_t *ids = calloc((size_t)count, sizeof *ids);
    if (!ids) return cli_error("out of memory");
    *windows = (struct token_rows){ids, samples->shape[0], samples->shape[1]};
    for (int64_t i = 0; i < count; i++) {
        ids[i] = values[i] >= 0 && values[i] < (float)vocabulary ? (int32_t)values[i] : -1;
        if (ids[i] < 0 || (float)ids[i] != values[i]) return cli_error("a token of %g in a window", values[i]);
    }
    return true;
}

bool statistics_windows(const awq_archive *archive, const char *path, int64_t vocabulary, struct token_rows *windows)
{
    awq_calibration *calibration = NULL;
    awq_tensor samples;
    awq_status status = awq_archive_load(archive, STATISTICS_WINDOWS, &calibration);
    if (status == AWQ_OK) status = awq_calibration_get_samples(calibration, &samples);
    bool ok = status == AWQ_OK || cli_library_error(status, "%s", path);
    ok = ok && (samples.shape[0] > 0 || cli_error("%s: holds no windows", path)) &&
         read_ids(&samples, vocabulary, windows);
    awq_calibration_destroy(calibration);
    return ok;
}
