/* The rows with the least hashes: a heap to find the greatest of them, a table to find an equal one. */
#include "row_sample.h"

void awqi_row_sample_init(struct awqi_row_sample *sample, awq_context *context, int64_t channels, uint32_t limit,
                          uint64_t seed)
{
    *sample = (struct awqi_row_sample){
        .context = context, .channels = channels, .seed = seed, .limit = limit, .sorted = true};
}

void awqi_row_sample_clear(struct awqi_row_sample *sample)
{
    awqi_free(sample->context, sample->hashes);
    awqi_free(sample->context, sample->rows);
    awqi_free(sample->context, sample->heap);
    awqi_free(sample->context, sample->table);
    awqi_row_sample_init(sample, sample->context, sample->channels, sample->limit, sample->seed);
}

uint64_t awqi_row_hash_add(uint64_t hash, const float *values, int64_t count)
{
    for (int64_t i = 0; i + 1 < count; i += 2)
        hash = awqi_row_hash_mix(hash, (uint64_t)awqi_f32_to_bits(values[i + 1]) << 32 | awqi_f32_to_bits(values[i]));
    return count % 2 != 0 ? awqi_row_hash_mix(hash, awqi_f32_to_bits(values[count - 1])) : hash;
}

/* ---- order */

/* By hash, then by the bits of the values: the same on every machine. */
static int compare(const struct awqi_row_sample *sample, uint64_t hash, const float *row, uint32_t slot)
{
    if (hash != sample->hashes[slot]) return hash < sample->hashes[slot] ? -1 : 1;
    const float *other = sample->rows + slot * sample->channels;
    for (int64_t i = 0; i < sample->channels; i++) {
        uint32_t a = awqi_f32_to_bits(row[i]), b = awqi_f32_to_bits(other[i]);
        if (a != b) return a < b ? -1 : 1;
    }
    return 0;
}

static bool slot_less(const struct awqi_row_sample *sample, uint32_t a, uint32_t b)
{
    return compare(sample, sample->hashes[a], sample->rows + a * sample->channels, b) < 0;
}

static void sift_up(struct awqi_row_sample *sample, uint32_t at)
{
    uint32_t *heap = sample->heap, slot = heap[at];
    for (; at > 0 && slot_less(sample, heap[(at - 1) / 2], slot); at = (at - 1) / 2) heap[at] = heap[(at - 1) / 2];
    heap[at] = slot;
}

static void sift_down(struct awqi_row_sample *sample, uint32_t at, uint32_t count)
{
    uint32_t *heap = sample->heap, slot = heap[at];
    for (uint32_t child; (child = 2 * at + 1) < count; at = child) {
        if (child + 1 < count && slot_less(sample, heap[child], heap[child + 1])) child++;
        if (!slot_less(sample, slot, heap[child])) break;
        heap[at] = heap[child];
    }
    heap[at] = slot;
}

/* ---- table: linear probing from the low bits, which for the least hashes are the random ones */

static void table_insert(struct awqi_row_sample *sample, uint32_t slot)
{
    uint64_t at = sample->hashes[slot] & sample->table_mask;
    while (sample->table[at] != 0) at = (at + 1) & sample->table_mask;
    sample->table[at] = slot + 1;
}

static bool table_contains(const struct awqi_row_sample *sample, uint64_t hash, const float *row)
{
    for (uint64_t at = hash & sample->table_mask; sample->table[at] != 0; at = (at + 1) & sample->table_mask)
        if (compare(sample, hash, row, sample->table[at] - 1) == 0) return true;
    return false;
}

/* Entries behind the gap move into it unless they would then lie before the place they are looked for from. */
static void table_remove(struct awqi_row_sample *sample, uint32_t slot)
{
    uint64_t mask = sample->table_mask, gap = sample->hashes[slot] & mask;
    while (sample->table[gap] != slot + 1) gap = (gap + 1) & mask;
    for (uint64_t at = (gap + 1) & mask; sample->table[at] != 0; at = (at + 1) & mask) {
        uint64_t home = sample->hashes[sample->table[at] - 1] & mask;
        if (((at - home) & mask) < ((at - gap) & mask)) continue;
        sample->table[gap] = sample->table[at];
        gap = at;
    }
    sample->table[gap] = 0;
}

static void table_rebuild(struct awqi_row_sample *sample)
{
    memset(sample->table, 0, (size_t)(sample->table_mask + 1) * sizeof *sample->table);
    for (uint32_t slot = 0; slot < sample->count; slot++) table_insert(sample, slot);
}

/* ---- room */

static awq_status allocate(struct awqi_row_sample *sample, uint32_t capacity)
{
    uint64_t entries = 2;
    while (entries < 2 * (uint64_t)capacity) entries *= 2;
    void *hashes = NULL, *rows = NULL, *heap = NULL, *table = NULL;
    awq_status status = AWQ_ERROR_OUT_OF_MEMORY;
    if ((uint64_t)sample->channels > UINT64_MAX / sizeof(float))
        return awqi_fail(status, "sampled rows: %lld channels exceed the address space", (long long)sample->channels);
    status = awqi_alloc(sample->context, capacity, sizeof(uint64_t), "hashes of sampled rows", &hashes);
    if (status == AWQ_OK)
        status = awqi_alloc(sample->context, (uint64_t)capacity + 1, (uint64_t)sample->channels * sizeof(float),
                            "sampled rows", &rows);
    if (status == AWQ_OK)
        status = awqi_alloc(sample->context, capacity, sizeof(uint32_t), "heap of sampled rows", &heap);
    if (status == AWQ_OK)
        status = awqi_calloc(sample->context, entries, sizeof(uint32_t), "table of sampled rows", &table);
    if (status != AWQ_OK) {
        awqi_free(sample->context, hashes);
        awqi_free(sample->context, rows);
        awqi_free(sample->context, heap);
        return status;
    }
    sample->capacity = capacity;
    sample->hashes = hashes;
    sample->rows = rows;
    sample->heap = heap;
    sample->table = table;
    sample->table_mask = entries - 1;
    return AWQ_OK;
}

awq_status awqi_row_sample_reserve(struct awqi_row_sample *sample, int64_t additional)
{
    if (additional <= (int64_t)(sample->capacity - sample->count) || sample->capacity == sample->limit) return AWQ_OK;
    /* Doubling keeps many small observations from moving the rows each time. */
    int64_t needed = awqi_min64(additional, sample->limit) + sample->count;
    int64_t capacity = awqi_min64(awqi_max64(needed, 2 * (int64_t)sample->capacity), sample->limit);
    struct awqi_row_sample grown = *sample;
    awq_status status = allocate(&grown, (uint32_t)capacity);
    if (status != AWQ_OK) return status;
    if (sample->count > 0) {
        memcpy(grown.hashes, sample->hashes, sample->count * sizeof *grown.hashes);
        memcpy(grown.rows, sample->rows, sample->count * (size_t)sample->channels * sizeof *grown.rows);
        memcpy(grown.heap, sample->heap, sample->count * sizeof *grown.heap);
        table_rebuild(&grown);
    }
    awqi_row_sample_clear(sample);
    *sample = grown;
    return AWQ_OK;
}

float *awqi_row_sample_scratch(struct awqi_row_sample *sample)
{
    return sample->rows != NULL ? sample->rows + sample->capacity * sample->channels : NULL;
}

/* ---- offers */

bool awqi_row_sample_wants(const struct awqi_row_sample *sample, uint64_t hash)
{
    if (sample->count < sample->limit) return true;
    return sample->limit > 0 && hash <= sample->hashes[sample->heap[0]];
}

void awqi_row_sample_offer(struct awqi_row_sample *sample, uint64_t hash, const float *row)
{
    if (!awqi_row_sample_wants(sample, hash) || table_contains(sample, hash, row)) return;
    uint32_t slot = sample->count;
    bool full = slot == sample->limit;
    if (full) {
        slot = sample->heap[0];
        if (compare(sample, hash, row, slot) > 0) return;
        table_remove(sample, slot);
    }
    sample->hashes[slot] = hash;
    memcpy(sample->rows + slot * sample->channels, row, (size_t)sample->channels * sizeof *row);
    table_insert(sample, slot);
    sample->sorted = false;
    if (full) {
        sift_down(sample, 0, sample->count);
    } else {
        sample->heap[sample->count++] = slot;
        sift_up(sample, slot);
    }
}

/* ---- order of the slots */

/* Slots in their order make the descending sequence a heap. */
static void index_sorted(struct awqi_row_sample *sample)
{
    for (uint32_t i = 0; i < sample->count; i++) sample->heap[i] = sample->count - 1 - i;
    table_rebuild(sample);
    sample->sorted = true;
}

static void move_slot(struct awqi_row_sample *sample, int64_t to, int64_t from)
{
    memcpy(sample->rows + to * sample->channels, sample->rows + from * sample->channels,
           (size_t)sample->channels * sizeof *sample->rows);
}

void awqi_row_sample_sort(struct awqi_row_sample *sample)
{
    if (sample->sorted) return;
    uint32_t *order = sample->heap;
    for (uint32_t end = sample->count; end-- > 1;) {
        uint32_t greatest = order[0];
        order[0] = order[end];
        order[end] = greatest;
        sift_down(sample, 0, end);
    }
    /* order[i] is now the slot that belongs at i.  Each cycle of that permutation begins by moving one row away. */
    for (uint32_t begin = 0; begin < sample->count; begin++) {
        if (order[begin] == begin) continue;
        uint64_t hash = sample->hashes[begin];
        move_slot(sample, sample->capacity, begin);
        uint32_t at = begin;
        for (uint32_t from; (from = order[at]) != begin; at = from) {
            sample->hashes[at] = sample->hashes[from];
            move_slot(sample, at, from);
            order[at] = at;
        }
        sample->hashes[at] = hash;
        move_slot(sample, at, sample->capacity);
        order[at] = at;
    }
    index_sorted(sample);
}

awq_status awqi_row_sample_restore(struct awqi_row_sample *sample, uint32_t count)
{
    for (uint32_t slot = 0; slot < count; slot++) {
        const float *row = sample->rows + slot * sample->channels;
        int64_t bad = awqi_find_non_finite(row, sample->channels);
        if (bad >= 0)
            return awqi_fail(AWQ_ERROR_FORMAT, "sampled row %u: channel %lld is not finite", slot, (long long)bad);
        uint64_t hash = awqi_row_hash_begin(sample->seed);
        hash = awqi_row_hash_end(awqi_row_hash_add(hash, row, sample->channels));
        if (slot > 0 && compare(sample, hash, row, slot - 1) <= 0)
            return awqi_fail(AWQ_ERROR_FORMAT, "sampled row %u does not come after the one before", slot);
        sample->hashes[slot] = hash;
    }
    sample->count = count;
    if (count > 0) index_sorted(sample);
    return AWQ_OK;
}
