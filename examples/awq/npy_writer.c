/* The format: numpy.org/doc/stable/reference/generated/numpy.lib.format.html, version 1.0. */
#include "npy_writer.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "buffer.h"
#include "cli.h"

bool npy_writer_open(struct npy_writer *writer, const char *path, int64_t rows, int64_t columns)
{
    char header[128] = "\x93NUMPY\x01"; /* version 1.0; the length of the text follows, 118 in two bytes */
    header[8] = 118;
    memset(header + 10, ' ', 117);
    int length = snprintf(header + 10, 117, "{'descr': '<f4', 'fortran_order': False, 'shape': (%" PRId64 ", %" PRId64
                          "), }", rows, columns);
    header[10 + length] = ' ';
    header[127] = '\n';
    writer->path = path;
    writer->file = fopen(path, "wb");
    if (!writer->file) return cli_error("%s: %s", path, strerror(errno));
    if (fwrite(header, 1, sizeof header, writer->file) == sizeof header) return true;
    return cli_error("%s: %s", path, strerror(errno));
}

bool npy_writer_add(struct npy_writer *writer, const float *values, int64_t count)
{
    if (!writer->file) return true;
    if (fwrite(values, sizeof *values, (size_t)count, writer->file) == (size_t)count) return true;
    return cli_error("%s: %s", writer->path, strerror(errno));
}

bool npy_writer_close(struct npy_writer *writer)
{
    if (!writer->file) return true;
    bool ok = fclose(writer->file) == 0 || cli_error("%s: %s", writer->path, strerror(errno));
    writer->file = NULL;
    return ok;
}

void npy_writer_discard(struct npy_writer *writer)
{
    if (!writer->file) return;
    fclose(writer->file);
    if (!is_special_file(writer->path)) remove(writer->path);
    writer->file = NULL;
}
