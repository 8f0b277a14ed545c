/* For tests of the host application's units: a directory of their own, and what was printed to stderr. */
#ifndef TEST_APP_H
#define TEST_APP_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The directory, and files in it. */
static char app_directory[] = "/tmp/awq-app-XXXXXX";
static char app_path_buffer[512];

static inline const char *app_path(const char *name)
{
    snprintf(app_path_buffer, sizeof app_path_buffer, "%s/%s", app_directory, name);
    return app_path_buffer;
}

static inline void app_write(const char *name, const void *bytes, size_t size)
{
    FILE *file = fopen(app_path(name), "wb");
    assert_non_null(file);
    assert_int_equal(size ? fwrite(bytes, 1, size, file) : 0, size);
    assert_int_equal(fclose(file), 0);
}

static inline void app_write_text(const char *name, const char *text)
{
    app_write(name, text, strlen(text));
}

static inline int app_setup(void **state)
{
    (void)state;
    strcpy(app_directory + sizeof app_directory - 7, "XXXXXX");
    return mkdtemp(app_directory) ? 0 : -1;
}

static inline int app_teardown(void **state)
{
    (void)state;
    DIR *directory = opendir(app_directory);
    if (!directory) return -1;
    for (struct dirent *entry; (entry = readdir(directory));)
        if (entry->d_name[0] != '.' && unlink(app_path(entry->d_name)) != 0) return -1;
    closedir(directory);
    return rmdir(app_directory);
}

/* Everything printed to stderr between these two; the text is valid until the next capture. */
static FILE *app_captured;
static int app_real_stderr;

static inline void app_capture(void)
{
    fflush(stderr);
    app_captured = tmpfile();
    assert_non_null(app_captured);
    app_real_stderr = dup(STDERR_FILENO);
    assert_true(dup2(fileno(app_captured), STDERR_FILENO) >= 0);
}

static inline const char *app_release(void)
{
    static char text[8192];
    fflush(stderr);
    dup2(app_real_stderr, STDERR_FILENO);
    close(app_real_stderr);
    rewind(app_captured);
    size_t length = fread(text, 1, sizeof text - 1, app_captured);
    fclose(app_captured);
    text[length] = 0;
    return text;
}

static inline void assert_contains(const char *text, const char *part)
{
    if (!strstr(text, part)) fail_msg("'%s' does not contain '%s'", text, part);
}

#endif
