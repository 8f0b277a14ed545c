/* A journal of quantising: directories of finished blocks. */
#include "journal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "buffer.h"

static const char activations_name[] = "activations";

/* The arrays of a block's report. */
enum { REPORT_PARTS = 4 };
static const char *const report_names[REPORT_PARTS] = {"awq.journal.groups", "awq.journal.linears",
                                                       "awq.journal.expert_tokens", "awq.journal.expert_scarce"};

enum { PATH_SIZE = 4096, LARGEST_HEADER = 1 << 26 };

/* ---- paths */

__attribute__((format(printf, 3, 4)))
static bool path_in(const char *directory, char path[PATH_SIZE], const char *format, ...)
{
    va_list arguments;
    int length = snprintf(path, PATH_SIZE, "%s/", directory);
    va_start(arguments, format);
    if (length < PATH_SIZE) length += vsnprintf(path + length, (size_t)(PATH_SIZE - length), format, arguments);
    va_end(arguments);
    return length < PATH_SIZE || cli_error("%s: the path is too long", directory);
}

static bool path_of(const struct journal *journal, const char *what, int64_t layer, char path[PATH_SIZE])
{
    return path_in(journal->path, path, "%s-%05" PRId64, what, layer);
}

static bool exists(const char *path)
{
    struct stat info;
    return lstat(path, &info) == 0;
}

/* A directory of files, as writers make them. */
static bool remove_directory(const char *path)
{
    char file[PATH_SIZE];
    DIR *directory = opendir(path);
    if (!directory) return errno == ENOENT || cli_error("%s: %s", path, strerror(errno));
    for (struct dirent *entry; (entry = readdir(directory));)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0 &&
            path_in(path, file, "%s", entry->d_name))
            unlink(file);
    closedir(directory);
    return rmdir(path) == 0 || cli_error("%s: %s", path, strerror(errno));
}

/* ---- what killed runs left */

/* Whether 'name' is ".NAME.tmp-PID-N", as writers name what is not complete, of a process that is no more. */
static bool is_abandoned(const char *name, const char *of)
{
    const size_t length = strlen(of);
    long process;
    int end = 0;
    if (name[0] != '.' || strncmp(name + 1, of, length) != 0 ||
        sscanf(name + 1 + length, ".tmp-%ld-%*d%n", &process, &end) != 1 || end == 0 || name[1 + length + (size_t)end])
        return false;
    return process == getpid() || (kill((pid_t)process, 0) != 0 && errno == ESRCH);
}

static bool remove_abandoned(const char *directory_path, const char *of)
{
    char path[PATH_SIZE];
    bool ok = true;
    DIR *directory = opendir(directory_path);
    if (!directory) return cli_error("%s: %s", directory_path, strerror(errno));
    for (struct dirent *entry; ok && (entry = readdir(directory));)
        if (is_abandoned(entry->d_name, of))
            ok = path_in(directory_path, path, "%s", entry->d_name) && remove_directory(path);
    closedir(directory);
    return ok;
}

/* Whether an entry of the journal is one that a run goes on from. */
static bool is_needed(const struct journal *journal, const char *name)
{
    int64_t layer;
    int end = 0;
    if (sscanf(name, "block-%5" SCNd64 "%n", &layer, &end) == 1 && !name[end]) return layer < journal->blocks;
    if (sscanf(name, "activations-%5" SCNd64 "%n", &layer, &end) == 1 && !name[end])
        return layer == journal->blocks - 1;
    return false;
}

/* Remove directories that are not needed.  Nobody else writes here, so that those without a name of theirs were left by
 * runs that were killed. */
static bool clean_journal(const struct journal *journal)
{
    char path[PATH_SIZE];
    struct stat info;
    bool ok = true;
    DIR *directory = opendir(journal->path);
    if (!directory) return cli_error("%s: %s", journal->path, strerror(errno));
    for (struct dirent *entry; ok && (entry = readdir(directory));) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        ok = path_in(journal->path, path, "%s", entry->d_name);
        if (ok && !is_needed(journal, entry->d_name) && lstat(path, &info) == 0 && S_ISDIR(info.st_mode))
            ok = remove_directory(path);
    }
    closedir(directory);
    return ok;
}

static bool clean_beside(const char *out)
{
    char *copy = strdup(out), *other = strdup(out);
    bool ok = (copy && other) || cli_error("out of memory");
    ok = ok && remove_abandoned(dirname(copy), basename(other));
    free(copy);
    free(other);
    return ok;
}

/* ---- the key */

/* Reports are kept as bytes, which another build may lay out in another way. */
static json_t *make_key(const struct quantize_job *job)
{
    const size_t linears = (size_t)(job->config.layers * block_linears(&job->config));
    const size_t tokens = (size_t)(job->windows.rows * job->windows.columns);
    uint64_t model;
    if (!model_fingerprint(job->source, &model)) return NULL;
    uint64_t data = fingerprint_bytes(FINGERPRINT_START, job->windows.ids, tokens * sizeof *job->windows.ids);
    if (job->archive) {
        const char *provenance = awq_archive_provenance(job->archive);
        data = fingerprint_bytes(data, provenance, strlen(provenance));
        data = fingerprint_bytes(data, &job->archive_rows, sizeof job->archive_rows);
    }
    uint64_t settings = fingerprint_bytes(FINGERPRINT_START, job->settings, sizeof *job->settings);
    settings = fingerprint_bytes(settings, job->excluded, linears * sizeof *job->excluded);
    return json_pack("{s:s, s:s, s:I, s:I, s:o, s:o, s:o}",
        "program", awq_version_string(),
        "device", context_is_cuda(job->context) ? "cuda" : "cpu",
        "group_report_bytes", (json_int_t)sizeof(struct group_report),
        "linear_report_bytes", (json_int_t)sizeof(struct linear_report),
        "model", fingerprint_json(model),
        "settings", fingerprint_json(settings),
        "data", fingerprint_json(data));
}

static bool read_key(const struct journal *journal, const char *path, const char *key)
{
    struct text_buffer found = {0};
    if (!text_buffer_read_file(&found, path, 1 << 16)) return false;
    bool same = found.length == strlen(key) && memcmp(found.bytes, key, found.length) == 0;
    text_buffer_free(&found);
    return same || cli_error("%s: was left by a run with other settings, another model or other data; delete it to "
                             "begin anew", journal->path);
}

static bool lock_key(struct journal *journal, const char *path)
{
    journal->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (journal->fd < 0) return cli_error("%s: %s", path, strerror(errno));
    return flock(journal->fd, LOCK_EX | LOCK_NB) == 0 || cli_error("%s: is in use by another run", journal->path);
}

static bool open_key(const struct quantize_job *job, struct journal *journal)
{
    char path[PATH_SIZE];
    json_t *json = make_key(job);
    char *key = json ? json_dumps(json, JSON_SORT_KEYS) : NULL;
    json_decref(json);
    bool ok = key && path_in(journal->path, path, "key");
    if (ok) ok = exists(path) ? read_key(journal, path, key) : write_file(path, key, strlen(key));
    free(key);
    return ok && lock_key(journal, path);
}

/* ---- opening */

bool journal_open(const struct quantize_job *job, struct journal *journal)
{
    char path[PATH_SIZE];
    *journal = (struct journal){.fd = -1};
    if (asprintf(&journal->path, "%s.journal", job->request->out) < 0) {
        journal->path = NULL;
        return cli_error("out of memory");
    }
    if (mkdir(journal->path, 0777) != 0 && errno != EEXIST)
        return cli_error("%s: %s", journal->path, strerror(errno));
    if (!open_key(job, journal)) return false;
    while (journal->blocks < job->config.layers) {
        if (!path_of(journal, "block", journal->blocks, path)) return false;
        if (!exists(path)) break;
        journal->blocks++;
    }
    if (!path_in(journal->path, path, "finished")) return false;
    journal->finished = exists(path);
    return clean_journal(journal) && clean_beside(job->request->out);
}

void journal_close(struct journal *journal)
{
    if (journal->fd >= 0) close(journal->fd);
    free(journal->path);
    *journal = (struct journal){.fd = -1};
}

/* ---- adding */

static bool begin_entry(const struct quantize_job *job, const char *path, awq_checkpoint_writer **writer)
{
    awq_checkpoint_writer_options options;
    awq_struct_init(&options, sizeof options);
    options.shard_bytes = INT64_MAX;
    awq_status status = awq_checkpoint_writer_create(job->host, path, &options, writer);
    return status == AWQ_OK || cli_library_error(status, "%s", path);
}

static bool end_entry(awq_checkpoint_writer *writer, const char *path, bool ok)
{
    awq_status status = ok ? awq_checkpoint_writer_commit(writer) : AWQ_OK;
    awq_checkpoint_writer_destroy(writer);
    return ok && (status == AWQ_OK || cli_library_error(status, "%s", path));
}

static bool add_activation_rows(awq_checkpoint_writer *writer, const char *path, const float *values, int64_t rows,
                                int64_t columns)
{
    awq_tensor view;
    awq_tensor_init_const_2d(&view, values, AWQ_F32, rows, columns);
    awq_status status = awq_checkpoint_writer_add(writer, activations_name, &view);
    return status == AWQ_OK || cli_library_error(status, "%s", path);
}

static bool add_activations(const struct quantize_job *job, const struct journal *journal, int64_t layer)
{
    char path[PATH_SIZE];
    awq_checkpoint_writer *writer;
    void *room = NULL;
    const int64_t rows = job->windows.rows * job->windows.columns, count = rows * job->config.hidden;
    if (!path_of(journal, "activations", layer, path) || !remove_directory(path)) return false;
    awq_status status = context_is_cuda(job->context)
                            ? awq_context_allocate(job->host, (uint64_t)count * sizeof(float), &room) : AWQ_OK;
    if (status != AWQ_OK) return cli_library_error(status, "activations");
    const float *values = session_read(job->session, job->hidden, count, room);
    bool ok = values && begin_entry(job, path, &writer);
    if (ok) ok = end_entry(writer, path, add_activation_rows(writer, path, values, rows, job->config.hidden));
    awq_context_free(job->host, room);
    return ok;
}

/* The memory of a report's arrays, as bytes. */
static void report_parts(const struct quantize_job *job, int64_t layer, awq_tensor parts[REPORT_PARTS])
{
    const struct block_report *report = &job->reports[layer];
    const int64_t mlps = block_mlps(&job->config);
    void *const arrays[REPORT_PARTS] = {report->group, report->linear, report->expert_tokens, report->expert_scarce};
    const int64_t bytes[REPORT_PARTS] = {
        block_points(&job->config) * (int64_t)sizeof *report->group,
        block_linears(&job->config) * (int64_t)sizeof *report->linear,
        mlps * (int64_t)sizeof *report->expert_tokens,
        mlps * (int64_t)sizeof *report->expert_scarce,
    };
    for (int i = 0; i < REPORT_PARTS; i++) awq_tensor_init_1d(&parts[i], arrays[i], AWQ_U8, bytes[i]);
}

static awq_status add_report(const struct quantize_job *job, awq_checkpoint_writer *writer, int64_t layer)
{
    awq_tensor parts[REPORT_PARTS];
    awq_status status = AWQ_OK;
    report_parts(job, layer, parts);
    for (int i = 0; status == AWQ_OK && i < REPORT_PARTS; i++)
        status = awq_checkpoint_writer_add(writer, report_names[i], &parts[i]);
    return status;
}

bool journal_add(const struct quantize_job *job, struct journal *journal, const struct block_weights *weights)
{
    char path[PATH_SIZE];
    awq_checkpoint_writer *writer;
    uint64_t bytes = 0;
    const int64_t layer = weights->layer;
    if (job->hidden && layer + 1 < job->config.layers && !add_activations(job, journal, layer)) return false;
    if (!path_of(journal, "block", layer, path) || !begin_entry(job, path, &writer)) return false;
    bool ok = output_block(job->host, writer, &job->config, job->settings->layout, weights, &bytes);
    awq_status status = ok ? add_report(job, writer, layer) : AWQ_OK;
    if (!end_entry(writer, path, ok && (status == AWQ_OK || cli_library_error(status, "%s", path)))) return false;
    journal->blocks = layer + 1;
    return layer == 0 || (path_of(journal, "activations", layer - 1, path) && remove_directory(path));
}

/* ---- reading */

/* The header of a safetensors file, whose keys are in the order in which tensors were added. */
static json_t *read_header(const char *directory)
{
    char path[PATH_SIZE];
    unsigned char length_bytes[8];
    uint64_t length = 0;
    if (!path_in(directory, path, "model.safetensors")) return NULL;
    FILE *file = fopen(path, "rb");
    json_t *header = NULL;
    char *text = NULL;
    if (file && fread(length_bytes, 1, sizeof length_bytes, file) == sizeof length_bytes)
        for (int i = 0; i < 8; i++) length |= (uint64_t)length_bytes[i] << 8 * i;
    if (length > 0 && length <= LARGEST_HEADER) text = malloc((size_t)length);
    if (text && fread(text, 1, (size_t)length, file) == length) header = json_loadb(text, (size_t)length, 0, NULL);
    free(text);
    if (file) fclose(file);
    if (!header) cli_error("%s: cannot be read", path);
    return header;
}

/* The index of an array of the report; REPORT_PARTS: none. */
static int find_report_part(const char *name)
{
    int part = 0;
    while (part < REPORT_PARTS && strcmp(name, report_names[part]) != 0) part++;
    return part;
}

static bool replay_report(struct quantize_job *job, const awq_tensor *view, int part, int64_t layer)
{
    awq_tensor parts[REPORT_PARTS];
    report_parts(job, layer, parts);
    if (view->ndim != 1 || view->shape[0] != parts[part].shape[0])
        return cli_error("block %" PRId64 " of the journal: its report is of another build", layer);
    memcpy(parts[part].data, (const char *)view->data + view->byte_offset, (size_t)view->shape[0]);
    return true;
}

static bool replay_tensor(struct quantize_job *job, const awq_checkpoint *entry, const char *name, int64_t layer)
{
    awq_tensor view;
    awq_status status = awq_checkpoint_get(entry, name, &view);
    if (status != AWQ_OK) return cli_library_error(status, "%s", name);
    const int part = find_report_part(name);
    if (part < REPORT_PARTS) return replay_report(job, &view, part, layer);
    job->output_bytes += tensor_bytes(&view);
    status = awq_checkpoint_writer_add(job->writer, name, &view);
    return status == AWQ_OK || cli_library_error(status, "%s", name);
}

bool journal_replay(struct quantize_job *job, const struct journal *journal, int64_t layer)
{
    char path[PATH_SIZE];
    awq_checkpoint *entry;
    const char *name;
    json_t *value;
    if (!path_of(journal, "block", layer, path)) return false;
    awq_status status = awq_checkpoint_open(job->host, path, &entry);
    if (status != AWQ_OK) return cli_library_error(status, "%s", path);
    json_t *header = read_header(path);
    bool ok = header;
    json_object_foreach(header, name, value)
        ok = ok && (strcmp(name, "__metadata__") == 0 || replay_tensor(job, entry, name, layer));
    json_decref(header);
    awq_checkpoint_destroy(entry);
    if (ok) exclude_scarce_experts(job, layer);
    return ok;
}

bool journal_restore(struct quantize_job *job, const struct journal *journal)
{
    char path[PATH_SIZE];
    awq_checkpoint *entry;
    awq_tensor from, to;
    const int64_t rows = job->windows.rows * job->windows.columns;
    if (!path_of(journal, activations_name, journal->blocks - 1, path)) return false;
    awq_status status = awq_checkpoint_open(job->host, path, &entry);
    if (status != AWQ_OK) return cli_library_error(status, "%s", path);
    to = context_view(job->context, job->hidden, AWQ_F32, rows, job->config.hidden);
    status = awq_checkpoint_get(entry, activations_name, &from);
    if (status == AWQ_OK) status = awq_tensor_copy(job->context, &from, &to, NULL);
    awq_checkpoint_destroy(entry);
    return status == AWQ_OK || cli_library_error(status, "%s", path);
}

/* ---- the end */

bool journal_mark_finished(struct journal *journal)
{
    char path[PATH_SIZE];
    journal->finished = path_in(journal->path, path, "finished") && write_file(path, "", 0);
    return journal->finished;
}

bool journal_remove(struct journal *journal)
{
    journal->blocks = 0;
    return clean_journal(journal) && remove_directory(journal->path);
}
