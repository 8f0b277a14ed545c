/* One linear layer, from activations to a 4-bit product, and through a packed checkpoint, without destroy or goto. */
#include "awq.hpp"

#include <cmath>
#include <filesystem>
#include <iostream>
#include <random>
#include <string>
#include <vector>

namespace {

constexpr std::int64_t outputs = 256, inputs = 256, tokens = 512, fresh = 64;

/* As in large language models, a few channels are much louder than the rest. */
std::vector<float> activations(std::mt19937 &random, std::int64_t rows)
{
    std::normal_distribution<float> normal;
    std::vector<float> x(rows * inputs);
    for (std::size_t i = 0; i < x.size(); i++) x[i] = normal(random) * (i % inputs == 7 || i % inputs == 100 ? 40 : 1);
    return x;
}

double relative_error(const std::vector<float> &x, const std::vector<float> &w, const std::vector<float> &y)
{
    double error = 0, norm = 0;
    for (std::int64_t t = 0; t < fresh; t++)
        for (std::int64_t n = 0; n < outputs; n++) {
            double exact = 0;
            for (std::int64_t k = 0; k < inputs; k++) exact += double{x[t * inputs + k]} * w[n * inputs + k];
            error += std::pow(exact - y[t * outputs + n], 2);
            norm += exact * exact;
        }
    return std::sqrt(error / norm);
}

/* Write the weight as AutoAWQ's "gemm" and count what is read back. */
std::int64_t planes_in_file(const awq::context &ctx, const awq::weight &weight, const std::filesystem::path &directory)
{
    auto packed = awq::create(awq_pack, ctx, weight, AWQ_LAYOUT_GEMM);
    auto writer = awq::create(awq_checkpoint_writer_create, ctx, directory.c_str(), nullptr);
    for (std::size_t i = 0; i < awq_packed_plane_count(packed); i++) {
        const char *name;
        awq::tensor plane;
        awq::call(awq_packed_get_plane, packed, i, &name, plane);
        awq::call(awq_checkpoint_writer_add, writer, ("layer." + std::string(name)).c_str(), plane);
    }
    awq::call(awq_checkpoint_writer_commit, writer);
    return awq_checkpoint_count(awq::create(awq_checkpoint_open, ctx, directory.c_str()));
}

void run(const std::filesystem::path &directory)
{
    std::mt19937 random(1);
    std::normal_distribution<float> normal(0, 0.1F);
    std::vector<float> seen = activations(random, tokens), x = activations(random, fresh);
    std::vector<float> w(outputs * inputs), y(fresh * outputs);
    for (float &value : w) value = normal(random);
    const awq::tensor w_view(std::as_const(w).data(), {outputs, inputs});

    auto ctx = awq::create(awq_context_create, nullptr);
    auto calibration = awq::create(awq_calibration_create, ctx, inputs, nullptr);
    awq::call(awq_calibration_observe, calibration, awq::tensor(seen.data(), {tokens, inputs}));

    awq::sized<awq_quantize_options> quantizer;
    quantizer.group_size = 64;
    awq::sized<awq_search_options> options;
    options.quantize = quantizer;
    auto search = awq::create(awq_search_create, ctx, calibration, options);
    awq::call(awq_search_add_weight, search, w_view);
    awq::call(awq_search_run, search);
    awq::sized<awq_search_result> result;
    awq::call(awq_search_get_result, search, result);
    std::cout << "alpha " << result.alpha << ": loss " << result.loss << " instead of " << result.loss_identity << '\n';

    auto plain = awq::create(awq_quantize, ctx, w_view, nullptr, quantizer);
    auto scaled = awq::create(awq_quantize, ctx, w_view, search, nullptr);
    for (const awq::weight *weight : {&plain, &scaled}) {
        auto linear = awq::create(awq_linear_create, ctx, *weight, nullptr);
        awq::tensor in(x.data(), {fresh, inputs}), out(y.data(), {fresh, outputs});
        awq::call(awq_linear_run, linear, in, out, nullptr);
        const char *name = weight == &plain ? "plain rounding" : "AWQ";
        std::cout << name << ": relative error " << relative_error(x, w, y) << '\n';
    }

    std::cout << planes_in_file(ctx, plain, directory) << " planes in the file\n";
    try {
        awq::create(awq_checkpoint_open, ctx, (directory / "missing").c_str());
    } catch (const awq::error &error) {
        std::cout << awq_status_name(error.status()) << " is an exception\n";
    }
}

} // namespace

int main(int argc, char **argv)
{
    if (argc != 2) {
        std::cerr << "usage: quantize_layer DIRECTORY, which must not exist yet\n";
        return 2;
    }
    try {
        run(argv[1]);
    } catch (const std::exception &error) {
        std::cerr << error.what() << '\n';
        return 1;
    }
}
