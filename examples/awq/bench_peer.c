/* Other programs as contestants.  A peer is any program that reads lines from its standard input and answers each with
 * one line on its standard output; what it says on standard error is shown.
 *
 *     it says, once started:    awq-peer 1 NAME
 *     shape N K BITS GROUP THREADS BYTES
 *         make an [N][K] weight of so many bits in groups of GROUP, if it can choose, and copies of it until they
 *         exceed BYTES; answer "ok WEIGHT_BYTES COPIES", or "no REASON" when it cannot
 *     run ROWS RUNS
 *         once unmeasured, then RUNS times, each with the next copy; answer the seconds of each, separated by spaces
 *
 * At the end of its input it leaves.  examples/bench has two. */
#include "bench.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PROTOCOL = 1 };

struct bench_peer {
    const char *command;
    char name[BENCH_NAME];
    pid_t process;
    FILE *to, *from;
    char *line; /* the last one read */
    size_t line_size;
};

static bool read_line(struct bench_peer *peer)
{
    ssize_t length = getline(&peer->line, &peer->line_size, peer->from);
    if (length <= 0) return cli_error("the peer '%s' ended before it answered", peer->command);
    if (peer->line[length - 1] == '\n') peer->line[length - 1] = 0;
    return true;
}

static bool start_process(struct bench_peer *peer)
{
    int to[2], from[2];
    if (pipe(to) != 0) return cli_error("a pipe to a peer: %s", strerror(errno));
    if (pipe(from) != 0) {
        cli_error("a pipe from a peer: %s", strerror(errno));
        close(to[0]);
        close(to[1]);
        return false;
    }
    peer->process = fork();
    if (peer->process == 0) {
        dup2(to[0], STDIN_FILENO);
        dup2(from[1], STDOUT_FILENO);
        for (int i = 0; i < 2; i++) {
            close(to[i]);
            close(from[i]);
        }
        execl("/bin/sh", "sh", "-c", peer->command, (char *)NULL);
        _exit(127);
    }
    close(to[0]);
    close(from[1]);
    peer->to = fdopen(to[1], "w");
    peer->from = fdopen(from[0], "r");
    if (peer->process > 0 && peer->to && peer->from) return true;
    return cli_error("the peer '%s' cannot be started", peer->command);
}

struct bench_peer *bench_peer_start(const char *command)
{
    struct bench_peer *peer = calloc(1, sizeof *peer);
    int version = 0;
    if (!peer) {
        cli_error("out of memory");
        return NULL;
    }
    signal(SIGPIPE, SIG_IGN); /* a peer that is gone shows when it does not answer */
    peer->command = command;
    bool ok = start_process(peer) && read_line(peer);
    if (ok && (sscanf(peer->line, "awq-peer %d %31s", &version, peer->name) != 2 || version != PROTOCOL))
        ok = cli_error("the peer '%s' says '%s' instead of 'awq-peer %d NAME'", command, peer->line, PROTOCOL);
    if (ok) return peer;
    bench_peer_stop(peer);
    return NULL;
}

void bench_peer_stop(struct bench_peer *peer)
{
    if (!peer) return;
    if (peer->to) fclose(peer->to);
    if (peer->from) fclose(peer->from);
    if (peer->process > 0) waitpid(peer->process, NULL, 0);
    free(peer->line);
    free(peer);
}

/* Threads of a peer may spin for a while after its last product; the next contestant should not feel it. */
static void let_rest(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
}

static bool run(void *state, int64_t rows, int64_t runs, double *seconds)
{
    struct bench_peer *peer = state;
    fprintf(peer->to, "run %" PRId64 " %" PRId64 "\n", rows, runs);
    fflush(peer->to);
    if (!read_line(peer)) return false;
    let_rest();
    char *at = peer->line;
    for (int64_t i = 0; i < runs; i++) {
        char *end;
        seconds[i] = strtod(at, &end);
        if (end == at || !(seconds[i] > 0))
            return cli_error("the peer %s answers '%.100s' to %" PRId64 " runs of %" PRId64 " rows", peer->name,
                             peer->line, runs, rows);
        at = end;
    }
    return true;
}

static void keep(void *state)
{
    (void)state; /* it serves the next shape */
}

bool bench_peer_open(struct bench_peer *peer, const struct bench_problem *problem, struct bench_contestant *contestant)
{
    const struct bench_shape *shape = &problem->shape;
    const uint64_t cache = problem->machine->device.last_level_cache_bytes;
    unsigned long long bytes;
    int copies;
    fprintf(peer->to, "shape %" PRId64 " %" PRId64 " %d %" PRId64 " %d %" PRIu64 "\n", shape->n, shape->k,
            problem->bits, problem->group_size, problem->machine->device.compute_units,
            3 * (cache ? cache : (uint64_t)64 << 20));
    fflush(peer->to);
    if (!read_line(peer)) return false;
    contestant->run = NULL;
    if (strncmp(peer->line, "no ", 3) == 0) {
        cli_warning("%s: %s", peer->name, peer->line + 3);
        return true;
    }
    if (sscanf(peer->line, "ok %llu %d", &bytes, &copies) != 2)
        return cli_error("the peer %s answers '%.100s' to a shape", peer->name, peer->line);
    *contestant = (struct bench_contestant){.kind = BENCH_PEER, .weight_bytes = bytes, .copies = copies, .state = peer,
                                            .run = run, .close = keep};
    memcpy(contestant->name, peer->name, sizeof peer->name);
    return true;
}
