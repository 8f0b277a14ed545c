/* Token ids from text and id files, and windows of them. */
#include "tokens.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "utf8.h"

#define MAX_FILE_BYTES ((uint64_t)8 << 30)
#define MAX_TEXT_FILE_BYTES ((uint64_t)1 << 30)

void token_rows_free(struct token_rows *rows)
{
    free(rows->ids);
    *rows = (struct token_rows){0};
}

static bool has_extension(const char *path, const char *extension)
{
    size_t length = strlen(path), extension_length = strlen(extension);
    return length > extension_length && strcmp(path + length - extension_length, extension) == 0;
}

bool tokens_is_id_file(const char *path)
{
    return has_extension(path, ".npy") || has_extension(path, ".u16") || has_extension(path, ".u32");
}

static bool allocate_rows(struct token_rows *rows, int64_t count, int64_t columns)
{
    uint64_t total = (uint64_t)count * (uint64_t)columns;
    *rows = (struct token_rows){0};
    if (total > SIZE_MAX / sizeof *rows->ids) return cli_error("out of memory");
    rows->ids = malloc(total * sizeof *rows->ids + 1);
    if (!rows->ids) return cli_error("out of memory");
    rows->rows = count;
    rows->columns = columns;
    return true;
}

/* ---------------------------------------------------------------------------------- id files */

/* How the ids lie in a file. */
struct id_layout {
    size_t offset;     /* of the first */
    size_t size;       /* bytes of one: 2, 4 or 8 */
    bool is_signed;
    int64_t rows, columns;
};

/* The value behind 'key' in the header of a .npy file, which is a Python dictionary; NULL: none. */
static const char *npy_value(const char *header, const char *key)
{
    char quoted[32];
    snprintf(quoted, sizeof quoted, "'%s':", key);
    const char *found = strstr(header, quoted);
    if (!found) return NULL;
    found += strlen(quoted);
    return found + strspn(found, " ");
}

static bool parse_npy_header(const char *path, const char *header, struct id_layout *layout)
{
    const char *type = npy_value(header, "descr"), *order = npy_value(header, "fortran_order");
    const char *shape = npy_value(header, "shape");
    long long dimensions[2] = {1, 1};
    int count = 0;
    if (!type || !order || !shape || shape[0] != '(') return cli_error("%s: its .npy header is damaged", path);
    if (strlen(type) < 5 || type[0] != '\'' || !strchr("<|", type[1]) || !strchr("ui", type[2]) ||
        !strchr("248", type[3]) || type[4] != '\'')
        return cli_error("%s: token ids are little-endian integers of 16, 32 or 64 bits, not %.12s", path, type);
    layout->is_signed = type[2] == 'i';
    layout->size = (size_t)(type[3] - '0');
    shape++;
    while (*shape && *shape != ')') {
        char *end;
        long long size = strtoll(shape, &end, 10);
        if (end == shape || size < 0 || count == 2)
            return cli_error("%s: token ids have one or two dimensions, not (%.40s", path, shape);
        dimensions[count++] = size;
        shape = end + strspn(end, ", ");
    }
    if (count == 0) return cli_error("%s: token ids have one or two dimensions, not none", path);
    if (count == 2 && strncmp(order, "False", 5) != 0 && dimensions[0] > 1)
        return cli_error("%s: column-major (fortran_order) arrays are not supported", path);
    layout->rows = count == 2 ? dimensions[0] : 1;
    layout->columns = count == 2 ? dimensions[1] : dimensions[0];
    return true;
}

static bool parse_npy(const char *path, const struct text_buffer *file, struct id_layout *layout)
{
    const unsigned char *bytes = (const unsigned char *)file->bytes;
    char header[1024];
    if (file->length < 12 || memcmp(bytes, "\x93NUMPY", 6) != 0) return cli_error("%s: not a .npy file", path);
    bool wide = bytes[6] >= 2;
    size_t start = wide ? 12 : 10;
    size_t length = (size_t)bytes[8] | (size_t)bytes[9] << 8;
    if (wide) length |= (size_t)bytes[10] << 16 | (size_t)bytes[11] << 24;
    if (bytes[6] < 1 || bytes[6] > 3 || length >= sizeof header || length > file->length - start)
        return cli_error("%s: its .npy header is damaged", path);
    memcpy(header, file->bytes + start, length);
    header[length] = 0;
    layout->offset = start + length;
    return parse_npy_header(path, header, layout);
}

static int64_t read_id(const char *bytes, const struct id_layout *layout)
{
    uint64_t value = 0;
    for (size_t i = 0; i < layout->size; i++) value |= (uint64_t)(unsigned char)bytes[i] << (8 * i);
    if (layout->size < 8 && layout->is_signed && value >> (8 * layout->size - 1)) return -1;
    return value > INT64_MAX ? -1 : (int64_t)value;
}

static bool check_id(const char *path, int64_t id, int64_t index, int64_t columns, int64_t vocabulary)
{
    if (id >= 0 && id <= INT32_MAX && (vocabulary == 0 || id < vocabulary)) return true;
    return cli_error("%s: token %" PRId64 " of row %" PRId64 " is %" PRId64 ", not an id below %" PRId64, path,
                     index % columns, index / columns, id, vocabulary ? vocabulary : (int64_t)INT32_MAX + 1);
}

static bool read_ids(const char *path, int64_t vocabulary, struct token_rows *rows)
{
    struct text_buffer file = {0};
    struct id_layout layout = {.size = has_extension(path, ".u16") ? 2 : 4, .rows = 1};
    if (!text_buffer_read_file(&file, path, MAX_FILE_BYTES)) return false;
    bool done = true;
    if (has_extension(path, ".npy"))
        done = parse_npy(path, &file, &layout);
    else if (file.length % layout.size)
        done = cli_error("%s: %zu bytes are no whole number of ids of %zu bytes", path, file.length, layout.size);
    else
        layout.columns = (int64_t)(file.length / layout.size);

    size_t held = (file.length - layout.offset) / layout.size;
    if (done && layout.columns > 0 && (uint64_t)layout.rows > held / (uint64_t)layout.columns)
        done = cli_error("%s: it is cut short: %" PRId64 " x %" PRId64 " ids should follow, %zu do", path, layout.rows,
                         layout.columns, held);
    if (done && (layout.rows == 0 || layout.columns == 0)) done = cli_error("%s: it holds no ids", path);
    done = done && allocate_rows(rows, layout.rows, layout.columns);
    for (int64_t i = 0; done && i < layout.rows * layout.columns; i++) {
        int64_t id = read_id(file.bytes + layout.offset + (size_t)i * layout.size, &layout);
        done = check_id(path, id, i, layout.columns, vocabulary);
        rows->ids[i] = (int32_t)id;
    }
    text_buffer_free(&file);
    if (!done) token_rows_free(rows);
    return done;
}

/* -------------------------------------------------------------------------------------- text */

static bool read_text(const char *path, const struct tokenizer *tokenizer, int64_t vocabulary, struct token_rows *rows)
{
    struct text_buffer text = {0}, valid = {0};
    struct id_buffer ids = {0};
    size_t replaced = 0, first = 0;
    if (!tokenizer)
        return cli_error("%s: without a tokenizer, only files of token ids (.npy, .u16, .u32) can be read", path);
    bool done = text_buffer_read_file(&text, path, MAX_TEXT_FILE_BYTES) &&
                utf8_append_valid(&valid, text.bytes, text.length, &replaced, &first);
    if (replaced)
        cli_warning("%s: %zu places are not UTF-8, the first after %zu bytes; they count as U+FFFD", path, replaced,
                    first);
    done = done && tokenizer_encode(tokenizer, valid.bytes, valid.length, false, &ids);
    if (done && ids.count == 0) done = cli_error("%s: the text is empty", path);
    for (size_t i = 0; i < ids.count && done; i++)
        done = check_id(path, ids.ids[i], (int64_t)i, (int64_t)ids.count, vocabulary);
    if (done)
        *rows = (struct token_rows){ids.ids, 1, (int64_t)ids.count};
    else
        id_buffer_free(&ids);
    text_buffer_free(&text);
    text_buffer_free(&valid);
    return done;
}

bool tokens_read(const char *path, const struct tokenizer *tokenizer, int64_t vocabulary, struct token_rows *rows)
{
    *rows = (struct token_rows){0};
    return tokens_is_id_file(path) ? read_ids(path, vocabulary, rows) : read_text(path, tokenizer, vocabulary, rows);
}

/* ----------------------------------------------------------------------------------- windows */

/* Place i of 'count' that are spread evenly over 0..last. */
static int64_t spread(int64_t i, int64_t count, int64_t last)
{
    return count > 1 ? (int64_t)((__int128)i * last / (count - 1)) : 0;
}

bool tokens_cut(const struct token_rows *source, int64_t samples, int64_t length, int32_t bos,
                struct token_rows *windows)
{
    bool one = source->rows == 1;
    if (length == 0) length = source->columns + (one && bos >= 0);
    int64_t taken = one && bos >= 0 ? length - 1 : length; /* ids of the source in a window */
    int64_t available = one ? (taken > 0 ? source->columns / taken : 0) : source->rows;
    *windows = (struct token_rows){0};
    if (taken < 1 || taken > source->columns || available < 1)
        return cli_error("%" PRId64 " tokens are too few for a sequence of %" PRId64, source->columns, length);
    if (samples == 0 || samples > available) samples = available;
    if (!allocate_rows(windows, samples, length)) return false;
    for (int64_t i = 0; i < samples; i++) {
        int64_t begin;
        if (!one)
            begin = spread(i, samples, source->rows - 1) * source->columns;
        else if (samples == available)
            begin = i * taken;
        else
            begin = spread(i, samples, source->columns - taken);
        int32_t *window = windows->ids + i * length;
        if (taken < length) *window++ = bos;
        memcpy(window, source->ids + begin, (size_t)taken * sizeof *window);
    }
    return true;
}

/* ----------------------------------------------------------------------------------- writing */

static bool append_npy_header(struct text_buffer *out, const struct token_rows *rows, size_t size)
{
    char shape[64], header[192];
    if (rows->rows == 1)
        snprintf(shape, sizeof shape, "(%" PRId64 ",)", rows->columns);
    else
        snprintf(shape, sizeof shape, "(%" PRId64 ", %" PRId64 ")", rows->rows, rows->columns);
    /* The header is padded so that the ids begin at a multiple of 64. */
    int length = snprintf(header, sizeof header,
                          "\x93NUMPY%c%c%c%c{'descr': '<u%zu', 'fortran_order': False, 'shape': %s, }", 1, 0, 118, 0,
                          size, shape);
    memset(header + length, ' ', sizeof header - (size_t)length);
    header[127] = '\n';
    return text_buffer_append(out, header, 128);
}

bool tokens_write(const char *path, const struct token_rows *rows)
{
    struct text_buffer out = {0};
    size_t size = has_extension(path, ".u16") ? 2 : 4;
    int64_t count = rows->rows * rows->columns;
    int32_t largest = 0;
    bool done = true;
    if (!tokens_is_id_file(path)) return cli_error("%s: ids are written as .npy, .u16 or .u32", path);
    for (int64_t i = 0; i < count; i++)
        if (rows->ids[i] > largest) largest = rows->ids[i];
    if (size == 2 && largest > UINT16_MAX)
        return cli_error("%s: id %d does not fit 16 bits; write .u32", path, largest);
    if (has_extension(path, ".npy")) {
        size = largest > UINT16_MAX ? 4 : 2;
        done = append_npy_header(&out, rows, size);
    }
    for (int64_t i = 0; i < count && done; i++) {
        uint32_t id = (uint32_t)rows->ids[i];
        char bytes[4] = {(char)id, (char)(id >> 8), (char)(id >> 16), (char)(id >> 24)};
        done = text_buffer_append(&out, bytes, size);
    }
    done = done && write_file(path, out.bytes, out.length);
    text_buffer_free(&out);
    return done;
}
