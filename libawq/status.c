/* Status codes, their names, and the text of each thread's last failure. */
#include "internal.h"

#include <stdio.h>

/* A fixed buffer: recording an error must not be able to fail. */
static _Thread_local char last_error[1024];

static const struct {
    awq_status status;
    const char *name;
} status_names[] = {
    {AWQ_OK, "AWQ_OK"},
    {AWQ_ERROR_INVALID, "AWQ_ERROR_INVALID"},
    {AWQ_ERROR_UNSUPPORTED, "AWQ_ERROR_UNSUPPORTED"},
    {AWQ_ERROR_OUT_OF_MEMORY, "AWQ_ERROR_OUT_OF_MEMORY"},
    {AWQ_ERROR_MEMORY_LIMIT, "AWQ_ERROR_MEMORY_LIMIT"},
    {AWQ_ERROR_IO, "AWQ_ERROR_IO"},
    {AWQ_ERROR_FORMAT, "AWQ_ERROR_FORMAT"},
    {AWQ_ERROR_NON_FINITE, "AWQ_ERROR_NON_FINITE"},
    {AWQ_ERROR_NOT_FOUND, "AWQ_ERROR_NOT_FOUND"},
    {AWQ_ERROR_CANCELLED, "AWQ_ERROR_CANCELLED"},
    {AWQ_ERROR_STATE, "AWQ_ERROR_STATE"},
    {AWQ_ERROR_NO_DEVICE, "AWQ_ERROR_NO_DEVICE"},
    {AWQ_ERROR_DEVICE, "AWQ_ERROR_DEVICE"},
    {AWQ_ERROR_VERSION, "AWQ_ERROR_VERSION"},
};

const char *awq_status_name(awq_status status)
{
    for (size_t i = 0; i < sizeof status_names / sizeof *status_names; i++)
        if (status_names[i].status == status) return status_names[i].name;
    return "unknown status";
}

const char *awq_last_error(void)
{
    return last_error;
}

awq_status awqi_fail(awq_status status, const char *format, ...)
{
    char text[sizeof last_error]; /* the arguments may point into last_error */
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    memcpy(last_error, text, sizeof text);
    return status;
}

awq_status awqi_fail_in(awq_status status, const char *format, ...)
{
    char context[sizeof last_error / 2];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(context, sizeof context, format, arguments);
    va_end(arguments);
    char cause[sizeof last_error - sizeof context - 2];
    size_t length = strnlen(last_error, sizeof cause - 1);
    memcpy(cause, last_error, length);
    cause[length] = 0;
    return awqi_fail(status, "%s: %s", context, cause);
}

#define STRING(x) #x
#define VERSION_STRING(major, minor, patch) STRING(major) "." STRING(minor) "." STRING(patch)

uint32_t awq_version_number(void)
{
    return AWQ_VERSION_MAJOR * 10000u + AWQ_VERSION_MINOR * 100u + AWQ_VERSION_PATCH;
}

const char *awq_version_string(void)
{
    return VERSION_STRING(AWQ_VERSION_MAJOR, AWQ_VERSION_MINOR, AWQ_VERSION_PATCH);
}
