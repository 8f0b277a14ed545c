/* Progress on stderr: one line that is redrawn, and the flag that Ctrl-C sets. */
#include "progress.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "cli.h"

#define SECONDS_BETWEEN_DRAWS 0.1

static volatile sig_atomic_t interrupted;
static bool line_is_drawn;

static void note_interrupt(int signal_number)
{
    (void)signal_number;
    interrupted = 1;
}

void progress_catch_interrupts(void)
{
    static const int signals[] = {SIGINT, SIGTERM};
    struct sigaction action = {.sa_handler = note_interrupt, .sa_flags = SA_RESETHAND | SA_RESTART}, inherited;
    sigemptyset(&action.sa_mask);
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) {
        /* A job in the background, or under nohup, was started to ignore them. */
        if (sigaction(signals[i], NULL, &inherited) == 0 && inherited.sa_handler == SIG_IGN) continue;
        sigaction(signals[i], &action, NULL);
    }
}

bool progress_interrupted(void)
{
    return interrupted != 0;
}

/* Columns of the terminal on stderr; 0 when it is none. */
static int terminal_columns(void)
{
    struct winsize size;
    if (!isatty(STDERR_FILENO)) return 0;
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
    return size.ws_col;
}

void progress_clear(void)
{
    if (!line_is_drawn) return;
    fputs("\r\033[K", stderr);
    fflush(stderr);
    line_is_drawn = false;
}

void progress_begin(struct progress *progress, const char *label)
{
    *progress = (struct progress){.label = label, .started = cli_seconds()};
}

void progress_note(struct progress *progress, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(progress->note, sizeof progress->note, format, arguments);
    va_end(arguments);
}

static void draw(const struct progress *progress, int columns, double now)
{
    enum { BAR = 24 };
    char bar[BAR + 1], line[256], left[48] = "";
    double part = progress->total ? (double)progress->done / (double)progress->total : 0;
    if (part > 1) part = 1;
    for (int i = 0; i < BAR; i++) bar[i] = i < (int)(part * BAR) ? '#' : '.';
    bar[BAR] = 0;

    /* An estimate from the first moments would only jump about. */
    double elapsed = now - progress->started;
    if (part > 0 && part < 1 && elapsed > 1)
        snprintf(left, sizeof left, "  %s left", cli_duration(elapsed * (1 - part) / part).text);
    snprintf(line, sizeof line, "%s [%s] %3d%%%s  %s", progress->label, bar, (int)(part * 100), left, progress->note);
    fprintf(stderr, "\r%.*s\033[K", columns - 1, line);
    fflush(stderr);
    line_is_drawn = true;
}

int32_t progress_update(void *user_data, uint64_t done, uint64_t total)
{
    struct progress *progress = user_data;
    double now = cli_seconds();
    progress->done = done;
    progress->total = total;
    if (now - progress->drawn >= SECONDS_BETWEEN_DRAWS) {
        int columns = terminal_columns();
        progress->drawn = now;
        if (columns > 1) draw(progress, columns, now);
    }
    return progress_interrupted();
}

double progress_end(struct progress *progress)
{
    progress_clear();
    return cli_seconds() - progress->started;
}
