/* awq.hpp - awq.h with ownership, exceptions and views of arrays, and nothing else.
 *
 * Every function of awq.h is called under its own name, through one of two templates:
 *
 *     auto ctx = awq::create(awq_context_create, nullptr);         // what ends in a handle to be stored
 *     awq::call(awq_calibration_observe, calibration, x);          // whatever else returns a status
 *
 * Failures are thrown as awq::error.  Handles and tensors convert to the pointers awq.h takes.  C++17, header only. */
#ifndef AWQ_HPP
#define AWQ_HPP

#include <awq.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <tuple>
#include <type_traits>
#include <utility>

namespace awq {

/* what() is the library's text, status() its code. */
class error : public std::runtime_error {
public:
    explicit error(awq_status status) : std::runtime_error(awq_last_error()), status_(status) {}
    awq_status status() const noexcept { return status_; }

private:
    awq_status status_;
};

/* ---- handles: the sole owner of an object, movable, destroyed in any order */

template <class T> struct destroyer;
template <class T> class handle : public std::unique_ptr<T, destroyer<T>> {
public:
    using std::unique_ptr<T, destroyer<T>>::unique_ptr;
    operator T *() const noexcept { return this->get(); }
};

#define AWQ_HANDLE(name) \
    template <> struct destroyer<awq_##name> { \
        void operator()(awq_##name *object) const noexcept { awq_##name##_destroy(object); } \
    }; \
    using name = handle<awq_##name>;
AWQ_HANDLE(context)
AWQ_HANDLE(calibration)
AWQ_HANDLE(archive)
AWQ_HANDLE(archive_writer)
AWQ_HANDLE(search)
AWQ_HANDLE(weight)
AWQ_HANDLE(packed)
AWQ_HANDLE(linear)
AWQ_HANDLE(tuning)
AWQ_HANDLE(checkpoint)
AWQ_HANDLE(checkpoint_writer)
#undef AWQ_HANDLE

/* ---- structs */

/* An options or info struct that prepares itself: awq::sized<awq_quantize_options> o;  o.bits = 3; */
template <class T> struct sized : T {
    sized() noexcept { awq_struct_init(this, sizeof(T)); }
    operator T *() noexcept { return this; }
    operator const T *() const noexcept { return this; }
};

/* What C++17 has no type for, such as AWQ_F16, tensor() takes as its last argument. */
template <class T> constexpr std::int32_t dtype_of()
{
    if constexpr (std::is_same_v<T, float>) return AWQ_F32;
    else if constexpr (std::is_same_v<T, double>) return AWQ_F64;
    else if constexpr (std::is_same_v<T, bool>) return AWQ_BOOL;
    else {
        static_assert(std::is_integral_v<T>, "no dtype of awq.h");
        constexpr std::int32_t types[] = {AWQ_U8, AWQ_U16, AWQ_U32, AWQ_U64, AWQ_I8, AWQ_I16, AWQ_I32, AWQ_I64};
        return types[(sizeof(T) > 1) + (sizeof(T) > 2) + (sizeof(T) > 4) + 4 * std::is_signed_v<T>];
    }
}

/* A view of contiguous memory, read-only if the pointer is: awq::tensor x(data, {rows, columns}); */
struct tensor : awq_tensor {
    tensor() noexcept : awq_tensor{} {}
    template <class T, std::size_t dims>
    tensor(T *elements, const std::int64_t (&extents)[dims], std::int32_t type = dtype_of<std::remove_const_t<T>>())
    {
        static_assert(dims <= AWQ_MAX_DIMS);
        if constexpr (std::is_const_v<T>) awq_tensor_init_const(this, elements, type, dims, extents);
        else awq_tensor_init(this, elements, type, dims, extents);
    }
    operator awq_tensor *() noexcept { return this; }
    operator const awq_tensor *() const noexcept { return this; }
};

/* ---- calls */

template <class... Parameters, class... Arguments>
void call(awq_status (*function)(Parameters...), Arguments &&...arguments)
{
    if (awq_status status = function(std::forward<Arguments>(arguments)...); status != AWQ_OK) throw error(status);
}

/* The object that 'function' makes of all its arguments but the last. */
template <class... Parameters, class... Arguments>
auto create(awq_status (*function)(Parameters...), Arguments &&...arguments)
{
    using out = std::tuple_element_t<sizeof...(Parameters) - 1, std::tuple<Parameters...>>;
    using object = std::remove_pointer_t<std::remove_pointer_t<out>>;
    object *made = nullptr;
    call(function, std::forward<Arguments>(arguments)..., &made);
    return handle<object>(made);
}

} // namespace awq

#endif /* AWQ_HPP */
