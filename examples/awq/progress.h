/* A progress bar with the time left, on stderr when that is a terminal, and Ctrl-C.
 *
 *     struct progress progress;
 *     progress_begin(&progress, "Quantizing");
 *     options.progress = progress_update;       (an awq_progress_callback)
 *     options.progress_data = &progress;
 *     ...
 *     progress_end(&progress);
 *
 * One bar is shown at a time.  Nothing is printed where stderr is no terminal. */
#ifndef AWQ_APP_PROGRESS_H
#define AWQ_APP_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

struct progress {
    const char *label; /* not copied */
    char note[64];
    double started;
    double drawn; /* when the bar was last drawn */
    uint64_t done, total;
};

/* From now on the first Ctrl-C (SIGINT, SIGTERM) is only noted, so that the work in hand can stop cleanly; the second
 * one kills. */
void progress_catch_interrupts(void);

/* Whether one was noted. */
bool progress_interrupted(void);

void progress_begin(struct progress *progress, const char *label);

/* Draw 'done' of 'total', a few times a second at most.  Returns nonzero when the user asked to stop; callers with
 * loops of their own leave them then. */
int32_t progress_update(void *progress, uint64_t done, uint64_t total);

/* Text shown behind the bar, such as the layer at work; cut to fit.  Drawn with the next update. */
void progress_note(struct progress *progress, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Remove the bar.  Returns the seconds since progress_begin. */
double progress_end(struct progress *progress);

/* Make room for a line of other text; the bar comes back with its next update. */
void progress_clear(void);

#endif
